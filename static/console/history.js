// What state the client was in, and when.

const KEPT = 200;

/** Spells, oldest first: `{ state, transport, reason, from, to }`, the last one without `to`. */
export class History {
  spells = [];

  get now() {
    return this.spells.at(-1);
  }

  /** Whether a new spell began. */
  enter({ state, transport, reason }, at = Date.now()) {
    const { now } = this;
    if (now && this.#goesOn(now, state, transport)) {
      now.reason = reason ?? now.reason;
      return false;
    }
    if (now) now.to = at;
    this.spells.push({ state, transport, reason, from: at });
    if (this.spells.length > KEPT) this.spells.shift();
    return true;
  }

  /** Attempts that a device makes while it is offline are no news. */
  #goesOn(now, state, transport) {
    const isVain = now.state === "offline" && state === "connecting" && navigator.onLine === false;
    return isVain || (now.state === state && now.transport === transport);
  }
}
