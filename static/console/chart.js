// One chart over the last minutes: lines, or areas on top of each other. The shapes are SVG and stretch
// with the page; words and numbers are HTML, and do not.

import { drawn, element, say } from "./dom.js";

const SPAN_MS = 120_000;
const WIDTH = 600;
const HEIGHT = 100;
/** What lies further apart is not joined: nobody looked meanwhile. */
const GAP_MS = 4000;
/** Where a scale may end, times a power of ten. */
const STEPS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

export class Chart {
  #series;
  #format;
  #stacked;
  #floor;
  #svg;
  #values = new Map();
  #top = element("span", { className: "top-value" });
  #samples = [];
  /** The time under the pointer, counted back from the newest sample. */
  #looked = null;
  #hand = element("span", { className: "hand-time" });

  /**
   * `series`: `{ key, name, of }` each, where `of` reads its value off a sample; `format` writes one. With a `floor` the scale is
   * logarithmic, and begins there.
   */
  constructor(figure, { series, format, stacked = false, floor = null }) {
    this.#series = series;
    this.#format = format;
    this.#stacked = stacked;
    this.#floor = floor;
    this.#svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    const plot = element("div", { className: "plot" }, this.#svg, this.#top, this.#hand);
    if (floor !== null) plot.append(element("span", { className: "floor-value", text: format(floor) }));
    plot.addEventListener("pointermove", (event) => this.#look(event, plot));
    plot.addEventListener("pointerleave", () => this.#look(null));
    const ends = element("p", { className: "ends", "aria-hidden": "true" },
      element("span", { text: `${SPAN_MS / 60_000} min ago` }), element("span", { text: "now" }));
    figure.append(this.#legend(), plot, ends);
  }

  #legend() {
    const items = this.#series.map(({ key, name }) => {
      const value = element("b", { text: "–" });
      this.#values.set(key, value);
      return element("li", { "data-series": key }, element("span", { text: name }), " ", value);
    });
    return element("ul", { className: "legend" }, ...items);
  }

  /** Samples, oldest first, each with `at`. */
  draw(samples) {
    const now = samples.at(-1)?.at ?? Date.now();
    this.#samples = samples.filter(({ at }) => at > now - SPAN_MS);
    const least = this.#floor === null ? 1 : this.#floor * 100;
    const top = roundUp(Math.max(least, ...this.#samples.map((sample) => this.#heightOf(sample))));
    const place = { x: (at) => WIDTH * (1 - (now - at) / SPAN_MS), y: (value) => HEIGHT * (1 - this.#share(value, top)) };
    this.#svg.replaceChildren(...grid(), ...this.#shapes(place), ...this.#handAt(now, place));
    say(this.#top, this.#format(top));
    this.#showValues(now);
    this.#svg.setAttribute("aria-label", this.#words());
  }

  /** Of the height, for a value. */
  #share(value, top) {
    if (this.#floor === null) return value / top;
    return Math.max(0, Math.log(value / this.#floor) / Math.log(top / this.#floor));
  }

  #heightOf(sample) {
    const values = this.#series.map(({ of }) => of(sample) ?? 0);
    return this.#stacked ? values.reduce((all, value) => all + value, 0) : Math.max(...values);
  }

  #shapes(place) {
    const below = new Map();
    return this.#series.map(({ key, of }) => {
      const points = this.#samples.map((sample) => {
        const value = of(sample);
        const base = this.#stacked ? below.get(sample) ?? 0 : 0;
        below.set(sample, base + (value ?? 0));
        return { at: sample.at, value: value === null ? null : base + value, base };
      });
      const runs = runsOf(points);
      const d = runs.map((run) => (this.#stacked ? area(run, place) : line(run, place))).join("");
      return drawn("path", { d, class: this.#stacked ? "area" : "line", "data-series": key });
    });
  }

  #look(event, plot) {
    const { left, width } = event ? plot.getBoundingClientRect() : {};
    this.#looked = event && SPAN_MS * (1 - (event.clientX - left) / width);
    if (this.#samples.length) this.draw(this.#samples);
  }

  #sampleAt(now) {
    if (this.#looked === null) return this.#samples.at(-1);
    const at = now - this.#looked;
    const distance = (sample) => Math.abs(sample.at - at);
    return this.#samples.reduce((one, other) => (one && distance(one) <= distance(other) ? one : other), null);
  }

  #handAt(now, { x }) {
    if (this.#looked === null || !this.#samples.length) return [];
    const at = x(this.#sampleAt(now).at);
    return [drawn("line", { class: "hand", x1: at, x2: at, y1: 0, y2: HEIGHT })];
  }

  #showValues(now) {
    const sample = this.#sampleAt(now);
    const ago = this.#looked !== null && sample ? Math.round((now - sample.at) / 1000) : 0;
    say(this.#hand, ago ? `${ago} s ago` : "");
    for (const { key, of } of this.#series) {
      const value = sample ? of(sample) : null;
      say(this.#values.get(key), value === null ? "–" : this.#format(value));
    }
  }

  #words() {
    const parts = this.#series.map(({ name, of }) => {
      const values = this.#samples.map(of).filter((value) => value !== null);
      if (!values.length) return `${name} not known`;
      return `${name} ${this.#format(values.at(-1))} now, at most ${this.#format(Math.max(...values))}`;
    });
    return `The last two minutes: ${parts.join("; ")}`;
  }
}

function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * STEPS.find((step) => step * unit >= value * 0.999);
}

const grid = () => [0, 0.5, 1].map((share) =>
  drawn("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share }));

/** Pieces without a hole in them. */
function runsOf(points) {
  const runs = [];
  let before = null;
  for (const point of points) {
    if (point.value !== null) {
      if (before === null || point.at - before.at > GAP_MS) runs.push([]);
      runs.at(-1).push(point);
    }
    before = point.value === null ? null : point;
  }
  return runs;
}

const path = (points, { x, y }, of) => points.map((point) => `${x(point.at).toFixed(1)} ${y(of(point)).toFixed(1)}`).join("L");

/** One point alone is drawn as a dot, which a line of no length with round ends is. */
const line = (run, place) => `M${path(run, place, ({ value }) => value)}${run.length === 1 ? "h0" : ""}`;

const area = (run, place) =>
  `M${path(run, place, ({ value }) => value)}L${path([...run].reverse(), place, ({ base }) => base)}Z`;
