import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { tanstackQuery, useTribus, useTribusInvalidation, useTribusStatus } from "tribus-client/react";
import { post, request } from "./request.js";

const ORDERS = ["orders"];

/** The orders, loaded anew when one changes and when events were missed; and paying one. */
const useOrders = () => {
  const queryClient = useQueryClient();
  const [gap, setGap] = useState();
  const { data: orders = [], error } = useQuery({ queryKey: ORDERS, queryFn: () => request("/api/orders") });
  const live = useTribusInvalidation("order:*", {
    keys: [ORDERS],
    invalidate: tanstackQuery(queryClient),
    onReset: setGap,
  });

  const replace = (order) =>
    queryClient.setQueryData(ORDERS, (all) => all?.map((one) => (one.id === order.id ? order : one)));
  const pay = useMutation({
    mutationFn: ({ id }) => post(`/api/orders/${id}/pay`),
    onMutate: async (order) => {
      // Until this is settled no event loads what is not paid yet.
      const release = live.hold();
      await queryClient.cancelQueries({ queryKey: ORDERS });
      replace({ ...order, status: "paid" });
      return release;
    },
    onError: (_error, order) => replace(order),
    onSettled: (_data, _error, _order, release) => release?.(),
  });
  return { orders, gap, pay, error };
};

export const Orders = () => {
  const { orders, gap, pay, error } = useOrders();
  return (
    <>
      <header>
        <h1>Orders</h1>
        <Status />
      </header>
      {gap && <p className="gap">Events were missed ({gap}), so the orders were loaded anew.</p>}
      {error && <p className="error" role="alert">{error.message}</p>}
      <table>
        <tbody>
          {orders.map((order) => <Order key={order.id} order={order} onPay={() => pay.mutate(order)} />)}
        </tbody>
      </table>
      {pay.error && <p className="error" role="alert">{pay.variables.item}: {pay.error.message}</p>}
      <NewOrder />
      <Happened />
    </>
  );
};

const Order = ({ order: { id, item, price, status }, onPay }) => (
  <tr data-order={id}>
    <td>{item}</td>
    <td>{price}</td>
    <td>{status === "paid" ? <span className="paid">paid</span> : <button type="button" onClick={onPay}>Pay</button>}</td>
  </tr>
);

const NewOrder = () => {
  const add = useMutation({ mutationFn: (order) => post("/api/orders", order) });
  const submit = (form) => add.mutate({ item: form.get("item"), price: Number(form.get("price")) });
  return (
    <form action={submit}>
      <input name="item" placeholder="Item" aria-label="Item" required />
      <input name="price" type="number" min="1" placeholder="Price" aria-label="Price" required />
      <button type="submit">Order</button>
    </form>
  );
};

const Happened = () => {
  const { events } = useTribus("order:*", { limit: 5 });
  return (
    <section>
      <h2>What happened</h2>
      <ol aria-live="polite">
        {events.toReversed().map(({ id, data: { item, status }, timestamp }) => (
          <li key={id}>{new Date(timestamp).toLocaleTimeString()} {item}: {status}</li>
        ))}
      </ol>
    </section>
  );
};

const Status = () => {
  const { state, transport, reason } = useTribusStatus();
  const why = state !== "live" && reason;
  return <span className={`status ${state}`}>{state}{transport && ` over ${transport}`}{why && `: ${why}`}</span>;
};
