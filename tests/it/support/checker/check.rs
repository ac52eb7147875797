//! Whether a history fits together.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
};

use super::{Client, History, Mark, Offset, Sight};

/// What a sound history amounts to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Publishes that nobody was ever told of, but by the clients that saw them.
    pub unanswered_but_there: usize,
    pub refused: usize,
    /// Connections that ended while several publishes without keys were in flight on them, and those of
    /// them of which some turned out to be there.
    pub cut: usize,
    pub cut_and_there: usize,
    /// Clients that were told to come back later, each time.
    pub turned_away: usize,
    pub deliveries: usize,
    /// By their reasons.
    pub resets: BTreeMap<String, usize>,
    pub logs: usize,
}

impl Verdict {
    pub fn resets(&self) -> usize {
        self.resets.values().sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events acknowledged, {} publishes refused, {} unanswered and there, {} times \
             several in flight were cut off (and {} times some of them are there), {} deliveries \
             checked, resets {:?}, logs {}",
            self.acknowledged,
            self.refused,
            self.unanswered_but_there,
            self.cut,
            self.cut_and_there,
            self.deliveries,
            self.resets,
            self.logs
        )
    }
}

pub(super) struct Check<'a> {
    history: &'a History,
    /// By their names: what stands at which sequence.
    logs: HashMap<String, BTreeMap<u64, Mark>>,
    /// Of log and publish: where its first event stands.
    places: HashMap<(String, u64), u64>,
    /// The first log in which a publish was found.
    homes: HashMap<u64, String>,
    wrong: Vec<String>,
    verdict: Verdict,
}

impl<'a> Check<'a> {
    pub(super) fn of(history: &'a History) -> Result<Verdict, Vec<String>> {
        let mut check = Self {
            history,
            logs: HashMap::new(),
            places: HashMap::new(),
            homes: HashMap::new(),
            wrong: history.complaints.clone(),
            verdict: Verdict {
                resets: history.resets.clone(),
                refused: history.refused,
                turned_away: history.turned_away,
                ..Verdict::default()
            },
        };
        check.learn_what_is_there();
        check.check_publishers();
        for connection in &history.connections {
            check.check_order(connection);
            check.check_that_none_is_left_out(connection);
            check.count_cut(connection);
        }
        for client in &history.clients {
            check.check_client(client);
        }
        check.verdict.logs = check.logs.len();
        match check.wrong.is_empty() {
            true => Ok(check.verdict),
            false => Err(check.wrong),
        }
    }

    /// What was acknowledged is there, and so is what somebody saw, with all of its batch.
    fn learn_what_is_there(&mut self) {
        let history = self.history;
        for (number, publish) in history.publishes.iter().enumerate() {
            if let Some(first) = &publish.acknowledged {
                self.verdict.acknowledged += publish.count as usize;
                self.place(number as u64, first);
            }
        }
        for client in &history.clients {
            for sight in &client.sights {
                let Sight::Event(offset, mark) = sight else {
                    continue;
                };
                match offset.sequence.checked_sub(mark.index) {
                    Some(sequence) => {
                        let log = offset.log.clone();
                        self.place(mark.publish, &Offset { log, sequence });
                    }
                    None => self.wrong.push(format!("{mark} is at {offset}")),
                }
            }
        }
    }

    fn place(&mut self, number: u64, first: &Offset) {
        let publish = &self.history.publishes[number as usize];
        let place = (first.log.clone(), number);
        match self.places.get(&place) {
            Some(there) if *there == first.sequence => return,
            Some(there) => {
                let log = &first.log;
                let so = format!("publish {number} is at {first} and at {log}-{there}");
                return self.wrong.push(so);
            }
            None => {}
        }
        let home = self.homes.entry(number).or_insert(first.log.clone());
        if *home != first.log && !publish.keyed {
            let so = format!("publish {number} is in two logs, and was sent once");
            self.wrong.push(so);
        }
        if publish.acknowledged.is_none() {
            self.verdict.unanswered_but_there += 1;
        }
        self.places.insert(place, first.sequence);
        let log = self.logs.entry(first.log.clone()).or_default();
        for index in 0..publish.count {
            let mark = Mark {
                publish: number,
                index,
            };
            if let Some(other) = log.insert(first.sequence + index, mark) {
                let at = first.later(index);
                let so = format!("{at} stands for two: {other}, and {mark}");
                self.wrong.push(so);
            }
        }
    }

    /// Who waits for an answer before publishing again has its events in order.
    fn check_publishers(&mut self) {
        let mut newest: HashMap<usize, &Offset> = HashMap::new();
        for (number, publish) in self.history.publishes.iter().enumerate() {
            let Some(first) = &publish.acknowledged else {
                continue;
            };
            let Some(publisher) = publish.publisher else {
                continue;
            };
            if let Some(before) = newest.insert(publisher, first)
                && before.log == first.log
                && before.sequence >= first.sequence
            {
                let so = format!("publish {number} is at {first}, and an earlier one at {before}");
                self.wrong.push(so);
            }
        }
    }

