// What few pages need, or what can wait: loaded by the client once it has a connection, or when it is asked for.

import { diagnose } from "./diagnose.js";
import { native } from "./native.js";
import { Persist } from "./persist.js";
import { publish } from "./publish.js";
import { refresh } from "./refresh.js";
import { rewind } from "./rewind.js";
import { sift } from "./sift.js";
import { survives } from "./survives.js";
import { Tabs } from "./tabs.js";

/* global BUILD -- of this source, put in by scripts/client.sh. */

/** Adds what the client's options ask for, and begins. */
const extend = (client) => {
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

const extras = { diagnose, extend, native, publish, refresh, rewind, sift, survives };

/** Throws where the client is of another build, whose private names are others. */
export const use = (build, name, client, ...rest) => {
  if (build !== BUILD) throw Error("tribus.js and tribus-extras.js are of two versions: load the page anew");
  return extras[name](client, ...rest);
};
