//! The counters of one worker, by name; and the dispositions of a metric.
//!
//! In: counted by `relay/` and `worker/`. Out: a fixed array of numbers, so that a snapshot is one copy.
//! Next: `published.rs`.

/// An enum of names shown to users, each with its meaning, which is its documentation here, in `/metrics` and in the
/// book: one sentence or more, without line ends.
macro_rules! named {
    ($(#[$meta:meta])* $kind:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $kind { $($(#[doc = $doc])+ $variant,)* }

        impl $kind {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = $kind::ALL.len();

            /// Its name in the output.
            pub const fn name(self) -> &'static str {
                match self { $($kind::$variant => $name,)* }
            }

            /// What it means, for users.
            pub const fn meaning(self) -> &'static str {
                match self { $($kind::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// The counters. All except `MetricsPending` are monotonic.
    Counter {
        /// Datagrams received.
        DatagramsReceived = "datagrams_received",
        /// Payload bytes of the datagrams received.
        BytesReceived = "bytes_received",
        /// Metrics received: every non-empty line, including malformed ones; of a truncated datagram those up to the cut. At any moment the sum of sent, dropped and pending.
        MetricsReceived = "metrics_received",
        /// Metrics that this host's kernel accepted for their backend.
        MetricsSent = "metrics_sent",
        /// Metrics held now: in packets being filled, in queues, and being sent.
        MetricsPending = "metrics_pending",
        /// Packets that this host's kernel accepted.
        DatagramsSent = "datagrams_sent",
        /// Payload bytes of the packets that this host's kernel accepted.
        BytesSent = "bytes_sent",
        /// Packets that were sent together with others in one system call (UDP_SEGMENT).
        DatagramsGso = "datagrams_gso",
        /// Packets sent that exceed the MTU of the path to their backend, so that this host's kernel sends them in IP fragments: if one fragment is lost, so is the packet.
        PacketsFragmented = "packets_fragmented",
        /// Datagrams received that the kernel handed over in one with others of their sender (UDP_GRO).
        DatagramsGro = "datagrams_gro",
        /// Datagrams without payload.
        DatagramsEmpty = "datagrams_empty",
        /// Datagrams that contain only newlines.
        DatagramsBlank = "datagrams_blank",
        /// Datagrams longer than maxDatagramSize; metrics beyond the cut are lost and not counted.
        DatagramsTruncated = "datagrams_truncated",
        /// Bytes of datagrams longer than maxDatagramSize that were not read.
        BytesTruncated = "bytes_truncated",
        /// With timestamps: datagrams without a kernel timestamp; excluded from the exact latency.
        TimestampsMissing = "timestamps_missing",
        /// With timestamps: datagrams whose kernel timestamp is implausible, or older than a change of the clock; excluded from the exact latency.
        TimestampsInvalid = "timestamps_invalid",
        /// Sends that a full socket buffer delayed (EAGAIN); they are retried.
        SendsWouldBlock = "sends_would_block",
        /// Sends that reported the refusal of an earlier packet; they are retried.
        BackendRefused = "backend_refused",
        /// Sends that reported an unreachable backend or another ICMP error of an earlier packet; they are retried.
        BackendUnreachable = "backend_unreachable",
        /// Sockets to backends that were replaced by new ones, with another source port.
        SocketsReopened = "sockets_reopened",
        /// Metrics that another backend received because their own was down.
        MetricsDiverted = "metrics_diverted",
        /// Datagrams that the kernel dropped at a full receive buffer of a listening socket, before the proxy could read them; with gro, those received as one count as one.
        KernelDrops = "kernel_drops",
        /// Receives that ended with an error.
        ReceiveErrors = "receive_errors",
        /// Datagrams that were lost because what the kernel wrote beside them was invalid (io_uring with `timestamps`).
        DatagramsUnreadable = "datagrams_unreadable",
        /// Waits that failed unexpectedly.
        WaitErrors = "wait_errors",
        /// Calls by which workers entered the kernel.
        Wakeups = "wakeups",
        /// Sleeps that let datagrams accumulate until a deadline.
        CoalescedWaits = "coalesced_waits",
    }
}

named! {
    /// Why a metric was dropped.
    DropReason {
        /// The line has no name or no `|`.
        Malformed = "malformed",
        /// The line was cut off because its datagram was longer than `maxDatagramSize`. Lines after it were not seen, so the count is a lower bound.
        Truncated = "truncated",
        /// No backend is up.
        NoBackend = "no_backend",
        /// Its backend is down, and `onNodeDown` is `drop`.
        NodeDown = "node_down",
        /// The queue of its backend was full (`queue`).
        QueueFull = "queue_full",
        /// A queueing discipline or network device of this host dropped the packet (ENOBUFS).
        SendNoBuffers = "send_no_buffers",
        /// The packet was too long for the path or the socket (EMSGSIZE).
        SendTooLong = "send_too_long",
        /// The host or network of the backend was unreachable, also when the send was retried.
        SendUnreachable = "send_unreachable",
        /// The backend refused several times in a row.
        SendRefused = "send_refused",
        /// A firewall rule of this host (EPERM) or a route that prohibits it (EACCES) rejected the packet.
        SendDenied = "send_denied",
        /// Another error of the send; `last_error` in `status` states it.
        SendFailed = "send_failed",
        /// A reload removed its backend while it was queued.
        NodeRemoved = "node_removed",
        /// It was still queued when `shutdownTimeout` expired.
        Shutdown = "shutdown",
    }
}

/// Disposition of a metric. Every received metric has exactly one of these, or is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// This kernel accepted it for its backend.
    Sent,
    /// It was dropped.
    Dropped(DropReason),
}

/// The counters of one worker: plain numbers, owned by its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; Counter::COUNT],
    drops: [u64; DropReason::COUNT],
    /// When each reason last occurred, µs of the driver's clock; 0 = never.
    last_drop_us: [u64; DropReason::COUNT],
}

impl Counters {
    /// Numbers in a snapshot.
    pub const WORDS: usize = Counter::COUNT + 2 * DropReason::COUNT;

    /// All zero.
    pub const fn new() -> Counters {
        Counters {
            counts: [0; Counter::COUNT],
            drops: [0; DropReason::COUNT],
            last_drop_us: [0; DropReason::COUNT],
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.counts[counter as usize] += n;
    }

    /// Takes from `MetricsPending`, the only one that shrinks.
    #[inline]
    pub fn settle(&mut self, metrics: u64) {
        let pending = &mut self.counts[Counter::MetricsPending as usize];
        debug_assert!(*pending >= metrics, "more metrics left than were pending");
        *pending = pending.saturating_sub(metrics);
    }

    /// Sets a counter that is read elsewhere as a whole.
    #[inline]
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.counts[counter as usize] = value;
    }

    /// Counts metrics that left by `exit` at `now_us`; the only function that does.
    #[inline]
    pub fn leave(&mut self, exit: Exit, metrics: u64, now_us: u64) {
        match exit {
            Exit::Sent => self.counts[Counter::MetricsSent as usize] += metrics,
            Exit::Dropped(reason) => {
                self.drops[reason as usize] += metrics;
                self.last_drop_us[reason as usize] = now_us.max(1);
            }
        }
    }

    /// A counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }

    /// Metrics dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Metrics dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// When `reason` last occurred, in µs of the driver's clock.
    pub fn last_drop_us(&self, reason: DropReason) -> Option<u64> {
        Some(self.last_drop_us[reason as usize]).filter(|at| *at > 0)
    }

    /// The imbalance: 0 unless metrics are missing (positive) or in excess (negative).
    ///
    /// `metrics_received = metrics_sent + Σ metrics_dropped_<reason> + metrics_pending`.
    pub fn imbalance(&self) -> i128 {
        i128::from(self.get(Counter::MetricsReceived))
            - i128::from(self.get(Counter::MetricsSent))
            - i128::from(self.dropped_total())
            - i128::from(self.get(Counter::MetricsPending))
    }

    /// The terms of the identity and the imbalance, for error messages.
    pub fn identity(&self) -> String {
        let reasons = DropReason::ALL.iter().filter(|reason| self.dropped(**reason) > 0);
        let reasons: Vec<String> =
            reasons.map(|reason| format!("{} {}", reason.name(), self.dropped(*reason))).collect();
        format!(
            "metrics_received {} = metrics_sent {} + dropped {} [{}] + metrics_pending {} + {} missing",
            self.get(Counter::MetricsReceived),
            self.get(Counter::MetricsSent),
            self.dropped_total(),
            reasons.join(", "),
            self.get(Counter::MetricsPending),
            self.imbalance(),
        )
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Counters) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
        for (mine, theirs) in self.last_drop_us.iter_mut().zip(other.last_drop_us) {
            *mine = (*mine).max(theirs);
        }
    }

    /// As one row of numbers, for publishing.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().chain(&self.drops).chain(&self.last_drop_us).copied()
    }

    /// Back from a row of [`Counters::WORDS`] numbers.
    pub(super) fn from_words(words: &[u64; Counters::WORDS]) -> Counters {
        let mut counters = Counters::new();
        let (counts, rest) = words.split_at(Counter::COUNT);
        let (drops, last) = rest.split_at(DropReason::COUNT);
        counters.counts.copy_from_slice(counts);
        counters.drops.copy_from_slice(drops);
        counters.last_drop_us.copy_from_slice(last);
        counters
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_numbers_keeps_everything() {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 7);
        counters.add(Counter::CoalescedWaits, 1);
        counters.leave(Exit::Dropped(DropReason::Shutdown), 3, 99);
        let words: Vec<u64> = counters.words().collect();
        assert_eq!(Counters::from_words(words.as_slice().try_into().unwrap()), counters);
        assert_eq!(counters.last_drop_us(DropReason::Shutdown), Some(99));
        assert_eq!(counters.last_drop_us(DropReason::Malformed), None);
    }

    #[test]
    fn the_imbalance_is_what_is_missing() {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 10);
        counters.add(Counter::MetricsSent, 4);
        counters.add(Counter::MetricsPending, 3);
        counters.leave(Exit::Dropped(DropReason::QueueFull), 2, 1);
        assert_eq!(counters.imbalance(), 1);
        assert_eq!(
            counters.identity(),
            "metrics_received 10 = metrics_sent 4 + dropped 2 [queue_full 2] + metrics_pending 3 + 1 missing"
        );
        counters.settle(3);
        counters.leave(Exit::Sent, 4, 1);
        assert_eq!(counters.imbalance(), 0);
    }
}
