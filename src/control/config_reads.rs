//! Reading the config file for reloads, each read on a thread of its own and with a time limit: a path that blocks (a pipe without
//! a writer, a network file system whose server is gone) blocks nothing else.
//!
//! In: a path. Out: a config, or why there is none. Next: `state.rs` applies it.

use crate::config::{ConfigError, Loaded, load};
use crate::control::backends::resolve::PER_LOOKUP;
use crate::control::blocking::{STACK_BYTES, run_blocking};
use crate::control::shortage::{self, with_remedy};
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Time limit of one read, including the wait for earlier ones and the lookup of listening hosts.
const READ: Duration = Duration::from_secs(10);
/// Reads that may block at once, each with a thread and a descriptor.
pub(in crate::control) const READS_MAX: usize = 4;

/// Why the file was not read completely.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It blocks.
    #[error(
        "refused, nothing was changed: {} was not read within {} s: it is a pipe without a writer, or its file system \
         does not answer; reload again when it can be read",
        .0.display(), READ.as_secs()
    )]
    TimedOut(PathBuf),
    /// Earlier reads still block at the end of the time.
    #[error(
        "refused, nothing was changed: {READS_MAX} earlier reads of the config file are still blocked; restart, or repair the file system"
    )]
    TooMany,
    /// This process lacks a thread or descriptors: the content of the file is unknown.
    #[error("refused, nothing was changed: the config file cannot be read: {}", with_remedy(.0))]
    Shortage(#[from] io::Error),
}

/// The reads of one process.
pub struct ConfigReads {
    /// The number of the last reload that was requested.
    requested: Cell<u64>,
    /// The number of the latest one that was applied.
    applied: Cell<u64>,
    /// One permit for each read that may begin; a read keeps its permit until it returns, however late.
    free: Arc<Semaphore>,
}

impl Default for ConfigReads {
    fn default() -> ConfigReads {
        let free = Arc::new(Semaphore::new(READS_MAX));
        ConfigReads { requested: Cell::default(), applied: Cell::default(), free }
    }
}

impl ConfigReads {
    /// Registers a reload request; its number.
    pub fn begin(&self) -> u64 {
        self.requested.set(self.requested.get() + 1);
        self.requested.get()
    }

    /// Whether a reload that was requested after number `reading` has been applied, so that this one is out of date.
    pub fn is_superseded(&self, reading: u64) -> bool {
        self.applied.get() > reading
    }

    /// Number `reading` is about to be applied.
    pub fn carried_out(&self, reading: u64) {
        self.applied.set(reading);
    }

    /// Reads and parses the file, after earlier reads if there are too many.
    pub async fn read(&self, path: &Path) -> Result<Result<Loaded, ConfigError>, ReadError> {
        let deadline = Instant::now() + READ;
        let permit = timeout_at(deadline, self.free.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| ReadError::TooMany)?;
        let file = path.to_owned();
        let read = run_blocking("reload", STACK_BYTES, move || {
            let _permit = permit;
            // Without a descriptor no file can be opened, and no name resolves.
            load(&file).map_err(|error| shortage::of_descriptors(1 + PER_LOOKUP).ok_or(error))
        });
        match timeout_at(deadline, read).await {
            Ok(read) => match read? {
                Ok(loaded) => Ok(Ok(loaded)),
                Err(Ok(shortage)) => Err(shortage.into()),
                Err(Err(error)) => Ok(Err(error)),
            },
            Err(_) => Err(ReadError::TimedOut(path.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    /// On a paused clock that advances only when everything waits.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    /// A path that blocks when opened, in its own directory.
    fn pipe(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("statsring-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    #[test]
    fn a_path_that_blocks_costs_the_limit_and_a_thread_and_not_more_than_a_few_of_them() {
        let path = pipe("blocks");
        let reads = ConfigReads::default();
        run(async {
            for _ in 0..READS_MAX {
                assert!(matches!(reads.read(&path).await, Err(ReadError::TimedOut(_))));
            }
            assert!(matches!(reads.read(&path).await, Err(ReadError::TooMany)));
        });
        // The threads end with the first writer, and then there is room again.
        while reads.free.available_permits() < READS_MAX {
            // Without a reader it is refused.
            drop(std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(matches!(runtime.block_on(reads.read(Path::new("/nonexistent"))), Ok(Err(_))));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn reloads_requested_at_the_same_time_wait_for_each_other() {
        let reads = ConfigReads::default();
        let path = Path::new("/nonexistent");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = || reads.read(path);
        let all = async { tokio::join!(read(), read(), read(), read(), read(), read()) };
        let all: [_; READS_MAX + 2] = runtime.block_on(all).into();
        assert!(all.iter().all(|read| matches!(read, Ok(Err(_)))), "{all:?}");
    }

    #[test]
    fn a_later_reload_that_was_applied_supersedes_an_earlier_read() {
        let reads = ConfigReads::default();
        let (first, second) = (reads.begin(), reads.begin());
        assert!(!reads.is_superseded(first));
        reads.carried_out(second);
        assert!(reads.is_superseded(first) && !reads.is_superseded(second));
        assert!(!reads.is_superseded(reads.begin()));
    }
}
