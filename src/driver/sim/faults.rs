//! The faults of the fake kernel: their rates and counts.
//!
//! In: a rate for each fault. Out: whether it occurs now, and a count of each. Next: `kernel.rs` injects them.

use super::random::Random;
use crate::driver::Engine;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One kind of fault, or of rare event, of the fake kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Fault::ALL.len();

            /// Its name in test output.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }
        }
    };
}

faults! {
    /// The sleep returns EBUSY.
    EnterBusy = "sleep: EBUSY",
    /// The sleep returns EAGAIN.
    EnterAgain = "sleep: EAGAIN",
    /// The sleep returns an error that is not part of normal work.
    EnterError = "sleep: ENOMEM",
    /// A signal ends the sleep.
    EnterInterrupted = "sleep: EINTR",
    /// The sleep ends by its deadline.
    EnterTimeout = "sleep: ETIME",
    /// The thread is scheduled long after the end of its sleep.
    Overslept = "overslept",
    /// The thread is preempted as the sleep returns: datagrams arrive that it has not seen.
    Preempted = "preempted after a sleep",
    /// A datagram without a payload.
    ZeroLength = "zero-length datagram",
    /// A datagram longer than the buffer.
    Truncated = "truncated datagram",
    /// A drain stops before the queue is empty, as when no buffer is free.
    DrainStopped = "drain stopped early",
    /// The receive ends with ENOMEM.
    ReceiveError = "receive: ENOMEM",
    /// The receive ends with EINTR.
    ReceiveInterrupted = "receive: EINTR",
    /// The socket's send buffer is full.
    SendBusy = "send: EAGAIN",
    /// An earlier datagram was refused.
    SendRefused = "send: ECONNREFUSED",
    /// A queueing discipline dropped the packet.
    SendNoBuffers = "send: ENOBUFS",
    /// The packet is too long for the path.
    SendTooLong = "send: EMSGSIZE",
    /// A firewall rule forbids it.
    SendDenied = "send: EPERM",
    /// The host cannot be reached.
    SendUnreachable = "send: EHOSTUNREACH",
    /// An earlier packet caused an ICMP error whose errno may also be the packet's own.
    SendAnswered = "send: ICMP error of an earlier packet",
    /// The host's address changes: older sockets can no longer send.
    SourceChanged = "source address changed",
    /// An argument was wrong.
    SendInvalid = "send: EINVAL",
    /// The device failed.
    SendInputOutput = "send: EIO",
    /// A GSO batch is refused (EIO).
    GsoRefused = "send: GSO batch refused",
    /// The MTU of the path changes.
    PathChanged = "path MTU changed",
    /// The segments of a GSO batch exceed the path MTU.
    GsoTooBig = "send: GSO segments exceed the path MTU",
    /// A submission stops before a valid message.
    SendStopped = "submission stopped early",
    /// sendmmsg stops at a message after the first, whose error it does not report.
    SendErrorUnreported = "sendmmsg: error not reported",
    /// A sleep reports a socket readable whose queue is then empty.
    SpuriousReadiness = "spurious readiness",
    /// A backend's socket cannot be made.
    OpenFailed = "socket not made",
    /// A datagram has no timestamp, though timestamps are enabled.
    TimestampMissing = "timestamp missing",
    /// A datagram's timestamp is implausible.
    TimestampInvalid = "timestamp implausible",
    /// A datagram's control messages were truncated.
    ControlTruncated = "control messages truncated",
    /// The listening socket's queue was full.
    KernelDrop = "kernel drop",
}

impl Fault {
    /// Whether it can occur on the kernel interface of `engine`.
    pub const fn concerns(self, engine: Engine) -> bool {
        match self {
            Fault::EnterBusy | Fault::EnterAgain | Fault::DrainStopped => matches!(engine, Engine::IoUring),
            Fault::SendErrorUnreported => matches!(engine, Engine::Portable),
            _ => true,
        }
    }
}

/// Rates of faults in ten thousandths, by kind, and their counts.
#[derive(Clone, Debug)]
pub struct Faults {
    rates: [u32; Fault::COUNT],
    counts: [u64; Fault::COUNT],
}

impl Faults {
    /// No faults.
    pub const fn none() -> Faults {
        Faults { rates: [0; Fault::COUNT], counts: [0; Fault::COUNT] }
    }

    /// Each kind is off, rare or frequent, at random: runs differ in which faults occur, not only in when.
    pub fn mixed(random: &mut Random) -> Faults {
        let mut faults = Faults::none();
        for rate in &mut faults.rates {
            *rate = match random.below(4) {
                0 | 1 => 0,
                2 => random.between(1, 100) as u32,
                _ => random.between(100, 1_500) as u32,
            };
        }
        faults
    }

    /// Sets the rate of `fault`, in ten thousandths.
    pub fn set(&mut self, fault: Fault, per_ten_thousand: u32) {
        self.rates[fault as usize] = per_ten_thousand;
    }

    /// Whether `fault` occurs now; counted if so.
    pub fn strikes(&mut self, fault: Fault, random: &mut Random) -> bool {
        let rate = self.rates[fault as usize];
        let is_hit = rate > 0 && random.strikes(rate);
        self.counts[fault as usize] += u64::from(is_hit);
        is_hit
    }

    /// Counts one that was not injected.
    pub fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often it occurred.
    pub fn counted(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// Disables all faults; the counts stay.
    pub fn stop(&mut self) {
        self.rates = [0; Fault::COUNT];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_occurs_at_its_rate_and_is_counted() {
        let mut random = Random::new(3);
        let mut faults = Faults::none();
        assert!(!faults.strikes(Fault::DrainStopped, &mut random));
        faults.set(Fault::DrainStopped, 5_000);
        let hits = (0..1_000).filter(|_| faults.strikes(Fault::DrainStopped, &mut random)).count();
        assert!((400..600).contains(&hits));
        assert_eq!(faults.counted(Fault::DrainStopped), hits as u64);
        faults.stop();
        assert!(!faults.strikes(Fault::DrainStopped, &mut random));
        assert_eq!(faults.counted(Fault::SendBusy), 0);
    }
}
