/** For the first message. */
const PATIENCE_MS = 5000;

/** What kept dying proves nothing by opening once more: it has to live for a while. */
export const survives = (client, transport, hold) =>
  new Promise((resolve) => {
    const judge = (link) => {
      if (!link._ended) client._holds[transport] = 0;
      resolve(!link._ended);
      link._end();
    };
    client._try(transport, PATIENCE_MS, true, (link) => setTimeout(judge, hold, link), () => resolve());
  });
