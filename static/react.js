"use client";
// Tribus for React 18 and later: what comes, as state (`useTribus`) or by a callback (`useTribusEvent`); how the
// client is connected (`useTribusStatus`); the caches of other libraries kept fresh (`useTribusInvalidation`).
// The client is handed in. Types, and what each option means: react.d.ts.

import {
  createContext, createElement, useCallback, useContext, useEffect, useInsertionEffect, useMemo, useRef, useState,
  useSyncExternalStore,
} from "react";

const LIMIT = 100;
const HIGHEST_LIMIT = 10_000;
/** So long a feed outlives its last component: what a key or a route replaces is mounted again at once. */
const LINGER_MS = 1000;
/** Nobody sees more renders than screens show. */
const FRAME_MS = 16;
const THROTTLE_MS = 500;
/** Where more keys wait, those that cover them all are invalidated instead. */
const MOST_KEYS = 100;
/** A refetch that takes longer does not hold up the next one, nor a mutation the events of others. */
const PATIENCE_MS = 10_000;

const CONNECTING = Object.freeze({ state: "connecting" });
const IDLE = Object.freeze({ events: Object.freeze([]), last: undefined, reset: undefined, error: undefined });

// The client, and its state

const ClientContext = createContext(undefined);

export const TribusProvider = ({ client, children }) => createElement(ClientContext.Provider, { value: client }, children);

/** Null is no client yet, as where a server renders; undefined is a mistake. */
export const useTribusClient = (given) => {
  const provided = useContext(ClientContext);
  const client = given === undefined ? provided : given;
  if (client === undefined) throw new Error("tribus: no client: render inside <TribusProvider client={…}>, or pass one");
  return client;
};

export const useTribusStatus = (given) => {
  const client = useTribusClient(given);
  const listen = useCallback((onChange) => {
    client?.addEventListener("status", onChange);
    return () => client?.removeEventListener("status", onChange);
  }, [client]);
  return useSyncExternalStore(listen, () => client?.status ?? CONNECTING, () => CONNECTING);
};

// What comes, as state

export const useTribus = (topics, options = {}) => {
  const client = useTribusClient(options.client);
  const { limit = LIMIT, latest: isByTopic = false } = options;
  if (!(Number.isInteger(limit) && limit > 0 && limit <= HIGHEST_LIMIT))
    throw new RangeError(`tribus: limit is ${limit}: give a whole number from 1 to ${HIGHEST_LIMIT}`);
  const key = keyOf(topics, options, { limit, isByTopic });
  const member = useLatest(options);
  const left = useRef({});
  const join = useCallback((onChange) => {
    if (!client || !key) return () => {};
    const feed = feedOf(client, key, placeIn(left.current, client, key));
    const leave = feed.join(member, onChange);
    return () => {
      left.current = { client, key, cursor: feed.cursor };
      leave();
    };
  }, [client, key, member]);
  // A render begins nothing, for it may be thrown away: a feed begins with the first component that stays.
  const state = useSyncExternalStore(join, () => feeds.get(client)?.get(key)?.snapshot ?? IDLE, () => IDLE);
  const status = useTribusStatus(client);
  return useMemo(() => ({ ...state, status }), [state, status]);
};

/** What is the same subscription has the same key, in whichever order and objects it was named. */
const keyOf = (topics, { events, tags, cursor, rewind, throttle }, more) => {
  const wanted = [...new Set([topics].flat().filter(Boolean))].sort();
  return wanted[0] && JSON.stringify({
    topics: wanted,
    events: events && [...events].sort(),
    tags: tags && Object.fromEntries(Object.entries(tags).sort()),
    cursor, rewind, throttle, ...more,
  });
};

/** For what is called later than the render that gave it. */
const useLatest = (value) => {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
};

/** By client, then by key. */
const feeds = new WeakMap();

/** `at`: where the component had left one that is gone, if it had. */
const feedOf = (client, key, at) => {
  if (!feeds.has(client)) feeds.set(client, new Map());
  const ofClient = feeds.get(client);
  const begin = () => {
    const options = JSON.parse(key);
    return new Feed(client, { ...options, cursor: at ?? options.cursor }, () => ofClient.delete(key));
  };
  if (!ofClient.has(key)) ofClient.set(key, begin());
  return ofClient.get(key);
};

