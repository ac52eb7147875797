// What the page shows. Everything that came over the wire becomes text, never markup.

import { compareCursors } from "./lane.js";

const KEPT = 200;
const PREVIEW_CHARACTERS = 160;

const STATE_NAMES = {
  idle: "Not connected",
  connecting: "Connecting",
  "catching-up": "Catching up",
  live: "Live",
  reconnecting: "Reconnecting",
  cut: "Cut",
  closed: "Closed",
};

/** Changes are gathered and shown once a frame, however fast events arrive. */
export function onceAFrame(render) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    // Frames stop in a hidden tab; what waits for one is bounded by its owner.
    requestAnimationFrame(() => {
      scheduled = false;
      render();
    });
  };
}

export function element(name, { className, text, title } = {}, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (title !== undefined) made.title = title;
  made.append(...children);
  return made;
}

/** One lane's card. */
export class LaneView {
  #parts = {};
  #waiting = [];
  #counts = { events: 0, replayed: 0, duplicates: 0, resets: 0 };
  #schedule = onceAFrame(() => this.#render());
  #announced = "idle";

  constructor(lane, { announce }) {
    this.lane = lane;
    this.announce = announce;
    const template = document.getElementById("lane-template");
    this.root = template.content.firstElementChild.cloneNode(true);
    this.root.dataset.lane = lane.key;
    for (const name of ["h2", "ol", ".state", ".detail", ".cursor", ".events", ".replayed",
      ".duplicates", ".resets", ".cut", ".cut-briefly", ".scroll", ".empty"]) {
      this.#parts[name.replace(/^\./, "")] = this.root.querySelector(name);
    }
    this.#parts.h2.textContent = lane.name;
    this.root.setAttribute("aria-label", lane.name);
    this.#parts.scroll.setAttribute("aria-label", `Events on ${lane.name}; arrow keys go through them`);
    this.#parts.scroll.addEventListener("keydown", moveByArrow);
    this.#parts.cut.addEventListener("click", () => this.#toggle());
    this.#parts["cut-briefly"].addEventListener("click", () => lane.cut(5000));
    this.showState();
  }

  /** Nothing has arrived yet. */
  clear() {
    this.#waiting = [];
    this.#counts = { events: 0, replayed: 0, duplicates: 0, resets: 0 };
    this.#parts.ol.replaceChildren();
    this.#schedule();
  }

  addEvent(frame, { replayed, duplicate }) {
    this.#counts.events += 1;
    if (replayed) this.#counts.replayed += 1;
    if (duplicate) this.#counts.duplicates += 1;
    this.#add(() => eventItem(frame, replayed));
  }

  addReset(frame) {
    this.#counts.resets += 1;
    this.#add(() => element("li", {
      className: "reset",
      text: `Events were missed (${frame.reason}). Going on from ${frame.cursor}.`,
    }));
  }

  cursorMoved() {
    this.#schedule();
  }

  showState() {
    const { state, name } = this.lane;
    this.root.dataset.state = state.name;
    this.#parts.state.textContent = STATE_NAMES[state.name];
    this.showDetail();
    const idle = state.name === "idle" || state.name === "closed";
    const label = { cut: "Restore", reconnecting: "Retry now" }[state.name] ?? "Cut";
    this.#parts.cut.textContent = label;
    this.#parts.cut.setAttribute("aria-label", `${label}: ${name}`);
    this.#parts.cut.disabled = idle;
    this.#parts["cut-briefly"].disabled = idle || state.name === "cut";
    this.#parts["cut-briefly"].setAttribute("aria-label", `Cut for 5 seconds: ${name}`);
    if (this.#announced !== state.name && ["live", "cut", "closed", "reconnecting"].includes(state.name)) {
      this.announce(`${name}: ${STATE_NAMES[state.name]}`);
    }
    this.#announced = state.name;
  }

  /** The line under the name; counts down while something is to come. */
  showDetail() {
    this.#parts.detail.textContent = detailOf(this.lane.state);
  }

  #toggle() {
    const { lane } = this;
    if (lane.state.name === "cut") lane.restore();
    else if (lane.state.name === "reconnecting") lane.retryNow();
    else lane.cut();
  }

  #add(make) {
    this.#waiting.push(make);
    if (this.#waiting.length > KEPT) this.#waiting.shift();
    this.#schedule();
  }

  #render() {
    const { ol, empty, cursor } = this.#parts;
    for (const make of this.#waiting.splice(0)) ol.prepend(make());
    while (ol.childElementCount > KEPT) ol.lastElementChild.remove();
    empty.hidden = ol.childElementCount > 0;
    cursor.textContent = this.lane.position.cursor ?? "none";
    for (const [name, count] of Object.entries(this.#counts)) {
      this.#parts[name].textContent = count;
      this.#parts[name].parentElement.classList.toggle("some", count > 0);
    }
  }
}

function detailOf({ name, error, until }) {
  const seconds = until === undefined ? null : Math.max(0, Math.ceil((until - Date.now()) / 1000));
  switch (name) {
    case "idle": return "Not started yet.";
    case "connecting": return "Opening the connection.";
    case "catching-up": return "Receiving what it missed.";
    case "live": return "Events arrive as they are published.";
    case "reconnecting": return `${sentence(error.message)} Again in ${seconds} s.`;
    case "cut": return seconds === null
      ? "Cut by you. Restore it to see what it missed."
      : `Cut by you. Back in ${seconds} s, from its last cursor.`;
    default: return `${error.code}: ${sentence(error.message)}`;
  }
}

