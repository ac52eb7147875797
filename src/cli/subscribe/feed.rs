//! One subscription over one connection, the same on every transport: batches of items until the connection ends.

use super::item::Item;
use super::poll::PollFeed;
use super::sse::SseFeed;
use super::ws::WsFeed;
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::Failure;
use crate::cli::tag::Tag;

/// The wire to read over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// WebSocket
    Ws,
    /// Server-Sent Events
    Sse,
    /// Long-poll
    Poll,
}

/// What to subscribe to.
#[derive(Debug, Clone)]
pub struct Selection {
    pub topics: Vec<String>,
    pub events: Vec<String>,
    pub tags: Vec<Tag>,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// What is published from now on.
    Now,
    /// The last events of each topic, then what follows.
    Rewind(u32),
    /// All after this cursor, or after `earliest`.
    After(String),
}

/// An open subscription.
pub enum Feed {
    Ws(Box<WsFeed>),
    Sse(Box<SseFeed>),
    Poll(Box<PollFeed>),
}

impl Feed {
    /// Connects, and subscribes by the address alone.
    pub async fn open(
        transport: Transport,
        endpoint: &Endpoint,
        client: &reqwest::Client,
        selection: &Selection,
        position: &Position,
    ) -> Result<Self, Failure> {
        Ok(match transport {
            Transport::Ws => Self::Ws(Box::new(WsFeed::open(endpoint, selection, position).await?)),
            Transport::Sse => Self::Sse(Box::new(
                SseFeed::open(endpoint, client, selection, position).await?,
            )),
            Transport::Poll => Self::Poll(Box::new(PollFeed::new(
                endpoint, client, selection, position,
            ))),
        })
    }

    /// Waits for something to come and returns all of it that is there; an [`Item::Ended`] is always the last.
    pub async fn next_batch(&mut self) -> Vec<Item> {
        match self {
            Self::Ws(feed) => feed.next_batch().await,
            Self::Sse(feed) => feed.next_batch().await,
            Self::Poll(feed) => feed.next_batch().await,
        }
    }

    /// Takes leave, where the transport has a way to.
    pub async fn close(self) {
        if let Self::Ws(feed) = self {
            feed.close().await;
        }
    }
}

impl Selection {
    /// The part of the query that names the subscription.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("topics", self.topics.join(","))];
        query.extend(self.events.iter().map(|event| ("event", event.clone())));
        query.extend(
            self.tags
                .iter()
                .map(|Tag { key, value }| ("tag", format!("{key}:{value}"))),
        );
        query
    }
}

impl Position {
    /// The part of the query that says where to begin.
    pub fn query(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Now => None,
            Self::Rewind(count) => Some(("rewind", count.to_string())),
            Self::After(cursor) => Some(("cursor", cursor.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_everything() {
        let selection = Selection {
            topics: vec!["a:*".into(), "b".into()],
            events: vec!["x".into(), "y".into()],
            tags: vec![Tag::parse("env=prod").unwrap()],
        };
        let position = Position::After("k-1".into());
        let query = selection.query().into_iter().chain(position.query());
        let pairs: Vec<_> = query.map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            pairs,
            [
                "topics=a:*,b",
                "event=x",
                "event=y",
                "tag=env:prod",
                "cursor=k-1"
            ]
        );
    }
}
