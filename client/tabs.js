// One connection for several tabs. The tab that holds a Web Lock has the connection; the others tell it over
// a BroadcastChannel what they want, each from where it stands, so that another tab can take over at any time.
//
//   follower ─ { from, wants: [{ number, topics, events, tags, cursor, rewind }] } ─▶ leader, at each change, at `hello`, and to see
//                                                                                    whether it is awake
//   follower ─ { reconnect } ─▶ leader
//   leader ─ { to, status } ─▶ follower, at once; { to, number, event | at | reset | error } ─▶ follower;  { status }, { hello } ─▶ all

import { claimsOf } from "./claims.js";
import { refresh } from "./refresh.js";
import { startOf } from "./wire.js";

const WATCH_EVERY_MS = 5000;
const PATIENCE_MS = 2000;

const lock = (...request) => globalThis.navigator.locks.request(...request);

export class Tabs {
  _id = `${Math.random()}`;
  /** What this tab wants of the leader, by the number that it gave it. */
  _own = new Map();
  _count = 0;
  /** What the leader subscribed to for others: by tab, then by the tab's number for it. */
  _others = new Map();

  constructor(client) {
    this._client = client;
    client.addEventListener("status", ({ detail }) => {
      if (this._leads) this._tellStatus();
      // Another tab's token may be good, or it finds out by itself that none is.
      if (detail.state === "closed") this._leave?.();
    });
  }

  async _start() {
    const client = this._client;
    let token;
    try {
      token = await client._getToken();
    } catch {
      // The path tries again, alone.
    }
    // `reconnect()` did not wait for this.
    if (client._life || client.status.state === "closed") return;
    // Whose connection it would be is not known, and nobody gets another one's events.
    if (!claimsOf(token).sub) return client._begin();
    this._key = this._keyOf(token);
    const channel = (this._channel = new BroadcastChannel(this._key));
    channel.onmessage = ({ data }) => this._receive(data);
    const watch = setInterval(() => this._watch(), WATCH_EVERY_MS);
    const life = new AbortController();
    globalThis.document?.addEventListener("visibilitychange", () => this._watch(), { signal: life.signal });
    const presence = new Promise((resolve) => {
      this._leave = () => {
        resolve();
        this._waiting.abort();
        this._resign?.();
        this._leads = this._leave = this._channel = undefined;
        delete client._begin;
        clearInterval(watch);
        life.abort();
        channel.close();
      };
    });
    // Whoever is gone has lost this lock, however it went.
    lock(this._key + this._id, () => presence);
    this._keepFresh();
    this._follow();
  }

  /** Waits for the connection, and has the leader's meanwhile. */
  _follow() {
    this._leads = false;
    this._others.forEach((served) => served.forEach((one) => one.close()));
    this._others.clear();
    // What a client without a connection does in `reconnect()`.
    this._client._begin = () => this._reconnect();
    this._stand();
    this._update();
  }

  /** A follower's `reconnect()`: the leader's, or, where this tab has logged in as someone else, one of its own. */
  async _reconnect() {
    const client = this._client;
    const token = await client._getToken().catch(() => undefined);
    if (client._isClosed || client._life) return;
    if (this._channel && this._keyOf(token) === this._key) {
      this._keepFresh();
      return this._channel.postMessage({ reconnect: 1 });
    }
    // It has left already where it was closed and is told to reconnect by whoever hears of that first.
    this._leave?.();
    client._begin();
  }

  /** A follower has no connection, and publishes by requests. */
  _keepFresh() {
    refresh(this._client).catch(() => {});
  }

  _keyOf(token) {
    const { sub, tenant } = claimsOf(token);
    return `tribus:${this._client._base}:${JSON.stringify([tenant, sub])}`;
  }

  /** For the connection: when the leader goes, or at once. */
  _stand(steal) {
    this._waiting?.abort();
    const waiting = (this._waiting = new AbortController());
    const lost = () => {
      if (waiting !== this._waiting || waiting.signal.aborted) return;
      this._client._halt();
      this._follow();
    };
    lock(this._key, steal ? { steal } : { signal: waiting.signal }, () => this._lead()).catch(lost);
  }

  _lead() {
    if (!this._channel) return;
    this._leads = true;
    this._own.clear();
    delete this._client._begin;
    this._client._begin();
    this._channel.postMessage({ hello: 1 });
    return new Promise((resolve) => (this._resign = resolve));
  }

  /** A page that is frozen keeps the lock and says nothing: whichever tab is looked at takes over. */
  _watch() {
    if (this._leads || !this._channel || globalThis.document?.hidden) return;
    this._update();
    const asked = (this._asked = {});
    setTimeout(() => {
      if (asked === this._asked && !this._leads && this._channel) this._stand(true);
    }, PATIENCE_MS);
  }

  /** Tells the leader what this tab wants now. */
  _update() {
    if (this._leads || !this._channel) return;
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
    this._channel?.postMessage({ to, status: this._client.status });
  }

  _receive({ from, wants, to = this._id, number, reconnect, hello, status, event, at, reset, error }) {
    const client = this._client;
    if (this._leads) {
      if (reconnect) client.reconnect();
      return from && this._serve(from, wants);
    }
    if (hello) this._update();
    if (to !== this._id) return;
    if (status) {
      this._asked = undefined;
      // That one is leaving, and another one takes over.
      if (status.state !== "closed") client._say(status.state, status.transport, status.reason);
    }
    const one = this._own.get(number);
    if (!one || one._ended) return;
    if (at && !reset) {
      one._begin(at);
      one._advance(at);
    }
    if (event && one._offer(event)) client._dispatch("event", event);
    if (reset) {
      one._reset(reset, at);
      client._dispatch("reset", { reason: reset, topics: one.topics });
    }
    if (error) one._end(client._failure(error));
  }

  _serve(to, wants) {
    this._tellStatus(to);
    let served = this._others.get(to);
    if (!served) {
      this._others.set(to, (served = new Map()));
      lock(this._key + to, () => {
        this._others.delete(to);
        served.forEach((one) => one.close());
      });
    }
    served.forEach((one, number) => {
      if (!wants.some((want) => want.number === number)) {
        one.close();
        served.delete(number);
      // Quiet ones come on too.
      } else if (one.cursor) this._channel.postMessage({ to, number, at: one.cursor });
    });
    for (const { number, topics, ...options } of wants)
      if (!served.has(number)) served.set(number, this._subscribe(topics, options, (message) =>
        this._channel?.postMessage({ to, number, ...message })));
  }

  /** For another tab, which is told all that its own subscription would be. */
  _subscribe(topics, options, tell) {
    const one = this._client.subscribe(topics, {
      ...options,
      _isForTab: true,
      onEvent: (event) => tell({ event }),
      onReset: () => {},
      onError: ({ code, message }) => tell({ error: { code, message } }),
    });
    const { _begin, _offer, _advance, _reset } = one;
    let isOffering;
    one._begin = (cursor) => {
      _begin.call(one, cursor);
      tell({ at: one._at });
    };
    // What it takes, and misses, is nothing of this tab's.
    one._offer = (event) => {
      isOffering = true;
      _offer.call(one, event);
      isOffering = false;
    };
    one._advance = (cursor) => {
      // After the reset that it may be.
      const isFurther = _advance.call(one, cursor);
      // An event is told as such.
      if (!isOffering) tell({ at: cursor });
      return isFurther;
    };
    one._reset = (reason, cursor) => {
      _reset.call(one, reason, cursor);
      tell({ reset: reason, at: cursor });
      return [];
    };
    return one;
  }
}
