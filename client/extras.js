// What few pages need, or what can wait: loaded by the client once it has a connection, or when it is asked for.

import { Persist } from "./persist.js";
import { Tabs } from "./tabs.js";

export { diagnose } from "./diagnose.js";
export { native } from "./native.js";
export { publish } from "./publish.js";
export { refresh } from "./refresh.js";
export { rewind } from "./rewind.js";
export { sift } from "./sift.js";
export { survives } from "./survives.js";

/** Adds what the client's options ask for, and begins. */
export const extend = (client) => {
  const { persist, shareTabs } = client._options;
  if (client._isClosed) return;
  if (persist) client._additions.push(new Persist(client));
  // For the subscriptions that were made meanwhile.
  client._additions.forEach((addition) => addition._update());
  // `reconnect()` did not wait for this.
  if (client._life) return;
  if (!shareTabs || !globalThis.navigator?.locks) return client._begin();
  const tabs = new Tabs(client);
  client._additions.push(tabs);
  tabs._start();
};
