/** Types of the Tribus client, `tribus.js`. The protocol behind it: docs/protocol.md. */

/** The ways to a gateway, best first: WebSocket, Server-Sent Events, long-poll. */
export type Transport = "ws" | "sse" | "poll";

/**
 * - `connecting`: no transport has delivered anything yet, or the last one was lost; see `reason`.
 * - `live`: events flow over `transport`, the best of those allowed.
 * - `degraded`: events flow, all of them, over `transport`; `reason` says why over no better one. The client keeps trying to climb back.
 * - `offline`: the platform says that there is no network. Goes on by itself when there is.
 * - `closed`: for good: `close()` was called, the login was refused, or `maxAttempts` were used up. `reason` says which.
 */
export type State = "connecting" | "live" | "degraded" | "offline" | "closed";

export interface Status {
  readonly state: State;
  /** Over which events flow; where `state` is `live` or `degraded`. */
  readonly transport?: Transport;
  /** In plain words. */
  readonly reason?: string;
}

/** An event, as PROTOCOL section 1 has it. */
export interface TribusEvent<Data = any> {
  readonly type: "event";
  /** Its cursor: good to resume from, on any transport. */
  readonly id: string;
  readonly topic: string;
  readonly event: string;
  readonly data: Data;
  /** RFC 3339, UTC, milliseconds. */
  readonly timestamp: string;
  readonly trace_id?: string;
  readonly user_id?: string;
  readonly tags?: Readonly<Record<string, string>>;
}

/**
 * Why events were missed: no longer retained, the log is another one, or this subscriber was too slow
 * (`lagged` also where its own buffer ran over).
 */
export type ResetReason = "expired" | "unknown_log" | "lagged";

/** Called by the client for a JWT; one call at a time, but that `reconnect()` does not wait for one that is under way: its outcome is ignored. Nothing (null, undefined, "") means: logged out, which closes the client. */
export type GetToken = () => string | null | undefined | Promise<string | null | undefined>;

export interface Options {
  /**
   * Called before the first connection, before the token's `exp`, and when the gateway refuses the token. Leave it out for cookie sessions.
   * A rejection is tried again; one before `exp` interrupts nothing.
   */
  getToken?: GetToken;
  /** Which transports may be used, at least one, best first. Default: all three. */
  transports?: readonly Transport[];
  /**
   * How SSE is read: by `fetch` (default; the token stays in a header), or by the browser's EventSource with a stream ticket, unless the
   * subscriptions are more than a URL holds.
   */
  sse?: "fetch" | "native";
  /** For requests to another origin with cookies. Default: `same-origin`. */
  credentials?: RequestCredentials;
  /** Share one connection between the browser's tabs of one gateway and subject. Default: false. */
  shareTabs?: boolean;
  /**
   * Keep each subscription's position in `sessionStorage`, so that a reload misses nothing; where it says itself where it begins, it begins there.
   * A string names what is kept, where a page has several clients. Default: false.
   */
  persist?: boolean | string;
  /** Give up after so many attempts to connect in a row; those of a device without a network do not count. Default: never. */
  maxAttempts?: number;
  /** Events that wait for a subscriber that is slow, each; beyond it, the subscriber gets a reset `lagged`. Default: 1024. */
  buffer?: number;
  /** For platforms without their own. */
  WebSocket?: unknown;
  EventSource?: unknown;
  fetch?: typeof fetch;
}

export interface SubscribeOptions<Data = any> {
  /** Only events of these names, one or more. */
  events?: readonly string[];
  /** Only events that have all of these tags. */
  tags?: Readonly<Record<string, string>>;
  /** Begin after this position; `earliest`: with all that is retained. Default: what is published from now on. */
  cursor?: string;
  /** Begin with the last so many retained events of each topic, at most 100, of those that `events` and `tags` leave. */
  rewind?: number;
  /** Called once, when it has begun: `cursor` is there, and nothing after it is missed. */
  onBegin?: () => void;
  /** Called with each event, in order. Without it, iterate. */
  onEvent?: (event: TribusEvent<Data>) => void;
  /**
   * Events were missed, and this is the place where: load your state anew. Subscriptions that began, or went on, at one position are told together,
   * also where the gap was in the topics of one of them.
   */
  onReset?: (reason: ResetReason) => void;
  /** The gateway refused this subscription, or the client is closed for good. */
  onError?: (error: TribusError) => void;
  /** Ends the subscription. */
  signal?: AbortSignal;
  /** Milliseconds: of each topic at most one event in such a time, the newest; the last always comes. */
  throttle?: number;
  /** While events wait for a slow subscriber, keep only the newest of each topic. */
  latest?: boolean;
  /** Overrides the client's `buffer`. */
  buffer?: number;
}

