// The one message above everything, and what there is to be said.

import { byId, element } from "./dom.js";
import { sentence } from "./words.js";

/** What a client is closed for; streams that are open are told by the close code. */
const BAD_TOKEN_CODES = new Set(["unauthorized", "token_expired", "revoked", "4001", "4002", "4003", "4004", "4005"]);
const WHY_RESET = {
  expired: "they are no longer retained",
  unknown_log: "the gateway has another log now, as after a restart without a durable engine",
  lagged: "this client was too slow",
};

export class Banner {
  #root = byId("banner");
  #shown = null;

  constructor() {
    this.#root.querySelector("button").addEventListener("click", () => this.show(null));
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

/** Why the client ended for good. */
export function closedMessage({ code, message }) {
  if (code === "closed") return { tone: "bad", title: "The client has ended", text: `${sentence(message)} Sign in again.` };
  if (!BAD_TOKEN_CODES.has(code)) {
    return { tone: "bad", title: "The gateway refused the connection", text: `${code}: ${sentence(message)}` };
  }
  const hint = code === "unauthorized" ? " A gateway in development mode takes only tokens of its present run." : "";
  return {
    tone: "bad",
    title: /^(token_expired|4004)$/.test(code) ? "The token has expired" : "The gateway refused the token",
    text: `${code}: ${sentence(message)}${hint} Sign in with another one.`,
  };
}

export function topicsMessage({ code, message }, hint) {
  return { tone: "bad", title: "The gateway refused the topics", text: `${code}: ${sentence(message)} ${hint}` };
}

export function resetMessage(reason, cursor) {
  return {
    tone: "warn",
    title: "Events were missed",
    text: `The client could not resume: ${WHY_RESET[reason] ?? reason}. An application would fetch its state anew here. Going on from ${cursor}.`,
    dismissable: true,
  };
}

export function downMessage(reason) {
  return {
    tone: "warn",
    title: "The gateway can not be reached",
    text: `${sentence(reason)} The client tries again by itself, and resumes from its last cursor.`,
    commands: [["Is it running?", "tribus serve"]],
  };
}
