//! Failpoints: deliberate faults that tests activate, and which the simulation, the properties and the fuzz targets must detect.
//!
//! In: a test calls [`activate`] on its thread. Out: [`is_active`] is true at the place that then misbehaves. Most of these
//! places are in the fakes: the kernel of `driver/sim`, and the host of `tests/simulation`, which passes wrong data or wrong
//! events to the real code. The others are in the rules of `relay`, `packet` and `driver/engine.rs`, whose head says why.
//!
//! Without the feature `failpoints` (which only tests enable) the check is the constant `false`, and compiles to nothing.
//! Checked once per packet, per datagram or less often, never per metric.

macro_rules! mutations {
    ($($(#[$group_doc:meta])* $group:ident { $($(#[$doc:meta])* $variant:ident,)* })*) => {
        /// One fault; each breaks one rule of the data path, of a handover, or of a reload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation { $($($(#[$doc])* $variant,)*)* }

        impl Mutation {
            $($(#[$group_doc])* pub const $group: &'static [Mutation] = &[$(Mutation::$variant,)*];)*
        }
    };
}

mutations! {
    /// Faults of the data path.
    DATA_PATH {
        /// A send error is ignored.
        SendErrorIgnored,
        /// A socket that returned as many datagrams as requested is assumed to be empty.
        FullBatchAssumedLast,
        /// A send that the kernel has not accepted is assumed complete.
        UnsubmittedSendAssumedSent,
        /// While pausing, the driver loses the datagram that it was about to deliver.
        DatagramLostOnPause,
        /// The driver reports empty queues while it holds datagrams.
        DrainedReportedEarly,
        /// A truncated datagram is reported as complete, so that its last, truncated line is forwarded.
        TruncatedLineForwarded,
        /// A socket is replaced while it holds unsent packets, so that later ones overtake them.
        ReopenedWhileBusy,
        /// A socket is not replaced when its interval is over.
        ScheduledReopenSkipped,
        /// A socket on which a send failed is kept.
        FailingSocketKept,
        /// A packet that met a full socket buffer is not sent again.
        BusyPacketLost,
        /// A packet whose send reported the refusal of an earlier one is not sent again.
        RefusedPacketLost,
        /// A drop is not counted.
        DropUncounted,
        /// A GSO batch that exceeds the path MTU is refused as if the device did not support GSO.
        PathMtuReportedAsRefusal,
        /// The path MTU is reported as unknown.
        PathMtuHidden,
        /// A packet that is not full is never flushed.
        DeadlineIgnored,
        /// A queued packet that absorbs another one loses the other's arrival times.
        ArrivalsLostOnAbsorb,
        /// An implausible timestamp is accepted.
        InvalidTimestampAccepted,
        /// The length of a joined datagram's segments is not read, so that they run into one another.
        SegmentBytesHidden,
    }

    /// Faults of handover and reload.
    CONTROL {
        /// A socket that was left to another process is still read.
        LeftSocketRead,
        /// A socket that was left to another process is fenced.
        LeftSocketFenced,
        /// A socket that the new process did not inherit is left like the others, and not fenced and drained.
        SurplusSocketLeft,
        /// A worker that leaves does not wait until everything is sent.
        LeaveWithoutFlush,
        /// Kernel drops that an earlier process has counted are counted again.
        DropsCountedTwice,
        /// A new process exits when the old one has exited, instead of serving in its place.
        ExitsWithOldProcess,
        /// A new process that is stopped after "ready" and before "go" exits, and leaves the sockets to an old process that has
        /// exited.
        StopAfterReadyExits,
        /// An old process hands over to a successor that is not ready in time.
        HandoverBeforeReady,
        /// A new process takes over with a config that a reload has replaced.
        ReloadUndoneByRestart,
        /// A new process starts with every backend up.
        HealthLostAtHandover,
        /// The admin states of backends are not handed over.
        AdminStateLostAtHandover,
        /// A check that could not be made counts as failed.
        ShortageCountedAsFailure,
        /// A reload replaces every backend, with its counters and its health.
        BackendLostAtReload,
        /// Cached placements of the old table are used with the new one.
        CacheKeptAcrossReload,
        /// A backend that a reload does not change gets a new socket.
        SocketReplacedAtReload,
        /// The socket of a removed backend stays open.
        SocketLeakedAtReload,
        /// Packets queued for a busy backend keep its index in the old table.
        QueuedPacketsMisrouted,
        /// A table is reported as in force before the worker applies it.
        GenerationReportedEarly,
    }
}

#[cfg(any(test, feature = "failpoints"))]
mod switch {
    use super::Mutation;
    use std::cell::Cell;
    use std::sync::OnceLock;

    /// Panics on a thread of this kind (`worker`, `control`, `helper`) if the process was started with
    /// `STATSRING_FAILPOINT_PANIC` set to it.
    pub fn panic_on(thread: &str) {
        static SELECTED: OnceLock<Option<String>> = OnceLock::new();
        let selected = SELECTED.get_or_init(|| std::env::var("STATSRING_FAILPOINT_PANIC").ok());
        assert!(selected.as_deref() != Some(thread), "failpoint");
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Activates one mutation on this thread, or none.
    pub fn activate(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Whether `mutation` is active on this thread.
    pub fn is_active(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(any(test, feature = "failpoints"))]
pub use switch::{activate, is_active, panic_on};

/// Whether `mutation` is active: never, in this build.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub const fn is_active(_mutation: Mutation) -> bool {
    false
}

/// Panics if this failpoint is active: never, in this build.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub const fn panic_on(_thread: &str) {}
