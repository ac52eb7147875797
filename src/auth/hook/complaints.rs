//! Complaints about the backend, each kind for itself and few enough to be read: clients decide how often one is due.

use tracing::warn;

use super::backend::Failure;
use crate::throttle::Throttle;

#[derive(Default)]
pub(super) struct Complaints {
    silence: Throttle,
    status: Throttle,
    claims: Throttle,
    load: Throttle,
}

impl Complaints {
    /// The backend was asked in vain.
    pub fn of(&self, failure: &Failure) {
        let throttle = match failure {
            Failure::Timeout(_) | Failure::Connection(_) => &self.silence,
            Failure::Status(_) | Failure::Redirect(_) => &self.status,
            Failure::TooLarge | Failure::Claims(_) => &self.claims,
        };
        if let Some(held_back) = throttle.pass() {
            warn!(%failure, held_back, "the auth hook's backend gave no answer that is of use");
        }
    }

    /// It was not asked, since too many wait for it.
    pub fn of_load(&self) {
        if let Some(held_back) = self.load.pass() {
            warn!(
                held_back,
                "the auth hook's backend is too slow for so many clients: some are put off"
            );
        }
    }
}
