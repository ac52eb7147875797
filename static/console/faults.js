// The controls that break the network, and what they say about it.

import { byId, say } from "./dom.js";
import { listed, plural } from "./words.js";

const BRIEFLY_MS = 5000;
const FAULTS = ["refuse", "stall", "hold", "offline"];

export class FaultControls {
  #network;
  #onSet;

  /** `onSet` is told before a person sets faults, other than the storm. */
  constructor({ network, onSet }) {
    this.#network = network;
    this.#onSet = onSet;
    for (const fault of FAULTS) {
      byId(fault).addEventListener("change", ({ target }) => this.#set({ [fault]: target.checked }));
    }
    byId("kill").addEventListener("click", () => network.killSockets());
    byId("offline-briefly").addEventListener("click", () => {
      this.#onSet();
      network.goOffline(BRIEFLY_MS);
    });
    byId("mend").addEventListener("click", () => this.#set({ refuse: false, stall: false, hold: false, offline: false }));
    network.addEventListener("change", () => this.#show());
    this.#show();
  }

  #set(faults) {
    this.#onSet();
    this.#network.set(faults);
  }

  #show() {
    const { faults, open, isBroken } = this.#network;
    for (const fault of FAULTS) byId(fault).checked = faults[fault];
    byId("kill").disabled = open.ws === 0;
    byId("offline-briefly").disabled = faults.offline;
    byId("mend").disabled = !isBroken;
    byId("break").dataset.broken = isBroken;
    const parts = [[open.ws, "WebSocket"], [open.sse, "event stream"], [open.poll, "poll"]];
    const counted = parts.filter(([count]) => count).map(([count, name]) => plural(count, name));
    say(byId("open-now"), counted.length ? `Open now: ${listed(counted)}.` : "Nothing is open now.");
  }
}
