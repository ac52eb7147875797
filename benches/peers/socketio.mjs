// A Socket.IO server with a room for each topic, for `tribus bench --peer socketio --url http://127.0.0.1:18380`:
//
//   npm install socket.io && node benches/peers/socketio.mjs
//
// Its connection state recovery is left off, as by default: who is away misses what is sent.

import { createServer } from "node:http";
import { Server } from "socket.io";

const port = Number(process.env.PORT ?? 18380);

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  if (request.method !== "POST" || pathname !== "/publish") {
    if (!pathname.startsWith("/socket.io/")) {
      response.writeHead(404).end();
    }
    return;
  }
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    io.to(searchParams.get("topic")).emit("event", Buffer.concat(parts).toString());
    response.writeHead(200, { "Content-Length": 0 }).end();
  });
});

const io = new Server(server, { transports: ["websocket"], perMessageDeflate: false });
io.on("connection", (socket) => socket.join(socket.handshake.query.topic));

server.listen(port, "127.0.0.1", 4096, () => console.log(`listening on http://127.0.0.1:${port}`));
