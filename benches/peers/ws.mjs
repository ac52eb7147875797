// A broadcast server on the Node package `ws`, for `tribus bench --peer ws --url http://127.0.0.1:18280`:
//
//   npm install ws && node benches/peers/ws.mjs
//
// What such servers are made of: a set of sockets for each topic, and a loop over it. Who is away misses what is sent.

import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const port = Number(process.env.PORT ?? 18280);
const topics = new Map();

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  if (request.method !== "POST" || pathname !== "/publish") {
    response.writeHead(404).end();
    return;
  }
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const message = Buffer.concat(parts);
    for (const socket of topics.get(searchParams.get("topic")) ?? []) {
      socket.send(message, { binary: false });
    }
    response.writeHead(200, { "Content-Length": 0 }).end();
  });
});

const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: false });
sockets.on("connection", (socket, request) => {
  const topic = new URL(request.url, "http://localhost").searchParams.get("topic");
  if (!topics.has(topic)) {
    topics.set(topic, new Set());
  }
  const others = topics.get(topic);
  others.add(socket);
  socket.on("error", () => {});
  socket.on("close", () => {
    others.delete(socket);
    if (others.size === 0) {
      topics.delete(topic);
    }
  });
});

server.listen(port, "127.0.0.1", 4096, () => console.log(`listening on http://127.0.0.1:${port}`));
