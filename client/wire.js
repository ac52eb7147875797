// What a client's subscriptions are on the wire.

import { isAfter, sameLog } from "./cursor.js";

/** Above this a query goes as a body: proxies and gateways bound the length of a URL. */
const LONGEST_QUERY = 4000;

/**
 * The condition that all these subscribers agree on, or none: a filter has one on a connection, and a query one
 * for all of its topics. Where they differ, each subscriber picks its own from what comes.
 */
const conditionOf = (subscribers) => {
  const [first, ...others] = new Set(subscribers.map(({ _options: { events, tags } }) => JSON.stringify({ events, tags })));
  return others[0] ? {} : JSON.parse(first ?? "{}");
};

const topicsOf = (subscribers) => [...new Set(subscribers.flatMap(({ topics }) => topics))];

export const subscriptionsOf = (group, all) =>
  topicsOf(group).map((topic) => ({
    topics: [topic],
    ...conditionOf(all.filter(({ topics }) => topics.includes(topic))),
  }));

/** Where a subscription begins, or goes on. */
export const startOf = ({ _at, _options: { cursor, rewind } }) => (_at ? { cursor: _at } : { cursor: cursor ?? undefined, rewind });

/** The cursor from which all these go on. Of two logs either will do: whoever was in the other one notices. */
export const resumeOf = (subscribers) =>
  subscribers.reduce((one, { _at }) => (_at && (!one || !sameLog(one, _at) || isAfter(one, _at)) ? _at : one), undefined);

/** One request for all these: a GET, which passes where bodies do not. */
export const requestFor = (subscribers, extra) => {
  const { events = [], tags = {} } = conditionOf(subscribers);
  const query = new URLSearchParams(JSON.parse(JSON.stringify(extra)));
  const topics = topicsOf(subscribers);
  if (topics[0]) query.append("topics", topics);
  for (const name of events) query.append("event", name);
  for (const name in tags) query.append("tag", `${name}:${tags[name]}`);
  // In a query the first colon ends a tag's name.
  return `${query}`.length < LONGEST_QUERY && !/:/.test(Object.keys(tags))
    ? { query }
    : { method: "POST", body: JSON.stringify({ subscriptions: subscriptionsOf(subscribers, subscribers), ...extra }) };
};
