// Uses all of react.d.ts as an application would, by the name of the package; `tsc --strict` reads it, nothing runs it.

import { QueryClient } from "@tanstack/react-query";
import type { ReactElement } from "react";
import { mutate, useSWRConfig } from "swr";
import { Tribus } from "tribus-client";
import type { Status, TribusEvent } from "tribus-client";
import {
  invalidateOn, swr, tanstackQuery, TribusProvider, useTribus, useTribusClient, useTribusEvent, useTribusInvalidation,
  useTribusStatus,
} from "tribus-client/react";
import type { Invalidation, TribusState } from "tribus-client/react";

interface Order {
  id: number;
  status: "open" | "paid";
}

const client = new Tribus("http://127.0.0.1:8080");
const queryClient = new QueryClient();

export function Orders({ shop }: { shop?: string }): ReactElement {
  const { events, last, status, reset, error } = useTribus<Order>(shop && ["order:*"], {
    client, events: ["paid"], tags: { shop: "a" }, cursor: "a-1", rewind: 3, limit: 50, latest: true, throttle: 100,
    onReset: (reason) => reason satisfies "expired" | "unknown_log" | "lagged",
    onError: ({ code }) => code satisfies string,
  });
  useTribus([shop && `shop:${shop}`, null, undefined, false, "order:*"]);
  const paid: "open" | "paid" | undefined = last?.data.status;
  useTribusEvent<Order>("order:1", ({ data }) => data.id satisfies number, { onReset: () => {} });
  const { state }: Status = useTribusStatus();
  const provided: Tribus | null = useTribusClient();
  const live: Invalidation = useTribusInvalidation<readonly unknown[], Order>("order:*", {
    keys: [["orders"]],
    keysOf: ({ data }) => [["orders", data.id]],
    invalidate: tanstackQuery(queryClient),
    throttle: 100,
    cursor: "a-1",
  });
  const release: () => void = live.hold();
  useTribusInvalidation(null, { keys: ["/orders"], invalidate: swr(useSWRConfig().mutate) });
  return (
    <TribusProvider client={provided}>
      <button type="button" onClick={release}>{state}</button>
      {events.map(({ id, data }) => <li key={id}>{data.status}</li>)}
      {paid} {status.reason} {reset?.count} {error?.message}
    </TribusProvider>
  );
}

export const plain: TribusState["events"] = [] as TribusEvent[];
const rule = invalidateOn(client, ["order:*"], { keys: ["/orders"], invalidate: swr(mutate) });
rule.hold()();
rule.close();

export function Mistakes(): null {
  const { events } = useTribus<Order>("order:*");
  // @ts-expect-error what came is not the component's to change
  events.push();
  // @ts-expect-error no data of that form
  events[0]?.data.price;
  // @ts-expect-error a limit is a number
  useTribus("order:*", { limit: "all" });
  // @ts-expect-error nothing says what is to be invalidated
  useTribusInvalidation("order:*", { keys: [["orders"]] });
  // @ts-expect-error TanStack's keys are arrays
  useTribusInvalidation("order:*", { keys: ["orders"], invalidate: tanstackQuery(queryClient) });
  // @ts-expect-error a provider needs a client, or null
  <TribusProvider />;
  return null;
}
