//! What this process or its host has run out of: an operation that fails for that reason is not evidence against the other side.
//!
//! In: errors of operations of its own. Out: whether they are of that kind; a line in the log when a shortage begins and when it
//! is over, sentences for `status`, counts. Next: `health_checker.rs`, `admin_service.rs` and `process.rs` note them.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// A shortage is over when this has passed without a failure: one that comes and goes is reported once.
const QUIET: Duration = Duration::from_secs(60);

/// Whether an operation failed for want of descriptors, memory or threads.
pub fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
        is_of_descriptors(error)
            || matches!(errno, Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOSPC)
    })
}

/// Whether it failed for want of descriptors: then one that is given up helps.
pub fn is_of_descriptors(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::EMFILE | Errno::ENFILE))
}

/// Why so many more descriptors cannot be had now; `None` if they can.
pub fn of_descriptors(count: usize) -> Option<io::Error> {
    let files: io::Result<Vec<File>> = (0..count).map(|_| File::open("/dev/null")).collect();
    files.err().filter(is_of_descriptors)
}

/// An error with what to do about it, if it is a shortage.
pub fn with_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) if is_shortage(error) => format!("{error}: {}", remedy(Errno::from_raw(errno))),
        _ => error.to_string(),
    }
}

/// What to do about a shortage.
pub fn remedy(errno: Errno) -> String {
    match errno {
        Errno::EMFILE => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE)
                .map_or_else(|_| String::new(), |(soft, _)| format!(", now {soft},"));
            format!(
                "raise the limit on open files{limit} (`LimitNOFILE=` of the service, `--ulimit nofile=` of the container)"
            )
        }
        Errno::ENFILE => "the host has no free file handles: raise fs.file-max".to_owned(),
        Errno::EADDRNOTAVAIL => {
            "the host has no free local port: widen net.ipv4.ip_local_port_range, or stop the processes that use the ports"
                .to_owned()
        }
        Errno::EAGAIN => {
            "cannot start a thread: raise the limit on threads (`TasksMax=` of the service)".to_owned()
        }
        Errno::ENOSPC => "raise fs.epoll.max_user_watches".to_owned(),
        _ => "the host, or the service's cgroup, is out of memory".to_owned(),
    }
}

/// What cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A health check.
    Check,
    /// Accepting an admin connection.
    Accept,
    /// Looking a name up.
    Lookup,
    /// Making a worker's socket to a backend.
    Socket,
}

impl Operation {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Operation; 4] =
        [Operation::Check, Operation::Accept, Operation::Lookup, Operation::Socket];

    /// As counters and logs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Check => "check",
            Operation::Accept => "accept",
            Operation::Lookup => "lookup",
            Operation::Socket => "socket",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Operation::Check => "health checks",
            Operation::Accept => "the admin port",
            Operation::Lookup => "name lookups",
            Operation::Socket => "sockets to backends",
        }
    }

    const fn effect(self) -> &'static str {
        match self {
            Operation::Check => "checks are not made; the state of the backends is kept",
            Operation::Accept => "connections wait to be accepted",
            Operation::Lookup => "names are not looked up; known addresses stay in use",
            Operation::Socket => "metrics for backends without a socket are dropped as send_failed",
        }
    }
}

/// One shortage, from its first failure on.
#[derive(Clone, Copy, Debug)]
struct Episode {
    last: Instant,
    errno: Errno,
    failures: u64,
}

/// The shortages of one process.
#[derive(Debug, Default)]
pub struct Shortages {
    counts: [Cell<u64>; Operation::ALL.len()],
    episodes: RefCell<[Option<Episode>; Operation::ALL.len()]>,
}

