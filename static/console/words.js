// How the page says things: names, times, sentences.

export const NAMES = { ws: "WebSocket", sse: "SSE", poll: "Long-poll" };
export const TRANSPORTS = Object.keys(NAMES);

export function sentence(text) {
  const stopped = /[.!?]$/.test(text) ? text : `${text}.`;
  return stopped[0].toUpperCase() + stopped.slice(1);
}

/** `0.4 ms`, `12 ms`, `3.2 s`, `4 min 5 s`. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The same, for clocks that are looked at each second. */
export const seconds = (ms) => (ms < 1000 ? "0 s" : duration(Math.floor(ms / 1000) * 1000).replace(".0", ""));

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const clocks = [0, 3].map((digits) => new Intl.DateTimeFormat(undefined, digits ? { ...CLOCK, fractionalSecondDigits: digits } : CLOCK));

/** In the reader's own zone, as all times of the page. */
export const clock = (at) => clocks[0].format(at);

/** Of a timestamp; as it is where it is none of this platform's. */
export const preciseClock = (timestamp) => {
  const at = Date.parse(timestamp);
  return Number.isNaN(at) ? timestamp : clocks[1].format(at);
};

export const shortDate = (at) =>
  new Date(at).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;

export const listed = (names) => new Intl.ListFormat("en").format(names);
