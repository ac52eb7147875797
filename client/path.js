// The way to the gateway: which transport, when to try again, and when to try a better one.
//
//   _connect ─▶ race: ws, 2 s later sse, 1 s later poll ─▶ the first that delivers is the main link ─▶ lost ─▶ wait ─▶ _connect
//                                                             │ not the best one
//                                                             └▶ probe upwards every some seconds ─▶ the better link takes over
//
// Only one link feeds the subscriptions at any time, and each begins where they stand.

import { isOfSubscription, TribusError } from "./error.js";
import { links } from "./links.js";
import { read, write } from "./storage.js";
import { sleep } from "./tribus.js";
import { requestFor, startOf } from "./wire.js";

/** How long a transport may deliver nothing before the next one is tried beside it. */
const PATIENCE_MS = 2000;
const STAGGER_MS = 1000;
const CANDIDATE_MS = 10e3;
const PROBE_MS = 5000;
/** A link that lived so long was healthy, and its loss is not the transport's fault. */
const HEALTHY_MS = 15e3;
const STRIKES = 2;
/** The longest time for which a transport that kept dying has to live before it is trusted. */
const HOLD_MS = 8000;
const PROBE_EVERY_MS = 8000;
const PROBE_EVERY_AT_MOST_MS = 18e3;
const BACKOFF_MS = 500;
const BACKOFF_AT_MOST_MS = 20e3;
const REMEMBER_MS = 600e3;
const TICK_MS = 1000;

const isOffline = () => globalThis.navigator?.onLine === false;

export class Path {
  /** Why a transport is not to be tried first, by transport. */
  _bad = {};
  /** How long the links of a transport lived that died early. */
  _strikes = {};
  _holds = {};
  /** Why transports failed in this attempt. */
  _why = {};
  _candidates = new Set();
  _failures = 0;

  constructor(client) {
    this._client = client;
  }

  _start() {
    const { bad, until } = read(this._place);
    if (until > Date.now()) this._bad = bad;
    const { document } = globalThis;
    const { signal } = (this._life = new AbortController());
    const on = (target, type, listener) => target?.addEventListener?.(type, listener, { signal });
    on(globalThis, "online", () => this._wake(true));
    on(globalThis, "offline", () => this._drop("the network is gone"));
    on(globalThis, "pageshow", ({ persisted }) => persisted && this._wake());
    on(globalThis, "pagehide", () => this._client._save());
    on(document, "visibilitychange", () => document.hidden || this._wake());
    this._tickedAt = Date.now();
    const ticker = setInterval(() => this._tick(), TICK_MS);
    signal.addEventListener("abort", () => clearInterval(ticker));
    this._connect();
  }

  _halt() {
    this._life?.abort();
    this._life = undefined;
    this._clear();
  }

  _clear() {
    clearTimeout(this._retry);
    clearTimeout(this._probing);
    this._round = {};
    for (const link of [this._main, ...this._candidates]) link?._end();
    this._candidates.clear();
    this._main = undefined;
  }

  _restart() {
    this._failures = 0;
    this._clear();
    if (this._life) this._connect();
    else this._start();
  }

  _drop(reason) {
    this._clear();
    this._again(new TribusError({ message: reason }));
  }

  // Finding a link

  async _connect() {
    clearTimeout(this._retry);
    const round = (this._round = {});
    const client = this._client;
    if (client.status.state !== "connecting") client._say("connecting", undefined, this._reason);
    let token;
    try {
      token = await client._getToken();
    } catch (error) {
      if (round === this._round) this._again(error);
      return;
    }
    if (round !== this._round) return;
    if (client._options.getToken && !token) return client._stop("logged out: getToken gave no token");
    const all = client._options.transports;
    const order = all.filter((transport) => !this._bad[transport]);
    this._raceWith(order[0] ? order : all, round, PATIENCE_MS);
  }

