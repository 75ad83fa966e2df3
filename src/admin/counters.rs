//! Counters of the admin port, including invalid input.
//!
//! In: counted by `server.rs`, and by `control/` for connections it refuses. Out: lines of `stats`. Next: `stats.rs`.

use std::cell::Cell;

crate::stats::named! {
    /// The counters; all are monotonic.
    AdminCounter {
        /// Connections served.
        Connections = "admin_connections",
        /// Connections closed at once because all slots were in use.
        ConnectionsRefused = "admin_connections_refused",
        /// Idle connections closed to make room for a new one.
        ConnectionsYielded = "admin_connections_yielded",
        /// Text commands, including unknown and invalid ones.
        Commands = "admin_commands",
        /// Text commands that were unknown or invalid.
        CommandsUnknown = "admin_commands_unknown",
        /// Commands that change something, refused because they came from another host.
        ChangesRefused = "admin_changes_refused",
        /// Connections closed because a line was too long.
        LinesTooLong = "admin_lines_too_long",
        /// HTTP requests that succeeded.
        HttpRequests = "admin_http_requests",
        /// HTTP requests answered with an error.
        HttpErrors = "admin_http_errors",
        /// Connections closed because the client spoke TLS.
        ForeignProtocols = "admin_foreign_protocols",
        /// Connections closed because the client sent nothing for too long.
        IdleClosed = "admin_idle_closed",
        /// Connections closed because the client did not read its replies.
        WritesTimedOut = "admin_writes_timed_out",
    }
}

/// The admin port's counters; one set for all connections, on the control thread.
#[derive(Clone, Debug, Default)]
pub struct AdminCounters {
    counts: [Cell<u64>; AdminCounter::COUNT],
}

impl AdminCounters {
    /// Increments a counter.
    pub fn count(&self, counter: AdminCounter) {
        let count = &self.counts[counter as usize];
        count.set(count.get() + 1);
    }

    /// A counter's value.
    pub fn get(&self, counter: AdminCounter) -> u64 {
        self.counts[counter as usize].get()
    }
}