    /// What was sent over one connection lies in each log in the order of sending.
    fn check_order(&mut self, sent: &[u64]) {
        let logs: Vec<&String> = self.logs.keys().collect();
        let mut wrong = Vec::new();
        for log in logs {
            let places = sent.iter().filter_map(|number| {
                let sequence = self.places.get(&(log.clone(), *number))?;
                Some((*number, *sequence))
            });
            let places: Vec<(u64, u64)> = places.collect();
            let out_of_order = places.windows(2).filter(|pair| pair[0].1 > pair[1].1);
            wrong.extend(out_of_order.map(|pair| {
                let ((first, at), (second, before)) = (pair[0], pair[1]);
                format!(
                    "publish {second} is at {log}-{before}, and {first}, which was sent before it, \
                     at {log}-{at}"
                )
            }));
        }
        self.wrong.extend(wrong);
    }

    /// Where one is there, all that were sent before it over the same connection are, but for those that
    /// were refused. Whether one is there is known where everyone has seen all of the only log.
    fn check_that_none_is_left_out(&mut self, sent: &[u64]) {
        if !self.history.resets.is_empty() || self.logs.len() != 1 {
            return;
        }
        let is_there = |number: &u64| self.homes.contains_key(number);
        let Some(last) = sent.iter().rposition(is_there) else {
            return;
        };
        let left_out = sent[..last].iter().filter(|number| {
            let is_refused = self.history.publishes[**number as usize].is_refused;
            !is_there(number) && !is_refused && self.is_wanted(**number)
        });
        let wrong = left_out.map(|number| {
            let later = sent[last];
            format!("publish {number} is left out, and {later}, which was sent after it, is there")
        });
        let wrong: Vec<String> = wrong.collect();
        self.wrong.extend(wrong);
    }

    fn count_cut(&mut self, sent: &[u64]) {
        let unanswered = sent.iter().filter(|number| {
            let publish = &self.history.publishes[**number as usize];
            publish.acknowledged.is_none() && !publish.is_refused && !publish.keyed
        });
        let unanswered: Vec<&u64> = unanswered.collect();
        if unanswered.len() > 1 {
            self.verdict.cut += 1;
            let is_there = |number: &&u64| self.homes.contains_key(*number);
            self.verdict.cut_and_there += usize::from(unanswered.iter().any(is_there));
        }
    }

    /// Whether somebody would have seen the first event of a publish.
    fn is_wanted(&self, publish: u64) -> bool {
        let mark = Mark { publish, index: 0 };
        let mut clients = self.history.clients.iter();
        clients.any(|client| self.wants(client, mark))
    }

    fn check_client(&mut self, client: &Client) {
        let mut at = client.began.clone();
        for sight in &client.sights {
            match sight {
                Sight::Event(offset, mark) => {
                    self.verdict.deliveries += 1;
                    self.check_event(client, &at, offset, *mark);
                    at = offset.clone();
                }
                Sight::Cursor(offset) => {
                    if offset.log == at.log && offset.sequence < at.sequence {
                        let so = format!("{} was at {at}, and is led to {offset}", client.name);
                        self.wrong.push(so);
                    } else {
                        self.check_way(client, &at, &offset.later(1));
                    }
                    at = offset.clone();
                }
                Sight::Reset(offset) => at = offset.clone(),
            }
        }
        self.check_end(client, &at);
    }

    fn check_event(&mut self, client: &Client, at: &Offset, offset: &Offset, mark: Mark) {
        if offset.log == at.log && offset.sequence <= at.sequence {
            let so = format!("{} was at {at}, and is given {offset} again", client.name);
            self.wrong.push(so);
        } else {
            self.check_way(client, at, offset);
        }
        if !self.wants(client, mark) {
            let so = format!("{} did not want {mark}", client.name);
            self.wrong.push(so);
        }
    }

    /// A client that comes from a position to right before another has missed nothing on its way.
    /// From one log to the next it comes without a reset only where it has all of both.
    fn check_way(&mut self, client: &Client, at: &Offset, before: &Offset) {
        if before.log == at.log {
            self.check_between(client, &at.log, at.sequence + 1..before.sequence);
        } else {
            self.check_between(client, &at.log, at.sequence + 1..u64::MAX);
            self.check_between(client, &before.log, 0..before.sequence);
        }
    }

    fn check_between(&mut self, client: &Client, log: &str, range: Range<u64>) {
        let there = self.logs.get(log).into_iter();
        let there = there.flat_map(|there| there.range(range.clone()));
        let missed: Vec<_> = there
            .filter(|(_, mark)| self.wants(client, **mark))
            .map(|(sequence, mark)| format!("{} missed {mark}, {log}-{sequence}", client.name))
            .collect();
        self.wrong.extend(missed);
    }

    fn wants(&self, client: &Client, mark: Mark) -> bool {
        let topic = self.history.publishes[mark.publish as usize].topic(mark.publish, mark.index);
        client.wanted.wants(&topic, "message", &[])
    }

    /// Every client stays until it has come to the end of the log.
    fn check_end(&mut self, client: &Client, at: &Offset) {
        let ends = self
            .history
            .publishes
            .iter()
            .filter(|publish| publish.is_end);
        let mut ends = ends.filter_map(|publish| publish.acknowledged.as_ref());
        if !ends.any(|end| end.log == at.log && end.sequence <= at.sequence) {
            let so = format!("{} came to {at} only, and not to the end", client.name);
            self.wrong.push(so);
        }
    }
}
