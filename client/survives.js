/** For the first message. */
const PATIENCE_MS = 5000;

/** What kept dying proves nothing by opening once more: it has to live for a while. */
export const survives = (client, transport, hold) =>
  new Promise((resolve) => {
    client._try(transport, PATIENCE_MS, true, (link) => {
      const end = (isAlive) => {
        clearTimeout(holding);
        client._life?.signal.removeEventListener("abort", giveUp);
        if (isAlive) client._holds[transport] = 0;
        resolve(isAlive);
        link._end();
      };
      const giveUp = () => end(false);
      const holding = setTimeout(() => end(!link._ended), hold);
      client._life?.signal.addEventListener("abort", giveUp);
    }, () => resolve(false));
  });
