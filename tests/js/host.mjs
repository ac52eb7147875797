// Runs JavaScript for a test, here in Node, or in a page of headless Chromium where its URL is given. Each line
// of standard input is `{ "id", "run", "args" }`, the body of an async function of `load`, `state` and `args`;
// each line of output `{ "id", "value" }` or `{ "id", "error" }`. Ends with its input, so that it never
// outlives the test.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import WebSocket from "ws";

const [url] = process.argv.slice(2);

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const inNode = async () => {
  const AsyncFunction = (async () => {}).constructor;
  const state = {};
  // Node 20 has no WebSocket of its own.
  const load = async () => ({ ...(await import("../../static/tribus.js")), WebSocket });
  return (body, args) => new AsyncFunction("load", "state", "args", body)(load, state, args);
};

/** As an expression for the debugger, which the page's policy does not concern. */
const inPage = async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
  const page = await browser.newPage();
  await page.goto(url);
  return (body, args) => page.evaluate(`(async (load, state, args) => { ${body} })(
    async () => ({ ...(await import("/tribus.js")), WebSocket }), globalThis.testState ??= {}, ${JSON.stringify(args)})`);
};

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const begun = url ? inPage() : inNode();

const run = async ({ id, run: body, args }) => {
  try {
    const evaluate = await begun;
    say({ id, value: (await evaluate(body, args)) ?? null });
  } catch (error) {
    say({ id, error: error?.stack ?? String(error) });
  }
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => run(JSON.parse(line)));
lines.on("close", () => process.exit());
