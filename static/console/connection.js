// The card of the main client: its state and the reason in plain words, what came before, and what the
// network allows.

import { byId, element, say } from "./dom.js";
import { History, Strip, kindOf } from "./timeline.js";
import { NAMES, clock, seconds, sentence } from "./words.js";

const SHOWN = 8;
/** Only what lasts is announced: a client that reconnects at once is no news to a listener. */
const SETTLED_MS = 800;

export class ConnectionView {
  #root = byId("connection");
  #client;
  #wire;
  #announce;
  #history = new History();
  #strip = new Strip(this.#root.querySelector(".strip"), this.#history);
  #parts = {};
  #settling;

  constructor({ announce }) {
    this.#announce = announce;
    for (const name of ["state", "since", "reason", "heard", "transitions"]) {
      this.#parts[name] = this.#root.querySelector(`.${name}`);
    }
    byId("reconnect").addEventListener("click", () => this.#client.reconnect());
    byId("diagnose").addEventListener("click", () => this.#diagnose());
    setInterval(() => this.#client && !document.hidden && this.#tick(), 500);
  }

  follow(client, wire) {
    this.#client = client;
    this.#wire = wire;
    this.#history.spells.length = 0;
    byId("diagnosis").hidden = true;
    const enter = () => client === this.#client && this.#enter(client.status);
    client.addEventListener("status", enter);
    enter();
  }

  /** Nobody is signed in any more. */
  leave() {
    this.#client = null;
    clearTimeout(this.#settling);
  }

  #enter(status) {
    const isNew = this.#history.enter(status);
    const { now } = this.#history;
    this.#root.dataset.state = now.state;
    this.#root.dataset.kind = kindOf(now);
    say(this.#parts.state, titleOf(now));
    say(this.#parts.reason, reasonOf(now));
    if (isNew) this.#settle(now);
    this.#list();
    this.#tick();
  }

  #settle(spell) {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#announce(`${titleOf(spell)}. ${reasonOf(spell)}`), SETTLED_MS);
  }

  #tick() {
    const { now } = this.#history;
    if (!now) return;
    if (now.transport && now.node !== this.#wire.node) {
      // Of long-polls each may be served by another.
      now.node = this.#wire.node;
      this.#list();
    }
    this.#strip.draw();
    say(this.#parts.since, `for ${seconds(Date.now() - now.from)}`);
    say(this.#parts.heard, heardWords(this.#wire));
  }

  #list() {
    const spells = this.#history.spells.slice(-SHOWN).reverse();
    this.#parts.transitions.replaceChildren(...spells.map((spell) => {
      const { state, reason, from } = spell;
      return element("li", { "data-kind": kindOf(spell) },
        element("time", { text: clock(from) }), " ",
        element("b", { text: titleOf(spell) + nodeWords(spell) }), " ",
        element("span", { className: "why", text: reason && reason !== state ? reason : "" }));
    }));
  }

  async #diagnose() {
    const button = byId("diagnose");
    const client = this.#client;
    button.disabled = true;
    this.#showDiagnosis("Trying each transport, for at most ten seconds.", []);
    try {
      const { summary, transports } = await client.diagnose();
      if (client === this.#client) this.#showDiagnosis(summary.split(". ")[0], transports);
    } catch (error) {
      if (client === this.#client) this.#showDiagnosis(`The diagnosis failed: ${error.message}`, []);
    } finally {
      button.disabled = false;
    }
  }

  #showDiagnosis(text, transports) {
    const node = byId("diagnosis");
    node.hidden = false;
    const items = transports.map(({ transport, works, ms, reason }) => element("li", { className: works ? "works" : "fails" },
      element("b", { text: NAMES[transport] }), " ",
      element("span", { text: works ? `works, the first message after ${ms} ms` : reason })));
    node.replaceChildren(element("p", { text: sentence(text) }), element("ul", {}, ...items));
  }
}

const nodeWords = ({ node }) => (node ? `, node ${node}` : "");

function heardWords({ heardAt, heartbeatMs, node }) {
  if (!heardAt) return "";
  const due = heartbeatMs ? `; a heartbeat is due every ${seconds(heartbeatMs)}` : "";
  return `Last heard from the gateway${nodeWords({ node })} ${seconds(Date.now() - heardAt)} ago${due}.`;
}

function titleOf({ state, transport }) {
  const name = NAMES[transport];
  return {
    connecting: "Connecting",
    live: `Live over ${name}`,
    degraded: `Degraded to ${name}`,
    offline: "Offline",
    closed: "Closed",
  }[state];
}

function reasonOf({ state, reason }) {
  const why = reason && sentence(reason);
  switch (state) {
    case "live": return "The best transport there is. Nothing stands in its way.";
    case "degraded": return `${why ?? "A better transport did not get through."} Every event still arrives, and better transports are tried every few seconds.`;
    case "connecting": return why ? `${why} Trying again, from the last cursor.` : "Finding out which transport gets through.";
    case "offline": return "There is no network. It goes on by itself when there is one.";
    default: return why ?? "";
  }
}
