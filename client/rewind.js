/** For an answer. */
const PATIENCE_MS = 10_000;

/**
 * Over a WebSocket the gateway counts the last events of a filter under the condition that all its subscribers agree on. One that wants
 * less reads its own by a request; where none passes, it takes what it gets.
 */
export const rewind = async (client, link, one) => {
  await link._read(one, AbortSignal.timeout(PATIENCE_MS)).catch(() => {});
  if (!one._ended) link._ask([one]);
};
