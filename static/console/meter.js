// What the gateway's numbers say: rates and quantiles out of sums that only grow.

/** So much of the past is looked at where one second tells too little: latencies of few events, and polls, which do not count as
 * connections while they are answered. */
const SPAN_MS = 5000;

/** Takes answers of `/stats`, one after the other. */
export class Meter {
  /** The newest answers, oldest first. */
  #answers = [];

  /**
   * What is to be drawn: `at`, `connections` by transport, and, once there are two answers of one run of the gateway, `published`
   * and `delivered` a second; `p50` and `p99` in milliseconds where something was delivered live. What is not known is null.
   */
  take(answer) {
    const { startedAt, connections } = answer;
    const at = Date.parse(answer.timestamp);
    if (this.#answers.at(-1)?.startedAt !== startedAt) this.#answers = [];
    const before = this.#answers.at(-1);
    this.#answers.push({ at, startedAt, answer });
    const oldest = this.#answers.findLastIndex((one) => at - one.at >= SPAN_MS);
    this.#answers.splice(0, Math.max(0, oldest));
    const poll = Math.max(...this.#answers.map((one) => one.answer.connections.poll));
    return { at, connections: { ...connections, poll }, ...this.#rates(answer, before, at), ...this.#latency(answer) };
  }

  #rates(answer, before, at) {
    if (!before || at <= before.at) return { published: null, delivered: null };
    const lasted = (at - before.at) / 1000;
    return {
      published: (answer.published - before.answer.published) / lasted,
      delivered: (sum(answer.delivered) - sum(before.answer.delivered)) / lasted,
    };
  }

  #latency({ latency: { bounds, counts } }) {
    const { counts: before } = this.#answers[0].answer.latency;
    const grown = [...bounds, Infinity].map((_, bucket) =>
      Object.keys(counts).reduce((all, transport) => all + counts[transport][bucket] - before[transport][bucket], 0));
    return { p50: quantile(0.5, bounds, grown), p99: quantile(0.99, bounds, grown) };
  }
}

const sum = (byTransport) => Object.values(byTransport).reduce((all, count) => all + count, 0);

/** In milliseconds, by interpolation inside the bucket; in the last one its lower bound, for it has no upper. */
export function quantile(share, bounds, counts) {
  const total = counts.reduce((all, count) => all + count, 0);
  if (!total) return null;
  let rest = share * total;
  for (const [bucket, count] of counts.entries()) {
    if (rest <= count && count > 0) {
      const lower = bounds[bucket - 1] ?? 0;
      const upper = bounds[bucket] ?? lower;
      return 1000 * (lower + (upper - lower) * (rest / count));
    }
    rest -= count;
  }
  return 1000 * bounds.at(-1);
}
