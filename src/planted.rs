//! Planted defects: the simulation tests enable one and must detect it.
//!
//! In: a test calls [`plant`] on its thread. Out: the code at the spot asks [`is_planted`] and misbehaves. Without the
//! feature `planted` (which only tests enable) the check is the constant `false`, and compiles to nothing.
//! Checked once per packet, per datagram or less often, never per metric.

/// One defect; each breaks one rule of the data path, of a handover, or of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A send error is ignored.
    SendErrorOverlooked,
    /// A socket that returned as many datagrams as requested is assumed to be empty.
    FullBatchTakenAsLast,
    /// A send that the kernel has not accepted is assumed complete.
    UnconsumedSendTakenAsSent,
    /// The driver forgets, while pausing, the datagram it was about to deliver.
    DatagramLostInPause,
    /// The driver claims that its queues are empty while it holds datagrams.
    DrainedTooEarly,
    /// A truncated datagram is reported as complete, so that its last, truncated line is forwarded.
    CutLineForwarded,
    /// A socket is replaced while packets wait for it, so that later ones overtake them.
    ReopenedWhileBusy,
    /// A socket is never replaced because its time is over.
    ReopenForgotten,
    /// A socket by which a send failed is kept.
    FailingSocketKept,
    /// A packet that met a full socket buffer is not sent again.
    BusyPacketLost,
    /// A packet that reported an earlier one's refusal is not sent again.
    RefusedPacketLost,
    /// A drop is not counted.
    DropUncounted,
    /// A packet that is not full is held forever.
    DeadlineIgnored,
    /// What a waiting packet absorbs loses its arrivals.
    ArrivalsLostAtAbsorb,
    /// An implausible timestamp is accepted.
    AbsurdStampBelieved,
    /// The receive on a socket that is left to others goes on.
    ReceiveNotCancelledAtLeave,
    /// A socket that is left to others is fenced.
    LeftSocketFenced,
    /// A socket that nobody else takes is left like the others, and not fenced and read.
    SurplusSocketLeft,
    /// A worker that leaves does not wait until everything is sent.
    LeaveWithoutFlush,
    /// What the kernel had dropped when another process had the sockets is counted again.
    DropsCountedTwice,
    /// A new process ends when the old one is gone, instead of going on in its place.
    RetiresWithOldProcess,
    /// A new process that is told to stop before it hears "go" leaves the sockets to an old one that is gone.
    StopForgetsPromise,
    /// An old process whose successor is late leaves all the same.
    GoneBeforeReady,
    /// A new process takes over though a reload was accepted since it read the config.
    ReloadUndoneByRestart,
    /// A new process begins with every backend up.
    HealthForgottenAtHandover,
    /// A check that could not be made counts as a failed one.
    ShortageTakenAsFailure,
    /// A new process does not know what the operator wants of a backend.
    WishForgottenAtHandover,
    /// A reload begins every backend anew, with its figures and its health.
    BackendForgottenAtReload,
    /// Decisions of the old table are taken from the cache.
    CacheKeptOverReload,
    /// A backend that stays as it is gets another socket.
    SocketReplacedAtReload,
    /// The socket of a backend that is gone stays open.
    SocketLeakedAtReload,
    /// Packets that wait for a busy backend keep its old place in the list.
    WaitingPacketsMisplaced,
    /// A table is reported to be in force before the worker applies it.
    GenerationToldTooEarly,
}

impl Defect {
    /// Those of the data path.
    pub const DATA_PATH: [Defect; 15] = [
        Defect::SendErrorOverlooked,
        Defect::FullBatchTakenAsLast,
        Defect::UnconsumedSendTakenAsSent,
        Defect::DatagramLostInPause,
        Defect::DrainedTooEarly,
        Defect::CutLineForwarded,
        Defect::ReopenedWhileBusy,
        Defect::ReopenForgotten,
        Defect::FailingSocketKept,
        Defect::BusyPacketLost,
        Defect::RefusedPacketLost,
        Defect::DropUncounted,
        Defect::DeadlineIgnored,
        Defect::ArrivalsLostAtAbsorb,
        Defect::AbsurdStampBelieved,
    ];

    /// Those of handover and reload.
    pub const CONTROL: [Defect; 18] = [
        Defect::ReceiveNotCancelledAtLeave,
        Defect::LeftSocketFenced,
        Defect::SurplusSocketLeft,
        Defect::LeaveWithoutFlush,
        Defect::DropsCountedTwice,
        Defect::RetiresWithOldProcess,
        Defect::StopForgetsPromise,
        Defect::GoneBeforeReady,
        Defect::ReloadUndoneByRestart,
        Defect::HealthForgottenAtHandover,
        Defect::WishForgottenAtHandover,
        Defect::ShortageTakenAsFailure,
        Defect::BackendForgottenAtReload,
        Defect::CacheKeptOverReload,
        Defect::SocketReplacedAtReload,
        Defect::SocketLeakedAtReload,
        Defect::WaitingPacketsMisplaced,
        Defect::GenerationToldTooEarly,
    ];
}

#[cfg(any(test, feature = "planted"))]
mod switch {
    use super::Defect;
    use std::cell::Cell;
    use std::sync::OnceLock;

    /// Panics on a thread of this kind (`worker`, `control`, `helper`) if the process was started with
    /// `STATSRING_PLANTED_PANIC` set to it.
    pub fn panic_on(thread: &str) {
        static ASKED: OnceLock<Option<String>> = OnceLock::new();
        let asked = ASKED.get_or_init(|| std::env::var("STATSRING_PLANTED_PANIC").ok());
        assert!(asked.as_deref() != Some(thread), "planted");
    }

    thread_local! {
        static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Enables one defect for this thread, or none.
    pub fn plant(defect: Option<Defect>) {
        PLANTED.set(defect);
    }

    /// Whether `defect` is enabled.
    pub fn is_planted(defect: Defect) -> bool {
        PLANTED.get() == Some(defect)
    }
}

#[cfg(any(test, feature = "planted"))]
pub use switch::{is_planted, panic_on, plant};

/// Whether `defect` is enabled: never, in this build.
#[cfg(not(any(test, feature = "planted")))]
#[inline(always)]
pub const fn is_planted(_defect: Defect) -> bool {
    false
}

/// Panics if that was planted: never, in this build.
#[cfg(not(any(test, feature = "planted")))]
#[inline(always)]
pub const fn panic_on(_thread: &str) {}
