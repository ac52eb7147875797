// A lane keeps one transport connected: it holds the cursor, resumes with it after every drop, and
// says what state it is in. Nothing here knows how the page looks.

import { GatewayError, Unreachable } from "./transports.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
/** From opening a connection to its `connected`. */
const GREETING_MS = 10_000;
/** As many heartbeats as the gateway itself allows a silent client. */
const SILENT_HEARTBEATS = 2.5;

/** Where a lane stands in the log: all that a resume needs, on whichever transport. */
export class Position {
  /** The last stream cursor of any frame. */
  cursor;
  /** The first one: what lies before it was never asked for. */
  origin;

  constructor(cursor) {
    this.cursor = cursor;
  }

  take(frame) {
    const cursor = frame.type === "event" ? frame.id : frame.cursor;
    if (!cursor) return;
    this.cursor = cursor;
    this.origin ??= cursor;
  }
}

/** Less than, equal to or greater than 0; null for cursors of different logs. */
export function compareCursors(left, right) {
  const [leftLog, leftSequence] = splitCursor(left);
  const [rightLog, rightSequence] = splitCursor(right);
  if (leftLog !== rightLog || Number.isNaN(leftSequence + rightSequence)) return null;
  return leftSequence - rightSequence;
}

function splitCursor(cursor) {
  const [position] = String(cursor).split(".");
  const dash = position.lastIndexOf("-");
  return [position.slice(0, dash), Number.parseInt(position.slice(dash + 1), 10)];
}

/**
 * States: `idle`, `connecting`, `catching-up`, `live`, `reconnecting` (with `until`), `cut` (with
 * `until` where it comes back by itself), `closed` (with the `error` that closed it).
 */
export class Lane {
  position = new Position(null);
  state = { name: "idle" };
  #transport;
  #notify;
  #request = null;
  #running = null;
  #skipWait = () => {};
  #restoring = null;

  /** `notify` has `state(lane)` and `frame(lane, frame, replayed)`. */
  constructor({ key, name, transport }, notify) {
    this.key = key;
    this.name = name;
    this.#transport = transport;
    this.#notify = notify;
  }

  /** Connects anew, from `cursor` where one is given. */
  start({ cursor, ...request }) {
    this.position = new Position(cursor);
    this.#request = request;
    this.#connect();
  }

  /** Ends for good, until the next start. */
  stop() {
    this.#disconnect();
    this.#request = null;
    this.position = new Position(null);
    this.#enter({ name: "idle" });
  }

  /** Drops the connection as a lost network does; with `ms` it comes back by itself. */
  cut(ms) {
    this.#disconnect();
    if (ms) this.#restoring = setTimeout(() => this.restore(), ms);
    this.#enter({ name: "cut", until: ms ? Date.now() + ms : undefined });
  }

  restore() {
    if (this.#request) this.#connect();
  }

  retryNow() {
    this.#skipWait();
  }

  #connect() {
    this.#disconnect();
    this.#running = new AbortController();
    this.#keepConnected(this.#running.signal);
  }

  #disconnect() {
    clearTimeout(this.#restoring);
    this.#running?.abort();
    this.#running = null;
  }

  async #keepConnected(signal) {
    for (let failures = 0; ; failures += 1) {
      this.#enter({ name: "connecting" });
      const attempt = await this.#attempt(signal);
      if (signal.aborted) return;
      if (attempt.error.final) return this.#enter({ name: "closed", error: attempt.error });
      if (attempt.connected) failures = 0;
      const ms = attempt.waitMs ?? attempt.error.retryAfterMs ?? backoff(failures);
      this.#enter({ name: "reconnecting", error: attempt.error, until: Date.now() + ms });
      await this.#wait(ms, signal);
      if (signal.aborted) return;
    }
  }

  /** One connection, from its first byte to its end; tells why it ended. */
  async #attempt(signal) {
    const connection = new Connection(signal);
    try {
      for await (const frame of this.#transport({
        ...this.#request, position: this.position, signal: connection.signal,
      })) {
        if (signal.aborted) break;
        connection.heard(frame);
        this.#take(frame);
        if (frame.type === "closing") {
          connection.announceEnd(frame);
          break;
        }
      }
      connection.error ??= new Unreachable("the gateway ended the connection");
    } catch (error) {
      connection.error = connection.betterError(error);
    } finally {
      connection.end();
    }
    return connection;
  }

  #take(frame) {
    this.position.take(frame);
    if (frame.type === "connected") this.#enter({ name: "catching-up" });
    if (frame.type === "live" || frame.type === "reset") this.#enter({ name: "live" });
    this.#notify.frame(this, frame, this.state.name === "catching-up");
  }

  #enter(state) {
    this.state = state;
    this.#notify.state(this);
  }

  #wait(ms, signal) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#skipWait = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", this.#skipWait, { once: true });
    });
  }
}

/** What is known of one connection while it lasts; gives it up when it falls silent. */
class Connection {
  connected = false;
  waitMs;
  error;
  #silence = new AbortController();
  #silenceMs = GREETING_MS;
  #timer;

  constructor(signal) {
    this.signal = AbortSignal.any([signal, this.#silence.signal]);
    this.#watch();
  }

  heard(frame) {
    if (frame.type === "connected") {
      this.connected = true;
      this.#silenceMs = frame.heartbeatMs * SILENT_HEARTBEATS;
    }
    this.#watch();
  }

  announceEnd(closing) {
    this.waitMs = closing.reconnectAfterMs;
    this.error = closing.reconnectAfterMs === undefined
      ? GatewayError.ofClose(closing.code, closing.message)
      : new GatewayError({ code: "closing", message: closing.message });
  }

  /** A `closing` says more than the drop that follows it. */
  betterError(error) {
    if (this.error && !error.final) return this.error;
    const known = error instanceof GatewayError || error instanceof Unreachable;
    return known ? error : new Unreachable(`the connection failed: ${error.message}`);
  }

  end() {
    clearTimeout(this.#timer);
  }

  #watch() {
    clearTimeout(this.#timer);
    const giveUp = () => this.#silence.abort(new Unreachable("nothing was heard for too long"));
    this.#timer = setTimeout(giveUp, this.#silenceMs);
  }
}

/** Doubles, with jitter so that a crowd does not come back at once. */
function backoff(failures) {
  const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures);
  return longest * (0.5 + Math.random() / 2);
}
