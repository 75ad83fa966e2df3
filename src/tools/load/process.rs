//! Resource usage of a process: its CPU time to the nanosecond, and its resident memory.
//!
//! In: a process id. Out: numbers from `/proc`. Next: `mod.rs` reads them before, while and after the load.

use crate::stats::host::parse_resident_bytes;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// See the module.
#[derive(Debug)]
pub struct ProcessMeter {
    folder: PathBuf,
    /// CPU time of each thread at the last look, so that those that have ended keep theirs.
    threads: HashMap<String, u64>,
    resident_bytes_max: u64,
}

impl ProcessMeter {
    /// Of a process of this host.
    ///
    /// # Errors
    /// There is none, or the kernel does not show its CPU time.
    pub fn new(pid: u32) -> io::Result<ProcessMeter> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut meter = ProcessMeter { folder, threads: HashMap::new(), resident_bytes_max: 0 };
        meter.sample()?;
        Ok(meter)
    }

    /// Reads the figures now; CPU time of all its threads so far, kernel and user, ns.
    ///
    /// # Errors
    /// The process has ended, or the kernel does not show its CPU time.
    pub fn sample(&mut self) -> io::Result<u64> {
        for task in fs::read_dir(self.folder.join("task"))? {
            let task = task?;
            // A thread may end between the two looks.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let time = text.split_whitespace().next().and_then(|word| word.parse().ok());
            let time: u64 = time.ok_or_else(|| io::Error::other("no CPU time in schedstat"))?;
            self.threads.insert(task.file_name().to_string_lossy().into_owned(), time);
        }
        if self.threads.is_empty() {
            return Err(io::Error::other("no schedstat for it"));
        }
        let status = fs::read_to_string(self.folder.join("status")).unwrap_or_default();
        let resident = parse_resident_bytes(&status).unwrap_or(0);
        self.resident_bytes_max = self.resident_bytes_max.max(resident);
        Ok(self.threads.values().sum())
    }

    /// The most resident memory that was seen, bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        self.resident_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn a_busy_process_uses_cpu() {
        let mut meter = ProcessMeter::new(std::process::id()).unwrap();
        let before = meter.sample().unwrap();
        let mut sum = 0u64;
        for round in 0..50_000_000u64 {
            sum = black_box(sum.wrapping_add(round));
        }
        assert!(meter.sample().unwrap() > before, "{sum}");
        assert!(meter.resident_bytes_max() > 100 << 10);
    }

    #[test]
    fn no_such_process() {
        // Above the largest process id that the kernel gives.
        assert!(ProcessMeter::new(1 << 30).is_err());
    }
}