/** Events come in arrays, each of all that came within `batch` milliseconds, or earlier where the buffer is full. */
export interface BatchOptions<Data = any> extends Omit<SubscribeOptions<Data>, "onEvent"> {
  batch: number;
  onEvent?: (events: TribusEvent<Data>[]) => void;
}

/** Iterate it, or leave it to `onEvent`. Leaving the loop, its `signal`, or `close()` ends it. */
export interface Subscription<Item = TribusEvent> extends AsyncIterableIterator<Item> {
  readonly topics: readonly string[];
  /** A position that is good to resume from: everything up to it was given to the subscriber. Undefined before it began. */
  readonly cursor: string | undefined;
  close(): void;
}

export interface PublishOptions {
  /** The event's name. Default: `message`. */
  event?: string;
  tags?: Readonly<Record<string, string>>;
  /** RFC 3339. Default: now. */
  timestamp?: string;
  trace_id?: string;
  user_id?: string;
  /** Only for who is live now: never replayed. */
  ephemeral?: boolean;
  /** The idempotency key; the client makes one up, so that its own retries count once. */
  key?: string;
}

export interface TransportReport {
  readonly transport: Transport;
  readonly works: boolean;
  /** Until the gateway's first message. */
  readonly ms?: number;
  /** In plain words. */
  readonly reason: string;
}

export interface Diagnosis {
  readonly online: boolean;
  readonly transports: readonly TransportReport[];
  /** What this network allows and why, in plain words. */
  readonly summary: string;
}

/**
 * What the gateway, or the way to it, answered instead; `code` is one of PROTOCOL section 8, `network`, or `closed`. Where the gateway ended
 * a connection, over WebSocket or SSE, it is the number of the close, as text: `4001`, `1012`.
 */
export class TribusError extends Error {
  /** `code` is `network` where none is given. */
  constructor(answer: { code?: string; message?: string; retryAfterMs?: number });
  readonly code: string;
  readonly retryAfterMs?: number;
}

export interface TribusEventMap {
  /**
   * `detail`: the event, once, whichever subscriptions get it; but again where one that is made later begins in the past, with what was there
   * before. Its `id` tells.
   */
  event: CustomEvent<TribusEvent>;
  /** `detail`: the new status. */
  status: CustomEvent<Status>;
  /** `detail`: the reason, and the topics whose subscribers missed something. */
  reset: CustomEvent<{ reason: ResetReason; topics: readonly string[] }>;
  /** `detail`: what went wrong, and what the client goes on after. */
  error: CustomEvent<TribusError>;
}

/** One connection to a gateway, over whichever transport the network lets through. Connects at once. */
export class Tribus extends EventTarget {
  /**
   * @param url of the gateway; in a page, also relative to it. Default: where the page is.
   * @throws TypeError where `transports` names none, or one that there is not.
   */
  constructor(url?: string | URL, options?: Options);

  readonly status: Status;

  /** @throws TypeError where `topics` names none, or `events` none. */
  subscribe<Data = any>(topics: string | readonly string[], options: BatchOptions<Data>): Subscription<TribusEvent<Data>[]>;
  subscribe<Data = any>(topics: string | readonly string[], options?: SubscribeOptions<Data> | ((event: TribusEvent<Data>) => void)): Subscription<TribusEvent<Data>>;

  /**
   * Tries again for about a minute, over whichever transport works; counts once. Rejects with a TribusError; its code `network` leaves
   * open whether the event was published: again with the same `key` it counts once.
   */
  publish(topic: string, data?: unknown, options?: PublishOptions): Promise<{ id: string; duplicate?: boolean }>;

  /**
   * Now, instead of waiting; also after a refused login or `maxAttempts`, not after `close()`. Where the client was `closed` its
   * subscriptions have ended: subscribe anew, with their `cursor` to miss nothing.
   */
  reconnect(): void;

  /** Tries each transport beside the running connection, for at most ten seconds. */
  diagnose(): Promise<Diagnosis>;

  /** Ends all subscriptions and the connection, for good. */
  close(): void;

  addEventListener<Type extends keyof TribusEventMap>(type: Type, listener: ((event: TribusEventMap[Type]) => void) | null, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof TribusEventMap>(type: Type, listener: ((event: TribusEventMap[Type]) => void) | null, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}

export default Tribus;
