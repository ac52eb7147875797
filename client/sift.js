// Over SSE and long-poll all subscriptions are one request, which one that may not be refuses for all.

import { isOfSubscription } from "./error.js";
import { requestFor, startOf } from "./wire.js";

/** For each answer. */
const PATIENCE_MS = 10_000;

/** Ends those that would be refused alone; the others go on. */
export const sift = async (client, refusal, round) => {
  if (round !== client._round) return;
  const nothing = { topics: [], _options: {} };
  let hasFailed = false;
  for (const one of [nothing, ...client._subscriptions])
    try {
      const { cursor } = startOf(one);
      await client._request("poll", requestFor([one], { cursor, wait: 0, max: 1 }), AbortSignal.timeout(PATIENCE_MS));
    } catch (error) {
      if (!isOfSubscription(error.code)) break;
      if (one === nothing) return client._stop(`refused: ${error.message}`, error);
      one._end(error);
      hasFailed = true;
    }
  if (round === client._round) client._again(refusal, hasFailed ? 0 : undefined);
};
