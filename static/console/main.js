// The page: who is signed in, the main client, and the cards that show what it does.

import { Tribus } from "../tribus.js";
import { Banner, closedMessage, downMessage, resetMessage, topicsMessage } from "./banner.js";
import { Charts } from "./charts.js";
import { Comparison } from "./comparison.js";
import { ConnectionView } from "./connection.js";
import { byId, say } from "./dom.js";
import { FaultControls } from "./faults.js";
import { Gateway } from "./gateway.js";
import { Network } from "./network.js";
import { ProofView } from "./proof.js";
import { PublishForm } from "./publish.js";
import { SignIn } from "./signin.js";
import { Tail } from "./tail.js";
import * as token from "./token.js";
import { Wire } from "./wire.js";

const BASE = new URL("./", document.baseURI);
const LOOK_MS = 100;
/** A gateway that has answered nothing for so long is worth a message. */
const DOWN_MS = 4000;

const network = new Network();
const banner = new Banner();
const connection = new ConnectionView({ announce });
const tail = new Tail({ onFollow: follow });
const comparison = new Comparison({ network });
const charts = new Charts();
const proof = new ProofView({ network, hint: () => `${grantsHint("publish")} ${grantsHint("subscribe")}` });
const publishing = new PublishForm({ hint: () => grantsHint("publish") });
new FaultControls({ network, onSet: () => proof.calm() });

/** Who is signed in, and what is connected for them: `{ token, client, wire, gateway, subscription }`. */
let session = null;

const signing = new SignIn({ onToken: signIn, onForget: signOut });
signing.start();

function signIn(given) {
  signOut();
  const wire = new Wire();
  const client = new Tribus(BASE, { getToken: () => given, ...network.platformFor(wire) });
  session = { token: given, client, wire, gateway: new Gateway(BASE, given), subscription: null };
  const topics = token.grantsOf(token.claimsOf(given), "subscribe");
  if (topics.length > 0) tail.topics = topics;
  document.body.dataset.signedIn = "true";
  watch(session);
  connection.follow(client, wire);
  proof.follow(session);
  publishing.follow(session);
  charts.follow(session);
  follow(tail.wanted);
}

function signOut() {
  document.body.dataset.signedIn = "false";
  banner.show(null);
  network.mend();
  connection.leave();
  comparison.leave();
  charts.stop();
  proof.follow(null);
  publishing.follow(null);
  tail.clear();
  session?.client.close();
  session = null;
}

/** The client is closed for good, so the token is good for nothing. */
function expel(error) {
  signing.forget();
  banner.show(closedMessage(error));
}

/** Other topics, or another start, over the connection that is there. */
function follow({ topics, cursor }) {
  if (!session) return;
  const { client, wire, token } = session;
  session.subscription?.close();
  banner.show(null);
  const subscription = client.subscribe(topics, {
    cursor,
    onEvent: (frame) => tail.add(frame, { replayed: wire.isReplay(frame.id), transport: client.status.transport }),
    onReset: (reason) => {
      tail.addReset(reason, subscription.cursor);
      banner.show(resetMessage(reason, subscription.cursor));
    },
    onError: (error) => {
      if (client.status.state === "closed") return expel(error);
      comparison.stop();
      banner.show(topicsMessage(error, grantsHint("subscribe")));
    },
  });
  session.subscription = subscription;
  say(byId("snippet"), snippetFor(topics));
  comparison.follow({ base: BASE, token, topics, begin: () => positionOf(subscription) });
}

/** What this page does, for another one. */
function snippetFor(topics) {
  return `import { Tribus } from
  "${new URL("tribus.js", BASE)}";

const client = new Tribus(
  "${BASE}", { getToken });
const events = client.subscribe(
  ${JSON.stringify(topics)});
for await (const { topic, data } of events) {
  show(topic, data);
}`;
}

/** Where a subscription stands, as soon as it stands anywhere; null where it ends before. */
async function positionOf(subscription) {
  while (session?.subscription === subscription) {
    if (subscription.cursor) return subscription.cursor;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return null;
}

/** Says when the gateway is gone, and shows out whose client has ended; a network that was broken on purpose needs no message. */
function watch({ client }) {
  let timer;
  let isShown = false;
  client.addEventListener("status", ({ detail: { state, reason } }) => {
    clearTimeout(timer);
    if (client !== session?.client) return;
    if (state === "live" || state === "degraded") {
      if (isShown) banner.show(null);
      isShown = false;
    } else if (state === "closed") {
      // A subscription knows more of it, but there need be none.
      queueMicrotask(() => client === session?.client && expel({ code: "closed", message: reason ?? "closed" }));
    } else if (state === "connecting") {
      timer = setTimeout(() => {
        if (network.isBroken || client !== session?.client) return;
        isShown = true;
        banner.show(downMessage(reason ?? "No answer"));
      }, DOWN_MS);
    }
  });
}

function grantsHint(name) {
  const grants = session ? token.grantsOf(token.claimsOf(session.token), name) : [];
  return grants.length > 0 ? `The token's ${name} grants: ${grants.join(", ")}.` : `The token names no ${name} grants.`;
}

function announce(text) {
  say(byId("announcer"), text);
}
