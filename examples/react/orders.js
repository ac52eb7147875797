// The orders, and telling the gateway what became of them.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const MOST = 50;
const RETRY_MS = 500;
const ALLOWANCE = 100;
/** As long as a bank thinks, so that one sees what the page shows meanwhile. */
const PAYMENT_MS = 600;

export class Orders {
  #orders = new Map();
  #count = 0;
  /** Those whose last change the gateway does not know yet. */
  #untold = new Set();
  #isTelling = false;
  #isGatewayAway = false;
  #gateway;

  constructor(gateway) {
    this.#gateway = gateway;
    for (const [item, price] of [["Tea", 12], ["Teapot", 48], ["Samovar", 180]]) this.add(item, price);
  }

  /** Newest first. */
  list() {
    return [...this.#orders.values()].reverse();
  }

  add(item, price) {
    const order = { id: (this.#count += 1), item, price, status: "open" };
    this.#orders.set(order.id, order);
    if (this.#orders.size > MOST) this.#orders.delete(this.#orders.keys().next().value);
    this.#tell(order.id);
    return order;
  }

  /** Resolves with an error text where the payment is declined. */
  async pay(id) {
    await sleep(PAYMENT_MS);
    const order = this.#orders.get(id);
    if (!order) return "no such order";
    if (order.price > ALLOWANCE) return `the card was declined: ${order.price} is more than ${ALLOWANCE}`;
    this.#orders.set(id, { ...order, status: "paid" });
    this.#tell(id);
    return undefined;
  }

  /** The change first, then its event: whoever loads because of the event finds the change. */
  async #tell(id) {
    this.#untold.add(id);
    if (this.#isTelling) return;
    this.#isTelling = true;
    for (const next of this.#untold) {
      this.#untold.delete(next);
      const order = this.#orders.get(next);
      if (order) await this.#publish(order);
    }
    this.#isTelling = false;
  }

  /** Until the gateway has it; the key makes it count once, however often it is sent. */
  async #publish(order) {
    const { url, token } = this.#gateway;
    const key = randomUUID();
    const event = { topic: `order:${order.id}`, event: `order:${order.status}`, data: order };
    for (;;) {
      try {
        const answer = await fetch(new URL("publish", url), {
          method: "POST",
          headers: { Authorization: `Bearer ${token}`, "Idempotency-Key": key },
          body: JSON.stringify(event),
        });
        if (answer.ok) return this.#gatewayIsBack();
        if (answer.status < 500 && answer.status !== 429) return console.error("refused:", await answer.text());
        this.#gatewayIsAway(`HTTP ${answer.status}`);
      } catch (error) {
        // Where it restarts, whoever was connected loads anew by itself.
        this.#gatewayIsAway(error.cause?.code ?? error.message);
      }
      await sleep(RETRY_MS);
    }
  }

  #gatewayIsAway(why) {
    if (!this.#isGatewayAway) console.error(`the gateway at ${this.#gateway.url} takes no events (${why}): is it running? trying on`);
    this.#isGatewayAway = true;
  }

  #gatewayIsBack() {
    if (this.#isGatewayAway) console.error("the gateway takes events again");
    this.#isGatewayAway = false;
  }
}
