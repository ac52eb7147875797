//! What the gateway's process takes while the run goes on, as the system tells it. Linux.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A process on this machine.
#[derive(Debug)]
pub struct Process {
    directory: PathBuf,
}

impl Process {
    /// The process of this number.
    ///
    /// # Errors
    /// Where there is none, or the system does not tell.
    pub fn find(pid: u32) -> Result<Self> {
        let process = Self {
            directory: Path::new("/proc").join(pid.to_string()),
        };
        if !process.directory.is_dir() {
            bail!("--pid {pid}: no such process on this machine (it is read from /proc, on Linux)");
        }
        process.cpu_time().with_context(|| format!("--pid {pid}"))?;
        Ok(process)
    }

    /// CPU time of all its threads so far. One that ended is left out; a gateway's threads do not end.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in
            std::fs::read_dir(self.directory.join("task")).context("the process has ended")?
        {
            let path = task
                .context("the process has ended")?
                .path()
                .join("schedstat");
            // A thread may end between the two.
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            nanoseconds += cpu_nanoseconds(&text).context("the system does not tell CPU times")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The memory that it holds, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(self.directory.join("status"));
        let status = status.context("the process has ended")?;
        resident_bytes(&status).context("the system does not tell the memory of the process")
    }
}

fn cpu_nanoseconds(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
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
    fn this_process_can_be_told_of_and_one_that_is_not_there_not() {
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.memory().unwrap() > 1 << 20);
        let before = own.cpu_time().unwrap();
        while own.cpu_time().unwrap() <= before {
            std::hint::black_box((0..1_000_000).sum::<u64>());
        }
        let error = Process::find(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("no such process"), "{error}");
    }
}
