// The card of the charts: asks the gateway for its numbers once a second while the page is visible.

import { Chart } from "./chart.js";
import { byId, element, say } from "./dom.js";
import { GatewayError, Unreachable } from "./gateway.js";
import { Meter } from "./meter.js";
import { NAMES, TRANSPORTS, clock, duration, sentence } from "./words.js";

const EVERY_MS = 1000;
const AFTER_FAILURE_MS = 3000;
const KEPT = 180;

const count = (value) => (value < 10 && value % 1 ? value.toFixed(1) : Math.round(value).toLocaleString());

const CHARTS = {
  rate: {
    series: ["published", "delivered"].map((key) => ({ key, name: key, of: (sample) => sample[key] })),
    format: count,
  },
  connections: {
    series: TRANSPORTS.map((key) => ({ key, name: NAMES[key], of: ({ connections }) => connections[key] })),
    format: count, stacked: true,
  },
  latency: {
    series: ["p50", "p99"].map((key) => ({ key, name: key, of: (sample) => sample[key] })),
    format: duration, floor: 0.1,
  },
};

export class Charts {
  #charts = Object.entries(CHARTS).map(([name, options]) => new Chart(byId(`chart-${name}`), options));
  #samples = [];
  #watching = null;

  /** Watches the gateway of this session, and no longer that of the one before. */
  follow({ gateway }) {
    this.stop();
    this.#samples = [];
    this.#draw();
    this.#note("");
    byId("charts-body").hidden = false;
    const { signal } = (this.#watching = new AbortController());
    this.#watch(gateway, signal);
  }

  stop() {
    this.#watching?.abort();
  }

  async #watch(gateway, signal) {
    const meter = new Meter();
    while (!signal.aborted) {
      let wait = EVERY_MS;
      try {
        if (!document.hidden) this.#take(meter, await gateway.stats(), signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof GatewayError && error.code !== "rate_limited" && error.status < 500) return this.#refuse(error);
        this.#tellAge(error);
        wait = error.retryAfterMs ?? AFTER_FAILURE_MS;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  #take(meter, answer, signal) {
    if (signal.aborted) return;
    this.#note("");
    const sample = meter.take(answer);
    this.#samples.push(sample);
    if (this.#samples.length > KEPT) this.#samples.shift();
    const { events, bytes } = answer.retained;
    say(byId("retained"), `${events.toLocaleString()} events retained (${size(bytes)})${nodesWords(sample.nodes)}`);
    this.#draw();
  }

  #draw() {
    for (const chart of this.#charts) chart.draw(this.#samples);
  }

  /** What is drawn stands still, and looks like the present. */
  #tellAge(error) {
    const isPlain = error instanceof GatewayError || error instanceof Unreachable;
    const why = sentence(isPlain ? error.message : "no answer");
    const last = this.#samples.at(-1);
    this.#note(last ? `${why} These are the numbers of ${clock(last.at)}.` : why);
  }

  /** For good, for nothing would change by asking again. */
  #refuse({ status, code, message }) {
    byId("charts-body").hidden = true;
    if (status === 403) {
      this.#note("Charts of the whole gateway need a token that says so; this one has no ", "stats", " claim. To make one: ", "tribus token --stats …");
    } else if (status === 404) {
      this.#note("This gateway does not tell its numbers: it is older than this page.");
    } else {
      this.#note(`The gateway does not tell its numbers: ${code}: ${message}.`);
    }
  }

  /** Every other part is code. */
  #note(...parts) {
    byId("charts-note").replaceChildren(...parts.map((text, index) => (index % 2 ? element("code", { text }) : text)));
  }
}

const nodesWords = (nodes) => (nodes.length > 1 ? `, sum of the nodes ${nodes.join(", ")}` : "");

const UNITS = ["B", "KiB", "MiB", "GiB"];

function size(bytes) {
  const unit = Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** unit;
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}
