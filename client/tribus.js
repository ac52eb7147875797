// The client: its subscriptions, its token, and what it is told. How it finds a way to the gateway: path.js.

import { failure, TribusError } from "./error.js";
import { Path } from "./path.js";
import { read, write } from "./storage.js";
import { Subscription } from "./subscription.js";

export { TribusError };

const BUFFER = 1024;
const MOST_STORED = 100;
/** Timers count in 32 bits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const claimsOf = (token) => {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/[-_]/g, (digit) => (digit < "_" ? "+" : "/"))));
  } catch {
    return {};
  }
};

export class Tribus extends Path {
  _subscriptions = new Set();
  /** For the extras, which know no class of this file. */
  _claimsOf = claimsOf;
  /** What few pages need comes when it is asked for. */
  _extras = () => import("./tribus-extras.js");
  status = { state: "connecting" };

  constructor(url = "./", options = {}) {
    super();
    const { WebSocket, EventSource, fetch } = globalThis;
    this._options = {
      transports: ["ws", "sse", "poll"], buffer: BUFFER, WebSocket, EventSource,
      fetch, ...options,
    };
    this._base = new URL(url, globalThis.document?.baseURI);
    if (!this._base.pathname.endsWith("/")) this._base.pathname += "/";
    this._stored = read(this._place);
    this._all = this._options.transports;
    if (this._options.shareTabs && globalThis.navigator?.locks)
      this._extras().then(({ Tabs }) => (this._tabs = new Tabs(this))._start());
    else this._begin();
  }

  subscribe(topics, options = {}) {
    if (typeof options === "function") options = { onEvent: options };
    const key = JSON.stringify([topics, options.events, options.tags]);
    const cursor = options.cursor ?? this._stored[key];
    const subscription = new Subscription(topics, { buffer: this._options.buffer, ...options, cursor }, (one) => {
      this._subscriptions.delete(one);
      delete this._stored[key];
      this._changed();
    });
    subscription._key = key;
    if (this.status.state === "closed") subscription._fail(this._closedError());
    if (!subscription._ended) this._subscriptions.add(subscription);
    this._changed();
    return subscription;
  }

  async publish(...event) {
    return (await this._extras()).publish(this, ...event);
  }

  reconnect() {
    if (this._isClosed) return;
    this._token = this._wasRefused = undefined;
    this._restart();
  }

  async diagnose() {
    return (await this._extras()).diagnose(this);
  }

  close() {
    this._isClosed = true;
    this._stop("close() was called");
    this._tabs?._stop?.();
  }

  /** For good, but for `reconnect()`. */
  _stop(reason, error) {
    this._halt();
    clearTimeout(this._refresh);
    this._save();
    this._say("closed", undefined, reason);
    for (const one of [...this._subscriptions]) error ? one._fail(error) : one.close();
  }

  _closedError() {
    return new TribusError({ code: "closed", message: `closed: ${this.status.reason}` });
  }

  /** Subscriptions of one turn go together. */
  _changed() {
    if (this._pending) return;
    this._pending = true;
    queueMicrotask(() => {
      this._pending = false;
      this._tabs?._update();
      this._main?._update();
    });
  }

  _say(state, transport, reason) {
    const status = { state, transport, reason };
    if (JSON.stringify(status) === JSON.stringify(this.status)) return;
    this.status = status;
    this._dispatch("status", status);
  }

  _dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** A frame in the order of its stream. */
  _take(frame, joined) {
    const { type, id, cursor = id, reason } = frame;
    if (type === "event") {
      let isNew;
      for (const one of joined) isNew = one._offer(frame) || isNew;
      if (isNew) this._dispatch("event", frame);
    } else if (type === "reset") {
      const hit = frame._group ?? [...joined].filter(({ topics }) =>
        !frame.topics || topics.some((topic) => frame.topics.includes(topic)));
      hit.forEach((one) => one._reset(reason, cursor));
      this._dispatch("reset", { reason, topics: hit.flatMap(({ topics }) => topics) });
    } else if (/^(live|heartbeat|pong)$/.test(type)) joined.forEach((one) => one._advance(cursor));
    this._saving ??= this._options.persist && setTimeout(() => this._save(), 100);
  }

  // The token

  /** The current token; one call of `getToken` at a time. */
  _getToken() {
    return (this._token ??= (async () => {
      try {
        const token = await this._options.getToken?.();
        if (token) this._refreshBefore(token);
        return token;
      } catch (error) {
        this._token = undefined;
        throw failure(`getToken failed: ${error?.message}`);
      }
    })());
  }

  _refreshBefore(token) {
    const left = claimsOf(token).exp * 1e3 - Date.now();
    clearTimeout(this._refresh);
    // Where the clocks disagree, the gateway tells when it is over.
    if (left > 0)
      this._refresh = setTimeout(async () => {
        this._token = undefined;
        try {
          const fresh = await this._getToken();
          if (fresh !== token) this._main?._renew(fresh);
        } catch (error) {
          this._dispatch("error", error);
        }
      }, Math.min(LONGEST_TIMER_MS, left - Math.min(left / 5, 30e3)));
  }

  // Requests

  _url(path) {
    return new URL(path, this._base);
  }

  /** Any answer of the gateway that is no success is thrown, but for a poll's reset. */
  async _request(path, { query, headers, ...init }, signal) {
    const url = this._url(path);
    if (query) url.search = query;
    const token = await this._getToken();
    let response;
    let refusal;
    try {
      const { credentials, fetch } = this._options;
      response = await fetch(url.href, {
        ...init, signal, credentials, cache: "no-store",
        headers: { ...headers, ...(token && { Authorization: `Bearer ${token}` }) },
      });
      if (response.ok || response.status === 410) return response;
      refusal = await response.json();
    } catch {
      // Nothing of the gateway's: see below.
    }
    throw new TribusError({
      message: response ? `HTTP ${response.status}` : "the gateway is not reached",
      // Not a number where a proxy tells a date.
      retryAfterMs: 1e3 * response?.headers.get("Retry-After") || undefined,
      ...refusal,
    });
  }

  // Positions that outlive the page

  get _place() {
    const { persist } = this._options;
    return persist && `tribus:at:${persist}:${this._base}`;
  }

  _save() {
    clearTimeout(this._saving);
    this._saving = undefined;
    if (!this._place) return;
    const now = [...this._subscriptions].map(({ _key, cursor }) => [_key, cursor]);
    write(this._place, Object.fromEntries([...Object.entries(this._stored), ...now].slice(-MOST_STORED)));
  }
}

export default Tribus;
