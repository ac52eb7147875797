// What the page itself asks of the gateway, over the network as it really is: to publish, and for its numbers.

const PUBLISH_TIMEOUT_MS = 10_000;
const STATS_TIMEOUT_MS = 5000;

/** What the gateway refused, in its own words. */
export class GatewayError extends Error {
  constructor({ code, message, status, retryAfterMs }) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Nobody answered, or the connection broke off. */
export class Unreachable extends Error {}

export class Gateway {
  #base;
  #token;

  constructor(base, token) {
    this.#base = base;
    this.#token = token;
  }

  /** Publishes one event, whose `data` is JSON text that is sent as it is; its id. */
  async publish({ topic, event, data }) {
    const fields = [["topic", JSON.stringify(topic)]];
    if (event) fields.push(["event", JSON.stringify(event)]);
    if (data) fields.push(["data", data]);
    const body = `{${fields.map(([name, json]) => `"${name}":${json}`).join(",")}}`;
    return (await this.#post(body)).id;
  }

  /** Publishes several, which count once however often they are sent under this key; their ids. */
  async publishAll(events, key) {
    return (await this.#post(JSON.stringify(events), { "Idempotency-Key": key })).ids;
  }

  stats() {
    return this.#ask("stats", { signal: AbortSignal.timeout(STATS_TIMEOUT_MS) });
  }

  #post(body, headers) {
    const signal = AbortSignal.timeout(PUBLISH_TIMEOUT_MS);
    return this.#ask("publish", { method: "POST", body, signal }, { "Content-Type": "application/json", ...headers });
  }

  async #ask(path, options, headers) {
    const { signal } = options;
    const response = await answered(fetch(new URL(path, this.#base), {
      ...options, cache: "no-store", headers: { Authorization: `Bearer ${this.#token}`, ...headers },
    }), signal);
    if (!response.ok) throw await refusal(response);
    return answered(response.json(), signal);
  }
}

async function answered(promise, signal) {
  try {
    return await promise;
  } catch {
    signal.throwIfAborted();
    throw new Unreachable("the gateway can not be reached");
  }
}

async function refusal(response) {
  const { status } = response;
  const told = await response.json().catch(() => null);
  if (told?.type === "error") return new GatewayError({ ...told, status });
  // Not the gateway's own words: something in between answered.
  return new GatewayError({ code: "proxy", message: `HTTP ${status} ${response.statusText}`.trim(), status });
}
