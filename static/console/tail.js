// The live tail: what the main client receives, newest first, filtered by topic at the gateway and by text here.

import { byId, element, handled, onceAFrame, say } from "./dom.js";
import { NAMES, plural, preciseClock } from "./words.js";

/** As many are kept to be filtered, and as many of them shown. */
const KEPT = 500;
const SHOWN = 200;
const PREVIEW_CHARACTERS = 200;

export class Tail {
  #list = byId("tail-list");
  /** Entries, oldest first: `{ frame, replayed, transport }` or `{ reset }`; each gets its `node` when it is shown. */
  #entries = [];
  /** How many came that are not shown yet; not all of them need be kept still. */
  #fresh = 0;
  #total = 0;
  #isPaused = false;
  #render = onceAFrame(() => this.#show());

  /** `onFollow` is told `{ topics, cursor }` when other topics are asked for. */
  constructor({ onFollow }) {
    this.onFollow = onFollow;
    byId("follow").addEventListener("submit", handled(() => this.#follow()));
    byId("topics").addEventListener("input", ({ target }) => target.setCustomValidity(""));
    byId("text-filter").addEventListener("input", () => this.#showAll());
    byId("pause").addEventListener("click", () => this.#pause(!this.#isPaused));
    byId("clear").addEventListener("click", () => this.clear());
    byId("tail-scroll").addEventListener("keydown", moveByArrow);
    // A row that someone looks at must not run away.
    this.#list.addEventListener("focusin", () => this.#pause(true));
  }

  get wanted() {
    const topics = byId("topics").value.split(",").map((topic) => topic.trim()).filter(Boolean);
    return { topics, cursor: byId("from").value || undefined };
  }

  set topics(topics) {
    byId("topics").value = topics.join(", ");
  }

  add(frame, { replayed, transport }) {
    this.#total += 1;
    this.#push({ frame, replayed, transport });
  }

  addReset(reason, cursor) {
    this.#push({ reset: `Events were missed (${reason}). Going on from ${cursor}.` });
  }

  clear() {
    this.#entries = [];
    this.#total = 0;
    this.#pause(false);
    this.#showAll();
  }

  #follow() {
    const { wanted } = this;
    const field = byId("topics");
    if (!wanted.topics.length) field.setCustomValidity("Name a topic filter, such as order:* or **");
    if (field.reportValidity()) this.onFollow(wanted);
  }

  #push(entry) {
    this.#entries.push(entry);
    this.#fresh += 1;
    if (this.#entries.length > KEPT) this.#entries.shift();
    this.#render();
  }

  #pause(isPaused) {
    this.#isPaused = isPaused;
    say(byId("pause"), isPaused ? "Resume" : "Pause");
    this.#render();
  }

  #showAll() {
    this.#list.replaceChildren();
    this.#fresh = this.#entries.length;
    this.#show(true);
  }

  #show(isForced) {
    if (!this.#isPaused || isForced) this.#prepend();
    byId("tail-empty").hidden = this.#list.childElementCount > 0;
    const kept = this.#fresh > KEPT ? `, the newest ${KEPT} are kept` : "";
    const paused = this.#isPaused ? `; paused, ${this.#fresh.toLocaleString()} waiting${kept}` : "";
    say(byId("tail-count"), `${plural(this.#total, "event")}${paused}`);
  }

  #prepend() {
    const gone = this.#fresh - this.#entries.length;
    const fresh = gone > 0 ? this.#entries : this.#entries.slice(this.#entries.length - this.#fresh);
    this.#fresh = 0;
    // Else the rows would look as if one followed the other.
    if (gone > 0) this.#list.prepend(element("li", { className: "gone", text: `${plural(gone, "event")} came here, and are no longer kept.` }));
    const wanted = fresh.filter((entry) => this.#matches(entry)).slice(-SHOWN);
    this.#list.prepend(...wanted.reverse().map(itemOf));
    while (this.#list.childElementCount > SHOWN) this.#list.lastElementChild.remove();
  }

  #matches({ frame }) {
    const text = byId("text-filter").value.trim().toLowerCase();
    return !text || !frame || JSON.stringify(frame).toLowerCase().includes(text);
  }
}

function itemOf({ frame, replayed, transport, reset }) {
  if (reset) return element("li", { className: "reset", text: reset });
  const summary = element("summary", {},
    element("time", { text: preciseClock(frame.timestamp), title: frame.timestamp }), " ",
    element("span", { className: "topic", text: frame.topic }), " ",
    element("span", { className: "name", text: frame.event }), " ",
    ...(replayed ? [replayMark(), " "] : []),
    element("span", { className: "preview", text: previewOf(frame.data) }),
    element("span", { className: "visually-hidden", text: transport ? ` over ${NAMES[transport]}` : "" }));
  // Hundreds of stops for the Tab key would bar the way to the rest of the page.
  summary.tabIndex = -1;
  const details = element("details", {}, summary);
  // Most are never opened, and 64 KiB of JSON are slow to lay out.
  details.addEventListener("toggle", () => {
    details.append(element("pre", { text: JSON.stringify(frame, null, 2) }));
  }, { once: true });
  return element("li", { "data-lane": transport ?? "" }, details);
}

/** Through the rows, from the list itself; Enter opens one, as of any `summary`. */
function moveByArrow(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const summaries = [...event.currentTarget.querySelectorAll("summary")];
  const next = summaries.indexOf(document.activeElement) + step;
  event.preventDefault();
  if (next < 0) event.currentTarget.focus();
  else summaries[next]?.focus();
}

export function replayMark() {
  return element("span", { className: "mark", title: "missed at first, and made up for" },
    "↻", element("span", { className: "visually-hidden", text: " replayed" }));
}

export function previewOf(data) {
  const text = JSON.stringify(data ?? null);
  return text.length > PREVIEW_CHARACTERS ? `${text.slice(0, PREVIEW_CHARACTERS)}…` : text;
}
