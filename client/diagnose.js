// What this network allows, in words for whoever has to mend it.

const NAMES = { ws: "WebSocket", sse: "SSE", poll: "long-poll" };
const TRIAL_MS = 5000;

export const diagnose = async (client) => {
  const begun = Date.now();
  const tried = client._all.map((transport) => new Promise((resolve) => {
    let works;
    const attempt = () => client._try(transport, TRIAL_MS, true, (link) => {
      works = true;
      resolve({ transport, works, ms: Date.now() - begun, reason: "works" });
      link._end();
    }, (error) => {
      if (works) return;
      // The client's own connection was lost meanwhile, and all trials with it.
      if (!error && !client._isClosed) return queueMicrotask(attempt);
      error ??= { message: "the client was closed", code: "network" };
      const { message, code } = error;
      // An answer of the gateway's passed the network.
      resolve({ transport, works: false, reason: code === "network" ? message : `the gateway answered: ${message}` });
    });
    attempt();
  }));
  const transports = await Promise.all(tried);
  const online = globalThis.navigator?.onLine !== false;
  const list = transports.map(({ transport, reason }) => `${NAMES[transport]}: ${reason}`).join("; ");
  const best = transports.find(({ works }) => works);
  const verdict = best ? `Events get through over ${NAMES[best.transport]}` : online ? "Nothing gets through to the gateway" : "This device is offline";
  const origin = globalThis.location?.origin;
  // The browser hides from a page why another origin refuses it.
  const hint = !best && online && origin && origin !== client._base.origin
    ? ` If ${client._base.origin} can be reached: is ${origin} in its auth.allowed_origins?` : "";
  return { online, transports, summary: `${verdict}. ${list}.${hint}` };
};
