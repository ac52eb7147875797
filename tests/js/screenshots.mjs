// Takes the README's pictures of the page at `/`, as it runs: a gateway in development mode, orders that come
// and go, and a storm. `node screenshots.mjs GATEWAY FOLDER`; takes two and a half minutes.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [program, folder] = process.argv.slice(2);
/** Until the charts are full. */
const TRAFFIC_MS = 85_000;
const PHONE_MS = 20_000;
const STORM_MS = 90_000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The gateway, and the link that it prints. */
async function start() {
  const gateway = spawn(program, ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  process.on("exit", () => gateway.kill());
  for await (const line of createInterface({ input: gateway.stderr })) {
    const link = /http:\S+#token=\S+/.exec(line);
    if (link) return { gateway, link: new URL(link[0]) };
  }
  throw new Error("the gateway printed no link");
}

const STATUSES = ["created", "paid", "packed", "shipped"];
const ITEMS = ["tea", "coffee", "maté", "cocoa"];

/** Orders, now more, now fewer, until `signal` ends them. */
async function trade(link, signal) {
  const headers = { Authorization: `Bearer ${link.hash.slice("#token=".length)}` };
  for (let number = 1; !signal.aborted; number += 1) {
    const status = STATUSES[number % STATUSES.length];
    const id = 100 + (number % 37);
    const data = { id, status, item: ITEMS[number % ITEMS.length], price: (id % 9) + 0.5 };
    const body = JSON.stringify({ topic: `order:${id}`, event: `order:${status}`, data });
    await fetch(new URL("publish", link), { method: "POST", headers, body });
    await sleep(60 + 50 * Math.sin(Date.now() / 6000) + 60 * Math.random());
  }
}

async function open(browser, link, options) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  await page.goto(link.href);
  await page.fill("#topics", "order:*");
  await page.click("#follow button");
  return page;
}

async function shoot(page, name, options) {
  await page.evaluate("scrollTo(0, 0)");
  await page.mouse.move(0, 0);
  await page.screenshot({ path: `${folder}/console-${name}.png`, ...options });
}

const reads = (page, id, text) =>
  page.waitForFunction(([id, text]) => document.querySelector(id).textContent.includes(text), [id, text], { timeout: STORM_MS });

/** In the dark while the storm is at its worst, in the light when it is over. */
async function storm(browser, link) {
  const page = await open(browser, link, { viewport: { width: 1280, height: 1080 } });
  await sleep(TRAFFIC_MS);
  await page.click("#storm");
  await reads(page, "#connection .state", "Long-poll");
  await page.emulateMedia({ colorScheme: "dark" });
  await sleep(2500);
  await shoot(page, "dark");
  await page.emulateMedia({ colorScheme: "light" });
  await reads(page, "#verdict", "received, lost 0");
  await sleep(1500);
  await shoot(page, "light", { fullPage: true });
  await page.context().close();
}

async function onPhone(browser, link) {
  const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 1.5, isMobile: true, hasTouch: true };
  const page = await open(browser, link, { ...phone, colorScheme: "dark" });
  await sleep(PHONE_MS);
  await page.click("#storm");
  await reads(page, "#connection .state", "SSE");
  await sleep(3000);
  await shoot(page, "phone");
}

const { gateway, link } = await start();
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
const over = new AbortController();
const trading = trade(link, over.signal);
await storm(browser, link);
await onPhone(browser, link);
over.abort();
await trading;
await browser.close();
gateway.kill();
