//! Following a subscription through every loss of connection. The one place that knows how to resume.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout};

use super::cursor_file::CursorFile;
use super::feed::{Feed, Position, Selection, Transport};
use super::item::{Ending, Item};
use super::status::{Connected, Status};
use crate::cli::backoff::{self, Backoff};
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::{Attempt, Failure, Remedy};

/// Exit code of `--fail-on-reset`, apart from 1 for errors and 2 for wrong usage.
pub const EXIT_RESET: u8 = 3;

/// How long a connection may take to come about; the gateway itself may wait 5 s for its log.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// Silence that counts as a loss until `connected` tells the heartbeat: 2.5 times the default one.
const DEFAULT_SILENCE: Duration = Duration::from_millis(62_500);

/// A connection that lasted this long was a good one, and the next failure is a first one again.
const HEALTHY: Duration = Duration::from_secs(10);

/// How long a gateway that was never there may be missing: a start-up, but not a wrong address.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// A subscription that is followed until its end, printing to `out`.
pub struct Follower<W> {
    pub endpoint: Endpoint,
    pub client: reqwest::Client,
    pub transport: Transport,
    pub selection: Selection,
    /// Where to begin, and later where to resume: always behind what was handed to `out`.
    pub position: Position,
    pub cursor_file: Option<CursorFile>,
    /// Events still to print, or no end.
    pub remaining: Option<u64>,
    pub fail_on_reset: bool,
    pub out: W,
    pub status: Status,
    pub link: Link,
}

/// What is known of the connections so far.
#[derive(Default)]
pub struct Link {
    backoff: Backoff,
    /// The least pause that the gateway set by SSE's `retry`.
    least_pause: Duration,
    heartbeat: Option<Duration>,
    /// When the present connection came about.
    connected_at: Option<Instant>,
    was_connected: bool,
}

/// How a connection ended.
enum End {
    Finished(ExitCode),
    Lost(Failure),
}

impl<W: Write> Follower<W> {
    /// Prints events until enough are printed, a final refusal, or an error of our own.
    pub async fn follow(mut self) -> Result<ExitCode> {
        let started = Instant::now();
        loop {
            let failure = match self.one_connection().await? {
                End::Finished(code) => return Ok(code),
                End::Lost(failure) => failure,
            };
            let gone_for = started.elapsed();
            let pause = self.judge(&failure, gone_for)?;
            self.status.lost(&failure, pause);
            sleep(pause).await;
        }
    }

    async fn one_connection(&mut self) -> Result<End> {
        self.link.connected_at = None;
        let opening = Feed::open(
            self.transport,
            &self.endpoint,
            &self.client,
            &self.selection,
            &self.position,
        );
        let mut feed = match timeout(OPEN_LIMIT, opening).await {
            Ok(Ok(feed)) => feed,
            Ok(Err(failure)) => return Ok(End::Lost(failure)),
            Err(_) => {
                return Ok(End::Lost(Failure::Broken(format!(
                    "no answer within {OPEN_LIMIT:?}"
                ))));
            }
        };
        let end = self.read(&mut feed).await;
        feed.close().await;
        end
    }

    async fn read(&mut self, feed: &mut Feed) -> Result<End> {
        loop {
            let silence = self.link.silence();
            let Ok(batch) = timeout(silence, feed.next_batch()).await else {
                return Ok(End::Lost(Failure::Broken(format!(
                    "nothing came for {silence:?}"
                ))));
            };
            if let Some(end) = self.take_batch(batch)? {
                return Ok(end);
            }
        }
    }

    /// Handles a batch, then makes it last: first the events, after them the cursor.
    fn take_batch(&mut self, batch: Vec<Item>) -> Result<Option<End>> {
        let mut end = None;
        for item in batch {
            end = self.take(item)?;
            if end.is_some() {
                break;
            }
        }
        self.out.flush()?;
        if let (Some(file), Position::After(cursor)) = (&mut self.cursor_file, &self.position) {
            file.save(cursor)?;
        }
        Ok(end)
    }

    fn take(&mut self, item: Item) -> Result<Option<End>> {
        match item {
            Item::Event { id, raw } => return self.take_event(id, &raw),
            Item::Connected {
                cursor,
                user,
                heartbeat,
            } => self.take_connected(cursor, user, heartbeat),
            Item::Cursor(cursor) => self.position = Position::After(cursor),
            Item::Live(cursor) => {
                self.resume_after(cursor);
                self.status.live(&self.position);
            }
            Item::Reset {
                reason,
                cursor,
                topics,
            } => {
                self.resume_after(cursor);
                self.status.reset(&reason, &topics, &self.position);
                return Ok(self
                    .fail_on_reset
                    .then(|| End::Finished(ExitCode::from(EXIT_RESET))));
            }
            Item::RetryAfter(least_pause) => self.link.least_pause = least_pause,
            Item::Alive => {}
            Item::Ended(Ending(failure)) => return Ok(Some(End::Lost(failure))),
        }
        Ok(None)
    }

