// The three transports behind one interface: an async generator that takes a request
//   { base, token, topics, position, signal }
// and yields the frames of the protocol (`connected`, `event`, `live`, `heartbeat`, `reset`, …) for
// as long as the connection lasts. It throws a GatewayError where the gateway refuses, and
// Unreachable where there is no gateway to refuse. Reconnecting is the lane's business.

const POLL_SECONDS = 25;

/** Codes that a reconnect with the same token and topics does not change. */
const FINAL_CODES = new Set([
  "unauthorized", "token_expired", "revoked", "forbidden", "bad_request", "bad_topic",
  "bad_cursor", "not_found", "method_not_allowed", "too_large", "conflict", "superseded",
]);

/** WebSocket close codes that say what no `error` frame said before them. */
const CLOSE_CODES = new Map([
  [1002, "bad_request"], [1003, "bad_request"], [1007, "bad_request"],
  [1008, "unauthorized"], [1009, "too_large"],
  [4001, "unauthorized"], [4002, "unauthorized"], [4003, "unauthorized"],
  [4004, "token_expired"], [4005, "revoked"], [4006, "superseded"],
]);

/** What the gateway refused, in its own words. */
export class GatewayError extends Error {
  constructor({ code, message, retryAfterMs }) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  get final() {
    return FINAL_CODES.has(this.code);
  }

  static ofClose(code, reason) {
    const known = CLOSE_CODES.get(code) ?? "closed";
    return new GatewayError({ code: known, message: reason || `closed with code ${code}` });
  }
}

/** Nobody answered, or the connection broke off. */
export class Unreachable extends Error {
  final = false;
}

export async function* webSocket({ base, token, topics, position, signal }) {
  const url = endpoint(base, "ws", topics, position);
  url.protocol = url.protocol.replace("http", "ws");
  const inbox = new Inbox(signal);
  const socket = new WebSocket(url, "tribus.json.v1");
  let opened = false;
  socket.onopen = () => {
    opened = true;
    // The first message, not the URL: URLs end up in logs.
    socket.send(JSON.stringify({ type: "auth", token }));
  };
  socket.onmessage = ({ data }) => inbox.put(parseExact(data));
  socket.onclose = ({ code, reason }) => inbox.fail(closeError(opened, code, reason));
  try {
    for (;;) {
      const frame = await inbox.next();
      if (frame.type === "error") throw new GatewayError(frame);
      yield frame;
    }
  } finally {
    socket.close();
  }
}

export async function* serverSentEvents({ base, token, topics, position, signal }) {
  const url = endpoint(base, "events", topics, position);
  const response = await ask(url, { token, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventStreamParser();
  try {
    for (;;) {
      const { done, value } = await connected(reader.read(), signal);
      if (done) return;
      for (const data of parser.push(value)) yield parseExact(data);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Polls become the frames that the streams have; whoever takes them moves `position` on. */
export async function* longPoll({ base, token, topics, position, signal }) {
  let greeted = false;
  let live = false;
  for (;;) {
    const url = endpoint(base, "poll", topics, position);
    // Until it has caught up nothing is worth waiting for.
    url.searchParams.set("wait", live ? POLL_SECONDS : 0);
    const response = await ask(url, { token, signal });
    const answer = parseExact(await connected(response.text(), signal));
    if (!greeted) {
      const cursor = position.cursor ?? answer.cursor;
      yield { type: "connected", cursor, heartbeatMs: POLL_SECONDS * 1000 };
      greeted = true;
    }
    if (response.status === 410) {
      yield answer;
      continue;
    }
    yield* answer.events;
    yield { type: "heartbeat", cursor: answer.cursor };
    if (answer.reconnectAfterMs !== undefined) {
      yield { type: "closing", message: "the gateway is draining", ...answer };
      return;
    }
    if (!live && answer.events.length === 0) {
      yield { type: "live", cursor: answer.cursor };
      live = true;
    }
  }
}

/** The bus's position now, from which several lanes can start alike. */
export async function currentCursor({ base, token, topics, signal }) {
  const url = endpoint(base, "poll", topics);
  const response = await ask(url, { token, signal });
  return (await response.json()).cursor;
}

/** Publishes one event; `data` is JSON text, sent as it is. Returns the event's id. */
export async function publish({ base, token, topic, event, data, signal }) {
  const fields = [["topic", JSON.stringify(topic)]];
  if (event) fields.push(["event", JSON.stringify(event)]);
  if (data) fields.push(["data", data]);
  const body = `{${fields.map(([name, json]) => `"${name}":${json}`).join(",")}}`;
  const response = await ask(new URL("publish", base), { token, signal, method: "POST", body });
  return (await connected(response.json(), signal)).id;
}

/** Splits an event stream (HTML standard, section 9.2.6) into the `data` of its events. */
export class EventStreamParser {
  #rest = "";
  #data = [];

  push(text) {
    // A CR at the very end may be the first half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line === "") {
      const data = this.#data.splice(0);
      return data.length > 0 ? [data.join("\n")] : [];
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
    if (field === "data") this.#data.push(value);
    return [];
  }
}

/** Frames from a callback, to be awaited one by one. */
class Inbox {
  #frames = [];
  #failure = null;
  #wake = () => {};

  constructor(signal) {
    signal.addEventListener("abort", () => this.fail(signal.reason), { once: true });
    if (signal.aborted) this.fail(signal.reason);
  }

  put(frame) {
    this.#frames.push(frame);
    this.#wake();
  }

  fail(error) {
    this.#failure ??= error;
    this.#wake();
  }

  async next() {
    while (this.#frames.length === 0) {
      if (this.#failure) throw this.#failure;
      await new Promise((resolve) => { this.#wake = resolve; });
    }
    return this.#frames.shift();
  }
}

function endpoint(base, path, topics, position) {
  const url = new URL(path, base);
  url.searchParams.set("topics", topics.join(","));
  if (position?.cursor) url.searchParams.set("cursor", position.cursor);
  return url;
}

/** 200 and 410, which is how a poll is told of a gap; anything else is thrown. */
async function ask(url, { token, signal, method = "GET", body }) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, body, headers, signal, cache: "no-store" };
  const response = await connected(fetch(url, options), signal);
  if (response.ok || response.status === 410) return response;
  throw await refusal(response);
}

async function connected(promise, signal) {
  try {
    return await promise;
  } catch {
    signal?.throwIfAborted();
    throw new Unreachable("the gateway can not be reached");
  }
}

async function refusal(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  const retryAfterMs = seconds > 0 ? seconds * 1000 : undefined;
  const told = await response.json().catch(() => null);
  if (told?.type === "error") return new GatewayError({ retryAfterMs, ...told });
  // Not the gateway's own words: something in between answered.
  const message = `HTTP ${response.status} ${response.statusText}`.trim();
  const code = response.status === 401 ? "unauthorized" : "proxy";
  return new GatewayError({ code, message, retryAfterMs });
}

function closeError(opened, code, reason) {
  if (!opened) return new Unreachable("the gateway can not be reached");
  if (code === 1006) return new Unreachable("the connection broke off");
  return GatewayError.ofClose(code, reason);
}

/** JSON in which numbers that no float holds keep their digits, where the browser can. */
function parseExact(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => {
    const rounded = typeof value === "number" && context && String(value) !== context.source;
    return rounded ? JSON.rawJSON(context.source) : value;
  });
}
