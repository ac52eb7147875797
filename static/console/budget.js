// Which tab may have its lanes open. Over HTTP/1.1 a browser has six connections to one host, for all
// its tabs together, and lanes hold two of them: a stream and a poll. Over HTTP/2 all share one.

const LOCK = "tribus:lanes";

/** Whether connections are no matter. */
function isMultiplexed() {
  const [page] = performance.getEntriesByType("navigation");
  return /^h[23]/.test(page?.nextHopProtocol ?? "");
}

/**
 * A place for this tab's lanes, `{ release }`; null where another tab has it, or where it can not be known
 * (the browser has no locks for pages without TLS but on this machine). `force` takes it, and the tab
 * that had it is told by its `onLost`.
 */
export function claimLanes({ force, onLost }) {
  const free = { release() {} };
  if (isMultiplexed()) return Promise.resolve(free);
  if (!navigator.locks) return Promise.resolve(force ? free : null);
  return new Promise((resolve) => {
    const options = force ? { steal: true } : { ifAvailable: true };
    navigator.locks.request(LOCK, options, (lock) => {
      if (!lock) return resolve(null);
      return new Promise((release) => resolve({ release }));
    }).catch(onLost);
  });
}
