// The browser's own reader of streams, which shows no token but a ticket. Its reconnects are the client's.

const TYPES = ["message", "connected", "live", "heartbeat", "reset", "closing"];

export const native = async (client, link, { query }, signal) => {
  const answer = await client._request("ticket", { method: "POST", body: '{"use":"stream"}' }, signal);
  const { ticket } = await answer.json();
  const url = client._url("events");
  query.append("native", 1);
  query.append("ticket", ticket);
  url.search = query;
  const { EventSource = globalThis.EventSource } = client._options;
  const source = new EventSource(url.href);
  await new Promise((resolve) => {
    signal.addEventListener("abort", resolve);
    source.onerror = resolve;
    for (const type of TYPES) source.addEventListener(type, ({ data }) => link._emit(JSON.parse(data)));
  });
  source.close();
};
