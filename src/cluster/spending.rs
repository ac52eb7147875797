//! What subjects spend here, told to the other nodes, and what they tell.
//!
//! One task tells all of it, and looks at what a note is to say directly before it is told, so that the
//! last word in the log is what is.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    ANSWER_WITHIN, ASK_AGAIN, Cluster,
    note::{Said, SpendingEntry},
};
use crate::{
    engine::EngineError,
    limits::{SubjectKey, Untold},
    node::NodeId,
};

/// Subjects that are told of at once, so that a note stays small, and for how long they are gathered.
const SPENDING_A_NOTE: usize = 500;
const SPENDING_EVERY: Duration = Duration::from_millis(5);

impl Cluster {
    pub(super) async fn tell_spending_forever(&self) {
        loop {
            self.limits.subjects.changed().await;
            sleep(SPENDING_EVERY).await;
            let untold = self.limits.subjects.take_untold();
            let is_told = self.tell_spending(&untold).await.is_ok();
            if let Some(asked) = untold.whole {
                // Whether it was told or not: nobody waits for a log that takes nothing.
                self.told_all_spending.send_replace(asked);
            }
            if !is_told {
                sleep(ASK_AGAIN).await;
            }
        }
    }

    /// Has all told, for a node that may have missed some, and waits for it.
    pub(super) async fn tell_all_spending(&self) {
        let Some(number) = self.limits.subjects.ask_for_all() else {
            return;
        };
        let mut told = self.told_all_spending.subscribe();
        // It is told later where the log takes it later.
        let _ = timeout(ANSWER_WITHIN, told.wait_for(|told| *told >= number)).await;
    }

    /// What could not be told is owed.
    async fn tell_spending(&self, untold: &Untold) -> Result<(), EngineError> {
        let subjects = &self.limits.subjects;
        let Some(_) = untold.whole else {
            let mut chunks = untold.keys.chunks(SPENDING_A_NOTE);
            while let Some(keys) = chunks.next() {
                if let Err(error) = self.tell_spending_of(keys, false, false).await {
                    subjects.owe(chunks.flatten());
                    return Err(error);
                }
            }
            return Ok(());
        };
        let keys = subjects.spenders();
        let mut chunks = keys.chunks(SPENDING_A_NOTE).peekable();
        let mut begins_anew = true;
        loop {
            let keys = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let told = self.tell_spending_of(keys, begins_anew, is_last).await;
            begins_anew = false;
            if told.is_err() {
                subjects.owe_all();
            }
            if is_last || told.is_err() {
                return told;
            }
        }
    }

    /// What these have now.
    async fn tell_spending_of(
        &self,
        keys: &[SubjectKey],
        begins_anew: bool,
        is_last: bool,
    ) -> Result<(), EngineError> {
        let subjects = &self.limits.subjects;
        let spending = subjects.take_spending(keys);
        let told = self.tell(Said::Spent {
            begins_anew,
            is_last,
            spending: spending.iter().map(Into::into).collect(),
        });
        told.await.inspect_err(|error| {
            // The log may have it all the same: what is told twice is paid back in time.
            subjects.put_back(&spending);
            if let Some(held_back) = self.untold.pass() {
                tracing::warn!(%error, held_back, "the other nodes do not know what subjects spend here");
            }
        })
    }

    pub(super) fn hear_spending(
        &self,
        node: NodeId,
        begins_anew: bool,
        is_last: bool,
        spending: Vec<SpendingEntry>,
    ) {
        let subjects = &self.limits.subjects;
        if begins_anew {
            subjects.begin_telling(node);
        }
        for entry in spending {
            subjects.hear(node, entry.into());
        }
        if is_last {
            subjects.end_telling(node);
        }
    }
}
