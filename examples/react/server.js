// The backend: the page, and what it asks for.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { Orders } from "./orders.js";

const stop = (problem) => {
  console.error(problem);
  process.exit(1);
};

const { build } = await import("esbuild").catch(() => stop("esbuild is not installed: run `npm ci` first"));

const { TRIBUS_URL, TRIBUS_TOKEN, PORT = "3000" } = process.env;
if (!TRIBUS_URL || !TRIBUS_TOKEN) stop("set TRIBUS_URL and TRIBUS_TOKEN: `make run` prints both lines");
const LONGEST_BODY = 4096;

const orders = new Orders({ url: TRIBUS_URL, token: TRIBUS_TOKEN });

const { outputFiles: [script] } = await build({
  entryPoints: [new URL("src/app.jsx", import.meta.url).pathname],
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  write: false,
  // tribus-client is a link to static/ of this project, and its React is to be found here.
  preserveSymlinks: true,
});
const page = await readFile(new URL("index.html", import.meta.url));

const bodyOf = async (request) => {
  let text = "";
  for await (const part of request.setEncoding("utf8"))
    if ((text += part).length > LONGEST_BODY) throw new SyntaxError("too long");
  return JSON.parse(text);
};

const add = async (request) => {
  const { item, price } = (await bodyOf(request)) ?? {};
  if (typeof item !== "string" || !item || !(price > 0)) return [400, { error: "give an item and a price" }];
  return [201, orders.add(item, price)];
};

const pay = async (_request, [, id]) => {
  const error = await orders.pay(Number(id));
  return error ? [402, { error }] : [200, {}];
};

const routes = [
  ["GET", /^\/$/, () => [200, page, "text/html; charset=utf-8"]],
  ["GET", /^\/app\.js$/, () => [200, script.contents, "text/javascript; charset=utf-8"]],
  ["GET", /^\/api\/session$/, () => [200, { url: TRIBUS_URL, token: TRIBUS_TOKEN }]],
  ["GET", /^\/api\/orders$/, () => [200, orders.list()]],
  ["POST", /^\/api\/orders$/, add],
  ["POST", /^\/api\/orders\/(\d+)\/pay$/, pay],
];

const answer = async (request) => {
  const [pathname] = request.url.split("?");
  const [, pattern, handle] = routes.find(([method, path]) => method === request.method && path.test(pathname)) ?? [];
  if (!handle) return [404, { error: "not found" }];
  try {
    return await handle(request, pattern.exec(pathname));
  } catch (error) {
    return error instanceof SyntaxError ? [400, { error: error.message }] : [500, { error: "internal error" }];
  }
};

const server = createServer(async (request, response) => {
  const [status, body, type = "application/json"] = await answer(request);
  response.writeHead(status, { "Content-Type": type, "Cache-Control": "no-store" });
  response.end(type === "application/json" ? JSON.stringify(body) : body);
});
server.on("error", ({ code, message }) =>
  stop(code === "EADDRINUSE" ? `port ${PORT} is taken: choose another, such as PORT=3001 npm start` : message));
server.listen(Number(PORT), "127.0.0.1", () => {
  const origin = `http://127.0.0.1:${server.address().port}`;
  console.log(`open ${origin}`);
  console.log(`the gateway at ${TRIBUS_URL} lets this page in if it was started with TRIBUS__AUTH__ALLOWED_ORIGINS='["${origin}"]'`);
});
