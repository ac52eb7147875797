// The proof: which of the events that were published, numbered from 1, arrived once and in order.

import { compareCursors, isUpTo } from "./cursor.js";

/** Of one run. Keeps a position for each event that is on its way: whoever publishes bounds how many. */
export class Ledger {
  published = 0;
  received = 0;
  repeated = 0;
  disordered = 0;
  resets = 0;
  /** The number that comes next; all before it have arrived or are missing. */
  #next = 1;
  /** Overtaken by a later event or by a reset, until they come after all. */
  #missing = new Set();
  #positions = new Map();
  #resetAt = null;

  get lost() {
    return this.#missing.size;
  }

  get onTheWay() {
    return Math.max(0, this.published - (this.#next - 1));
  }

  get isClean() {
    return this.lost + this.repeated + this.disordered + this.resets === 0;
  }

  /** The gateway took events; `ids` are those of number `first` and what follows it. */
  publish(first, ids) {
    this.published = Math.max(this.published, first + ids.length - 1);
    ids.forEach((id, index) => {
      const number = first + index;
      if (number >= this.#next) this.#positions.set(number, id);
    });
    // The answer may have come after the reset that passed it.
    if (this.#resetAt) this.#pass((id) => isUpTo(id, this.#resetAt));
  }

  receive(number) {
    // It was published, though the answer that says so may be late, or lost.
    this.published = Math.max(this.published, number);
    if (number >= this.#next) {
      this.#overtakeUpTo(number - 1);
      this.#next = number + 1;
      this.#positions.delete(number);
      this.received += 1;
    } else if (this.#missing.delete(number)) {
      this.received += 1;
      this.disordered += 1;
    } else {
      this.repeated += 1;
    }
  }

  /** The client goes on after `cursor`: what lies before it, or in another log, will not come. */
  reset(cursor) {
    this.resets += 1;
    this.#resetAt = cursor;
    this.#pass((id) => !(compareCursors(id, cursor) > 0));
  }

  #pass(isLost) {
    for (let id; (id = this.#positions.get(this.#next)) && isLost(id); ) this.#overtakeUpTo(this.#next);
  }

  #overtakeUpTo(last) {
    for (; this.#next <= last; this.#next += 1) {
      this.#missing.add(this.#next);
      this.#positions.delete(this.#next);
    }
  }
}