/** Where a component had come that is mounted again, as what was hidden is; undefined for what it had not followed. */
const placeIn = (left, client, key) => (left.client === client && left.key === key ? left.cursor : undefined);

/** One subscription, for all components that want the same. */
class Feed {
  snapshot = IDLE;
  /** By the newest options of each component: what to call when the snapshot has changed. */
  #members = new Map();
  /** The newest events, oldest first: by id, or by topic. */
  #kept = new Map();
  #follower;
  #spec;
  #onEnd;
  #gap;
  #isGapUntold = false;
  #error;
  #frame;
  #isStale = false;
  /** Where it stood when it was shown. */
  #shownAt;
  #lingering;

  constructor(client, { topics, limit, isByTopic, ...options }, onEnd) {
    this.#spec = { limit, isByTopic };
    this.#onEnd = onEnd;
    this.#follower = new Follower(client, topics, {
      ...options,
      onEvent: (event) => this.#keep(event),
      onReset: (reason) => this.#reset(reason),
      onError: (error) => this.#setError(error),
      onRestart: () => this.#setError(undefined),
    });
  }

  /** Good to go on from, for whoever saw the snapshot. */
  get cursor() {
    return this.#isStale ? this.#shownAt : this.#follower.cursor;
  }

  /** Returns what leaves it again; the subscription ends a while after the last has left. */
  join(member, onChange) {
    clearTimeout(this.#lingering);
    this.#members.set(member, onChange);
    if (this.#isGapUntold) this.#tellGap();
    if (this.#error) call(member.current.onError, this.#error);
    return () => {
      this.#members.delete(member);
      if (!this.#members.size) this.#lingering = setTimeout(() => this.#end(), LINGER_MS);
    };
  }

  #end() {
    clearTimeout(this.#frame);
    this.#follower.close();
    this.#onEnd();
  }

  #keep(event) {
    const key = this.#spec.isByTopic ? event.topic : event.id;
    this.#kept.delete(key);
    this.#kept.set(key, event);
    if (this.#kept.size > this.#spec.limit) this.#kept.delete(this.#kept.keys().next().value);
    this.#changed();
  }

  /** What came before a gap goes, so that `events` never has a hole in it. */
  #reset(reason) {
    this.#kept.clear();
    this.#gap = { reason, count: (this.#gap?.count ?? 0) + 1 };
    this.#tellGap();
    this.#changed();
  }

  #tellGap() {
    this.#isGapUntold = !this.#members.size;
    for (const { current } of this.#members.keys()) call(current.onReset, this.#gap.reason);
  }

  #setError(error) {
    this.#error = error;
    if (error) for (const { current } of this.#members.keys()) call(current.onError, error);
    this.#changed();
  }

  /** Shows it at once, and what follows once a frame. */
  #changed() {
    this.#isStale = true;
    if (!this.#frame) this.#show();
  }

  #show() {
    this.#isStale = false;
    this.#frame = setTimeout(() => {
      this.#frame = undefined;
      if (this.#isStale) this.#show();
    }, FRAME_MS);
    // Not there yet where the client is closed from the beginning.
    this.#shownAt = this.#follower?.cursor;
    const events = Object.freeze([...this.#kept.values()]);
    this.snapshot = Object.freeze({ events, last: events.at(-1), reset: this.#gap, error: this.#error });
    for (const onChange of this.#members.values()) onChange();
  }
}

// What comes, by a callback

export const useTribusEvent = (topics, onEvent, options = {}) => {
  const client = useTribusClient(options.client);
  const latest = useLatest({ ...options, onEvent });
  const [handlers] = useState(() => ({
    onEvent: (event) => latest.current.onEvent(event),
    onReset: (reason) => (latest.current.onReset ?? warnOfGap)(reason),
  }));
  useFollower(client, keyOf(topics, options), latest, handlers);
};

/** Follows what `key` names while it is mounted; where it is mounted again, from where it was left. */
const useFollower = (client, key, latest, handlers) => {
  const left = useRef({});
  useEffect(() => {
    if (!client || !key) return undefined;
    const { topics, ...options } = JSON.parse(key);
    const follower = new Follower(client, topics, {
      ...options,
      ...handlers,
      cursor: placeIn(left.current, client, key) ?? latest.current.cursor,
      onError: (error) => (latest.current.onError ?? complain)(error),
    });
    return () => {
      left.current = { client, key, cursor: follower.cursor };
      follower.close();
    };
  }, [client, key, latest, handlers]);
};

/** A subscription that goes on where it stood, also where its client was closed and came back. */
class Follower {
  #client;
  #topics;
  #options;
  #at;
  #subscription;
  #isClosed;

  constructor(client, topics, options) {
    this.#client = client;
    this.#topics = topics;
    this.#at = options.cursor;
    this.#options = options;
    client.addEventListener("status", this.#onStatus);
    this.#begin();
  }

  /** Good to go on from; undefined before it began. */
  get cursor() {
    return (!this.#isClosed && this.#subscription?.cursor) || this.#at;
  }

  close() {
    this.#client.removeEventListener("status", this.#onStatus);
    this.#subscription.close();
  }

  #begin() {
    this.#isClosed = this.#client.status.state === "closed";
    const { onBegin, ...options } = this.#options;
    this.#subscription = this.#client.subscribe(this.#topics, {
      ...options,
      cursor: this.#at,
      // What goes on has begun before.
      onBegin: this.#at ? undefined : onBegin,
    });
  }

  /** The client says that it is closed before it ends its subscriptions, while these still know where they stand. */
  #onStatus = ({ detail }) => {
    // Where another listener reconnects at once, the client's own status is further than this one.
    const isClosed = detail.state === "closed";
    if (isClosed) this.#at = this.cursor;
    else if (this.#isClosed) {
      this.#options.onRestart?.();
      this.#begin();
    }
    this.#isClosed = isClosed;
  };
}

// Caches of other libraries

export const useTribusInvalidation = (topics, options) => {
  checkKeys(options);
  const client = useTribusClient(options.client);
  const latest = useLatest(options);
  const [{ handlers, handle }] = useState(() => ruleOf(() => latest.current));
  const { events, tags } = options;
  useFollower(client, keyOf(topics, { events, tags }), latest, handlers);
  return handle;
};

export const invalidateOn = (client, topics, options) => {
  checkKeys(options);
  const { handlers, handle } = ruleOf(() => options);
  const { events, tags, cursor, onError = complain } = options;
  const follower = new Follower(client, topics, { events, tags, cursor, onError, ...handlers });
  return { ...handle, close: () => follower.close() };
};

/** With none, a gap would leave everything as it was. */
const checkKeys = ({ keys }) => {
  if (!keys?.length) throw new TypeError("tribus: keys is empty: give those that cover all that these topics change");
};

/**
 * Nothing falls between the first load and the subscription: what changed before the subscription began is found
 * by the refetch at its beginning, and what changes after that comes as an event. Where the position at which the
 * load began is known, the subscription begins there, and that refetch is spared.
 */
const ruleOf = (optionsOf) => {
  const own = new Invalidations((key) => optionsOf().invalidate(key));
  const gatherer = () => gatherers.get(optionsOf().invalidate) ?? own;
  const want = (keys) => gatherer().want(keys, optionsOf());
  const handlers = {
    onBegin: () => want(optionsOf().keys),
    onEvent: (event) => want(changedBy(event, optionsOf())),
    onReset: (reason) => {
      want(optionsOf().keys);
      optionsOf().onReset?.(reason);
    },
  };
  return { handlers, handle: { hold: () => gatherer().hold(optionsOf().keys) } };
};

/** All of them, where the application's function does not know this event. */
const changedBy = (event, { keysOf, keys }) => {
  try {
    return keysOf?.(event) ?? keys;
  } catch (error) {
    complain(error);
    return keys;
  }
};

/** Invalidates keys of one cache: each at most once in its throttle, and not before its last refetch is done. */
class Invalidations {
  /** By id: the key, when it is due, and the keys that cover it. */
  #pending = new Map();
  /** When each was invalidated last, the latest last. */
  #times = new Map();
  #running = new Set();
  #holds = new Set();
  #invalidate;
  #timer;
  #wakesAt;

  constructor(invalidate) {
    this.#invalidate = invalidate;
  }

  want(wanted, { keys: all, throttle = THROTTLE_MS }) {
    for (const key of wanted) {
      const id = idOf(key);
      const due = Math.max(performance.now(), (this.#times.get(id) ?? -throttle) + throttle);
      this.#pending.set(id, { key, all, due: Math.min(due, this.#pending.get(id)?.due ?? due) });
    }
    if (this.#pending.size > MOST_KEYS) this.#widen();
    this.#schedule();
  }

  /** Until it is released, the cache is left as it is; then `keys` are loaded anew, with what else came. */
  hold(keys) {
    const hold = {};
    this.#holds.add(hold);
    const release = () => {
      clearTimeout(timer);
      if (this.#holds.delete(hold)) this.want(keys, { keys, throttle: 0 });
    };
    const timer = setTimeout(release, PATIENCE_MS);
    return release;
  }

  #widen() {
    const pending = [...this.#pending.values()];
    const due = Math.min(...pending.map((one) => one.due));
    this.#pending = new Map(pending.flatMap(({ all }) => all.map((key) => [idOf(key), { key, all, due }])));
  }

  /** What waits for nothing but its time. */
  #ready() {
    return this.#holds.size ? [] : [...this.#pending].filter(([id]) => !this.#running.has(id));
  }

  #schedule() {
    const next = Math.min(...this.#ready().map(([, { due }]) => due));
    if (next === Infinity || (this.#timer && this.#wakesAt <= next)) return;
    clearTimeout(this.#timer);
    this.#wakesAt = next;
    this.#timer = setTimeout(() => this.#flush(), next - performance.now());
  }

  #flush() {
    this.#timer = undefined;
    for (const [id, { key, due }] of this.#ready()) if (due <= performance.now()) this.#run(id, key);
    this.#schedule();
  }

  async #run(id, key) {
    this.#pending.delete(id);
    this.#running.add(id);
    this.#times.delete(id);
    this.#times.set(id, performance.now());
    if (this.#times.size > MOST_KEYS) this.#times.delete(this.#times.keys().next().value);
    let timer;
    const patience = new Promise((resolve) => (timer = setTimeout(resolve, PATIENCE_MS)));
    try {
      await Promise.race([this.#invalidate(key), patience]);
    } catch (error) {
      complain(error);
    }
    clearTimeout(timer);
    this.#running.delete(id);
    this.#schedule();
  }
}

/** A function is not what its text says. */
const idOf = (key) => (typeof key === "function" ? key : JSON.stringify(key));

/** What gathers for all who invalidate by the same function. */
const gatherers = new WeakMap();
const byCache = new WeakMap();

const gathered = (cache, invalidate) => {
  if (!byCache.has(cache)) {
    byCache.set(cache, invalidate);
    gatherers.set(invalidate, new Invalidations(invalidate));
  }
  return byCache.get(cache);
};

/**
 * It joins a first load that is under way, and leaves a prefetch alone, though either may have read what was there
 * before: those are invalidated again when they are done.
 */
export const tanstackQuery = (queryClient) =>
  gathered(queryClient, async (queryKey) => {
    const early = queryClient.getQueryCache().findAll({ queryKey, fetchStatus: "fetching" })
      .filter((query) => query.state.data === undefined || !query.isActive());
    const loads = early.map(({ promise }) => promise);
    await queryClient.invalidateQueries({ queryKey });
    if (!early[0]) return;
    await Promise.allSettled(loads);
    await queryClient.invalidateQueries({ queryKey, predicate: (query) => early.includes(query) });
  });

export const swr = (mutate) => gathered(mutate, (key) => mutate(key));

// Callbacks of the application

/** An error of one listener stops neither the others nor the stream. */
const call = (listener, value) => {
  try {
    listener?.(value);
  } catch (error) {
    setTimeout(() => {
      throw error;
    });
  }
};

const complain = (error) => console.error("tribus:", error);

const warnOfGap = (reason) => console.warn(`tribus: missed events: ${reason}; set onReset`);
