//! What a service manager such as systemd is told, where one started the process and wants to know
//! (`Type=notify`; systemd's sd_notify(3)).

use sd_notify::NotifyState;

/// Clients can connect; also what ends a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Files are being read again.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// Clients are being sent away.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can not be told {states:?}");
    }
}
