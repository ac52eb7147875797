// Positions that outlive a page, in its tab, so that a reload misses nothing.

import { read, write } from "./storage.js";

const SAVE_WITHIN_MS = 100;
const MOST_STORED = 100;

const keyOf = ({ topics, _options: { events, tags } }) => JSON.stringify([topics, events, tags]);

export class Persist {
  _known = new Set();

  constructor(client) {
    this._client = client;
    this._place = `tribus:at:${client._options.persist}:${client._base}`;
    this._stored = read(this._place);
    for (const type of ["event", "reset"])
      client.addEventListener(type, () => (this._saving ??= setTimeout(() => this._save(), SAVE_WITHIN_MS)));
    let isClosed = false;
    const life = new AbortController();
    client.addEventListener("status", ({ detail: { state } }) => {
      // Before the subscriptions end with the client; what comes later knows of none.
      if (state === "closed" && !isClosed) this._save();
      isClosed = state === "closed";
      if (client._isClosed) life.abort();
    });
    globalThis.addEventListener?.("pagehide", () => isClosed || this._save(), { signal: life.signal });
  }

  /** This tab's own: those of other tabs are kept there. */
  get _subscriptions() {
    return [...this._client._subscriptions].filter(({ _options: { _isForTab } }) => !_isForTab);
  }

  /** What says where it begins is not told otherwise. A position is for those that are there when it is first asked for. */
  _update() {
    const used = [];
    for (const one of this._subscriptions) {
      if (this._known.has(one)) continue;
      this._known.add(one);
      const { cursor, rewind } = one._options;
      if (cursor || rewind) continue;
      one._at ??= this._stored[keyOf(one)];
      used.push(keyOf(one));
    }
    for (const key of used) delete this._stored[key];
    for (const one of this._known) if (one._ended) this._known.delete(one);
  }

  _save() {
    clearTimeout(this._saving);
    this._saving = undefined;
    const now = this._subscriptions.filter(({ cursor }) => cursor).map((one) => [keyOf(one), one.cursor]);
    write(this._place, Object.fromEntries([...Object.entries(this._stored), ...now].slice(-MOST_STORED)));
  }
}
