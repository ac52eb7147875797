//! One client of the run: its connection, where it stands, and what it has seen.

pub mod http;
pub mod link;
mod poll;
mod socket;
mod sse;
mod ws;

use std::io;

use mio::{Registry, Token};

use self::link::{Item, Link};
use self::socket::Socket;
use super::course::Course;
use super::plan::{Group, Transport};
use super::record::Record;
use super::tally::Tally;
use crate::cli::backoff::Backoff;
use crate::cli::failure::Failure;
use crate::cli::tls_failure;

/// Read at once at most.
const READ_BYTES: usize = 256 * 1024;

/// Reads of one client before the next one has its turn.
const READS_A_TURN: usize = 8;

/// Most bytes that may wait for the rest of a frame or an answer: a page of a long-poll is the largest.
const MOST_KEPT: usize = 16 << 20;

/// The longest cursor of the protocol.
const CURSOR_BYTES: usize = 64;

#[derive(Debug)]
pub struct Client {
    /// Among all clients of the run.
    pub index: usize,
    pub topic: u32,
    pub transport: Transport,
    pub group: Group,
    pub state: State,
    /// It was live when the events began.
    pub takes_part: bool,
    pub tally: Tally,
    pub backoff: Backoff,
    /// Whether it leaves alone what comes.
    pub holds: bool,
    /// Grows whenever a timer of before has lost its sense.
    pub generation: u32,
    cursor: Cursor,
    connection: Option<Box<Connection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Without a connection, to come back later.
    Away,
    /// Not yet subscribed.
    Coming,
    Live,
    /// Not to come back: refused, or too late to take part.
    Left,
}

/// How far reading came.
#[derive(Debug)]
pub enum Reading {
    /// To be told when there is more.
    Drained,
    /// There is more, and others have their turn first.
    Unfinished,
    Ended(Failure),
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    link: Link,
    is_connected: bool,
    /// Bytes read that are no whole frame yet.
    kept: Vec<u8>,
    unsent: Vec<u8>,
}

/// A cursor without an allocation: it changes with every event.
#[derive(Debug)]
struct Cursor {
    bytes: [u8; CURSOR_BYTES],
    length: u8,
}

impl Client {
    pub fn new(course: &Course, index: usize) -> Self {
        let plan = &course.plan;
        Self {
            index,
            topic: plan.topic(index),
            transport: plan.transport(index),
            group: plan.group(index),
            state: State::Away,
            takes_part: false,
            tally: Tally::default(),
            backoff: Backoff::default(),
            holds: false,
            generation: 0,
            cursor: Cursor {
                bytes: [0; CURSOR_BYTES],
                length: 0,
            },
            connection: None,
        }
    }

    /// Begins to connect.
    pub fn connect(
        &mut self,
        course: &Course,
        registry: &Registry,
        token: Token,
    ) -> Result<(), Failure> {
        self.state = State::Coming;
        let is_slow = self.group == Group::Slow;
        let socket = Socket::connect(&course.target, self.index, is_slow);
        let mut socket = socket.map_err(|error| unreachable(&error))?;
        socket
            .register(registry, token)
            .map_err(|error| unreachable(&error))?;
        let link = Link::new(self.transport, course.dialect.peer());
        let path = self.path(course);
        self.connection = Some(Box::new(Connection {
            socket,
            unsent: link.request(&course.target, &path),
            link,
            is_connected: false,
            kept: Vec::new(),
        }));
        Ok(())
    }