  _raceWith([transport, ...rest], round, patience) {
    if (round !== this._round || this._main) return;
    if (!transport) return this._candidates.size || this._lost();
    const next = () => {
      clearTimeout(timer);
      timer = undefined;
      this._raceWith(rest, round, STAGGER_MS);
    };
    let timer = setTimeout(next, patience);
    this._try(transport, CANDIDATE_MS, false, (link) => this._adopt(link), (error) => {
      if (round !== this._round) return;
      if (error.code !== "network") return this._judge(error);
      this._why[transport] = error.message;
      if (timer) next();
      else if (!this._candidates.size && !rest[0]) this._lost();
    });
  }

  /** Every transport failed, so none is to blame. */
  _lost() {
    this._bad = {};
    this._again(new TribusError({ message: Object.values(this._why)[0] }));
  }

  /**
   * Opens a link over `transport`; `bare`: without subscriptions. Once it delivers something, `onReady` is told,
   * and may adopt it before anything else of it is read.
   */
  _try(transport, ms, bare, onReady, onFailed) {
    const client = this._client;
    const done = () => {
      clearTimeout(timer);
      this._candidates.delete(link);
    };
    const link = new links[transport](client, transport, bare, (frame) => {
      if (this._candidates.has(link)) {
        done();
        onReady(link);
      }
      if (link === this._main) client._take(frame, link._joined);
    }, (error) => {
      done();
      if (link === this._main) this._ended(link, error);
      else onFailed(error);
    });
    const timer = setTimeout(() => link._end(new TribusError({ message: silence(link) })), ms);
    this._candidates.add(link);
    client._getToken().then((token) => link._ended || link._open(token)).catch((error) => link._end(error));
  }

  _adopt(link) {
    const all = this._client._options.transports;
    const index = all.indexOf(link._transport);
    for (const better of all.slice(0, index)) {
      const candidate = [...this._candidates].find(({ _transport }) => _transport === better);
      if (!isOffline()) this._bad[better] ??= candidate ? silence(candidate) : this._why[better];
    }
    delete this._bad[link._transport];
    this._why = {};
    const old = this._main;
    this._main = link;
    old?._end();
    for (const one of this._candidates) one._end();
    this._candidates.clear();
    this._failures = Math.min(this._failures, STRIKES);
    this._client._wasRefused = false;
    link._since = Date.now();
    write(this._place, { bad: this._bad, until: Date.now() + REMEMBER_MS });
    link._update();
    this._client._say(index ? "degraded" : "live", link._transport, index ? this._bad[all[0]] : undefined);
    this._probes = 0;
    this._probeLater();
  }

  // Losing it

  _ended(link, error) {
    this._main = undefined;
    clearTimeout(this._probing);
    const lived = (link._isSilent ? link._last : Date.now()) - link._since;
    const { _transport } = link;
    if (lived >= HEALTHY_MS) {
      this._failures = 0;
      this._strikes[_transport] = 0;
    } else if (error.code === "network" && !isOffline()) {
      this._strikes[_transport] = (this._strikes[_transport] ?? 0) + 1;
      if (this._strikes[_transport] >= STRIKES) {
        this._bad[_transport] = `${error.message}, again and again`;
        this._holds[_transport] = Math.min(HOLD_MS, 2 * lived + TICK_MS);
      }
    }
    this._judge(error);
  }

  /** What the gateway said, or what the network did, decides what comes next. */
  _judge(error) {
    const client = this._client;
    this._clear();
    if (error.code === "revoked") return client._stop(`revoked: ${error.message}`, error);
    if (error.code === "unauthorized" || error.code === "token_expired") {
      if (!client._options.getToken || client._wasRefused)
        return client._stop(`the login was refused: ${error.message}`, error);
      client._wasRefused = true;
      client._token = undefined;
      return this._again(error, 0);
    }
    if (isOfSubscription(error.code)) return this._sift(error);
    this._again(error, error.retryAfterMs);
  }

