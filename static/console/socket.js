// A WebSocket that the page's network can refuse and cut, with as much of the browser's interface as
// clients use: `readyState`, `send`, `close`, and the four listeners.

const [OPEN, CLOSED] = [1, 3];
/** What a browser says of a connection that broke off. */
const BROKEN = { code: 1006, reason: "", wasClean: false };

export class BreakableSocket {
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;
  readyState = 0;
  #network;
  #wire;
  #real = null;

  constructor(network, wire, url, protocols = []) {
    this.#network = network;
    this.#wire = wire;
    if (network.refusesSockets) {
      // Whoever made it sets its listeners first.
      setTimeout(() => this.#end(BROKEN));
      return;
    }
    const real = (this.#real = new WebSocket(url, protocols));
    network.opened(this);
    wire.opened(this);
    real.onopen = (event) => {
      this.readyState = OPEN;
      this.onopen?.(event);
    };
    real.onmessage = (event) => {
      wire.message(this, event.data);
      this.onmessage?.(event);
    };
    real.onclose = ({ code, reason, wasClean }) => this.#end({ code, reason, wasClean });
  }

  send(data) {
    this.#real?.send(data);
  }

  close(...why) {
    if (this.#real) this.#real.close(...why);
    else this.#end(BROKEN);
  }

  /** As a network that goes away does it: without a word to either side's program. */
  cut() {
    if (!this.#real) return;
    this.#real.onopen = this.#real.onmessage = this.#real.onclose = null;
    this.#real.close();
    this.#end(BROKEN);
  }

  #end(close) {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this.#network.closed(this);
    this.#wire.closed(this);
    if (close === BROKEN) this.onerror?.(new Event("error"));
    this.onclose?.(close);
  }
}
