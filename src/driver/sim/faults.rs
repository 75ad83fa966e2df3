//! What can go wrong in the fake kernel, how often, and how often it did.
//!
//! In: a rate for each fault. Out: whether it strikes now, and a count of each. Next: `kernel.rs`, which strikes.

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

            /// Its name as a test prints it.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }
        }
    };
}

faults! {
    /// The sleep answers EBUSY.
    EnterBusy = "sleep: EBUSY",
    /// The sleep answers EAGAIN.
    EnterAgain = "sleep: EAGAIN",
    /// The sleep answers an error that is not part of normal work.
    EnterOdd = "sleep: ENOMEM",
    /// A signal ends the sleep.
    EnterInterrupted = "sleep: EINTR",
    /// The sleep ends by its deadline.
    EnterTimeout = "sleep: ETIME",
    /// The thread runs again long after its sleep's end.
    Overslept = "overslept",
    /// The thread loses the processor as the sleep returns: datagrams arrive that it has not seen.
    Preempted = "preempted after a sleep",
    /// A datagram without a payload.
    ZeroLength = "zero-length datagram",
    /// A datagram longer than its room.
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
    /// An earlier packet met an ICMP answer whose errno a packet may also have on its own.
    SendAnswered = "send: ICMP answer to an earlier packet",
    /// The host's address changes: sockets that were made before have none to send from.
    SourceChanged = "source address changed",
    /// An argument was wrong.
    SendInvalid = "send: EINVAL",
    /// The device failed.
    SendInputOutput = "send: EIO",
    /// A GSO batch is refused (EIO).
    GsoRefused = "send: GSO batch refused",
    /// A submission stops before a message that has nothing wrong.
    SendStopped = "submission stopped early",
    /// sendmmsg stops at a message that is not the first, whose error the call does not tell.
    SendErrorUntold = "sendmmsg: error not reported",
    /// A sleep finds a socket readable, and a moment later it has nothing.
    ReadyInVain = "spurious readiness",
    /// A backend's socket cannot be made.
    OpenFailed = "socket not made",
    /// A datagram comes without the timestamp that was asked for.
    TimestampMissing = "timestamp missing",
    /// A datagram's timestamp cannot be right.
    TimestampAbsurd = "timestamp implausible",
    /// A datagram's control messages found no room.
    ControlTruncated = "control messages truncated",
    /// The listening socket's queue was full.
    KernelDrop = "kernel drop",
}

impl Fault {
    /// Whether it can happen on the kernel interface of `engine`.
    pub const fn concerns(self, engine: Engine) -> bool {
        match self {
            Fault::EnterBusy | Fault::EnterAgain | Fault::DrainStopped => matches!(engine, Engine::IoUring),
            Fault::SendErrorUntold => matches!(engine, Engine::Portable),
            _ => true,
        }
    }
}

/// Faults in ten thousand chances, by kind, and what struck.
#[derive(Clone, Debug)]
pub struct Faults {
    rates: [u32; Fault::COUNT],
    counts: [u64; Fault::COUNT],
}

impl Faults {
    /// None strikes.
    pub const fn none() -> Faults {
        Faults { rates: [0; Fault::COUNT], counts: [0; Fault::COUNT] }
    }

    /// Each kind is quiet, rare or frequent, by chance: runs differ in what goes wrong, not only in when.
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

    /// Whether `fault` strikes now; counted if so.
    pub fn strikes(&mut self, fault: Fault, random: &mut Random) -> bool {
        let rate = self.rates[fault as usize];
        let is_hit = rate > 0 && random.strikes(rate);
        self.counts[fault as usize] += u64::from(is_hit);
        is_hit
    }

    /// Counts one that came about by itself.
    pub fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often it struck.
    pub fn counted(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// From now on none strikes; what is counted stays.
    pub fn stop(&mut self) {
        self.rates = [0; Fault::COUNT];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_at_its_rate_and_is_counted() {
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
