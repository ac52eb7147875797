//! Reading over a WebSocket.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use super::feed::{Position, Selection};
use super::item::Item;
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::{Failure, Refusal, root_cause};

/// Most messages in one batch, so that a flood is still flushed and its cursor saved.
const BATCH: usize = 256;

/// A parting Close must not hold up the end of the program.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

pub struct WsFeed {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl WsFeed {
    pub async fn open(
        endpoint: &Endpoint,
        selection: &Selection,
        position: &Position,
    ) -> Result<Self, Failure> {
        let address =
            endpoint.websocket("ws", selection.query().into_iter().chain(position.query()));
        let mut request = address
            .into_client_request()
            .map_err(|error| failure(&error))?;
        let headers = request.headers_mut();
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("tribus.json.v1"),
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("tribus/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(credential) = endpoint.credential() {
            headers.insert(AUTHORIZATION, credential.clone());
        }
        let (socket, _) = connect_async_tls_with_config(request, None, false, endpoint.connector())
            .await
            .map_err(|error| failure(&error))?;
        if endpoint.credential().is_none() {
            return Err(Failure::Refused(no_token()));
        }
        Ok(Self { socket })
    }

    pub async fn next_batch(&mut self) -> Vec<Item> {
        let mut batch = vec![item(self.socket.next().await)];
        while batch.len() < BATCH && !matches!(batch.last(), Some(Item::Ended(_))) {
            match self.socket.next().now_or_never() {
                Some(message) => batch.push(item(message)),
                None => break,
            }
        }
        batch
    }

    pub async fn close(mut self) {
        // The reader is leaving: whether the other side hears of it changes nothing here.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.socket.close(None)).await;
    }
}

fn item(message: Option<Result<Message, Error>>) -> Item {
    match message {
        Some(Ok(Message::Text(text))) => Item::decode(text.as_str().to_owned()),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Item::Alive,
        Some(Ok(Message::Binary(_))) => {
            Item::broken("a binary message came, where JSON was agreed on")
        }
        Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
            Item::refused(Refusal::of_close(code.into(), reason.as_str()))
        }
        Some(Ok(Message::Close(None))) | None => Item::broken("the connection was closed"),
        Some(Err(error)) => Item::broken(root_cause(&error)),
    }
}

/// What the gateway would say, after it had waited in vain for a first message with a token.
fn no_token() -> Refusal {
    Refusal {
        status: None,
        code: "unauthorized".to_owned(),
        message: "a WebSocket needs a token".to_owned(),
        retry_after: None,
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            Failure::Refused(Refusal::of_http(
                response.status().as_u16(),
                response.headers(),
                body,
            ))
        }
        other => Failure::of_connect(other),
    }
}
