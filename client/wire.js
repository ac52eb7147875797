// What a client's subscriptions are on the wire.

import { earlier, sameLog } from "./cursor.js";

/** Above this a query goes as a body: proxies and gateways bound the length of a URL. */
const LONGEST_QUERY = 4000;

const conditionOf = ({ events, tags }) => JSON.stringify({ events, tags });

/**
 * A `subscribe` for these subscriptions. A filter has one condition on a connection: where subscribers of
 * one filter want different things it goes without, and each picks its own.
 */
export const subscribeFrame = (group, all) => ({
  type: "subscribe",
  subscriptions: group.map(({ topics, _options: { events, tags } }) => topics).flat()
    .filter((topic, index, topics) => topics.indexOf(topic) === index)
    .map((topic) => {
      const wanted = all.filter(({ topics }) => topics.includes(topic)).map(({ _options }) => conditionOf(_options));
      return { topics: [topic], ...(wanted.every((one) => one === wanted[0]) && JSON.parse(wanted[0])) };
    }),
  ...startOf(group[0]),
});

/** Where a subscription begins, or goes on. */
export const startOf = ({ _at, _options: { cursor, rewind } }) =>
  _at ? { cursor: _at } : { cursor, rewind };

/**
 * The cursor from which all these go on. Of two logs either will do: whoever was in the other one notices.
 */
export const resumeOf = (subscriptions) =>
  subscriptions.map(({ _at }) => _at).filter(Boolean)
    .reduce((one, other) => (one && sameLog(one, other) ? earlier(one, other) : other), undefined);

/**
 * One request for all these subscriptions: a GET, which passes where bodies do not. A query has one
 * condition for all of its topics, so it has what they agree on.
 */
export const requestFor = (subscriptions, extra) => {
  const query = new URLSearchParams();
  const set = (name, value) => value !== undefined && query.append(name, value);
  const topics = [...new Set(subscriptions.flatMap(({ topics }) => topics))];
  const options = subscriptions.map(({ _options }) => _options);
  if (topics[0]) set("topics", topics.join());
  if (options[0] && options.every(({ events }) => events))
    new Set(options.flatMap(({ events }) => events)).forEach((name) => set("event", name));
  const tags = JSON.stringify(options[0]?.tags ?? {});
  if (options.every((one) => JSON.stringify(one.tags ?? {}) === tags))
    Object.entries(JSON.parse(tags)).forEach(([name, value]) => set("tag", `${name}:${value}`));
  Object.entries(extra).forEach(([name, value]) => set(name, value));
  if (`${query}`.length < LONGEST_QUERY) return { query };
  return { query: "", method: "POST", body: JSON.stringify({ topics, ...extra }) };
};
