// Over SSE and long-poll all subscriptions are one request, which one that may not be refuses for all.

import { isOfSubscription } from "./error.js";
import { requestFor, startOf } from "./wire.js";

/** For each answer. */
const PATIENCE_MS = 10_000;

/**
 * Ends those that would be refused alone, or else those that are too much together with the ones before them; the
 * others go on. Gives how long to wait then, or nothing where it is not known why all were refused.
 */
export const sift = async (client, round) => {
  const nothing = { topics: [], _options: {} };
  const all = [...client._subscriptions];
  let hasFailed = false;
  const end = (one, error) => {
    one._end(error);
    hasFailed = true;
  };
  try {
    const error = await refusalOf(client, round, [nothing]);
    if (error) return client._stop(`refused: ${error.message}`, error);
    for (const one of all) {
      const refusal = await refusalOf(client, round, [one], startOf(one).cursor);
      if (refusal) end(one, refusal);
    }
    if (!hasFailed) await fit(client, round, [], all, end);
  } catch {
    // What passes, or is overtaken, says nothing of the subscriptions that are left.
  }
  return hasFailed ? 0 : undefined;
};

/** Adds to `kept` those of `more` that may be beside it, the first ones first. */
const fit = async (client, round, kept, more, end) => {
  const refusal = await refusalOf(client, round, [...kept, ...more]);
  if (!refusal) return kept.push(...more);
  const half = more.length >> 1;
  if (!half) return end(more[0], refusal);
  await fit(client, round, kept, more.slice(0, half), end);
  await fit(client, round, kept, more.slice(half), end);
};

/** What the gateway has against these; whatever else fails is thrown. A limit of its rates is waited for. */
const refusalOf = async (client, round, some, cursor) => {
  for (;;) {
    if (round !== client._round) throw Error("overtaken");
    try {
      await client._request("poll", requestFor(some, { cursor, wait: 0, max: 1 }), AbortSignal.timeout(PATIENCE_MS));
      return undefined;
    } catch (error) {
      if (isOfSubscription(error.code)) return error;
      if (error.code !== "rate_limited" || !error.retryAfterMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs));
    }
  }
};
