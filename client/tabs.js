// One connection for several tabs. The tab that holds a Web Lock has the connection; the others tell it over
// a BroadcastChannel what they want, each from where it stands, so that another tab can take over at any time.
//
//   follower ─ { from, wants: [{ number, topics, events, tags, cursor, rewind }] } ─▶ leader, at each change and at `hello`
//   leader ─ { to, number, event | at | reset | error } ─▶ follower;  { status }, { hello } ─▶ all

import { startOf } from "./wire.js";

const lock = (...request) => globalThis.navigator.locks.request(...request);

export class Tabs {
  _id = `${Math.random()}`;
  _own = new Map();
  _count = 0;
  /** What the leader subscribed to for others: by tab, then by the number that the tab gave it. */
  _others = new Map();

  constructor(client) {
    this._client = client;
  }

  async _start() {
    const client = this._client;
    let token;
    try {
      token = await client._getToken();
    } catch {
      // The path tries again, alone.
    }
    const { sub, tenant } = client._claimsOf(token);
    const key = `tribus:${client._base}:${JSON.stringify([tenant, sub])}`;
    const stopped = new Promise((resolve) => (this._stop = resolve));
    if (client._isClosed) return;
    const channel = (this._channel = new BroadcastChannel(key));
    channel.onmessage = ({ data }) => this._receive(data);
    // Whoever is gone has lost this lock, however it went.
    lock(key + this._id, () => stopped);
    lock(key, () => {
      if (client._isClosed) return;
      this._key = key;
      client._begin();
      client.addEventListener("status", () => this._tellStatus());
      channel.postMessage({ hello: 1 });
      return stopped;
    });
    stopped.then(() => channel.close());
    this._update();
  }

  /** Tells the leader what this tab wants now. */
  _update() {
    if (this._key || !this._channel) return;
    this._own.forEach((one, number) => one._ended && this._own.delete(number));
    for (const one of this._client._subscriptions)
      if (![...this._own.values()].includes(one)) this._own.set((this._count += 1), one);
    const wants = [...this._own].map(([number, one]) => {
      const { topics, _options: { events, tags } } = one;
      return { number, topics, events, tags, ...startOf(one) };
    });
    this._channel.postMessage({ from: this._id, wants });
  }

  _tellStatus(to) {
    this._channel.postMessage({ to, status: this._client.status });
  }

  _receive({ from, wants, to = this._id, number, hello, status, event, at, reset, error }) {
    if (this._key) return from && this._serve(from, wants);
    if (hello) this._update();
    if (to !== this._id) return;
    if (status) this._client._say(status.state, status.transport, status.reason);
    const one = this._own.get(number);
    if (!one || one._ended) return;
    if (at) (one._at ? one._advance(at) : (one._at = at));
    if (event && one._offer(event)) this._client._dispatch("event", event);
    if (reset) {
      one._reset(reset, at);
      this._client._dispatch("reset", { reason: reset, topics: one.topics });
    }
    if (error) one._fail(Object.assign(Error(error.message), error));
  }

  _serve(to, wants) {
    let served = this._others.get(to);
    if (!served) {
      this._others.set(to, (served = new Map()));
      lock(this._key + to, () => {
        this._others.delete(to);
        served.forEach((one) => one.close());
      });
      this._tellStatus(to);
    }
    served.forEach((one, number) => {
      if (!wants.some((want) => want.number === number)) {
        one.close();
        served.delete(number);
      }
    });
    for (const { number, topics, ...options } of wants)
      if (!served.has(number)) {
        const tell = (message) => this._channel.postMessage({ to, number, ...message });
        const one = this._client.subscribe(topics, {
          ...options,
          onEvent: (event) => tell({ event }),
          onError: ({ code, message }) => tell({ error: { code, message } }),
        });
        one._onAdvance = (at) => tell({ at });
        one._onReset = (reset, at) => tell({ reset, at });
        served.set(number, one);
      }
  }
}
