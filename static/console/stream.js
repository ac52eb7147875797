// The test stream: numbered events on a topic of its own, published over the network as it is, as a
// backend would, and received by the page's client over the network as it was broken.

import { Ledger } from "./ledger.js";

/** A publish this often, of all events that are due. */
const EVERY_MS = 200;
/** A stream that was forgotten ends by itself. */
const LONGEST_MS = 5 * 60_000;
/** Far below what a gateway takes in one piece; more are due where a browser slows down hidden pages. */
const LARGEST_BATCH = 1000;
/** What is on its way when publishing ends may take as long. */
const REST_MS = 30_000;
const RETRY_MS = 1000;

/** Tells `change` when anything about it changed, and `end` when it is over. */
export class TestStream extends EventTarget {
  ledger = new Ledger();
  /** How many events each transport brought. */
  carried = { ws: 0, sse: 0, poll: 0 };
  topic = `console:${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  /** `starting`, `publishing`, `draining` (nothing more is published), `over`, `failed` with `error`. */
  state = "starting";
  error = null;
  /** Resolves when the first events are published, or never will be. */
  begun = new Promise((resolve) => {
    this.addEventListener("change", () => this.state === "starting" || resolve());
  });
  #client;
  #gateway;
  #subscription;
  #sent = 0;

  constructor({ client, gateway, perSecond }) {
    super();
    this.#client = client;
    this.#gateway = gateway;
    this.perSecond = perSecond;
  }

  /** Until `stop()`, or for five minutes. */
  async run() {
    this.#subscription = this.#client.subscribe([this.topic], {
      onEvent: (event) => this.#receive(event),
      onReset: () => this.#update(() => this.ledger.reset(this.#subscription.cursor)),
      onError: (error) => this.#fail(error),
    });
    await this.#until(() => this.#subscription.cursor, REST_MS);
    if (this.state === "starting" && !this.#subscription.cursor) this.#fail(new Error("the client is not connected"));
    if (this.state === "starting") {
      this.#enter("publishing");
      await this.#publish();
    }
    if (this.state === "draining") {
      await this.#until(() => !this.ledger.onTheWay, REST_MS);
      this.#enter("over");
    }
    this.#subscription.close();
    this.dispatchEvent(new Event("end"));
  }

  /** Nothing more is published; what is on its way may still come. */
  stop() {
    if (this.state === "publishing" || this.state === "starting") this.#enter("draining");
  }

  /** At once. */
  abandon() {
    this.#enter("over");
  }

  async #publish() {
    const begun = performance.now();
    for (;;) {
      const lasted = performance.now() - begun;
      if (lasted > LONGEST_MS) this.stop();
      if (this.state !== "publishing") return;
      const due = Math.floor((lasted / 1000) * this.perSecond) + 1 - this.#sent;
      if (due > 0) await this.#send(Math.min(due, LARGEST_BATCH));
      await sleep(EVERY_MS);
    }
  }

  /** The same batch under the same key until the gateway took it, so that each number is published once. */
  async #send(count) {
    const first = this.#sent + 1;
    const numbers = Array.from({ length: count }, (_, index) => first + index);
    const events = numbers.map((number) => ({ topic: this.topic, event: "console:test", data: { number } }));
    for (;;) {
      try {
        const ids = await this.#gateway.publishAll(events, `${this.topic}:${first}`);
        this.#sent += count;
        return this.#update(() => this.ledger.publish(first, ids));
      } catch (error) {
        const isFinal = error.status >= 400 && error.status < 500 && error.status !== 429;
        if (isFinal) return this.#fail(error);
        await sleep(error.retryAfterMs ?? RETRY_MS);
        if (this.state !== "publishing") return;
      }
    }
  }

  #receive({ data }) {
    this.#update(() => {
      this.ledger.receive(data.number);
      this.carried[this.#client.status.transport] += 1;
    });
  }

  #fail(error) {
    if (this.state === "over" || this.state === "failed") return;
    this.error = error;
    this.#enter("failed");
  }

  #enter(state) {
    this.#update(() => {
      this.state = state;
    });
  }

  #update(change) {
    change();
    this.dispatchEvent(new Event("change"));
  }

  /** Or until the stream was given up. */
  async #until(isGood, ms) {
    const end = performance.now() + ms;
    const goesOn = () => this.state !== "failed" && this.state !== "over";
    while (!isGood() && goesOn() && performance.now() < end) await sleep(EVERY_MS / 4);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