impl Shortages {
    /// `operation` failed; the first time is logged.
    pub fn note(&self, operation: Operation, error: &io::Error) {
        let index = operation as usize;
        self.counts[index].set(self.counts[index].get() + 1);
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let now = Instant::now();
        let mut episodes = self.episodes.borrow_mut();
        let before = episodes[index].filter(|episode| now - episode.last < QUIET);
        let failures = before.map_or(0, |episode| episode.failures) + 1;
        episodes[index] = Some(Episode { last: now, errno, failures });
        if before.is_none() {
            let shortage = operation.name();
            tracing::warn!(shortage, errno = ?errno, "{}", message(operation, errno));
        }
    }

    /// `operation` was done.
    pub fn note_done(&self, operation: Operation) {
        let place = &mut self.episodes.borrow_mut()[operation as usize];
        if let Some(episode) = place.take_if(|episode| episode.last.elapsed() >= QUIET) {
            let (shortage, failures) = (operation.name(), episode.failures);
            tracing::info!(shortage, failures, "{}: shortage ended; {failures} failed", operation.subject());
        }
    }

    /// The present shortages, one sentence each.
    pub fn messages(&self) -> Vec<String> {
        let episodes = self.episodes.borrow();
        let present = Operation::ALL.into_iter().filter_map(|operation| {
            let episode = episodes[operation as usize].filter(|episode| episode.last.elapsed() < QUIET)?;
            let (failures, ago) = (episode.failures, episode.last.elapsed().as_secs());
            let message = message(operation, episode.errno);
            Some(format!("{message} ({failures} failed, the last {ago} s ago)"))
        });
        present.collect()
    }

    /// How often each operation failed for want of something.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        Operation::ALL.map(|operation| (operation.name(), self.counts[operation as usize].get())).to_vec()
    }
}

fn message(operation: Operation, errno: Errno) -> String {
    format!("{}: {errno}; {}: {}", operation.subject(), operation.effect(), remedy(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn error(errno: Errno) -> io::Error {
        io::Error::from(errno)
    }

    #[test]
    fn backend_failures_are_not_shortages() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN] {
            assert!(is_shortage(&error(errno)), "{errno}");
            assert!(!remedy(errno).is_empty());
        }
        for errno in [
            Errno::ECONNREFUSED,
            Errno::ETIMEDOUT,
            Errno::EHOSTUNREACH,
            Errno::ECONNRESET,
            Errno::EADDRNOTAVAIL,
        ] {
            assert!(!is_shortage(&error(errno)), "{errno}");
        }
        assert!(!is_shortage(&io::Error::from(io::ErrorKind::TimedOut)));
        assert!(is_of_descriptors(&error(Errno::EMFILE)) && !is_of_descriptors(&error(Errno::ENOMEM)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_reported_as_long_as_it_lasts() {
        let shortages = Shortages::default();
        assert_eq!(shortages.messages(), Vec::<String>::new());
        shortages.note(Operation::Check, &error(Errno::EMFILE));
        shortages.note(Operation::Accept, &error(Errno::ENFILE));
        let messages = shortages.messages();
        assert!(
            messages[0].starts_with("health checks: EMFILE: ") && messages[0].contains("LimitNOFILE"),
            "{messages:?}"
        );
        assert!(messages[1].contains("fs.file-max"), "{messages:?}");
        // Some succeed meanwhile.
        advance(QUIET / 2).await;
        shortages.note_done(Operation::Check);
        shortages.note(Operation::Check, &error(Errno::EMFILE));
        let messages = shortages.messages();
        assert!(messages[0].ends_with(" (2 failed, the last 0 s ago)"), "{messages:?}");
        assert!(messages[1].ends_with(" (1 failed, the last 30 s ago)"), "{messages:?}");
        advance(QUIET / 2).await;
        assert_eq!(shortages.messages().len(), 1);
        advance(QUIET / 2).await;
        assert_eq!(shortages.messages(), Vec::<String>::new());
        shortages.note_done(Operation::Check);
        shortages.note_done(Operation::Accept);
        assert!(shortages.episodes.borrow().iter().all(Option::is_none));
        assert_eq!(shortages.counts(), [("check", 2), ("accept", 1), ("lookup", 0), ("socket", 0)]);
    }
}
