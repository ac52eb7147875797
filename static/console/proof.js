// The card of the test stream: its buttons, its counts, and the verdict.

import { byId, handled, onceAFrame, say } from "./dom.js";
import { storm } from "./storm.js";
import { TestStream } from "./stream.js";
import { NAMES, sentence, listed } from "./words.js";

const COUNTS = ["published", "received", "lost", "repeated"];

export class ProofView {
  #network;
  #hint;
  #session = null;
  #stream = null;
  #storm = null;
  #show = onceAFrame(() => this.#render());

  /** `hint` tells what the token grants. */
  constructor({ network, hint }) {
    this.#network = network;
    this.#hint = hint;
    byId("test").addEventListener("submit", handled(() => this.#toggle()));
    byId("storm").addEventListener("click", () => this.#runStorm());
  }

  /** Of `{ client, gateway }`; whatever ran ends. */
  follow(session) {
    this.calm();
    this.#stream?.abandon();
    this.#stream = null;
    this.#session = session;
    this.#show();
  }

  /** Ends a storm, with the network mended. */
  calm() {
    this.#storm?.abort();
    this.#storm = null;
  }

  #toggle() {
    this.calm();
    if (isPublishing(this.#stream)) this.#stream.stop();
    else this.#start();
  }

  #start() {
    const stream = new TestStream({ ...this.#session, perSecond: Number(byId("rate").value) });
    this.#stream = stream;
    stream.addEventListener("change", () => stream === this.#stream && this.#show());
    stream.addEventListener("end", () => stream === this.#stream && this.calm());
    stream.run();
    this.#show();
    return stream;
  }

  async #runStorm() {
    if (this.#storm) return;
    const { client } = this.#session;
    const stream = isPublishing(this.#stream) ? this.#stream : this.#start();
    const { signal } = (this.#storm = new AbortController());
    this.#show();
    const tell = (text) => say(byId("storm-step"), text);
    await stream.begun;
    await storm({ network: this.#network, client, signal, tell });
    // Whoever ended it early goes on with the stream, and may have begun another storm.
    if (!signal.aborted) stream.stop();
    else if (this.#storm) return;
    tell("");
    this.#storm = null;
    this.#show();
  }

  #render() {
    const stream = this.#stream;
    const { ledger } = stream ?? {};
    const root = byId("proof");
    const runs = isPublishing(stream);
    const isDraining = stream?.state === "draining";
    root.dataset.verdict = stream ? verdictOf(stream) : "none";
    for (const name of COUNTS) say(byId(`count-${name}`), (ledger?.[name] ?? 0).toLocaleString());
    say(byId("count-order"), !ledger?.received ? "–" : ledger.disordered ? `${ledger.disordered} out of order` : "in order");
    say(byId("run"), runs ? "Stop" : "Run a test stream");
    byId("rate").disabled = runs || isDraining;
    byId("storm").disabled = !this.#session || this.#storm !== null || isDraining;
    byId("run").disabled = !this.#session || isDraining;
    say(byId("verdict"), this.#verdict());
    say(byId("carried"), stream ? carriedBy(stream) : "");
  }

  /** Changes with the state, not with each event, for it is read out. */
  #verdict() {
    const stream = this.#stream;
    if (!stream) return "";
    const { ledger, topic } = stream;
    const { published, received, lost, repeated, disordered, resets, onTheWay } = ledger;
    switch (stream.state) {
      case "starting": return "Waiting for the client to be connected.";
      case "publishing": return `Publishing to ${topic}, ${stream.perSecond} a second. Break the network meanwhile.`;
      case "draining": return "Waiting for what is on its way, for at most 30 s.";
      case "failed": return this.#failure(stream.error);
      default: {
        const told = resets ? `, and was told of ${resets} ${resets === 1 ? "gap" : "gaps"}` : "";
        const late = onTheWay ? ` ${onTheWay} had not come after 30 s.` : "";
        const order = disordered ? `${disordered} out of order` : "in order";
        return `${received} of ${published} received, lost ${lost}, repeated ${repeated}, ${order}${told}.${late}`;
      }
    }
  }

  #failure({ code, message }) {
    if (code !== "forbidden") return `The test stream ended: ${sentence(message)}`;
    return `The token grants no topics console:*, which the test stream is published and received on. ${this.#hint()}`;
  }
}

const isPublishing = (stream) => ["starting", "publishing"].includes(stream?.state);

/** `none` before there is anything to judge, `late` where events have neither come nor are known to be lost. */
function verdictOf({ state, ledger }) {
  if (!ledger.isClean) return "broken";
  if (state === "over" && ledger.onTheWay) return "late";
  return ledger.received ? "clean" : "none";
}

function carriedBy({ carried }) {
  const parts = Object.entries(carried).filter(([, count]) => count);
  return parts.length ? `Carried by ${listed(parts.map(([transport, count]) => `${NAMES[transport]} ${count.toLocaleString()}`))}.` : "";
}
