// What state the client was in, and when; and the strip that shows it: which transport carried the
// events when, and when none did.

import { drawn, element } from "./dom.js";
import { NAMES, duration } from "./words.js";

const KEPT = 200;
const SPAN_MS = 120_000;
const WIDTH = 1200;
const HEIGHT = 20;
/** A spell that is shorter is drawn as wide as this, so that it can be seen. */
const NARROWEST = 4;

/** What a spell is called by, and coloured after. */
export const kindOf = ({ state, transport }) => transport ?? state;

/** Spells, oldest first: `{ state, transport, reason, from, to }`, the last one without `to`; with `node` where that has a name. */
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

export class Strip {
  #svg;
  #history;

  constructor(figure, history) {
    this.#history = history;
    this.#svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    figure.prepend(this.#svg);
    const ends = element("p", { className: "ends", "aria-hidden": "true" },
      element("span", { text: `${SPAN_MS / 60_000} min ago` }), element("span", { text: "now" }));
    this.#svg.after(ends);
  }

  draw(now = Date.now()) {
    const start = now - SPAN_MS;
    const spells = this.#history.spells.filter(({ to = now }) => to > start);
    const at = (time) => (Math.max(0, time - start) / SPAN_MS) * WIDTH;
    this.#svg.replaceChildren(...spells.map((spell) => {
      const left = at(spell.from);
      const width = Math.max(NARROWEST, at(spell.to ?? now) - left);
      return drawn("rect", { class: kindOf(spell), x: Math.min(left, WIDTH - width), width, height: HEIGHT });
    }));
    this.#svg.setAttribute("aria-label", wordsOf(spells, start, now));
  }
}

function wordsOf(spells, start, now) {
  const sums = new Map();
  for (const spell of spells) {
    const name = NAMES[spell.transport] ?? spell.state;
    const lasted = (spell.to ?? now) - Math.max(start, spell.from);
    sums.set(name, (sums.get(name) ?? 0) + lasted);
  }
  const parts = [...sums].map(([name, ms]) => `${name} for ${duration(ms)}`);
  return `The last two minutes: ${parts.join(", ") || "nothing yet"}`;
}
