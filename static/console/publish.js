// The form that publishes an event. Its data goes out as the text that was typed, to the last digit.

import { byId, handled } from "./dom.js";
import { duration, sentence } from "./words.js";

const SERIES = { count: 10, everyMs: 500 };

export class PublishForm {
  #gateway = null;
  #hint;

  /** `hint` tells what the token grants. */
  constructor({ hint }) {
    this.#hint = hint;
    byId("publish").addEventListener("submit", handled(() => this.#publishOne()));
    byId("series").addEventListener("click", () => this.#publishSeries());
    byId("data").addEventListener("input", () => showProblem(""));
  }

  /** Of `{ gateway }`, or of nobody: a series that runs ends. */
  follow(session) {
    this.#gateway = session?.gateway ?? null;
    showResult("", "");
  }

  async #publishOne() {
    const draft = readDraft();
    if (draft) await this.#send(draft, (id, ms) => `Published ${id} in ${duration(ms)}.`);
  }

  async #publishSeries() {
    const draft = readDraft();
    if (!draft) return;
    const gateway = this.#gateway;
    byId("series").disabled = true;
    for (let number = 1; number <= SERIES.count; number += 1) {
      const isSent = await this.#send(draft, (id) => `Published ${number} of ${SERIES.count}: ${id}.`);
      if (!isSent || number === SERIES.count) break;
      await new Promise((resolve) => setTimeout(resolve, SERIES.everyMs));
      if (gateway !== this.#gateway) break;
    }
    byId("series").disabled = false;
  }

  async #send(draft, words) {
    const started = performance.now();
    const gateway = this.#gateway;
    // What became of it concerns nobody else who has signed in meanwhile.
    const show = (tone, text) => gateway === this.#gateway && showResult(tone, text);
    try {
      const id = await gateway.publish(draft);
      show("good", words(id, performance.now() - started));
      return true;
    } catch (error) {
      show("bad", this.#problem(error));
      return false;
    }
  }

  #problem({ name, code, message }) {
    if (name === "TimeoutError") {
      return "No answer within 10 s. A browser opens six HTTP/1.1 connections to one host: close other tabs of this page.";
    }
    const hint = code === "forbidden" ? ` ${this.#hint()}` : "";
    return `Not published: ${code ? `${code}: ` : ""}${sentence(message)}${hint}`;
  }
}

/** The form's event, or null where it is none yet and the form says why. */
function readDraft() {
  if (!byId("publish").reportValidity()) return null;
  const data = byId("data").value.trim();
  try {
    if (data) JSON.parse(data);
  } catch (error) {
    showProblem(`Not JSON: ${sentence(error.message)}`);
    byId("data").focus();
    return null;
  }
  showProblem("");
  return { topic: byId("topic").value.trim(), event: byId("event").value.trim(), data };
}

function showResult(tone, text) {
  byId("published").dataset.tone = tone;
  byId("published").textContent = text;
}

function showProblem(text) {
  byId("data-problem").textContent = text;
  byId("data").setAttribute("aria-invalid", String(text !== ""));
}
