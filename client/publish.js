// Publishing, over the WebSocket where it is there, else by a request.

const ATTEMPTS = 6;
const FIRST_WAIT_MS = 1000;

/** One key for all attempts, so that they count once. */
export const publish = async (client, topic, data = null, { key = `${Math.random()}${Date.now()}`, ...options } = {}) => {
  const event = { topic, data, ...options };
  for (let attempt = 0; ; attempt += 1) {
    if (client.status.state === "closed") throw client._closedError();
    try {
      const link = client._main;
      if (link?._call) {
        const { id, duplicate } = await link._call({ type: "publish", ...event, key });
        return { id, duplicate };
      }
      const request = { method: "POST", body: JSON.stringify(event), headers: { "Idempotency-Key": key } };
      return await (await client._request("publish", request)).json();
    } catch (error) {
      const mayPass = /network|unavailable|rate_limited|internal|token_expired/.test(error.code);
      if (!mayPass || attempt === ATTEMPTS) throw error;
      const ms = error.retryAfterMs ?? Math.random() * FIRST_WAIT_MS * 2 ** attempt;
      await new Promise((resolve) => setTimeout(resolve, ms));
    }
  }
};
