// Runs JavaScript for a test: each line of standard input is `{ "id", "run", "args" }`, the body of an async
// function of `load`, `state` and `args`; each line of output `{ "id", "value" }` or `{ "id", "error" }`.
// Ends with its input, so that it never outlives the test.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const AsyncFunction = (async () => {}).constructor;
const state = {};
// Node 20 has no WebSocket of its own.
const load = async () => ({ ...(await import("../../static/tribus.js")), WebSocket });

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const run = async ({ id, run: body, args }) => {
  try {
    const value = await new AsyncFunction("load", "state", "args", body)(load, state, args);
    say({ id, value: value ?? null });
  } catch (error) {
    say({ id, error: error?.stack ?? String(error) });
  }
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => run(JSON.parse(line)));
lines.on("close", () => process.exit());
