//! Whose wire it is: the gateway's, or that of another server that is measured beside it.

use clap::ValueEnum;

use super::plan::Transport;

/// A server that is no Tribus gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// The nginx module: WebSocket, EventSource and long-poll, with message ids to resume from
    Nchan,
    /// A server on the Node package `ws`: WebSocket, without a way to resume
    Ws,
    /// A Socket.IO server: its own frames on WebSocket, without a way to resume
    #[value(name = "socketio")]
    SocketIo,
}

/// Where events are published and topics subscribed. In the paths of a peer `{topic}` stands for the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Tribus,
    Of {
        peer: Peer,
        publish: String,
        subscribe: String,
    },
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nchan => "Nchan",
            Self::Ws => "ws",
            Self::SocketIo => "Socket.IO",
        }
    }

    /// The paths where it is set up as this project's documentation does.
    pub fn paths(self) -> (&'static str, &'static str) {
        match self {
            Self::Nchan => ("/pub?id={topic}", "/sub?id={topic}"),
            Self::Ws => ("/publish?topic={topic}", "/ws?topic={topic}"),
            Self::SocketIo => (
                "/publish?topic={topic}",
                "/socket.io/?EIO=4&transport=websocket&topic={topic}",
            ),
        }
    }

    pub fn has(self, transport: Transport) -> bool {
        self == Self::Nchan || transport == Transport::Ws
    }
}

impl Dialect {
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tribus => None,
            Self::Of { peer, .. } => Some(*peer),
        }
    }

    /// Path and query that subscribe `topic`, from now on or after `cursor`.
    pub fn subscribe_path(
        &self,
        transport: Transport,
        topic: &str,
        cursor: Option<&str>,
    ) -> String {
        match (self, transport) {
            (Self::Tribus, Transport::Ws) => tribus_path("/ws", topic, cursor),
            (Self::Tribus, Transport::Sse) => tribus_path("/events", topic, cursor),
            (Self::Tribus, Transport::Poll) => {
                tribus_path("/poll", topic, cursor) + "&wait=25&max=1000"
            }
            (
                Self::Of {
                    peer, subscribe, ..
                },
                _,
            ) => {
                let path = subscribe.replace("{topic}", topic);
                match cursor {
                    Some(cursor) if *peer == Peer::Nchan => {
                        let joint = if path.contains('?') { '&' } else { '?' };
                        format!("{path}{joint}last_event_id={cursor}")
                    }
                    _ => path,
                }
            }
        }
    }

    /// Where `topic` is published, one event a request; `None` where a batch of all topics goes to one place.
    pub fn publish_path(&self, topic: &str) -> Option<String> {
        match self {
            Self::Tribus => None,
            Self::Of { publish, .. } => Some(publish.replace("{topic}", topic)),
        }
    }
}

fn tribus_path(endpoint: &str, topic: &str, cursor: Option<&str>) -> String {
    match cursor {
        Some(cursor) => format!("{endpoint}?topics={topic}&cursor={cursor}"),
        None => format!("{endpoint}?topics={topic}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_the_topic_and_where_to_resume() {
        let path =
            |dialect: &Dialect, cursor| dialect.subscribe_path(Transport::Sse, "b:1", cursor);
        assert_eq!(path(&Dialect::Tribus, None), "/events?topics=b:1");
        assert_eq!(
            path(&Dialect::Tribus, Some("x-1")),
            "/events?topics=b:1&cursor=x-1"
        );
        let (publish, subscribe) = Peer::Nchan.paths();
        let nchan = Dialect::Of {
            peer: Peer::Nchan,
            publish: publish.to_owned(),
            subscribe: subscribe.to_owned(),
        };
        assert_eq!(path(&nchan, Some("1:0")), "/sub?id=b:1&last_event_id=1:0");
        assert_eq!(nchan.publish_path("b:1").as_deref(), Some("/pub?id=b:1"));
    }
}
