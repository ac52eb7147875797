// The way to the gateway: which transport, when to try again, and when to try a better one.
//
//   _connect ─▶ race: ws, 2 s later sse, 1 s later poll ─▶ the first that delivers is the main link ─▶ lost ─▶ wait ─▶ _connect
//                                                             │ not the best one
//                                                             └▶ probe upwards every some seconds ─▶ the better link takes over
//
// Only one link feeds the subscriptions at any time, and each begins where they stand.

import { failure, isOfSubscription, TribusError } from "./error.js";
import { links } from "./links.js";
import { read, write } from "./storage.js";

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
/** However long a wait is asked for; timers count in 32 bits. */
const WAIT_AT_MOST_MS = 36e5;
const REMEMBER_MS = 600e3;
const TICK_MS = 1000;
const SILENT = "it fell silent";

const isOffline = () => globalThis.navigator?.onLine === false;
const isHidden = () => globalThis.document?.hidden;

/** What keeps a link open for the client, which it is a part of. */
export class Path extends EventTarget {
  /** Why a transport is not to be tried first, by transport. */
  _bad = {};
  /** How long the links of a transport lived that died early. */
  _strikes = {};
  _holds = {};
  _candidates = new Set();
  /** For the time to wait: in a row, but for links that lived briefly. */
  _failures = 0;
  /** That failed in a row, for `maxAttempts`; the loss of a link is none. */
  _attempts = 0;

  _begin() {
    const { bad, until } = read(this._pathPlace);
    if (until > Date.now()) this._bad = bad;
    const { signal } = (this._life = new AbortController());
    const on = (type, listener) => globalThis.addEventListener?.(type, listener, { signal });
    on("online", () => this._wake(true));
    for (const type of ["pageshow", "visibilitychange"]) on(type, () => isHidden() || this._wake());
    on("offline", () => this._judge(failure("offline")));
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
    this._main = undefined;
  }

  // Finding a link

  /** Says why nothing is delivered at the moment. */
  _seek(reason) {
    this._reason = reason;
    this._say(isOffline() ? "offline" : "connecting", undefined, reason);
  }

  _connect() {
    this._clear();
    const round = this._round;
    this._seek(this._reason);
    this._getToken().then(() => {
      const order = this._all.filter((transport) => !this._bad[transport]);
      this._raceWith(order[0] ? order : this._all, round, PATIENCE_MS);
    }, (error) => round === this._round && this._again(error));
  }

  _raceWith([transport, ...rest], round, patience) {
    if (round !== this._round || this._main || !transport) return;
    let isNext;
    const next = (why) => {
      if (isNext || round !== this._round || this._main) return;
      isNext = true;
      clearTimeout(timer);
      if (!isOffline()) this._bad[transport] = why;
      this._raceWith(rest, round, STAGGER_MS);
    };
    const timer = setTimeout(() => next(silence(link)), patience);
    // Trials of others, which are candidates too, must not be waited for.
    round._racing = (round._racing ?? 0) + 1;
    const link = this._try(transport, CANDIDATE_MS, false, (link) => this._adopt(link), (error) => {
      if (!error || round !== this._round) return;
      if (error.code !== "network") return this._judge(error);
      next(error.message);
      if (--round._racing) return;
      // Every transport failed, so none is to blame.
      this._bad = {};
      this._again(error);
    });
  }

  /**
   * Opens a link over `transport`; `bare`: without subscriptions. Once it delivers something, `onReady` is told,
   * and may adopt it before anything else of it is read; else `onFailed`, without an error where the client ended it.
   */
  _try(transport, ms, bare, onReady, onFailed) {
    const done = () => {
      clearTimeout(timer);
      this._candidates.delete(link);
    };
    const link = new links[transport]({
      _client: this, _transport: transport, _bare: bare,
      _onFrame: (frame) => {
        if (this._candidates.has(link)) {
          done();
          onReady(link);
        }
        if (link === this._main) this._take(frame, link._joined);
      },
      _onEnd: (error) => {
        done();
        if (link !== this._main) onFailed(error);
        else if (error) this._ended(link, error);
      },
    });
    const timer = setTimeout(() => link._end(failure(silence(link))), ms);
    this._candidates.add(link);
    this._getToken().then((token) => link._ended || link._open(token)).catch(({ message }) => link._end(failure(message)));
    return link;
  }