    fn take_event(&mut self, id: Option<String>, raw: &str) -> Result<Option<End>> {
        self.out.write_all(raw.as_bytes())?;
        self.out.write_all(b"\n")?;
        self.resume_after(id);
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(1);
        }
        Ok((self.remaining == Some(0)).then_some(End::Finished(ExitCode::SUCCESS)))
    }

    fn take_connected(
        &mut self,
        cursor: Option<String>,
        user: Option<String>,
        heartbeat: Option<Duration>,
    ) {
        if self.link.was_connected && matches!(self.position, Position::After(_)) {
            self.status.resumed(&self.position);
        } else {
            self.status.connected(&Connected {
                to: self.endpoint.base(),
                by: self.transport,
                user: user.as_deref(),
                topics: &self.selection.topics,
            });
        }
        self.resume_after(cursor);
        self.link.heartbeat = heartbeat;
        self.link.connected_at = Some(Instant::now());
        self.link.was_connected = true;
    }

    fn resume_after(&mut self, cursor: Option<String>) {
        if let Some(cursor) = cursor {
            self.position = Position::After(cursor);
        }
    }

    /// The pause before the next attempt, or the error that makes another one pointless.
    fn judge(&mut self, failure: &Failure, gone_for: Duration) -> Result<Duration> {
        let pause = match failure.remedy() {
            Remedy::GiveUp => None,
            Remedy::RenewToken if !self.endpoint.renew_token()? => None,
            Remedy::RenewToken | Remedy::Retry => self.link.pause(failure, gone_for),
        };
        if let Some(pause) = pause {
            return Ok(pause);
        }
        bail!(failure.explain(Attempt {
            endpoint: &self.endpoint,
            grant: "subscribe",
            topics: &self.selection.topics
        }))
    }
}

impl Link {
    fn silence(&self) -> Duration {
        self.heartbeat
            .map_or(DEFAULT_SILENCE, |heartbeat| heartbeat.mul_f64(2.5))
    }

    /// The longest of our own pause and what the gateway asks for; none for a gateway that was never there and has
    /// been missing for too long, or whose certificate was no good from the start.
    fn pause(&mut self, failure: &Failure, gone_for: Duration) -> Option<Duration> {
        if self
            .connected_at
            .is_some_and(|since| since.elapsed() >= HEALTHY)
        {
            self.backoff.reset();
        }
        let asked = failure.retry_after().unwrap_or_default();
        let pause = self.backoff.pause().max(asked).max(self.least_pause);
        match failure {
            _ if self.was_connected => return Some(pause),
            Failure::Broken(_) | Failure::Refused(_) => return Some(pause),
            Failure::Untrusted(_) => return None,
            Failure::Unreachable(_) => {}
        }
        let patience = START_PATIENCE.saturating_sub(gone_for);
        (!patience.is_zero()).then(|| pause.min(patience).max(backoff::LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses after a first failure and some more, all of them at the same time after the start.
    fn pauses(link: &mut Link, failure: &Failure, gone_for: u64) -> Vec<Option<Duration>> {
        let gone_for = Duration::from_millis(gone_for);
        (0..50).map(|_| link.pause(failure, gone_for)).collect()
    }

    #[test]
    fn a_gateway_that_was_never_there_is_given_five_seconds_and_no_more() {
        let missing = Failure::Unreachable("connection refused".into());
        let mut link = Link::default();
        for (gone_for, longest) in [(0, 5000), (4700, 300), (4999, 100)] {
            let pauses = pauses(&mut link, &missing, gone_for);
            let range = backoff::LEAST..=Duration::from_millis(longest);
            let within = |pause: &Option<Duration>| pause.is_some_and(|p| range.contains(&p));
            assert!(pauses.iter().all(within), "{gone_for}: {pauses:?}");
        }
        assert_eq!(link.pause(&missing, START_PATIENCE), None);
    }

    #[test]
    fn only_a_gateway_that_is_missing_from_the_start_is_given_up() {
        let (broken, missing) = (Failure::Broken, Failure::Unreachable);
        for (was_connected, failure) in [(true, missing("m".into())), (false, broken("b".into()))] {
            let mut link = Link {
                was_connected,
                ..Link::default()
            };
            let pauses = pauses(&mut link, &failure, 60_000);
            let longest = pauses.iter().max().unwrap();
            assert!(*longest > Some(START_PATIENCE), "{failure}: {longest:?}");
            assert!(pauses.iter().all(Option::is_some), "{failure}");
        }
    }
}
