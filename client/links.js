// The three ways to a gateway. Each opens one link, which emits the gateway's frames in the terms of the
// WebSocket, and ends once, with what ended it, or nothing where the client did. None knows what the others do.

import { isAfter, sameLog } from "./cursor.js";
import { failure, isOfSubscription, TribusError } from "./error.js";
import { requestFor, resumeOf, startOf, subscriptionsOf } from "./wire.js";

/** The longest frame that is collected, in UTF-16 units; the gateway's own limit is far below. */
const LONGEST_FRAME = 2e7;
const POLL_MS = 25e3;
/** Small enough for a narrow line within the time that a poll has. */
const POLL_MAX = 100;
/** In UTF-16 units: the gateway bounds the bytes of a message. */
const LONGEST_MESSAGE = 2e4;
/** Topics of any length that one has room for. */
const GROUP = 200;

/** What every transport builds on. */
class Link {
  /** Subscriptions whose events this link gives, from where they stand. */
  _joined = new Set();
  _heartbeat = 25e3;
  _last = Date.now();

  /**
   * `parts` are `_client`, which gives `_request`, `_url`, `_options`, `_subscriptions`; `_transport`; `_bare`: a trial
   * that subscribes to nothing; `_onFrame` and `_onEnd`, which are told what comes.
   */
  constructor(parts) {
    Object.assign(this, parts);
  }

  get _subscriptions() {
    return this._bare ? [] : [...this._client._subscriptions];
  }

  /** Gives to one subscription what it begins with, by itself. */
  async _read(one, signal) {
    const start = startOf(one);
    // After a part of the last ones everything would follow.
    const page = await this._page([one], { ...start, wait: 0, max: start.rewind ? 1e3 : POLL_MAX }, signal);
    if (this._ended || signal.aborted) return;
    page.events?.forEach((event) => this._client._take(event, [one]));
    one._begin(page.cursor);
  }

  async _page(subscriptions, extra, signal) {
    const response = await this._client._request("poll", requestFor(subscriptions, extra), signal);
    this._last = Date.now();
    return response.json();
  }

  _join(one, cursor) {
    one._begin(cursor);
    this._joined.add(one);
  }

  _emit(frame) {
    if (this._ended) return;
    this._last = Date.now();
    if (frame.heartbeatMs) this._heartbeat = frame.heartbeatMs;
    // Only of what comes last is an end the consequence.
    this._verdict = frame.type === "closing" || (frame.type === "error" && !frame.ref) ? frame : undefined;
    if (!this._verdict) this._onFrame(frame);
  }

  _end(error) {
    if (this._ended) return;
    this._ended = true;
    this._stop?.();
    this._onEnd(error && this._verdict ? new TribusError(this._verdict) : error);
  }
}

class WebSocketLink extends Link {
  _refs = new Map();
  _count = 0;
  /** Subscriptions that were sent, and the filters that the gateway knows of. */
  _asked = new Set();
  _filters = new Set();

  _open(token) {
    const { WebSocket = globalThis.WebSocket } = this._client._options;
    if (!WebSocket) throw failure("no WebSocket");
    const url = this._client._url("ws");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url.href);
    this._stop = () => socket.close();
    this._send = (frame) => socket.readyState === 1 && socket.send(JSON.stringify(frame));
    socket.onopen = () => {
      this._opened = true;
      if (token) this._send({ type: "auth", token });
      this._update();
    };
    // What still comes after the end was asked for must settle nothing.
    socket.onmessage = ({ data }) => this._ended || this._receive(JSON.parse(data));
    socket.onerror = () => {};
    socket.onclose = () =>
      this._end(failure(this._opened ? "the WebSocket was cut" : "WebSockets are refused"));
  }

  /** Tells the gateway what changed among the subscriptions; those at one position start as one. */
  _update() {
    if (!this._opened) return;
    const all = this._subscriptions;
    for (const known of [this._joined, this._asked]) known.forEach((one) => one._ended && known.delete(one));
    const groups = new Map();
    for (const one of all) {
      if (this._asked.has(one)) continue;
      this._asked.add(one);
      const { _at, _options: { rewind, events, tags } } = one;
      const start = JSON.stringify(startOf(one));
      // Beside another one that wants more of the same topics the gateway would count what this one does not want.
      if (!_at && rewind && (events || tags)) this._client._extra("rewind", this, one).catch(() => this._ask([one]));
      else groups.set(start, [...(groups.get(start) ?? []), one]);
    }
    groups.forEach((group) => this._ask(group));
    const wanted = new Set(all.flatMap(({ topics }) => topics));
    const topics = [...this._filters].filter((filter) => !wanted.has(filter));
    while (topics[0]) this._send({ type: "unsubscribe", topics: topics.splice(0, GROUP) });
    this._filters = wanted;
  }

  _ask(group) {
    const subscriptions = subscriptionsOf(group, this._subscriptions);
    const onReply = (frame) => {
      const { type, cursor } = frame;
      group = group.filter(({ _ended }) => !_ended);
      if (type === "reset") frame._group = group;
      if (type === "error") {
        const half = group.length >> 1;
        // What may pass is no answer to the subscription.
        if (!isOfSubscription(frame.code)) this._end(new TribusError(frame));
        // One that may not subscribe keeps out nobody who asked together with it.
        else if (half) [group.slice(0, half), group.slice(half)].forEach((some) => this._ask(some));
        else group[0]?._end(new TribusError(frame));
      }
      if (type === "subscribed")
        for (const one of group)
          // Another link may have given it a position meanwhile, before the one where this begins.
          if (one._at && sameLog(cursor, one._at) && isAfter(cursor, one._at)) this._ask([one]);
          else this._join(one, cursor);
    };
    // What would be too much together may pass apart.
    if (group[1] && JSON.stringify(subscriptions).length > LONGEST_MESSAGE) onReply({ type: "error", code: "too_large" });
    else this._sendWith({ type: "subscribe", subscriptions, ...startOf(group[0]) }, onReply);
  }

  /** Whatever happens, there is a reply: `lost`, where the link has ended. */
  _sendWith(frame, onReply) {
    const ref = ++this._count;
    this._refs.set(ref, onReply);
    this._send({ ...frame, ref });
  }

  _receive(frame) {
    const { type, ref, topics, reason } = frame;
    this._refs.get(ref)?.(frame);
    // More follows these.
    if (!/subscribed|reset/.test(type)) this._refs.delete(ref);
    if (type === "unsubscribed" && reason)
      for (const one of this._subscriptions)
        if (one.topics.some((topic) => topics.includes(topic))) one._end(new TribusError({ code: "forbidden", message: reason }));
    this._emit(frame);
  }

  _end(error) {
    super._end(error);
    this._refs.forEach((reply) => reply({ type: "lost" }));
  }
}

