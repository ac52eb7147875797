// What passes on the wire of one client, as far as the client has no use to tell it: when something came
// last, and up to which position each link's events are replays of what was missed. The gateway
// marks the end of a replay with a `live` frame; a poll that does not wait is a replay by itself.

import { isUpTo } from "./cursor.js";

/** The longest piece of a stream's frame that is kept; a `live` frame is far shorter. */
const KEPT = 4096;

export class Wire {
  heardAt = null;
  /** How often a quiet gateway says something, as it told. */
  heartbeatMs = null;
  /** The name of the node that it came from, where nodes have names. */
  node = null;
  /** By link: where it went live, or null while it replays. */
  #live = new Map();
  #rest = new Map();

  /** Whether an event that came just now was missed before, and is made up for. */
  isReplay(id) {
    return ![...this.#live.values()].some((cursor) => cursor && !isUpTo(id, cursor));
  }

  opened(link) {
    this.#live.set(link, null);
  }

  closed(link) {
    this.#live.delete(link);
    this.#rest.delete(link);
  }

  /** A message of a WebSocket. */
  message(link, text) {
    this.#hear();
    if (text.startsWith('{"type":"event"')) return;
    const frame = JSON.parse(text);
    if (frame.type === "subscribed") this.#live.set(link, null);
    this.#take(link, frame);
  }

  /** A piece of an event stream, cut anywhere. */
  piece(link, text) {
    this.#hear();
    const frames = ((this.#rest.get(link) ?? "") + text).split("\n\n");
    this.#rest.set(link, frames.pop().slice(-KEPT));
    for (const frame of frames) {
      const data = /^event: (?:connected|live)$/m.test(frame) && /^data: (.*)$/m.exec(frame);
      if (data) this.#take(link, JSON.parse(data[1]));
    }
  }

  /** An answer of a node to a poll that waited at most `wait` seconds; all polls are one link. A client that has not caught up does not wait. */
  page(link, text, wait, node) {
    this.#hear();
    this.node = node;
    if (wait === 0) this.#live.set(link, JSON.parse(text).cursor);
  }

  #take(link, { type, cursor, heartbeatMs, node }) {
    if (type === "connected") this.node = node ?? null;
    if (type === "live") this.#live.set(link, cursor);
    this.heartbeatMs = heartbeatMs ?? this.heartbeatMs;
  }

  #hear() {
    this.heardAt = Date.now();
  }
}
