//! Tests through the real gateway on a real socket, with clients that were not written here:
//! tokio-tungstenite for WebSocket, reqwest with an SSE parser for streams, reqwest for polls.


mod smoke;
mod support;
