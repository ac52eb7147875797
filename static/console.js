// The page: a token, three lanes, a form to publish, and what is to be said about them.

import { Lane } from "./lane.js";
import * as token from "./token.js";
import { currentCursor, longPoll, publish, serverSentEvents, webSocket } from "./transports.js";
import { BannerView, LaneView, MergedView, element, sentence } from "./view.js";

const BASE = new URL("./", document.baseURI);
const SERIES = { count: 10, everyMs: 500 };
const PUBLISH_TIMEOUT_MS = 10_000;
const START_TIMEOUT_MS = 3000;

const TRANSPORTS = [
  { key: "ws", name: "WebSocket", transport: webSocket },
  { key: "sse", name: "SSE", transport: serverSentEvents },
  { key: "poll", name: "Long-poll", transport: longPoll },
];

const BAD_TOKEN_CODES = new Set(["unauthorized", "token_expired", "revoked"]);
const BAD_TOPIC_CODES = new Set(["forbidden", "bad_topic", "bad_request"]);

const HOW_TO_GET_A_TOKEN = [
  ["In development, open the link that the gateway prints when it starts:", "tribus serve"],
  ["With its secret, make one and paste it above:",
    "tribus token --sub you --subscribe '**' --publish '**'"],
];

const page = Object.fromEntries(
  ["connect", "token-field", "token", "token-problem", "holder", "holder-name", "forget", "topics",
    "from", "go", "lanes", "banner", "publish", "topic", "event", "data", "data-problem", "published",
    "series", "merged-title", "clear", "announcer"]
    .map((id) => [id, document.getElementById(id)]),
);

const lanes = TRANSPORTS.map((transport) =>
  new Lane(transport, { state: laneChanged, frame: frameArrived }));
const laneViews = new Map(lanes.map((lane) => [lane, new LaneView(lane, { announce })]));
const merged = new MergedView(
  document.querySelector(".merged table"), document.querySelector(".merged .empty"), lanes);
const banner = new BannerView(page.banner, { onDismiss: dismissReset });

/** What the page is connected with, if it is. */
const current = { token: null, start: null, resets: new Map() };

page.lanes.append(...[...laneViews.values()].map((view) => view.root));
page.connect.addEventListener("submit", handled(connectFromForm));
page.forget.addEventListener("click", forgetToken);
page.publish.addEventListener("submit", handled(publishOne));
page.series.addEventListener("click", handled(publishSeries));
page.data.addEventListener("input", () => showDataProblem(""));
page.clear.addEventListener("click", () => merged.hide());
addEventListener("hashchange", takeToken);
addEventListener("online", () => lanes.forEach((lane) => lane.retryNow()));
setInterval(() => laneViews.forEach((view) => view.showDetail()), 500);
takeToken();

// The token

function takeToken() {
  const given = token.takeFromAddress() ?? (current.token ? null : token.recall());
  if (given === null) return showBanner();
  useToken(given);
}

function useToken(given) {
  const problem = token.problemOf(given);
  page["token-problem"].textContent = problem ?? "";
  page.token.setAttribute("aria-invalid", String(problem !== null));
  if (problem) {
    showHolder(null);
    showBanner();
    return page.token.focus();
  }
  current.token = given;
  token.remember(given);
  const claims = token.claimsOf(given);
  const topics = token.grantsOf(claims, "subscribe");
  if (topics.length > 0) page.topics.value = topics.join(", ");
  showHolder(claims);
  connect();
}

function showHolder(claims) {
  page.token.value = "";
  page["token-field"].hidden = claims !== null;
  page.go.textContent = claims === null ? "Connect" : "Reconnect";
  page.holder.hidden = claims === null;
  if (claims === null) return;
  const until = Number.isFinite(claims.exp) ? shortDate(claims.exp) : null;
  const tenant = claims.tenant ? ` of ${claims.tenant}` : "";
  page["holder-name"].replaceChildren(
    element("b", { text: `${claims.sub ?? "someone"}${tenant}` }),
    element("span", { className: "quiet", text: until ? ` until ${until}` : "" }));
}

function shortDate(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });
}

function forgetToken() {
  disconnect();
  token.forget();
  current.token = null;
  showHolder(null);
  showBanner();
  page.token.focus();
}

// The lanes

function connectFromForm() {
  const pasted = page.token.value.trim();
  if (pasted || !current.token) useToken(pasted);
  else connect();
}

async function connect() {
  disconnect();
  const start = new AbortController();
  current.start = start;
  const topics = page.topics.value.split(",").map((topic) => topic.trim()).filter(Boolean);
  const request = { base: BASE, token: current.token, topics };
  const cursor = page.from.value || await commonCursor(request, start.signal);
  // Another connect, or none, was asked for meanwhile.
  if (start.signal.aborted) return;
  lanes.forEach((lane) => lane.start({ ...request, cursor }));
}

/** Lanes that start at one position see the same events. Where there is none to be had, each of
 * them finds out why, and says so. */
async function commonCursor(request, signal) {
  try {
    const timeout = AbortSignal.timeout(START_TIMEOUT_MS);
    return await currentCursor({ ...request, signal: AbortSignal.any([signal, timeout]) });
  } catch {
    return null;
  }
}

function disconnect() {
  current.start?.abort();
  current.resets.clear();
  lanes.forEach((lane) => lane.stop());
  laneViews.forEach((view) => view.clear());
  merged.clear();
}

function laneChanged(lane) {
  // Lanes report while they are being made, too.
  laneViews.get(lane)?.showState();
  showBanner();
}