export function sentence(text) {
  const stopped = /[.!?]$/.test(text) ? text : `${text}.`;
  return stopped[0].toUpperCase() + stopped.slice(1);
}

function eventItem(frame, replayed) {
  const summary = element("summary", {},
    element("span", { className: "name", text: frame.event }),
    element("span", { className: "topic", text: frame.topic }),
    ...(replayed ? [replayMark()] : []),
    element("code", { text: frame.id }));
  // Hundreds of stops for the Tab key would bar the way to the rest of the page.
  summary.tabIndex = -1;
  const details = element("details", {}, summary);
  // Most are never opened, and 64 KiB of JSON are slow to lay out.
  details.addEventListener("toggle", () => {
    const text = JSON.stringify(frame, null, 2);
    details.append(element("pre", { text }));
  }, { once: true });
  return element("li", {}, details);
}

function moveByArrow(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const summaries = [...event.currentTarget.querySelectorAll("summary")];
  const next = summaries.indexOf(document.activeElement) + step;
  event.preventDefault();
  if (next < 0) event.currentTarget.focus();
  else summaries[next]?.focus();
}

function replayMark() {
  return element("span", { className: "mark", title: "replayed after a reconnect" },
    "↻", element("span", { className: "visually-hidden", text: " replayed" }));
}

/** The table of which event arrived where, and how much later than on the first transport. */
export class MergedView {
  #lanes;
  #body;
  #empty;
  /** By id, oldest first. */
  #entries = new Map();
  #changed = new Set();
  /** Replays of what is no longer shown do not come back as new events. */
  #forgotten = null;
  #schedule = onceAFrame(() => this.#render());

  constructor(table, empty, lanes) {
    this.#lanes = lanes;
    this.#body = table.tBodies[0];
    this.#empty = empty;
    for (const lane of lanes) {
      const heading = element("th", { text: lane.name });
      heading.scope = "col";
      heading.dataset.lane = lane.key;
      table.tHead.rows[0].append(heading);
    }
  }

  clear() {
    this.#entries.clear();
    this.#changed.clear();
    this.#forgotten = null;
    this.#body.replaceChildren();
    this.#schedule();
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
  addReset(lane, { cursor }) {
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
    this.#schedule();
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
      entry.row.classList.toggle("complete", entry.arrivals.size === this.#lanes.length);
    }
    this.#changed.clear();
    this.#empty.hidden = this.#entries.size > 0;
  }

  #newRow(frame) {
    const heading = element("th", {},
      element("span", { className: "name", text: frame.event }),
      element("span", { className: "topic", text: frame.topic }),
      element("code", { text: frame.id }),
      element("span", { className: "preview", text: previewOf(frame.data) }));
    heading.scope = "row";
    const cells = this.#lanes.map((lane) => {
      const cell = element("td");
      cell.dataset.lane = lane.key;
      return cell;
    });
    const row = element("tr", {}, heading, ...cells);
    this.#body.prepend(row);
    return row;
  }
}

function previewOf(data) {
  const text = JSON.stringify(data ?? null);
  return text.length > PREVIEW_CHARACTERS ? `${text.slice(0, PREVIEW_CHARACTERS)}…` : text;
}

function fillCell(cell, entry, lane) {
  const arrival = entry.arrivals.get(lane);
  const [className, mark, text] = arrival ? arrivedCell(entry, arrival) : absentCell(entry, lane);
  cell.className = className;
  cell.replaceChildren(element("b", { text: mark }), element("span", { text }));
}

function arrivedCell(entry, arrival) {
  const first = Math.min(...[...entry.arrivals.values()].map(({ at }) => at));
  const delay = arrival.at === first ? "first" : `+${duration(arrival.at - first)}`;
  const mark = arrival.replayed ? "↻" : "✓";
  if (arrival.times > 1) return ["miss", mark, `${arrival.times} times`];
  return [arrival.replayed ? "replay" : "tick", mark, delay];
}

function absentCell({ frame, missed }, lane) {
  const { origin, cursor } = lane.position;
  if (origin && isUpTo(frame.id, origin)) return ["waits", "–", "before its start"];
  if (missed.has(lane) || (cursor && isUpTo(frame.id, cursor))) return ["miss", "✗", "missed"];
  return ["waits", "·", "not yet"];
}

/** False for cursors of different logs, which have no order. */
function isUpTo(id, cursor) {
  const order = compareCursors(id, cursor);
  return order !== null && order <= 0;
}

function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** The one message above the lanes. */
export class BannerView {
  #root;
  #shown = null;

  constructor(root, { onDismiss }) {
    this.#root = root;
    root.querySelector("button").addEventListener("click", onDismiss);
  }

  /** `{ tone, title, text, commands, dismissable }`, or null for none. */
  show(message) {
    const key = JSON.stringify(message);
    // Said again, it would be read out again.
    if (key === this.#shown) return;
    this.#shown = key;
    this.#root.hidden = message === null;
    if (message === null) return;
    this.#root.dataset.tone = message.tone;
    this.#root.querySelector("h2").textContent = message.title;
    this.#root.querySelector("p").textContent = message.text;
    this.#root.querySelector("button").hidden = !message.dismissable;
    const lines = (message.commands ?? []).map(([text, command]) =>
      element("li", {}, `${text} `, element("code", { text: command })));
    this.#root.querySelector("ul").replaceChildren(...lines);
  }
}