  _adopt(link) {
    const index = this._all.indexOf(link._transport);
    delete this._bad[link._transport];
    const old = this._main;
    this._main = link;
    for (const one of [old, ...this._candidates]) one?._end();
    this._failures = Math.min(this._failures, STRIKES);
    this._attempts = -1;
    this._wasRefused = false;
    link._since = Date.now();
    write(this._pathPlace, { bad: this._bad, until: Date.now() + REMEMBER_MS });
    link._update();
    this._say(index ? "degraded" : "live", link._transport, this._bad[this._all[0]]);
    this._probes = 0;
    this._probeLater();
    // This loads the extras too: later the gateway may have those of another version. Without them the gateway tells when the token is over.
    this._extra("refresh").catch(() => {});
  }

  // Losing it

  _ended(link, error) {
    this._main = undefined;
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
    this._clear();
    if (/^(revoked|4005)$/.test(error.code)) return this._stop(`revoked: ${error.message}`, error);
    if (/^(unauthorized|token_expired|400[1-4])$/.test(error.code)) {
      if (!this._options.getToken || this._wasRefused)
        return this._stop(`the login was refused: ${error.message}`, error);
      this._wasRefused = true;
      this._token = undefined;
      return this._again(error, 0);
    }
    if (!isOfSubscription(error.code)) return this._again(error);
    const round = this._round;
    this._seek(error.message);
    this._extra("sift", round).catch(() => {}).then((ms) => round === this._round && this._again(error, ms));
  }

  _again(error, ms = error.retryAfterMs) {
    const { maxAttempts } = this._options;
    this._failures += 1;
    this._dispatch("error", error);
    // A device without a network says when it has one.
    if (!isOffline() && ++this._attempts >= maxAttempts)
      return this._stop(`gave up after ${maxAttempts} attempts: ${error.message}`, error);
    this._seek(error.message);
    const most = Math.min(BACKOFF_AT_MOST_MS, BACKOFF_MS * 2 ** this._failures);
    this._retry = setTimeout(() => this._connect(), Math.min(ms ?? Math.random() * most, WAIT_AT_MOST_MS));
  }

  // Climbing back

  _probeLater() {
    clearTimeout(this._probing);
    if (!this._main || this._main._transport === this._all[0]) return;
    const every = Math.min(PROBE_EVERY_MS + this._probes * 1e3, PROBE_EVERY_AT_MOST_MS);
    this._probing = setTimeout(() => this._probe(), every * (0.8 + Math.random() / 5));
  }

  async _probe() {
    this._probes += 1;
    const main = this._main;
    for (const transport of this._all.slice(0, this._all.indexOf(main._transport))) {
      const hold = this._holds[transport];
      // Where that cannot be loaded, it is tried as it is.
      const isTrusted = !hold || (await this._extra("survives", transport, hold).catch(() => true));
      if (isTrusted && this._main === main) await this._climb(transport, main);
      if (this._main !== main) return;
    }
    this._probeLater();
  }

  /** Not while a subscription has no position yet, since it must not begin at two places. */
  _climb(transport, main) {
    if (isOffline() || [...this._subscriptions].some(({ _at }) => !_at)) return;
    return new Promise((resolve) =>
      this._try(transport, PROBE_MS, false, (link) => {
        if (this._main === main) this._adopt(link);
        else link._end();
        resolve();
      }, (error) => {
        if (error) this._bad[transport] = error.message;
        resolve();
      }));
  }

  get _pathPlace() {
    return `tribus:path:${this._base}${this._all}`;
  }

  // Watching

  _tick() {
    const now = Date.now();
    const slept = Math.abs(now - this._tickedAt) > 5 * TICK_MS;
    this._tickedAt = now;
    if (slept && !isHidden()) return this._wake();
    const main = this._main;
    if (main && now - main._last > main._heartbeat * 1.5 + TICK_MS) {
      main._isSilent = true;
      main._end(failure(SILENT));
    }
  }

  /** The network may have changed, or the connection may have died unnoticed. */
  _wake(isOnline) {
    const main = this._main;
    if (isOnline) {
      this._bad = {};
      this._failures = 0;
    }
    if (!main) return (isOnline || !this._candidates.size) && this._connect();
    if (isOnline) this._probe();
    if (Math.abs(Date.now() - main._last) < TICK_MS) return;
    main._send({ type: "ping" });
    const { _last } = main;
    setTimeout(() => main._last === _last && main._end(failure(SILENT)), PATIENCE_MS);
  }
}

const silence = ({ _transport, _opened }) =>
  _opened
    ? "it opened, but nothing came through"
    : _transport === "sse" ? "nothing came through: the stream is held back" : "no answer";
