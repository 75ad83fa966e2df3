//! What happens at the admin port, counted: bad input shows in a counter there too.
//!
//! In: counted by `server.rs`, and by `control/` for connections it refuses. Out: lines of `stats`. Next: `stats.rs`.

use std::cell::Cell;

/// What is counted; all only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCounter {
    /// Connections served.
    Connections,
    /// Connections closed at once, because as many as may be were open; counted by `control/`.
    ConnectionsRefused,
    /// Connections that had to yield their place to a newcomer; counted by `control/`.
    ConnectionsYielded,
    /// Commands, unknown and misused ones included.
    Commands,
    /// Of these, the unknown and misused ones.
    CommandsUnknown,
    /// Changing commands from elsewhere than this host that were refused.
    ChangesRefused,
    /// Connections ended by a line that was too long.
    LinesTooLong,
    /// HTTP requests answered with what they asked for.
    HttpRequests,
    /// HTTP requests answered with an error.
    HttpErrors,
    /// Connections ended because they spoke TLS.
    ForeignProtocols,
    /// Connections ended because the client said nothing for too long.
    IdleClosed,
    /// Connections ended because the client did not read its replies.
    WritesTimedOut,
}

impl AdminCounter {
    /// All of them, in the order in which they are shown.
    pub const ALL: [AdminCounter; 12] = [
        AdminCounter::Connections,
        AdminCounter::ConnectionsRefused,
        AdminCounter::ConnectionsYielded,
        AdminCounter::Commands,
        AdminCounter::CommandsUnknown,
        AdminCounter::ChangesRefused,
        AdminCounter::LinesTooLong,
        AdminCounter::HttpRequests,
        AdminCounter::HttpErrors,
        AdminCounter::ForeignProtocols,
        AdminCounter::IdleClosed,
        AdminCounter::WritesTimedOut,
    ];

    /// Its name as users see it.
    pub const fn name(self) -> &'static str {
        match self {
            AdminCounter::Connections => "admin_connections",
            AdminCounter::ConnectionsRefused => "admin_connections_refused",
            AdminCounter::ConnectionsYielded => "admin_connections_yielded",
            AdminCounter::Commands => "admin_commands",
            AdminCounter::CommandsUnknown => "admin_commands_unknown",
            AdminCounter::ChangesRefused => "admin_changes_refused",
            AdminCounter::LinesTooLong => "admin_lines_too_long",
            AdminCounter::HttpRequests => "admin_http_requests",
            AdminCounter::HttpErrors => "admin_http_errors",
            AdminCounter::ForeignProtocols => "admin_foreign_protocols",
            AdminCounter::IdleClosed => "admin_idle_closed",
            AdminCounter::WritesTimedOut => "admin_writes_timed_out",
        }
    }
}

/// The admin port's counters; one set for all connections, on the control thread.
#[derive(Clone, Debug, Default)]
pub struct AdminCounters {
    counts: [Cell<u64>; AdminCounter::ALL.len()],
}

impl AdminCounters {
    /// Counts one.
    pub fn count(&self, counter: AdminCounter) {
        let count = &self.counts[counter as usize];
        count.set(count.get() + 1);
    }

    /// A counter's value.
    pub fn get(&self, counter: AdminCounter) -> u64 {
        self.counts[counter as usize].get()
    }
}
