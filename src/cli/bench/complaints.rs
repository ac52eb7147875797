//! What went wrong, each kind told once with how often.

use serde::Serialize;

/// Kinds that are told apart; texts may hold addresses or times, and so be without number.
const MOST_KINDS: usize = 6;

#[derive(Clone, Debug, Default)]
pub struct Complaints {
    kinds: Vec<Complaint>,
    others: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Complaint {
    pub what: String,
    pub count: u64,
}

impl Complaints {
    pub fn add(&mut self, what: &str) {
        self.add_many(what, 1);
    }

    pub fn merge(&mut self, other: Self) {
        for Complaint { what, count } in other.kinds {
            self.add_many(&what, count);
        }
        self.others += other.others;
    }

    /// The kinds, the most frequent first, and the rest as one.
    pub fn listed(&self) -> Vec<Complaint> {
        let mut listed = self.kinds.clone();
        listed.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        if self.others > 0 {
            listed.push(Complaint {
                what: "other reasons".to_owned(),
                count: self.others,
            });
        }
        listed
    }

    fn add_many(&mut self, what: &str, count: u64) {
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.what == what) {
            kind.count += count;
        } else if self.kinds.len() < MOST_KINDS {
            self.kinds.push(Complaint {
                what: what.to_owned(),
                count,
            });
        } else {
            self.others += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_and_there_are_only_so_many() {
        let mut complaints = Complaints::default();
        complaints.add("refused");
        let mut others = Complaints::default();
        for turn in 0..1000 {
            others.add("refused");
            others.add(&format!("at {turn}"));
        }
        complaints.merge(others);
        let listed = complaints.listed();
        assert_eq!(
            (listed[0].what.as_str(), listed[0].count),
            ("refused", 1001)
        );
        assert_eq!(listed.len(), MOST_KINDS + 1);
        assert_eq!(listed[MOST_KINDS].count, 1000 - (MOST_KINDS as u64 - 1));
    }
}
