/** Types of Tribus for React, `react.js`: hooks for React 18 and later, around a client that is handed in. */

import type { ReactElement, ReactNode } from "react";
import type { ResetReason, Status, Tribus, TribusError, TribusEvent } from "./tribus.js";

type NotYet = null | undefined | false | "";

/**
 * Topic filters, as an inline array too: what is named is compared, not the array. What is not known yet is left out; nothing, or
 * an empty array: none yet.
 */
export type Topics = string | readonly (string | NotYet)[] | NotYet;

/**
 * The client for all hooks below. Make it outside of components, since it connects at once and `close()` is for good.
 * Null while there is none, as where a server renders: the hooks then give what they give before anything has come.
 */
export function TribusProvider(props: { client: Tribus | null; children?: ReactNode }): ReactElement;

/** The provider's client. Throws where there is no provider, as all hooks do that are given no `client`. */
export function useTribusClient(client?: Tribus | null): Tribus | null;

/** `client.status`, rendered anew when it changes. On a server: `connecting`. */
export function useTribusStatus(client?: Tribus | null): Status;

interface Following {
  /** Default: the provider's. */
  client?: Tribus | null;
  /** Only events of these names. */
  events?: readonly string[];
  /** Only events that have all of these tags. */
  tags?: Readonly<Record<string, string>>;
  /** Events were missed, and this is the place where: load your state anew. */
  onReset?: (reason: ResetReason) => void;
  /** The gateway refused the subscription, or the client is closed. Where it comes back, so does the subscription, from where it stood. */
  onError?: (error: TribusError) => void;
}

interface Beginning {
  /** Begin after this position; `earliest`: with all that is retained. Another cursor is another subscription. Default: what is published from now on. */
  cursor?: string;
  /** Begin with the last so many retained events of each topic, at most 100. */
  rewind?: number;
  /** Milliseconds: of each topic at most one event in such a time, the newest; the last always comes. */
  throttle?: number;
}

export interface UseTribusOptions extends Following, Beginning {
  /** How many events are kept, the newest: from 1 to 10,000. Default: 100. */
  limit?: number;
  /** Keep of each topic only the newest event. Default: false. */
  latest?: boolean;
}

export interface TribusState<Data = any> {
  /**
   * What came since the subscription began or was last reset, oldest first, without a hole: at most `limit`, the newest.
   * With `latest` one of each topic, in the order in which they came.
   */
  readonly events: readonly TribusEvent<Data>[];
  /** The newest of `events`. */
  readonly last: TribusEvent<Data> | undefined;
  /** How the client is connected. */
  readonly status: Status;
  /** The last gap: another object for each, so that an effect may depend on it. `count`: how many there were. */
  readonly reset: { readonly reason: ResetReason; readonly count: number } | undefined;
  /** Why nothing comes any more. */
  readonly error: TribusError | undefined;
}

/**
 * What comes of these topics, as state. Components that want the same share one subscription and what it has kept; it
 * ends a second after the last of them has gone. A component that is hidden for longer (`<Activity>`) and shown again has
 * what came meanwhile. Renders at most once a frame, however busy the topics are.
 */
export function useTribus<Data = any>(topics: Topics, options?: UseTribusOptions): TribusState<Data>;

export interface UseTribusEventOptions extends Following, Beginning {}

/**
 * Calls back with each event, in order, once, and renders nothing. The newest `onEvent` is called, inline or not. A
 * component that is hidden (`<Activity>`) and shown again gets what came meanwhile.
 */
export function useTribusEvent<Data = any>(topics: Topics, onEvent: (event: TribusEvent<Data>) => void, options?: UseTribusEventOptions): void;

export interface InvalidationOptions<Key = any, Data = any> extends Omit<Following, "client"> {
  /** What these topics can change, all of it, at least one: invalidated by each event, when the subscription has begun, and by a reset. */
  keys: readonly Key[];
  /** What this event changes, where that is less than `keys`; nothing: `keys`, as where it throws. */
  keysOf?: (event: TribusEvent<Data>) => readonly Key[] | undefined;
  /**
   * Makes what has this key be loaded anew, by a request that begins after this call. `tanstackQuery` and `swr` give one; each
   * gathers for all who use it. Where it returns a promise, the same key waits for it, at most ten seconds.
   */
  invalidate: (key: Key) => unknown;
  /** Milliseconds: each key at most once in such a time, the first time at once. Default: 500. */
  throttle?: number;
  /**
   * A position of the gateway that the backend took before it read what was loaded. The subscription begins there, and the refetch
   * at its beginning is spared. Later changes of it have no effect.
   */
  cursor?: string;
}

export interface Invalidation {
  /**
   * Leaves the cache as it is, for an optimistic update: call it in `onMutate`, and what it returns in `onSettled`, which loads `keys`
   * anew. Lets go by itself after ten seconds. Where `invalidate` gathers, all who use it are held.
   */
  hold(): () => void;
}

/** Invalidates keys of a cache when something happens on these topics. Best called once, near the root: it refetches `keys` each time it begins. */
export function useTribusInvalidation<Key = any, Data = any>(
  topics: Topics,
  options: InvalidationOptions<Key, Data> & { client?: Tribus | null },
): Invalidation;

/** The same without React, until it is closed. */
export function invalidateOn<Key = any, Data = any>(
  client: Tribus,
  topics: string | readonly string[],
  options: InvalidationOptions<Key, Data>,
): Invalidation & { close(): void };

/** What is used of TanStack Query's QueryClient, of version 5. */
export interface TanStackQueryClient {
  getQueryCache(): { findAll(filters: any): any[] };
  invalidateQueries(filters: any): Promise<void>;
}

/** Invalidates by query keys, which cover all longer ones that begin alike. */
export function tanstackQuery(queryClient: TanStackQueryClient): (queryKey: readonly unknown[]) => Promise<void>;

/** Revalidates by SWR's keys. `mutate`: SWR's own, or that of `useSWRConfig()`. */
export function swr(mutate: (key: any) => Promise<any>): (key: unknown) => Promise<void>;
