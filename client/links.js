// The three ways to a gateway. Each opens one link, which emits the gateway's frames in the terms of the
// WebSocket, and ends once, with what ended it. None knows what the others do.

import { isAfter, sameLog } from "./cursor.js";
import { TribusError } from "./error.js";
import { requestFor, resumeOf, startOf, subscribeFrame } from "./wire.js";

/** The longest frame that is collected, in UTF-16 units; the gateway's own limit is far below. */
const LONGEST_FRAME = 1 << 24;
const POLL_SECONDS = 25;
const POLL_MAX = 1000;

/**
 * What every transport builds on. `_client` gives `_request`, `_url`, `_options`, `_subscriptions`;
 * `_onFrame` and `_onEnd` are told what comes.
 */
class Link {
  /** Subscriptions whose events this link gives, from where they stand. */
  _joined = new Set();
  _heartbeat = 25e3;

  constructor(client, transport, bare, onFrame, onEnd) {
    this._client = client;
    this._transport = transport;
    /** A trial that subscribes to nothing. */
    this._bare = bare;
    this._onFrame = onFrame;
    this._onEnd = onEnd;
    this._touch();
  }

  get _subscriptions() {
    return this._bare ? [] : [...this._client._subscriptions];
  }

  _touch() {
    this._last = Date.now();
  }

  _emit(frame) {
    if (this._ended) return;
    this._touch();
    if (frame.heartbeatMs) this._heartbeat = frame.heartbeatMs;
    if (frame.type === "closing" || (frame.type === "error" && !frame.ref)) this._verdict = frame;
    else this._onFrame(frame);
  }

  _end(error) {
    if (this._ended) return;
    this._ended = true;
    this._abort?.abort();
    this._stop?.();
    if (error) this._onEnd(this._verdict ? new TribusError(this._verdict) : error);
  }
}

class WebSocketLink extends Link {
  _refs = new Map();
  _count = 0;
  /** Subscriptions that were sent, and the filters that the gateway knows of. */
  _asked = new Set();
  _filters = new Set();

  _open(token) {
    const url = this._client._url("ws");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new (this._client._options.WebSocket)(url.href);
    this._stop = () => socket.close();
    this._send = (frame) => socket.readyState === 1 && socket.send(JSON.stringify(frame));
    socket.onopen = () => {
      this._opened = true;
      if (token) this._send({ type: "auth", token });
      this._update();
    };
    socket.onmessage = ({ data }) => this._receive(JSON.parse(data));
    socket.onerror = () => {};
    socket.onclose = ({ code }) =>
      this._end(new TribusError({ message: this._opened ? `the WebSocket was closed (${code})` : "WebSockets are refused" }));
  }

  /** Tells the gateway what changed among the subscriptions; those at one position start as one. */
  _update() {
    if (!this._opened) return;
    const all = this._subscriptions;
    const groups = new Map();
    for (const asked of [this._joined, this._asked])
      asked.forEach((one) => all.includes(one) || asked.delete(one));
    for (const one of all)
      if (!this._asked.has(one)) {
        const start = JSON.stringify(startOf(one));
        groups.set(start, [...(groups.get(start) ?? []), one]);
      }
    groups.forEach((group) => this._ask(group, all));
    const wanted = new Set(all.flatMap(({ topics }) => topics));
    const topics = [...this._filters].filter((filter) => !wanted.has(filter));
    if (topics[0]) this._send({ type: "unsubscribe", topics });
    this._filters = wanted;
  }

  _ask(group, all = this._subscriptions) {
    const ref = ++this._count;
    this._refs.set(ref, { _group: group });
    group.forEach((one) => this._asked.add(one));
    this._send({ ...subscribeFrame(group, all), ref });
  }

  /** Sends `frame`; the reply to it. */
  _call(frame) {
    return new Promise((...settle) => {
      const ref = ++this._count;
      this._refs.set(ref, { _settle: settle });
      this._send({ ...frame, ref });
    });
  }

  _receive(frame) {
    const asked = this._refs.get(frame.ref);
    if (asked?._settle) {
      this._refs.delete(frame.ref);
      this._touch();
      if (frame.type === "error") asked._settle[1](new TribusError(frame));
      else asked._settle[0](frame);
    } else if (frame.type === "error" && asked) {
      this._refs.delete(frame.ref);
      this._refused(asked._group, new TribusError(frame));
    } else {
      if (frame.type === "subscribed")
        for (const one of asked?._group ?? [])
          // Another link may have given it a position meanwhile, before the one where this begins.
          if (one._at && sameLog(frame.cursor, one._at) && isAfter(frame.cursor, one._at)) this._ask([one]);
          else {
            one._at ??= frame.cursor;
            this._joined.add(one);
          }
      if (frame.type === "live") this._refs.delete(frame.ref);
      if (frame.type === "reset") frame._group = asked?._group;
      if (frame.type === "unsubscribed" && frame.reason)
        this._subscriptions.filter(({ topics }) => topics.some((topic) => frame.topics.includes(topic)))
          .forEach((one) => one._fail(new TribusError({ code: "forbidden", message: frame.reason })));
      this._emit(frame);
    }
  }

