//! What the operating system says of this process. Linux; elsewhere there is nothing to tell.

/// What `/proc` says, where it says anything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) open_files: Option<u64>,
    pub(super) most_open_files: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        Self {
            open_files: open_files(),
            most_open_files: std::fs::read_to_string("/proc/self/limits")
                .ok()
                .and_then(|limits| most_open_files(&limits)),
            resident_bytes: std::fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|status| resident_bytes(&status)),
        }
    }
}

fn open_files() -> Option<u64> {
    // The directory that is being read is a descriptor itself.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count).ok()?.checked_sub(1)
}

/// The soft limit, which is the one that counts; `None` where there is none.
fn most_open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_and_the_resident_size_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            20000                1048576              files     \n";
        assert_eq!(most_open_files(limits), Some(20_000));
        assert_eq!(
            most_open_files("Max open files  unlimited unlimited files"),
            None
        );
        let status = "Name:\ttribus\nVmRSS:\t    2048 kB\n";
        assert_eq!(resident_bytes(status), Some(2 << 20));
        assert_eq!(resident_bytes("nothing"), None);
    }
}