    /// Cuts the connection.
    pub fn cut(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.socket.cut();
        }
        if self.state != State::Left {
            self.state = State::Away;
        }
    }

    /// Goes on with what is to be sent, once the socket takes it.
    pub fn write(&mut self) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if !connection.is_connected {
            match connection.socket.connected() {
                None => return Ok(()),
                Some(connected) => connected.map_err(|error| unreachable(&error))?,
            }
            connection.is_connected = true;
        }
        connection.flush().map_err(|error| broken(&error))?;
        // A poll with a cursor may wait for its answer, and misses nothing meanwhile.
        let is_sent = connection.unsent.is_empty();
        if is_sent
            && connection
                .link
                .is_live_when_asked(self.cursor.text().is_some())
        {
            self.become_live();
        }
        Ok(())
    }

    /// Reads what there is, by way of `buffer`.
    pub fn read(&mut self, course: &Course, buffer: &mut Vec<u8>, record: &mut Record) -> Reading {
        for _ in 0..READS_A_TURN {
            match self.read_once(course, buffer, record) {
                Ok(true) => {}
                Ok(false) => return Reading::Drained,
                Err(failure) => return Reading::Ended(failure),
            }
        }
        Reading::Unfinished
    }

    /// Whether there may be more.
    fn read_once(
        &mut self,
        course: &Course,
        buffer: &mut Vec<u8>,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        let fresh = connection.kept.len();
        if fresh > MOST_KEPT {
            return Err(Failure::Broken(
                "an answer is longer than any of the gateway".to_owned(),
            ));
        }
        if buffer.len() < fresh + READ_BYTES {
            buffer.resize(fresh + READ_BYTES, 0);
        }
        let space = buffer.len() - fresh;
        let read = match connection.socket.read(&mut buffer[fresh..]) {
            Ok(0) => return Err(Failure::Broken("the connection was closed".to_owned())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(broken(&error)),
        };
        let more = !connection.socket.is_drained_by(read, space);
        buffer[..fresh].copy_from_slice(&connection.kept);
        self.take(course, &mut buffer[..fresh + read], fresh, record)?;
        Ok(more)
    }

    fn take(
        &mut self,
        course: &Course,
        buffer: &mut [u8],
        fresh: usize,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let now = course.now();
        let (tally, cursor) = (&mut self.tally, &mut self.cursor);
        let (topic, group) = (self.topic, self.group);
        let (mut is_live, mut asks_again, mut ended) = (false, false, None);
        let unsent = &mut connection.unsent;
        let kept = connection.link.read(buffer, fresh, &mut |item| match item {
            Item::Events(bytes) => {
                for stamp in course.stamps.find(bytes) {
                    if stamp.topic == topic {
                        tally.note(stamp.number);
                        record.note(group, stamp.due, now);
                    } else {
                        tally.note_stray();
                    }
                }
            }
            Item::Cursor(bytes) => cursor.set(bytes),
            Item::Reset => tally.note_reset(),
            Item::Live => is_live = true,
            Item::Reply(bytes) => unsent.extend_from_slice(&bytes),
            Item::Again => asks_again = true,
            Item::Ended(failure) => ended = ended.take().or(Some(failure)),
        });
        connection.kept.clear();
        if kept.is_empty() {
            // Most of the time: none of some thousand clients should hold on to a buffer.
            connection.kept = Vec::new();
        }
        connection.kept.extend_from_slice(&buffer[kept]);
        if is_live {
            self.become_live();
        }
        match ended {
            Some(failure) => Err(failure),
            None => self.answer(course, asks_again),
        }
    }

    /// Sends the next poll, or what else the other side waits for.
    fn answer(&mut self, course: &Course, asks_again: bool) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if asks_again {
            let topic = course.plan.topic_name(self.topic);
            let cursor = self.cursor.text();
            let path = course
                .dialect
                .subscribe_path(self.transport, &topic, cursor);
            connection.unsent = connection.link.request(&course.target, &path);
        }
        if connection.unsent.is_empty() {
            return Ok(());
        }
        connection.flush().map_err(|error| broken(&error))
    }

    fn path(&self, course: &Course) -> String {
        let topic = course.plan.topic_name(self.topic);
        let cursor = self.cursor.text();
        course
            .dialect
            .subscribe_path(self.transport, &topic, cursor)
    }

    fn become_live(&mut self) {
        if self.state == State::Coming {
            self.state = State::Live;
            self.backoff.reset();
        }
    }
}

impl Connection {
    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()?;
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) if sent == self.unsent.len() => self.unsent = Vec::new(),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Cursor {
    /// A longer one is none of the protocol, and left away.
    fn set(&mut self, bytes: &[u8]) {
        if let (Some(place), Ok(length)) =
            (self.bytes.get_mut(..bytes.len()), u8::try_from(bytes.len()))
        {
            place.copy_from_slice(bytes);
            self.length = length;
        }
    }

    fn text(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes[..usize::from(self.length)]).ok()?;
        (!text.is_empty()).then_some(text)
    }
}

fn unreachable(error: &io::Error) -> Failure {
    Failure::Unreachable(words(error))
}

fn broken(error: &io::Error) -> Failure {
    match tls_failure::explain(error) {
        Some(why) => Failure::Untrusted(why),
        None => Failure::Broken(words(error)),
    }
}

/// Without the number of the error, which says nothing to a user.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        io::ErrorKind::BrokenPipe => "the connection was closed".to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "no local port is free: fewer --connections, or more addresses".to_owned()
        }
        _ => error.to_string(),
    }
}
