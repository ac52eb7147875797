// A storm: the network breaks in several ways, one after the other, and is mended. It shows in half a
// minute what a client goes through on the way from one network to another.

/** The last one leaves the network well. */
const STEPS = [
  { text: "The network is as it is", faults: {}, ms: 2500 },
  { text: "The network is gone for 3 s", faults: { offline: true }, ms: 3000 },
  { text: "It is back, and refuses WebSockets", faults: { refuse: true }, ms: 6000 },
  { text: "Now it holds back responses, too", faults: { refuse: true, hold: true }, ms: 8000 },
  { text: "All is well again: the client climbs back by itself", faults: {}, ms: 60_000, isOver: isBest },
];
/** How long the client is watched on its best transport, before the storm is over. */
const CALM_MS = 2000;

/** Tells `tell` of each step as it begins; ends early when `signal` says so. The network is mended at once then, so that
 * whoever ended it may break it another way. */
export async function storm({ network, client, signal, tell }) {
  signal.addEventListener("abort", () => network.mend(), { once: true });
  for (const [index, { text, faults, ms, isOver }] of STEPS.entries()) {
    if (signal.aborted) return;
    tell(`${index + 1} of ${STEPS.length}: ${text}.`);
    network.become(faults);
    await step(client, { ms, isOver, signal });
  }
}

async function step(client, { ms, isOver, signal }) {
  const early = new AbortController();
  const look = () => isOver?.(client.status) && setTimeout(() => early.abort(), CALM_MS);
  client.addEventListener("status", look, { signal: AbortSignal.any([signal, early.signal]) });
  look();
  await sleep(ms, AbortSignal.any([signal, early.signal]));
  early.abort();
}

function isBest({ state }) {
  return state === "live";
}

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  const wake = () => {
    clearTimeout(timer);
    resolve();
  };
  if (signal.aborted) wake();
  signal.addEventListener("abort", wake);
});
