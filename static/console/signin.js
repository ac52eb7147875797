// Signing in: with a link whose fragment has a token, with one that was pasted, or as before in this tab.

import { byId, element, handled, say } from "./dom.js";
import * as token from "./token.js";
import { shortDate } from "./words.js";

export class SignIn {
  #onToken;
  #onForget;

  constructor({ onToken, onForget }) {
    this.#onToken = onToken;
    this.#onForget = onForget;
    byId("sign-in").addEventListener("submit", handled(() => this.#use(token.tokenIn(byId("token").value))));
    byId("forget").addEventListener("click", () => this.forget());
    addEventListener("hashchange", () => this.#take(token.takeFromAddress()));
  }

  start() {
    this.#take(token.takeFromAddress() ?? token.recall());
  }

  #take(given) {
    if (given !== null) this.#use(given);
  }

  #use(given) {
    const problem = token.problemOf(given);
    say(byId("token-problem"), problem ?? "");
    byId("token").setAttribute("aria-invalid", String(problem !== null));
    if (problem) {
      this.forget();
      return;
    }
    byId("token").value = "";
    token.remember(given);
    showHolder(token.claimsOf(given));
    this.#onToken(given);
  }

  forget() {
    token.forget();
    byId("holder").hidden = true;
    this.#onForget();
    byId("token").focus();
  }
}

function showHolder({ sub, tenant, exp }) {
  byId("holder").hidden = false;
  const until = Number.isFinite(exp) ? ` until ${shortDate(exp * 1000)}` : "";
  byId("holder-name").replaceChildren(
    element("b", { text: `${sub ?? "someone"}${tenant ? ` of ${tenant}` : ""}` }),
    element("span", { className: "quiet", text: until }));
}
