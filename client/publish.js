// Publishing, over the WebSocket where it is there, else by a request.

const ATTEMPTS = 6;
const FIRST_WAIT_MS = 1000;
/** In UTF-16 units: what is longer than a WebSocket's message may be would end the connection. */
const LONGEST_MESSAGE = 20_000;
/** For an answer. */
const PATIENCE_MS = 15_000;

/** One key for all attempts, so that they count once. */
export const publish = async (client, topic, data = null, { key = `${Math.random()}${Date.now()}`, ...options } = {}) => {
  const event = { topic, data, ...options };
  const body = JSON.stringify(event);
  for (let attempt = 0; ; attempt += 1) {
    const { state, reason } = client.status;
    if (state === "closed") throw client._failure({ code: state, message: `closed: ${reason}` });
    try {
      const link = client._main;
      if (link?._sendWith && body.length < LONGEST_MESSAGE) {
        const { type, id, duplicate, ...error } = await new Promise((resolve) =>
          link._sendWith({ type: "publish", ...event, key }, resolve));
        if (type === "published") return { id, duplicate };
        throw client._failure({ message: "the connection was lost", ...error });
      }
      const request = { method: "POST", body, headers: { "Idempotency-Key": key } };
      const answer = await client._request("publish", request, AbortSignal.timeout(PATIENCE_MS));
      return await answer.json();
    } catch (thrown) {
      // A page of a captive portal is no JSON, and says nothing of the event.
      const error = thrown.name === "TribusError" ? thrown : client._failure({ message: "the answer is not the gateway's" });
      const mayPass = /network|unavailable|rate_limited|internal|token_expired/.test(error.code);
      if (!mayPass || attempt === ATTEMPTS) throw error;
      const ms = error.retryAfterMs ?? Math.random() * FIRST_WAIT_MS * 2 ** attempt;
      await new Promise((resolve) => setTimeout(resolve, ms));
    }
  }
};
