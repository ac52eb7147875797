// Uses all of tribus.d.ts as an application would; `tsc --strict` reads it, nothing runs it.

import Default, { Tribus, TribusError } from "../../static/tribus.js";
import type { Diagnosis, Status, Subscription, TribusEvent } from "../../static/tribus.js";

interface Order {
  id: number;
  status: "open" | "paid";
}

const client: Tribus = new Default("http://127.0.0.1:8080", {
  getToken: async () => "a.b.c",
  transports: ["ws", "poll"],
  sse: "native",
  persist: "orders",
  shareTabs: true,
  maxAttempts: 3,
  buffer: 10,
  WebSocket: class {},
});

export const loops = async (signal: AbortSignal): Promise<void> => {
  for await (const { id, data } of client.subscribe<Order>(["order:*"], { signal, rewind: 3 })) {
    const status: "open" | "paid" = data.status;
    console.log(id satisfies string, status);
  }
  for await (const events of client.subscribe<Order>("order:*", { batch: 100, throttle: 100, latest: true }))
    console.log(events.map(({ data }) => data.id satisfies number));
};

export const one: Subscription<TribusEvent<Order>> = client.subscribe<Order>("order:1", ({ data }) => data.id);
export const cursor: string | undefined = one.cursor;
one.close();
client.subscribe("order:1", { onBegin: () => one.cursor, onEvent: ({ id }) => id });
export const refused: string = new TribusError({ code: "forbidden", message: "not yours" }).code;

client.addEventListener("status", ({ detail }) => {
  const { state, transport, reason }: Status = detail;
  console.log(state === "degraded" ? `${transport}: ${reason}` : state);
});
client.addEventListener("reset", ({ detail }) => detail.topics.includes(detail.reason));
client.addEventListener("error", ({ detail }) => detail instanceof TribusError && detail.retryAfterMs);

export const published: Promise<{ id: string }> = client.publish("order:1", { id: 1 }, { event: "paid", key: "k" });
export const report: Promise<Diagnosis> = client.diagnose();
client.reconnect();
client.close();

// @ts-expect-error a transport that there is not
new Tribus("/", { transports: ["carrier-pigeon"] });
// @ts-expect-error the status is the client's to set
client.status = { state: "live" };
// @ts-expect-error a batch gives its callback arrays
client.subscribe<Order>("order:1", { batch: 1, onEvent: (event: TribusEvent<Order>) => event.id });
// @ts-expect-error an error has an answer, not a text
new TribusError("not yours");
// @ts-expect-error a state that there is not
export const isSad = client.status.state === "sad";
