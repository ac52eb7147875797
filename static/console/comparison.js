// The card of the lanes: the state of each, and a table of which event arrived where, and how much later
// than on the first transport.

import { byId, element, onceAFrame, say } from "./dom.js";
import { allLanes, claimLanes } from "./lanes.js";
import { Table } from "./table.js";
import { plural, sentence } from "./words.js";

const STATES = { idle: "Closed", connecting: "Connecting", live: "Live", offline: "Offline", closed: "Ended" };

export class Comparison {
  #lanes = allLanes();
  #table = new Table(byId("arrivals"), this.#lanes);
  #network;
  #session = null;
  #place = null;
  #claiming = null;
  #isWanted = false;
  /** Counts the attempts to open, so that one that was overtaken notices. */
  #round = 0;
  #show = onceAFrame(() => this.#showHeads());
  #heads = new Map();

  constructor({ network }) {
    this.#network = network;
    byId("lanes-open").addEventListener("change", ({ target }) => (target.checked ? this.#open(true) : this.#close("")));
    byId("clear-arrivals").addEventListener("click", () => this.#table.hide());
    for (const lane of this.#lanes) {
      const head = headOf(lane);
      this.#heads.set(lane, head);
      byId("lane-heads").append(head.root);
      lane.addEventListener("status", this.#show);
    }
  }

  /** Of `{ base, token, topics, begin }`, where `begin` resolves with the cursor to begin at. Opens the lanes unless they were closed by hand. */
  follow(session) {
    const wasClosed = this.#session && !byId("lanes-open").checked;
    this.stop();
    this.#session = session;
    if (!wasClosed) this.#open(false);
  }

  /** Nobody is signed in any more. */
  leave() {
    this.#close("");
    this.#session = null;
  }

  stop() {
    this.#round += 1;
    this.#lanes.forEach((lane) => lane.stop());
    this.#table.clear();
  }

  async #open(force) {
    const round = (this.#round += 1);
    this.#isWanted = true;
    if (!this.#place) await (this.#claiming ??= this.#claim(force));
    if (round !== this.#round) return;
    byId("lanes-open").checked = this.#place !== null;
    this.#note(this.#place ? "" : "Not opened by itself, for a browser has six HTTP/1.1 connections to one host, and another tab may need them.");
    if (!this.#place) return;
    const { begin, ...request } = this.#session;
    const cursor = await begin();
    if (round !== this.#round || !cursor) return;
    for (const lane of this.#lanes) {
      lane.start({
        ...request, cursor, network: this.#network,
        onEvent: (frame, replayed) => this.#take(lane, frame, replayed),
        onReset: (_, at) => this.#table.addReset(lane, at),
      });
    }
  }

  /** One claim at a time, for a second one would find the place taken. Who was closed meanwhile lets go. */
  async #claim(force) {
    const place = await claimLanes({ force, onLost: () => this.#lose() });
    this.#claiming = null;
    if (this.#isWanted) this.#place = place;
    else place?.release();
  }

  #take(lane, frame, replayed) {
    this.#show();
    return this.#table.add(lane, frame, replayed);
  }

  #close(note) {
    this.stop();
    this.#isWanted = false;
    this.#place?.release();
    this.#place = null;
    byId("lanes-open").checked = false;
    this.#note(note);
  }

  #lose() {
    this.#place = null;
    this.#close("Closed here, for another tab opened its lanes: a browser has six HTTP/1.1 connections to one host.");
  }

  #note(text) {
    say(byId("lanes-note"), text);
    byId("lanes-body").hidden = this.#place === null;
  }

  #showHeads() {
    for (const lane of this.#lanes) {
      const { root, state, detail, counts } = this.#heads.get(lane);
      const { status } = lane;
      root.dataset.state = status.state;
      say(state, STATES[status.state]);
      say(detail, status.state !== "live" && status.reason ? sentence(status.reason) : "");
      const { events, repeated, resets } = lane.counts;
      say(counts, `${plural(events, "event")}, ${repeated} repeated${resets ? `, ${plural(resets, "reset")}` : ""}${lane.node ? `, node ${lane.node}` : ""}`);
    }
    this.#table.refresh();
  }
}

function headOf({ key, name }) {
  const [state, detail, counts] = ["state", "detail", "counts"].map((className) => element("span", { className }));
  const root = element("div", { className: "lane", "data-lane": key, "data-state": "idle" },
    element("h3", { text: name }), state, counts, detail);
  return { root, state, detail, counts };
}
