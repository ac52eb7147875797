//! On how many topics each subject is at this node.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::Place;
use crate::{
    protocol::{ErrorCode, LimitKind, Refusal},
    topic::Tenant,
};

/// A subject that is on none has no entry.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<(Tenant, Arc<str>), usize, ahash::RandomState>);

impl Places {
    /// Whether a subject may be on so many more.
    ///
    /// # Errors
    /// `too_many_subscriptions`, with the time after which a topic that is left counts no more.
    pub fn admit(
        &self,
        place: &Place,
        more: usize,
        most: usize,
        grace: Duration,
    ) -> Result<(), Refusal> {
        let has = self.0.get(&subject(place)).copied().unwrap_or(0);
        if more == 0 || has + more <= most {
            return Ok(());
        }
        let grace = grace.max(Duration::from_secs(1));
        Err(Refusal::new(
            ErrorCode::TooManySubscriptions,
            format!(
                "you may be on {most} topics at once on which it is told who is there, and are on \
                 {has}: leave some, which count for {} s more",
                grace.as_secs()
            ),
        )
        .over(LimitKind::PresenceTopics)
        .retry_after(grace))
    }

    pub fn add(&mut self, place: &Place) {
        *self.0.entry(subject(place)).or_default() += 1;
    }

    pub fn remove(&mut self, place: &Place) {
        let subject = subject(place);
        if let Some(count) = self.0.get_mut(&subject) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&subject);
            }
        }
    }
}

fn subject(place: &Place) -> (Tenant, Arc<str>) {
    (place.tenant.clone(), Arc::clone(&place.subject))
}