function frameArrived(lane, frame, replayed) {
  const view = laneViews.get(lane);
  if (frame.type === "event") {
    const duplicate = merged.add(lane, frame, replayed);
    view.addEvent(frame, { replayed, duplicate });
    return;
  }
  if (frame.type === "reset") {
    merged.addReset(lane, frame);
    view.addReset(frame);
    current.resets.set(lane.name, frame);
    showBanner();
  }
  view.cursorMoved();
  merged.refresh();
}

// What is to be said

function showBanner() {
  banner.show(messageOf());
}

function messageOf() {
  if (!current.token) return noTokenMessage();
  const errors = lanes.map((lane) => lane.state.error).filter(Boolean);
  const closing = errors.find((error) => error.final);
  if (closing) return closedMessage(closing);
  if (errors.length === lanes.length) return downMessage(errors[0]);
  return current.resets.size > 0 ? resetMessage(current.resets) : null;
}

function noTokenMessage() {
  return {
    tone: "plain",
    title: "A token is needed",
    text: "Every client of the gateway shows one. It stays in this tab and is sent to this gateway only.",
    commands: HOW_TO_GET_A_TOKEN,
  };
}

function closedMessage({ code, message }) {
  if (BAD_TOKEN_CODES.has(code)) {
    return {
      tone: "bad",
      title: code === "token_expired" ? "The token has expired" : "The gateway refused the token",
      text: `${code}: ${sentence(message)} ${code === "unauthorized" ? "A gateway in development mode takes only tokens of its present run. " : ""}Forget this one and get another.`,
      commands: HOW_TO_GET_A_TOKEN,
    };
  }
  if (BAD_TOPIC_CODES.has(code)) {
    return { tone: "bad", title: "The gateway refused the topics", text: `${code}: ${sentence(message)} ${grantsHint("subscribe")}` };
  }
  return { tone: "bad", title: "The gateway refused the connection", text: `${code}: ${sentence(message)}` };
}

function downMessage(error) {
  return {
    tone: "warn",
    title: "The gateway is not there",
    text: `${sentence(error.message)} Each lane tries again by itself, and resumes from its last cursor.`,
    commands: [["Is it running?", "tribus serve"]],
  };
}

function resetMessage(resets) {
  const names = new Intl.ListFormat("en").format(resets.keys());
  const { reason, cursor } = [...resets.values()].at(-1);
  const why = {
    expired: "they are no longer retained",
    unknown_log: "the gateway has another log now, as after a restart without a durable engine",
    lagged: "this client was too slow",
  }[reason] ?? reason;
  return {
    tone: "warn",
    title: "Events were missed",
    text: `${names} could not resume: ${why}. An application would fetch its state anew here. Going on from ${cursor}.`,
    dismissable: true,
  };
}

function dismissReset() {
  current.resets.clear();
  showBanner();
}

function grantsHint(name) {
  const grants = token.grantsOf(token.claimsOf(current.token), name);
  return grants.length > 0 ? `The token's ${name} grants: ${grants.join(", ")}.` : `The token names no ${name} grants.`;
}

function announce(text) {
  page.announcer.textContent = text;
}

// Publishing

async function publishOne() {
  const draft = readDraft();
  if (draft) await send(draft, (id, ms) => `Published ${id} in ${ms} ms.`);
}

async function publishSeries() {
  const draft = readDraft();
  if (!draft) return;
  page.series.disabled = true;
  try {
    for (let number = 1; number <= SERIES.count; number += 1) {
      const sent = await send(draft, (id) => `Published ${number} of ${SERIES.count}: ${id}.`);
      if (!sent) return;
      if (number < SERIES.count) await new Promise((resolve) => setTimeout(resolve, SERIES.everyMs));
    }
  } finally {
    page.series.disabled = false;
  }
}

/** The form's event, or null where it is none yet and the form says why. */
function readDraft() {
  if (!current.token) {
    showPublished("bad", "Connect with a token first.");
    return null;
  }
  if (!page.publish.reportValidity()) return null;
  const data = page.data.value.trim();
  try {
    if (data) JSON.parse(data);
  } catch (error) {
    showDataProblem(`Not JSON: ${sentence(error.message)}`);
    page.data.focus();
    return null;
  }
  showDataProblem("");
  return { topic: page.topic.value.trim(), event: page.event.value.trim(), data };
}

async function send(draft, words) {
  const started = performance.now();
  const signal = AbortSignal.timeout(PUBLISH_TIMEOUT_MS);
  try {
    const id = await publish({ ...draft, base: BASE, token: current.token, signal });
    showPublished("good", words(id, Math.round(performance.now() - started)));
    return true;
  } catch (error) {
    showPublished("bad", publishProblem(error));
    return false;
  }
}

function publishProblem({ name, code, message }) {
  if (name === "TimeoutError") {
    return "No answer within 10 s. A browser opens six HTTP/1.1 connections to one host: close other tabs of this page.";
  }
  const hint = code === "forbidden" ? ` ${grantsHint("publish")}` : "";
  return `Not published: ${code ? `${code}: ` : ""}${sentence(message)}${hint}`;
}

function showPublished(tone, text) {
  page.published.dataset.tone = tone;
  page.published.textContent = text;
}

function showDataProblem(text) {
  page["data-problem"].textContent = text;
  page.data.setAttribute("aria-invalid", String(text !== ""));
}

function handled(action) {
  return (event) => {
    event.preventDefault();
    action();
  };
}
