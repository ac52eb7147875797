use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{TestGateway, within};

/// A WebSocket client of tokio-tungstenite.
pub struct Ws {
    /// The JSON of `connected`, where the test has read it.
    pub connected: Value,
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What comes over the socket besides Ping and Pong.
#[derive(Clone, Debug)]
pub enum Received {
    /// JSON, of a text or (MessagePack) a binary message.
    Json(Value),
    /// Close with its code and reason.
    Close(u16, String),
    /// The connection is gone, with or without an error.
    End,
}

impl Ws {
    /// Connects with a token in the `Authorization` header, and a subprotocol, where given.
    pub async fn connect(
        gateway: &TestGateway,
        query: &str,
        token: Option<&str>,
        subprotocol: Option<&'static str>,
    ) -> Result<Self, Box<tungstenite::Error>> {
        let mut headers = Vec::new();
        if let Some(token) = token {
            headers.push(("Authorization", format!("Bearer {token}")));
        }
        if let Some(subprotocol) = subprotocol {
            headers.push(("Sec-WebSocket-Protocol", subprotocol.to_owned()));
        }
        Self::connect_with(gateway, query, &headers).await
    }

    pub async fn connect_with(
        gateway: &TestGateway,
        query: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Self, Box<tungstenite::Error>> {
        let url = format!("ws://{}/ws?{query}", gateway.address);
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header value");
            request.headers_mut().insert(*name, value);
        }
        let connecting = tokio_tungstenite::connect_async(request);
        let (socket, _) = within("the handshake", connecting).await?;
        Ok(Self {
            connected: Value::Null,
            socket,
        })
    }

    pub async fn send(&mut self, json: Value) {
        self.send_text(&json.to_string()).await;
    }

    /// Sends on a connection that the gateway may have ended meanwhile.
    pub async fn try_send(&mut self, json: &Value) -> Result<(), Box<tungstenite::Error>> {
        let message = Message::text(json.to_string());
        Ok(within("sending", self.socket.send(message)).await?)
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        within("sending", self.socket.send(message))
            .await
            .expect("the message is sent");
    }

    pub async fn receive(&mut self) -> Received {
        loop {
            match within("a WebSocket message", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    return Received::Json(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Ok(Message::Binary(packed))) => {
                    let value = rmpv::decode::read_value(&mut &packed[..]).expect("MessagePack");
                    return Received::Json(from_msgpack(&value));
                }
                Some(Ok(Message::Close(Some(close)))) => {
                    return Received::Close(close.code.into(), close.reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return Received::Close(1005, String::new()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(_)) | None => return Received::End,
            }
        }
    }

    /// The next message; panics where the connection ends.
    pub async fn next(&mut self) -> Value {
        match self.receive().await {
            Received::Json(json) => json,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The next text message as it came.
    pub async fn next_text(&mut self) -> String {
        loop {
            match within("a WebSocket message", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected text, got {other:?}"),
            }
        }
    }

    /// The next envelope; control frames before it are passed over.
    pub async fn event(&mut self) -> Value {
        loop {
            let json = self.next().await;
            if json["type"] == "event" {
                return json;
            }
        }
    }

    /// The next control frame of this type; panics where an event comes first.
    pub async fn frame(&mut self, name: &str) -> Value {
        loop {
            let json = self.next().await;
            if json["type"] == name {
                return json;
            }
            assert_ne!(json["type"], "event", "waiting for {name}: {json}");
        }
    }

    /// Sends a message and gives the next control frame, events before it passed over.
    pub async fn ask(&mut self, json: Value) -> Value {
        self.send(json).await;
        loop {
            let json = self.next().await;
            if json["type"] != "event" {
                return json;
            }
        }
    }

    /// Reads to the end: the code of the Close frame.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.receive().await {
                Received::Json(_) => {}
                Received::Close(code, _) => return code,
                Received::End => panic!("the connection ended without a Close frame"),
            }
        }
    }
}

fn from_msgpack(value: &rmpv::Value) -> Value {
    match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(flag) => (*flag).into(),
        rmpv::Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => Value::Null,
        },
        rmpv::Value::F32(number) => (*number).into(),
        rmpv::Value::F64(number) => (*number).into(),
        rmpv::Value::String(text) => text.as_str().expect("UTF-8").into(),
        rmpv::Value::Array(items) => items.iter().map(from_msgpack).collect(),
        rmpv::Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| {
                (
                    key.as_str().expect("a string key").to_owned(),
                    from_msgpack(value),
                )
            })
            .collect(),
        rmpv::Value::Binary(_) | rmpv::Value::Ext(..) => panic!("no JSON form: {value}"),
    }
}
