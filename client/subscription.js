// One subscriber: what it wants, how far it has come, and what waits for it.

import { isAfter, sameLog } from "./cursor.js";

const ESCAPED = /[.+?^${}()|[\]\\/]/g;

/** `*` matches any run of characters but `:`, `**` also crosses it. */
const patternOf = (filter) =>
  filter
    .replace(ESCAPED, "\\$&")
    .replace(/\*+/g, (stars) => (stars[1] ? "[^]*" : "[^:]*"));

/** At once; an error of the subscriber's own stops neither the stream nor the other subscribers: it is an unhandled rejection. */
const call = async (listener, value) => listener?.(value);

export class Subscription {
  /** Everything up to here was queued, or is not wanted: drops what comes twice, and says where to resume. */
  _at;
  /** Everything up to here was given to the subscriber, while something waits. */
  _given;
  /** What waits: events by id, or by topic where only the newest is wanted; and resets. */
  _queue = new Map();
  _readers = [];

  constructor(topics, options, onClose) {
    this.topics = [topics].flat();
    this._options = options;
    this._onClose = onClose;
    this._pattern = RegExp(`^(${this.topics.map(patternOf).join("|")})$`);
    const { cursor, signal, events } = options;
    // Nothing would ever come.
    if (!this.topics[0] || (events && !events[0])) throw TypeError("subscribe: no topics, or no events");
    if (cursor !== "earliest") this._at = cursor;
    signal?.addEventListener("abort", this.close, { once: true });
    if (signal?.aborted) this.close();
  }

  get cursor() {
    return this._queue.size ? this._given : this._at;
  }

  /** After `cursor` nothing is missed; each link says so. */
  _begin(cursor) {
    if (this._begun || this._ended) return;
    this._begun = true;
    this._at ??= cursor;
    call(this._options.onBegin);
  }

  _matches({ topic, event, tags }) {
    const { events, tags: wanted } = this._options;
    return (
      this._pattern.test(topic) &&
      (!events || events.includes(event)) &&
      Object.entries(wanted ?? {}).every(([name, value]) => tags?.[name] === value)
    );
  }

  /** Takes an event that is wanted and was not taken yet. */
  _offer(event) {
    if (!this._advance(event.id) || !this._matches(event)) return false;
    const { latest, throttle, buffer } = this._options;
    const key = latest || throttle ? event.topic : event.id;
    this._queue.delete(key);
    this._queue.set(key, event);
    if (this._queue.size > buffer) this._reset("lagged", event.id);
    else this._schedule();
    return true;
  }

  /** Nothing up to here is missing, for the gateway says so. Whether it is further than before. */
  _advance(cursor) {
    if (this._ended) return false;
    // Positions of two logs have no order: whatever lies between them was missed.
    if (this._at && !sameLog(cursor, this._at)) this._reset("unknown_log", cursor);
    if (!isAfter(cursor, this._at)) return false;
    if (!this._queue.size) this._given = this._at;
    this._at = cursor;
    return true;
  }

  /** For which topics something was missed. */
  _reset(reason, cursor) {
    this._at = cursor;
    if (this._queue.size > this._options.buffer) this._queue.clear();
    this._queue.set({}, { _reason: reason, id: cursor });
    this._schedule();
    return this.topics;
  }

  _schedule() {
    if (this._ended) return;
    const { throttle, batch, buffer } = this._options;
    // A batch that is full goes early.
    if (!(throttle || batch) || (batch && this._queue.size >= buffer)) this._flush();
    else this._timer ??= setTimeout(() => this._flush(), throttle || batch);
  }

  _flush() {
    clearTimeout(this._timer);
    this._timer = undefined;
    this._hand();
  }

  /** Gives what waits to whoever waits for it. */
  _hand() {
    const { onEvent } = this._options;
    let item;
    while (!this._timer && (onEvent || this._readers[0]) && (item = this._take()))
      if (onEvent) call(onEvent, item);
      else this._readers.shift()[0]({ value: item, done: false });
  }

  /** The next event, or all there are for `batch`; a reset is told on the way. */
  _take() {
    const { batch, onReset } = this._options;
    const items = [];
    for (const [key, item] of this._queue) {
      if (item._reason && items[0]) break;
      this._queue.delete(key);
      this._given = item.id;
      if (item._reason) {
        if (onReset) call(onReset, item._reason);
        else console.warn(`tribus: ${this.topics}: ${item._reason}; set onReset`);
      } else {
        items.push(item);
        if (batch == null) return item;
      }
    }
    return items[0] && items;
  }

  next() {
    return new Promise((...reader) => {
      this._readers.push(reader);
      this._hand();
      if (this._ended) this._finish();
    });
  }

  /** Leaving a loop ends the subscription. */
  async return(value) {
    this.close();
    return { value, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  close = () => this._end();

  /** With an error, what waits is given first; the loop then throws it. */
  _end(error) {
    if (this._ended) return;
    this._ended = true;
    this._error = error;
    // A loop throws it besides.
    if (error) call(this._options.onError ?? (() => console.warn(`tribus: ${this.topics}:`, error)), error);
    else {
      // What was not given is not behind the cursor.
      this._at = this.cursor;
      this._queue.clear();
    }
    this._flush();
    this._options.signal?.removeEventListener("abort", this.close);
    this._onClose?.(this);
    this._finish();
  }

  _finish() {
    for (const [resolve, reject] of this._readers.splice(0))
      if (this._error) reject(this._error);
      else resolve({ done: true });
  }
}
