//! What the stream has from a message on, and what comes to it: delivered by a consumer of this
//! node's own, without acknowledgements. That each message has come is seen by the consumer's count.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap, Message, StatusCode, Subscriber,
    jetstream::{
        self,
        consumer::{AckPolicy, Consumer, DeliverPolicy, push},
        stream::Stream,
    },
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use super::server::{Session, Trouble};

/// How often NATS tells that there is nothing new.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long it may tell nothing before the connection is given up.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// After how long NATS forgets the consumer of a node that is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Messages that are taken at a time.
const MOST: usize = 256;

const LAST_CONSUMER: &str = "Nats-Last-Consumer";
const STALLED: &str = "Nats-Consumer-Stalled";

/// A message of the stream.
pub struct Delivered {
    pub sequence: u64,
    /// When NATS had it, in seconds since 1970.
    pub published: i64,
    pub payload: Bytes,
}

pub struct Feed {
    client: Client,
    consumer: Consumer<push::Config>,
    jetstream: jetstream::Context,
    subscriber: Subscriber,
    /// How many messages have come.
    count: u64,
}

impl Feed {
    /// From a message on, or from the oldest that is there.
    ///
    /// # Errors
    /// Where NATS does not make a consumer.
    pub async fn open(session: &Session, stream: &Stream, from: u64) -> Result<Self, Trouble> {
        let client = session.client.clone();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await;
        let subscriber = subscriber.map_err(|_| Trouble::Cut)?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from.max(1),
            },
            ack_policy: AckPolicy::None,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN_AFTER,
            ..push::Config::default()
        };
        let created = stream.create_consumer(config).await;
        let consumer = created.map_err(|error| Trouble::asked("to deliver the log", &error))?;
        Ok(Self {
            client,
            consumer,
            jetstream: session.jetstream.clone(),
            subscriber,
            count: 0,
        })
    }

    /// Whether all that the stream has was taken.
    ///
    /// # Errors
    /// Where NATS does not tell.
    pub async fn is_at_end(&self) -> Result<bool, Trouble> {
        let info = self.consumer.get_info().await;
        let info = info.map_err(|error| Trouble::asked("what is to be delivered", &error))?;
        Ok(info.num_pending == 0 && info.delivered.consumer_sequence == self.count)
    }

    /// What has come: nothing where there is nothing new, as far as NATS tells.
    ///
    /// # Errors
    /// [`Trouble::Stale`] where something did not come that was sent.
    pub async fn next(&mut self) -> Result<Vec<Delivered>, Trouble> {
        let first = tokio::time::timeout(PATIENCE, self.subscriber.next()).await;
        let mut next = first.map_err(|_| Trouble::Silent(PATIENCE))?;
        let mut delivered = Vec::new();
        loop {
            let message = next.ok_or(Trouble::Cut)?;
            match message.status {
                None => delivered.push(self.take(message)?),
                Some(StatusCode::IDLE_HEARTBEAT) => self.heed(message).await?,
                // The consumer is gone.
                Some(_) => return Err(Trouble::Stale),
            }
            if delivered.len() >= MOST {
                return Ok(delivered);
            }
            match self.subscriber.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(delivered),
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Delivered, Trouble> {
        let message = jetstream::Message {
            message,
            context: self.jetstream.clone(),
        };
        let info = message.info().map_err(|_| Trouble::Stale)?;
        let (sequence, count) = (info.stream_sequence, info.consumer_sequence);
        let published = info.published.unix_timestamp();
        self.count += 1;
        if count != self.count {
            return Err(Trouble::Stale);
        }
        Ok(Delivered {
            sequence,
            published,
            payload: message.message.payload,
        })
    }

    /// A heartbeat, which tells how many messages were sent, or a question whether all that was sent
    /// so far has been taken.
    async fn heed(&mut self, message: Message) -> Result<(), Trouble> {
        let headers = message.headers.unwrap_or_default();
        if number(&headers, LAST_CONSUMER).is_some_and(|sent| sent != self.count) {
            return Err(Trouble::Stale);
        }
        let stalled = headers.get(STALLED).map(|subject| subject.as_str().into());
        match message.reply.or(stalled) {
            Some(subject) => {
                let answered = self.client.publish(subject, Bytes::new()).await;
                answered.map_err(|_| Trouble::Cut)
            }
            None => Ok(()),
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}
