// The client: its subscriptions, its token, and what it is told. How it finds a way to the gateway: path.js.

import { failure, TribusError } from "./error.js";
import { links } from "./links.js";
import { Path } from "./path.js";
import { Subscription } from "./subscription.js";

export { TribusError };

/* global BUILD -- of this source, put in by scripts/client.sh. */
const BUFFER = 1024;
/** For a `getToken` that never answers. */
const TOKEN_MS = 20e3;

export class Tribus extends Path {
  _subscriptions = new Set();
  _failure = (answer) => new TribusError(answer);
  /** Of the extras, those that are told when the subscriptions change. */
  _additions = [];
  status = { state: "connecting" };

  constructor(url = "./", options = {}) {
    super();
    this._options = options;
    const { transports = Object.keys(links), persist, shareTabs } = options;
    if (!transports[0] || !transports.every((one) => links[one])) throw TypeError(`transports: give some of ${Object.keys(links)}`);
    this._all = transports;
    this._base = new URL(`${url}`.replace(/^ws(?=s?:)/, "http"), globalThis.document?.baseURI);
    if (!this._base.pathname.endsWith("/")) this._base.pathname += "/";
    if (persist || shareTabs)
      this._extra("extend").catch((error) => {
        this._dispatch("error", error);
        this._isClosed || this._life || this._begin();
      });
    else this._begin();
  }

  subscribe(topics, options = {}) {
    if (typeof options === "function") options = { onEvent: options };
    const subscription = new Subscription(topics, { ...options, buffer: options.buffer ?? this._options.buffer ?? BUFFER }, (one) => {
      this._subscriptions.delete(one);
      this._changed();
    });
    const { state, reason } = this.status;
    if (state === "closed") subscription._end(new TribusError({ code: state, message: `closed: ${reason}` }));
    else if (!subscription._ended) this._subscriptions.add(subscription);
    this._changed();
    return subscription;
  }

  publish(...event) {
    return this._extra("publish", ...event);
  }

  reconnect() {
    if (this._isClosed) return;
    this._token = this._wasRefused = undefined;
    this._failures = this._attempts = 0;
    if (this._life) this._connect();
    else this._begin();
  }

  diagnose() {
    return this._extra("diagnose");
  }

  close() {
    this._isClosed = true;
    this._stop("close() was called");
  }

  /** What can wait, or few pages need. It knows no class of the core's. */
  async _extra(name, ...rest) {
    return (await import("./tribus-extras.js")).use(BUILD, name, this, ...rest);
  }

  /** For good, but for `reconnect()`. */
  _stop(reason, error) {
    this._halt();
    // Whoever is told may reconnect and subscribe anew at once.
    const all = [...this._subscriptions];
    this._say("closed", undefined, reason);
    all.forEach((one) => one._end(error));
  }

  /** Subscriptions of one turn go together. */
  _changed() {
    this._pending ??= Promise.resolve().then(() => {
      this._pending = undefined;
      for (const addition of this._additions) addition._update();
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
      const topics = hit.flatMap((one) => one._reset(reason, cursor));
      if (topics[0]) this._dispatch("reset", { reason, topics });
    } else if (/^(live|heartbeat|pong)$/.test(type)) joined.forEach((one) => one._advance(cursor));
  }

  // The token

  /** The current token; one call of `getToken` at a time, but for what `reconnect()` does not wait for. */
  _getToken() {
    const asked = (this._token ??= (async () => {
      let failed;
      const token = await Promise.race([
        // A turn later, so that what it throws at once is not kept as the token.
        Promise.resolve(this._options).then((options) => options.getToken?.()),
        new Promise((_, reject) => (AbortSignal.timeout(TOKEN_MS).onabort = () => reject(failure("no answer")))),
      ]).catch((error) => {
        failed = failure(`getToken failed: ${error?.message}`);
      });
      // Another one is asked for meanwhile.
      if (asked !== this._token) return this._getToken();
      if (failed) {
        this._token = undefined;
        throw failed;
      }
      if (!token && this._options.getToken && this.status.state !== "closed") this._stop("getToken gave no token");
      return token;
    })());
    return asked;
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
      const { credentials, fetch = globalThis.fetch } = this._options;
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
}

export default Tribus;
