// The lanes: three clients that may use one transport each, so that one stream is seen on all of them
// side by side.

import { Tribus } from "../tribus.js";
import { Wire } from "./wire.js";
import { NAMES, TRANSPORTS } from "./words.js";

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