/** What streams and polls share: requests that carry all subscriptions, made again when these change. */
class RequestLink extends Link {
  _open() {
    this._stop?.();
    const abort = new AbortController();
    this._stop = () => abort.abort();
    this._asked = this._subscriptions;
    this._joined = new Set();
    this._cursor = resumeOf(this._asked);
    this._isLive = false;
    this._last = Date.now();
    const end = (error) =>
      abort.signal.aborted || this._end(error instanceof TribusError ? error : failure(
        error instanceof SyntaxError ? "the answer is not the gateway's" : "the stream was cut", this._retry));
    this._run(abort.signal).then(end, end);
  }

  /** A ping or a fresh token is another request, from where it stands. */
  _send() {
    this._open();
  }

  /**
   * Whoever has no position yet gets one where the stream is live: from there on nothing is old. A gap is one for
   * those that stood where the stream did; those that are further go on from where they are.
   */
  _emit(frame) {
    const { type, id, cursor = id } = frame;
    if (type === "live" || (type === "connected" && !this._cursor))
      for (const one of this._asked) this._join(one, cursor);
    if (type === "reset") frame._group = [...this._joined].filter(({ _at }) => _at === this._cursor);
    if (type !== "connected") this._cursor = cursor;
    super._emit(frame);
    if (!this._ended && this._joined.size > frame._group?.length) this._open();
  }

  _update() {
    const now = this._subscriptions;
    if (now.length !== this._asked.length || now.some((one) => !this._asked.includes(one))) this._open();
  }

  /** What begins in the past is read before it joins the others. */
  async _begin(signal) {
    for (const one of this._asked) {
      if (!one._at && (startOf(one).cursor || startOf(one).rewind || this._cursor)) await this._read(one, signal);
      if (signal.aborted) return;
      if (one._at) this._joined.add(one);
    }
    this._cursor = resumeOf(this._asked);
  }
}

class StreamLink extends RequestLink {
  async _run(signal) {
    await this._begin(signal);
    const request = requestFor(this._asked, { cursor: this._cursor });
    // Whose requests have no body.
    if (this._client._options.sse === "native" && request.query) return this._client._extra("native", this, request, signal);
    const { body } = await this._client._request("events", request, signal);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part; !(part = await reader.read()).done; ) {
      const frames = (text + part.value).split("\n\n");
      text = frames.pop();
      if (text.length > LONGEST_FRAME) return;
      for (const frame of frames) {
        // Not by a pattern of lines: JSON may hold characters that end lines in JavaScript's eyes only.
        const field = (name) => `\n${frame}`.split(`\n${name}: `)[1];
        this._retry = parseInt(field("retry")) || this._retry;
        if (field("data") && !signal.aborted) this._emit(JSON.parse(field("data")));
      }
    }
  }
}

class PollLink extends RequestLink {
  async _run(signal) {
    await this._begin(signal);
    for (;;) {
      // What waits for nothing is answered soon.
      this._heartbeat = this._isLive ? POLL_MS : 6e3;
      const page = await this._page(this._asked, { cursor: this._cursor, wait: this._isLive ? POLL_MS / 1e3 : 0, max: POLL_MAX }, signal);
      for (const frame of [{ type: "connected", cursor: this._cursor ?? page.cursor }, ...(page.events ?? [page])])
        if (!signal.aborted) this._emit(frame);
      if (signal.aborted) return;
      // A page that ends with its last event may have been cut there.
      this._isLive ||= page.events?.at(-1)?.id !== page.cursor;
      this._emit({ type: this._isLive ? "live" : "heartbeat", cursor: page.cursor });
      if (page.reconnectAfterMs) return this._emit({ ...page, type: "closing", code: 1012, message: "the gateway restarts" });
    }
  }
}

export const links = { ws: WebSocketLink, sse: StreamLink, poll: PollLink };
