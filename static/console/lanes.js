// The lanes: three clients that may use one transport each, so that one stream is seen on all of them
// side by side; and which tab may have them open. Over HTTP/1.1 a browser has six connections to one host, for
// all its tabs together, and lanes hold two of them: a stream and a poll. Over HTTP/2 all share one.

import { Tribus } from "../tribus.js";
import { Wire } from "./wire.js";
import { NAMES, TRANSPORTS } from "./words.js";

const LOCK = "tribus:lanes";

/** One transport. Tells `status` when its state changed. */
export class Lane extends EventTarget {
  counts = { events: 0, repeated: 0, resets: 0 };
  /** Where it began: what lies before was never asked for. */
  origin = null;
  #client = null;
  #subscription = null;
  #wire = new Wire();
  #error = null;

  constructor(key) {
    super();
    this.key = key;
    this.name = NAMES[key];
  }

  get status() {
    if (this.#error) return { state: "closed", reason: this.#error.message };
    return this.#client?.status ?? { state: "idle" };
  }

  /** The name of the node that serves it, where nodes have names. */
  get node() {
    return this.#wire.node;
  }

  /** How far it has come. */
  get cursor() {
    return this.#subscription?.cursor ?? null;
  }

  /** `onEvent(frame, replayed)` says whether the lane had this one already; `onReset(reason, cursor)`. */
  start({ base, token, topics, cursor, network, onEvent, onReset }) {
    this.stop();
    this.counts = { events: 0, repeated: 0, resets: 0 };
    this.origin = cursor;
    this.#client = new Tribus(base, {
      getToken: () => token, transports: [this.key], ...network.platformFor(this.#wire),
    });
    this.#client.addEventListener("status", () => this.#tell());
    this.#subscription = this.#client.subscribe(topics, {
      cursor,
      onEvent: (frame) => {
        this.counts.events += 1;
        if (onEvent(frame, this.#wire.isReplay(frame.id))) this.counts.repeated += 1;
      },
      onReset: (reason) => {
        this.counts.resets += 1;
        onReset(reason, this.#subscription.cursor);
      },
      onError: (error) => {
        this.#error = error;
        this.#tell();
      },
    });
    this.#tell();
  }

  stop() {
    this.#client?.close();
    this.#client = this.#subscription = this.#error = null;
    this.#wire = new Wire();
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("status"));
  }
}

export const allLanes = () => TRANSPORTS.map((key) => new Lane(key));

/** Whether connections are no matter. */
function isMultiplexed() {
  const [page] = performance.getEntriesByType("navigation");
  return /^h[23]/.test(page?.nextHopProtocol ?? "");
}

/**
 * A place for this tab's lanes, `{ release }`; null where another tab has it, or where it can not be known
 * (the browser has no locks for pages without TLS but on this machine). `force` takes it, and the tab
 * that had it is told by its `onLost`.
 */
export function claimLanes({ force, onLost }) {
  const free = { release() {} };
  if (isMultiplexed()) return Promise.resolve(free);
  if (!navigator.locks) return Promise.resolve(force ? free : null);
  return new Promise((resolve) => {
    const options = force ? { steal: true } : { ifAvailable: true };
    navigator.locks.request(LOCK, options, (lock) => {
      if (!lock) return resolve(null);
      return new Promise((release) => resolve({ release }));
    }).catch(onLost);
  });
}