  /** One that may not subscribe keeps out nobody who asked together with it. */
  _refused(group, error) {
    if (error.retryAfterMs && error.code !== "too_many_subscriptions") return this._end(error);
    if (!group[1]) return group[0]._fail(error);
    group.forEach((one) => this._ask([one]));
  }

  _end(error) {
    super._end(error);
    this._refs.forEach(({ _settle }) => _settle?.[1](error ?? new TribusError({ message: "the connection was lost" })));
    this._refs.clear();
  }
}

/** What streams and polls share: requests that carry all subscriptions, made again when these change. */
class RequestLink extends Link {
  _open() {
    this._abort?.abort();
    const abort = (this._abort = new AbortController());
    this._asked = this._subscriptions;
    this._joined = new Set(this._asked.filter(({ _at }) => _at));
    this._cursor = resumeOf(this._asked);
    this._isLive = false;
    const end = (error) =>
      abort.signal.aborted || this._end(error instanceof TribusError ? error : new TribusError(error));
    this._run(abort.signal).then(() => end({ message: "the stream was cut" }), end);
  }

  /** Whoever has no position yet gets one where the stream is live: from there on nothing is old. */
  _emit(frame) {
    const { type, cursor } = frame;
    if (type === "live" || (type === "connected" && !this._cursor)) {
      for (const one of this._asked) {
        one._at ??= cursor;
        this._joined.add(one);
      }
    }
    super._emit(frame);
  }

  _update() {
    const now = this._subscriptions;
    if (now.length !== this._asked.length || now.some((one) => !this._asked.includes(one))) this._open();
  }

  /** What begins in the past is read once, by itself, before it joins the others. */
  async _begin(signal) {
    for (const one of this._asked) {
      const { cursor, rewind } = startOf(one);
      if (!one._at && (cursor || rewind)) {
        const page = await this._page([one], { cursor, rewind, wait: 0, max: POLL_MAX }, signal);
        one._at ??= "";
        page.events?.forEach((event) => one._offer(event));
        one._at = page.cursor;
        this._joined.add(one);
      }
    }
    this._cursor = resumeOf(this._asked);
  }

  async _page(subscriptions, extra, signal) {
    const response = await this._client._request("poll", requestFor(subscriptions, extra), signal);
    return response.json();
  }
}

class StreamLink extends RequestLink {
  async _run(signal) {
    await this._begin(signal);
    const request = requestFor(this._asked, { cursor: this._cursor });
    if (this._client._options.sse === "native") return this._native(request, signal);
    const { body } = await this._client._request("events", request, signal);
    if (!body) throw new TribusError({ message: "this platform's fetch gives no streams" });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part; !(part = await reader.read()).done; ) {
      const frames = (text + part.value).split("\n\n");
      text = frames.pop();
      if (text.length > LONGEST_FRAME) throw new TribusError({ message: "a frame without end" });
      for (const frame of frames) {
        const data = /^data: (.*)$/m.exec(frame);
        if (data && !signal.aborted) this._emit(JSON.parse(data[1]));
      }
    }
  }

  /** The browser's own reader, which shows no token but a ticket. Its reconnects are ours. */
  async _native({ query }, signal) {
    const ticket = await this._client._request("ticket", { method: "POST", body: '{"use":"stream"}' }, signal);
    const url = this._client._url("events");
    query.append("native", 1);
    query.append("ticket", (await ticket.json()).ticket);
    url.search = query;
    const source = new (this._client._options.EventSource)(url.href);
    await new Promise((resolve) => {
      signal.addEventListener("abort", resolve);
      source.onerror = resolve;
      for (const type of ["message", "connected", "live", "heartbeat", "reset", "closing"])
        source.addEventListener(type, ({ data }) => this._emit(JSON.parse(data)));
    });
    source.close();
  }
}

class PollLink extends RequestLink {
  async _run(signal) {
    await this._begin(signal);
    for (let isFirst = true; ; isFirst = false) {
      const wait = this._isLive ? POLL_SECONDS : 0;
      const late = setTimeout(() => this._end(new TribusError({ message: "a poll was not answered" })), (wait + 10) * 1e3);
      let page;
      try {
        page = await this._page(this._asked, { cursor: this._cursor, wait, max: POLL_MAX }, signal);
      } finally {
        clearTimeout(late);
      }
      if (signal.aborted) return;
      if (isFirst) this._emit({ type: "connected", cursor: this._cursor ?? page.cursor });
      if (page.type) this._emit(page);
      page.events?.forEach((event) => this._emit(event));
      this._cursor = page.cursor;
      // A page that ends with its last event may have been cut there.
      this._isLive ||= page.events?.at(-1)?.id !== page.cursor;
      this._emit({ type: this._isLive ? "live" : "heartbeat", cursor: page.cursor });
      if (page.reconnectAfterMs) return this._emit({ ...page, type: "closing", code: 1012, message: "the gateway is draining" });
    }
  }
}

export const links = { ws: WebSocketLink, sse: StreamLink, poll: PollLink };