  /** Of subscriptions that were refused together, ends those that would be refused alone. */
  async _sift(refusal) {
    const round = this._round;
    for (const one of [{ topics: [], _options: {} }, ...this._client._subscriptions])
      try {
        const { cursor } = startOf(one);
        await this._client._request("poll", requestFor([one], { cursor, wait: 0, max: 1 }));
      } catch (error) {
        if (!isOfSubscription(error.code)) break;
        if (!one._fail) return this._client._stop(`refused: ${error.message}`, error);
        one._fail(error);
      }
    if (round === this._round) this._again(refusal);
  }

  _again(error, ms) {
    const client = this._client;
    const { maxAttempts } = client._options;
    this._reason = error.message;
    this._failures += 1;
    client._dispatch("error", error);
    if (this._failures > maxAttempts) return client._stop(`gave up after ${maxAttempts} attempts: ${error.message}`, error);
    client._say(isOffline() ? "offline" : "connecting", undefined, error.message);
    const most = Math.min(BACKOFF_AT_MOST_MS, BACKOFF_MS * 2 ** this._failures);
    clearTimeout(this._retry);
    this._retry = setTimeout(() => this._connect(), ms ?? Math.random() * most);
  }

  // Climbing back

  _probeLater() {
    clearTimeout(this._probing);
    const all = this._client._options.transports;
    if (!this._main || this._main._transport === all[0]) return;
    const every = Math.min(PROBE_EVERY_MS + this._probes * 1e3, PROBE_EVERY_AT_MOST_MS);
    this._probing = setTimeout(() => this._probe(), every * (0.8 + Math.random() / 5));
  }

  async _probe() {
    clearTimeout(this._probing);
    this._probes += 1;
    const main = this._main;
    const all = this._client._options.transports;
    for (const transport of all.slice(0, all.indexOf(main._transport))) {
      if ((await this._survives(transport)) && (await this._climbs(transport, main))) return;
      if (this._main !== main) return;
    }
    this._probeLater();
  }

  /** What kept dying proves nothing by opening once more: it has to live for a while. */
  _survives(transport) {
    const hold = this._holds[transport];
    return !hold || new Promise((resolve) => {
      const judge = (link) => {
        if (!link._ended) this._holds[transport] = 0;
        resolve(!link._ended);
        link._end();
      };
      this._try(transport, PROBE_MS, true, (link) => setTimeout(judge, hold, link), () => resolve());
    });
  }

  /** Not while a subscription has no position yet, since it must not begin at two places. */
  _climbs(transport, main) {
    return !isOffline() && [...this._client._subscriptions].every(({ _at }) => _at) && new Promise((resolve) =>
      this._try(transport, PROBE_MS, false, (link) => {
        const isWanted = this._main === main;
        if (isWanted) this._adopt(link);
        else link._end();
        resolve(isWanted);
      }, () => resolve()));
  }

  get _place() {
    return `tribus:path:${this._client._base}`;
  }

  // Watching

  _tick() {
    const now = Date.now();
    const slept = now - this._tickedAt > 5 * TICK_MS;
    this._tickedAt = now;
    if (slept && !globalThis.document?.hidden) return this._wake();
    const main = this._main;
    if (main && now - main._last > main._heartbeat * 1.5 + TICK_MS) {
      main._isSilent = true;
      main._end(new TribusError({ message: "the connection fell silent" }));
    }
  }

  /** The network may have changed, or the connection may have died unnoticed. */
  async _wake(isOnline) {
    const main = this._main;
    if (isOnline) this._bad = {};
    if (!main) return this._life && this._connect();
    if (isOnline && main._transport !== this._client._options.transports[0]) this._probe();
    const { _last } = main;
    if (Date.now() - _last < TICK_MS) return;
    if (!main._send) return main._open();
    main._send({ type: "ping" });
    await sleep(PATIENCE_MS);
    if (main._last === _last) main._end(new TribusError({ message: "the connection died in its sleep", code: "asleep" }));
  }
}

const silence = ({ _transport, _opened }) =>
  _transport === "ws"
    ? _opened ? "the WebSocket opened, but nothing came through it" : "no answer to the WebSocket's handshake"
    : _transport === "sse" ? "the stream is held back, as by a proxy that buffers" : "no answer to a poll";
