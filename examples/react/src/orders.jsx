import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { tanstackQuery, useTribus, useTribusInvalidation, useTribusStatus } from "tribus-client/react";
import { post, request } from "./request.js";

const ORDERS = ["orders"];

/** The orders, loaded anew when one changes and when events were missed; `hold` is for optimistic updates. */
const useOrders = () => {
  const queryClient = useQueryClient();
  const [gap, setGap] = useState();
  const { data: orders = [], error } = useQuery({ queryKey: ORDERS, queryFn: () => request("/api/orders") });
  const { hold } = useTribusInvalidation("order:*", {
    keys: [ORDERS],
    invalidate: tanstackQuery(queryClient),
    onReset: setGap,
  });
  return { orders, gap, hold, error };
};

/** Paying one order. Each has its own, so that none hides what became of another. */
const usePayment = (hold) => {
  const queryClient = useQueryClient();
  const replace = (order) =>
    queryClient.setQueryData(ORDERS, (all) => all?.map((one) => (one.id === order.id ? order : one)));
  return useMutation({
    mutationFn: ({ id }) => post(`/api/orders/${id}/pay`),
    onMutate: async (order) => {
      // Until this is settled no event loads what is not paid yet.
      const release = hold();
      await queryClient.cancelQueries({ queryKey: ORDERS });
      replace({ ...order, status: "paid" });
      return release;
    },
    onError: (_error, order) => replace(order),
    onSettled: (_data, _error, _order, release) => release?.(),
  });
};

export const Orders = () => {
  const { orders, gap, hold, error } = useOrders();
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
          {orders.map((order) => <Order key={order.id} order={order} hold={hold} />)}
        </tbody>
      </table>
      <NewOrder />
      <Happened />
    </>
  );
};

const Order = ({ order, hold }) => {
  const { id, item, price, status } = order;
  const { mutate: pay, isPending, error } = usePayment(hold);
  return (
    <tr data-order={id}>
      <td>
        {item}
        {error && <p className="error" role="alert">{error.message}</p>}
      </td>
      <td>{price}</td>
      <td>
        {status === "paid" ? <span className="paid">paid</span> : (
          <button type="button" aria-label={`Pay ${item}`} disabled={isPending} onClick={() => pay(order)}>Pay</button>
        )}
      </td>
    </tr>
  );
};

const NewOrder = () => {
  const add = useMutation({ mutationFn: (order) => post("/api/orders", order) });
  const submit = (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const { item, price } = Object.fromEntries(new FormData(form));
    // What was refused stays, to be mended.
    add.mutate({ item, price: Number(price) }, { onSuccess: () => form.reset() });
  };
  return (
    <>
      <form onSubmit={submit}>
        <input name="item" placeholder="Item" aria-label="Item" required />
        <input name="price" type="number" min="1" placeholder="Price" aria-label="Price" required />
        <button type="submit" disabled={add.isPending}>Order</button>
      </form>
      {add.error && <p className="error" role="alert">{add.error.message}</p>}
    </>
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
