// The network between this page's clients and the gateway, which the page can break. Clients get its
// `WebSocket` and `fetch` in place of the browser's, with the faults in between; whatever else the page
// asks of the gateway takes the real network.

import { BreakableSocket } from "./socket.js";

/** Which faults there are:
 *  `refuse`: open WebSockets are cut, and new ones refused, as by a proxy that does not know them;
 *  `stall`: no byte of an event stream arrives any more, and nothing says so;
 *  `hold`: open streams are cut, and responses passed on when they have ended, as by a proxy that buffers;
 *  `offline`: nothing passes, and the platform says so. */
const NONE = { refuse: false, stall: false, hold: false, offline: false };

const OFFLINE = "offline (simulated)";
const CUT = "the stream was cut (simulated)";

/** Tells `change` when faults or what is open changed. */
export class Network extends EventTarget {
  #faults = { ...NONE };
  #sockets = new Set();
  /** Streams and polls under way, each with what cuts it. */
  #requests = new Set();
  #returning;

  get faults() {
    return { ...this.#faults };
  }

  get isBroken() {
    return Object.values(this.#faults).some(Boolean);
  }

  /** How many connections the page's clients have open, by transport. */
  get open() {
    const requests = [...this.#requests];
    const count = (path) => requests.filter((request) => request.path === path).length;
    return { ws: this.#sockets.size, sse: count("events"), poll: count("poll") };
  }

  /** These faults and no others. */
  become(faults) {
    this.set({ ...NONE, ...faults });
  }

  /** These faults, and those that were there. */
  set(faults) {
    if ("offline" in faults) clearTimeout(this.#returning);
    const before = this.#faults;
    this.#faults = { ...before, ...faults };
    const began = (fault) => this.#faults[fault] && !before[fault];
    if (before.offline !== this.#faults.offline) this.#tellPlatform();
    if (began("refuse") || began("offline")) this.killSockets();
    if (began("hold")) this.#cut(CUT, ({ path }) => path === "events");
    if (began("offline")) this.#cut(OFFLINE, () => true);
    this.changed();
  }

  mend() {
    this.become({});
  }

  /** For so long, unless it is said otherwise meanwhile. */
  goOffline(ms) {
    this.set({ offline: true });
    this.#returning = setTimeout(() => this.set({ offline: false }), ms);
  }

  killSockets() {
    for (const socket of [...this.#sockets]) socket.cut();
  }

  /** The platform as one client sees it through this network; `wire` is told what comes. */
  platformFor(wire) {
    const network = this;
    return {
      WebSocket: class extends BreakableSocket {
        constructor(...where) {
          super(network, wire, ...where);
        }
      },
      fetch: (url, init) => this.#fetch(wire, new URL(url), init),
    };
  }

  // For its sockets

  get refusesSockets() {
    return this.#faults.refuse || this.#faults.offline;
  }

  opened(socket) {
    this.#sockets.add(socket);
    this.changed();
  }

  closed(socket) {
    if (this.#sockets.delete(socket)) this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  // Requests

  async #fetch(wire, url, init = {}) {
    if (this.#faults.offline) throw new TypeError(OFFLINE);
    const cut = new AbortController();
    const signal = AbortSignal.any([cut.signal, init.signal].filter(Boolean));
    const request = { path: url.pathname.split("/").at(-1), cut };
    // All polls of a client are one link, which a page that came leaves open.
    const link = request.path === "poll" ? "poll" : request;
    const cutOff = () => end(true);
    const end = (broken) => {
      // The client's own signal may live for hours, and keeps all who listen to it.
      signal.removeEventListener("abort", cutOff);
      if (link === request || broken) wire.closed(link);
      if (this.#requests.delete(request)) this.changed();
    };
    signal.addEventListener("abort", cutOff);
    this.#requests.add(request);
    this.changed();
    try {
      const response = await fetch(url, { ...init, signal });
      if (response.ok && request.path === "events") return this.#stream(response, { wire, link, signal, end });
      const text = await response.text();
      if (response.ok && request.path === "poll") wire.page(link, text, waitOf(url, init), response.headers.get("tribus-node"));
      end(false);
      return new Response(text, response);
    } catch (error) {
      end(true);
      throw error;
    }
  }

  #stream(response, { wire, link, signal, end }) {
    wire.opened(link);
    const decoder = new TextDecoder();
    const gate = new TransformStream({
      transform: async (bytes, out) => {
        await this.#passing(signal);
        wire.piece(link, decoder.decode(bytes, { stream: true }));
        out.enqueue(bytes);
      },
      flush: () => end(true),
    });
    return new Response(response.body.pipeThrough(gate), response);
  }

  /** Resolves when bytes of streams pass; the connection's own flow control holds back the rest. */
  #passing(signal) {
    return new Promise((resolve) => {
      const look = () => {
        const { stall, hold } = this.#faults;
        if ((stall || hold) && !signal.aborted) return;
        this.removeEventListener("change", look);
        signal.removeEventListener("abort", look);
        resolve();
      };
      this.addEventListener("change", look);
      signal.addEventListener("abort", look);
      look();
    });
  }

  #cut(message, isHit) {
    for (const request of [...this.#requests].filter(isHit)) request.cut.abort(new TypeError(message));
  }

  /** As the platform does it: by a property and an event. */
  #tellPlatform() {
    const { offline } = this.#faults;
    if (offline) Object.defineProperty(navigator, "onLine", { configurable: true, get: () => false });
    else delete navigator.onLine;
    dispatchEvent(new Event(offline ? "offline" : "online"));
  }
}

const waitOf = (url, { body }) => Number(url.searchParams.get("wait") ?? (body && JSON.parse(body).wait));
