// The table of arrivals: a row for each event, a column for each lane.

import { compareCursors, isUpTo } from "./cursor.js";
import { element, onceAFrame } from "./dom.js";
import { previewOf } from "./tail.js";
import { duration } from "./words.js";

const KEPT = 100;

export class Table {
  #lanes;
  #body;
  /** By id, oldest first: `{ frame, arrivals, missed, row }`. */
  #entries = new Map();
  #changed = new Set();
  /** Replays of what is no longer shown do not come back as new events. */
  #forgotten = null;
  #schedule = onceAFrame(() => this.#render());

  constructor(table, lanes) {
    this.#lanes = lanes;
    this.#body = table.tBodies[0];
    for (const lane of lanes) {
      table.tHead.rows[0].append(element("th", { text: lane.name, scope: "col", "data-lane": lane.key }));
    }
  }

  clear() {
    this.#entries.clear();
    this.#changed.clear();
    this.#forgotten = null;
    this.#body.replaceChildren();
  }

  /** Hides what is there; what arrives from now on is shown. */
  hide() {
    const last = [...this.#entries.keys()].at(-1);
    this.clear();
    this.#forgotten = last ?? null;
  }

  /** Whether the lane had this event already. */
  add(lane, frame, replayed) {
    const entry = this.#entries.get(frame.id) ?? this.#newEntry(frame);
    if (!entry) return false;
    const before = entry.arrivals.get(lane);
    const arrival = before ?? { at: performance.now(), replayed, times: 0 };
    arrival.times += 1;
    entry.arrivals.set(lane, arrival);
    this.#change(entry);
    return before !== undefined;
  }

  /** The lane went past events that it never got. */
  addReset(lane, cursor) {
    for (const entry of this.#entries.values()) {
      const isAfter = compareCursors(entry.frame.id, cursor) > 0;
      if (entry.arrivals.has(lane) || isAfter) continue;
      entry.missed.add(lane);
      this.#change(entry);
    }
  }

  /** Cells that wait may have become cells that missed. */
  refresh() {
    for (const entry of this.#entries.values()) {
      if (entry.arrivals.size < this.#lanes.length) this.#changed.add(entry);
    }
    if (this.#changed.size) this.#schedule();
  }

  #newEntry(frame) {
    if (this.#forgotten && isUpTo(frame.id, this.#forgotten)) return null;
    const entry = { frame, arrivals: new Map(), missed: new Set(), row: null };
    this.#entries.set(frame.id, entry);
    if (this.#entries.size > KEPT) this.#forgetOldest();
    return entry;
  }

  #forgetOldest() {
    const [id, entry] = this.#entries.entries().next().value;
    this.#entries.delete(id);
    this.#changed.delete(entry);
    entry.row?.remove();
    this.#forgotten = id;
  }

  #change(entry) {
    this.#changed.add(entry);
    this.#schedule();
  }

  #render() {
    for (const entry of this.#changed) {
      entry.row ??= this.#newRow(entry.frame);
      this.#lanes.forEach((lane, index) => fillCell(entry.row.cells[index + 1], entry, lane));
    }
    this.#changed.clear();
  }

  #newRow(frame) {
    const heading = element("th", { scope: "row" },
      element("span", { className: "topic", text: frame.topic }), " ",
      element("span", { className: "name", text: frame.event }), " ",
      element("span", { className: "preview", text: previewOf(frame.data) }));
    const cells = this.#lanes.map(({ key }) => element("td", { "data-lane": key }));
    const row = element("tr", {}, heading, ...cells);
    this.#body.prepend(row);
    return row;
  }
}

function fillCell(cell, entry, lane) {
  const arrival = entry.arrivals.get(lane);
  const [className, mark, text] = arrival ? arrivedCell(entry, arrival) : absentCell(entry, lane);
  if (cell.className === className && cell.lastChild?.textContent === text) return;
  cell.className = className;
  cell.replaceChildren(element("b", { text: mark, "aria-hidden": "true" }), element("span", { text }));
}

function arrivedCell(entry, arrival) {
  const first = Math.min(...[...entry.arrivals.values()].map(({ at }) => at));
  const delay = arrival.at === first ? "first" : `+${duration(arrival.at - first)}`;
  const mark = arrival.replayed ? "↻" : "✓";
  if (arrival.times > 1) return ["miss", mark, `${arrival.times} times`];
  return [arrival.replayed ? "replay" : "tick", mark, delay];
}

function absentCell({ frame, missed }, lane) {
  const { origin, cursor } = lane;
  if (origin && isUpTo(frame.id, origin)) return ["waits", "–", "before its start"];
  if (missed.has(lane) || (cursor && isUpTo(frame.id, cursor))) return ["miss", "✗", "missed"];
  return ["waits", "·", "not yet"];
}
