//! How many files, and so connections, the process may have open.

use rlimit::Resource;

use crate::listener::Places;

/// Files besides the clients' connections: the operators', those to keys, backends and collectors,
/// and the process's own.
const RESERVE: u64 = 1024;

/// Raises the soft limit to the hard one, as any process may, and gives what it is then. Shells and
/// service managers keep the soft limit at 1024 for the sake of old programs.
pub fn raise() -> std::io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// What [`raise`] can reach.
pub fn hard_limit() -> std::io::Result<u64> {
    Resource::NOFILE.get_hard()
}

/// What is wrong where so many clients are let in and so few files allowed.
pub fn shortage(connections: usize, allowed: u64) -> Option<String> {
    let held = Places::new(connections).most_held();
    let needed = u64::try_from(held).unwrap_or(u64::MAX);
    let needed = needed.saturating_add(RESERVE);
    (allowed < needed).then(|| {
        format!(
            "limits.connections = {connections} takes up to {needed} open files, and the process \
             may have {allowed}: raise its limit (ulimit -Hn, LimitNOFILE= of systemd), or lower \
             limits.connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_short_where_connections_and_the_reserve_do_not_fit() {
        // An eighth more for other requests, 16, and 1024 that are told that there is no place.
        let needed = 1000 + 125 + 16 + 1024 + RESERVE;
        assert_eq!(shortage(1000, needed), None);
        let told = shortage(1000, needed - 1).unwrap();
        for part in ["limits.connections = 1000", "3189", "3188", "LimitNOFILE"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(shortage(usize::MAX, u64::MAX - 1).is_some());
    }
}
