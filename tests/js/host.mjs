// Runs JavaScript for a test, here in Node, or in headless Chromium where a URL is given. Each line of standard
// input is one of
//   { "id", "run", "args", "page" }    the body of an async function of `load`, `state` and `args`, in Node or in that
//                                      page, which is opened at the URL when it is first named
//   { "id", "drive", "args", "page" }  the body of an async function of playwright's `page`, `context`, `cdp` and `args`, here
// and each line of output `{ "id", "value" }` or `{ "id", "error" }`. Ends with its input, so that it never
// outlives the test.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import WebSocket from "ws";

const [url] = process.argv.slice(2);

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--js-flags=--expose-gc"];

const AsyncFunction = (async () => {}).constructor;

const inNode = async () => {
  const state = {};
  // Node 20 has no WebSocket of its own.
  const load = async () => ({ ...(await import("../../static/tribus.js")), WebSocket });
  return ({ run, args }) => new AsyncFunction("load", "state", "args", run)(load, state, args);
};

const inChromium = async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
  const context = await browser.newContext();
  const pages = new Map();
  const open = async () => {
    const page = await context.newPage();
    await page.goto(url);
    return { page, cdp: await context.newCDPSession(page) };
  };
  return async ({ run, drive, args, page: number = 0 }) => {
    if (!pages.has(number)) pages.set(number, open());
    const { page, cdp } = await pages.get(number);
    if (drive) return new AsyncFunction("page", "context", "cdp", "args", drive)(page, context, cdp, args);
    // As an expression for the debugger, which the page's policy does not concern.
    return page.evaluate(`(async (load, state, args) => { ${run} })(
      async () => ({ ...(await import("/tribus.js")), WebSocket }), globalThis.testState ??= {}, ${JSON.stringify(args)})`);
  };
};

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const begun = url ? inChromium() : inNode();

const answer = async ({ id, ...what }) => {
  try {
    const evaluate = await begun;
    say({ id, value: (await evaluate(what)) ?? null });
  } catch (error) {
    say({ id, error: error?.stack ?? String(error) });
  }
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => answer(JSON.parse(line)));
lines.on("close", () => process.exit());
