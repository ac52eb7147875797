// What the gateway's numbers say: rates and quantiles out of sums that only grow, of one node or of all that answer.

/** So much of the past is looked at where one second tells too little: latencies of few events, and polls, which do not count as
 * connections while they are answered. */
const SPAN_MS = 5000;
/** A node that has not answered for so long counts no more; behind a balancer the next answer may be another one's. */
const GONE_MS = 20_000;

/** Takes answers of `/stats`, one after the other, of one node or of several in any order. */
export class Meter {
  /** By the name of the node, `""` where it has none: its meter and what that told last. */
  #nodes = new Map();

  /**
   * What is to be drawn: `at`, `nodes` by name, `connections` by transport, and, once there are two answers of one run of a node,
   * `published` and `delivered` a second; `p50` and `p99` in milliseconds where something was delivered live. What is not known is
   * null.
   */
  take(answer) {
    const name = answer.node ?? "";
    const { meter } = this.#nodes.get(name) ?? { meter: new NodeMeter() };
    const sample = meter.take(answer);
    this.#nodes.set(name, { meter, sample });
    for (const [other, { sample: { at } }] of this.#nodes) {
      if (sample.at - at > GONE_MS) this.#nodes.delete(other);
    }
    const all = [...this.#nodes.values()].map((node) => node.sample);
    const grown = all.map((one) => one.grown).reduce(added);
    return {
      at: sample.at,
      nodes: [...this.#nodes.keys()].filter(Boolean).sort(),
      connections: all.map((one) => one.connections).reduce(addedByTransport),
      published: sumOfKnown(all.map((one) => one.published)),
      delivered: sumOfKnown(all.map((one) => one.delivered)),
      p50: quantile(0.5, sample.bounds, grown),
      p99: quantile(0.99, sample.bounds, grown),
    };
  }
}

const added = (one, other) => one.map((count, bucket) => count + (other[bucket] ?? 0));

const addedByTransport = (one, other) => Object.fromEntries(Object.keys(one).map((transport) => [transport, one[transport] + other[transport]]));

function sumOfKnown(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((all, value) => all + value, 0) : null;
}

/** Takes the answers of one node. */
class NodeMeter {
  /** The newest answers, oldest first. */
  #answers = [];

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

  /** The buckets' bounds, and by how much each has grown in the time that is looked at. */
  #latency({ latency: { bounds, counts } }) {
    const { counts: before } = this.#answers[0].answer.latency;
    const grown = [...bounds, Infinity].map((_, bucket) =>
      Object.keys(counts).reduce((all, transport) => all + counts[transport][bucket] - before[transport][bucket], 0));
    return { bounds, grown };
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
