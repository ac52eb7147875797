// A fresh token before the old one expires, in band, so that nothing is interrupted.

import { claimsOf } from "./claims.js";

/** Timers count in 32 bits. */
const LONGEST_TIMER_MS = 2e9;
/** Between attempts. */
const LEAST_MS = 1000;

/** By client: the token that will be replaced, and when. */
const armed = new WeakMap();

/** At each new connection, and where there is a token without one; what is armed for its token already stays so. */
export const refresh = async (client) => {
  const token = await client._getToken();
  const { exp, iat } = claimsOf(token);
  const left = exp * 1e3 - Date.now();
  if (armed.get(client)?.token === token) return;
  // To a clock that is ahead each fresh token is about to expire.
  const least = Math.min((exp - iat) * 50 || LEAST_MS, 60e3);
  arm(client, token, Math.max(least, left - Math.min(left / 5, 30e3)));
};

const arm = (client, token, ms) => {
  if (!armed.has(client))
    client.addEventListener("status", ({ detail }) => {
      if (detail.state === "closed") disarm(client);
    });
  disarm(client);
  // Where the clocks disagree, the gateway tells when it is over.
  if (client.status.state === "closed" || !(claimsOf(token).exp * 1e3 > Date.now())) return;
  armed.set(client, { token, timer: setTimeout(() => replace(client, token), Math.min(LONGEST_TIMER_MS, ms)) });
};

/** Stays in the map, which tells that somebody listens. */
const disarm = (client) => {
  clearTimeout(armed.get(client)?.timer);
  armed.set(client, {});
};

const replace = async (client, token) => {
  disarm(client);
  client._token = client._wasRefused = undefined;
  try {
    const fresh = await client._getToken();
    // Where it is refused, the old one runs out and the next connection tells.
    if (fresh !== token) client._main?._send({ type: "auth", token: fresh });
    await refresh(client);
  } catch (error) {
    client._dispatch("error", error);
    // It may pass while the old one is good.
    if (!armed.get(client).token) arm(client, token, Math.max(LEAST_MS, (claimsOf(token).exp * 1e3 - Date.now()) / 4));
  }
};
