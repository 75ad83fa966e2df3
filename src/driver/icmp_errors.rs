//! Distinguishes ICMP errors of earlier packets from errors of the packet being sent. Pure.
//!
//! In: the contents of a socket's error queue, outcomes of its sends. Out: the outcomes, explained; by socket, how many earlier
//! packets were answered with an error. Next: `engine.rs` passes both to the worker.
//!
//! The errno of an ICMP error stays on the socket, where the next send returns it without sending (`__udp4_lib_err` and
//! `sock_error` of the kernel): nothing is wrong with that packet. With IP_RECVERR, the error queue shows which errnos are ICMP
//! errors.

use super::Events;
use crate::packet::{SendError, SendErrorCounts, SendOutcome, SocketSlot};

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedError {
    /// Its errno; 0 if unknown.
    pub errno: i32,
    /// It is an ICMP error.
    pub is_answer: bool,
    /// This host generated it, as when a neighbor does not reply to ARP or neighbor discovery.
    pub is_own: bool,
    /// A firewall rejects the packet.
    pub is_prohibited: bool,
}

impl QueuedError {
    /// What it means.
    fn kind(self) -> SendError {
        match SendError::of(self.errno) {
            kind if self.is_prohibited && kind.is_unreachable() => SendError::Rejected,
            SendError::HostUnreachable if self.is_own => SendError::NoNeighbor,
            kind => kind,
        }
    }
}

/// Different errnos kept per read of an error queue: all that ICMP errors are translated to
/// (`icmp_err_convert` and `icmpv6_err_convert` of the kernel).
const ERRNOS_MAX: usize = 10;

/// A few errnos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Errnos([i32; ERRNOS_MAX]);

impl Errnos {
    fn add(&mut self, errno: i32) {
        if !self.has(errno)
            && let Some(place) = self.0.iter_mut().find(|place| **place == 0)
        {
            *place = errno;
        }
    }

    fn has(&self, errno: i32) -> bool {
        errno != 0 && self.0.contains(&errno)
    }
}

/// The contents of a socket's error queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedErrors {
    /// The errno of its first entry; 0 if unknown.
    pub first: i32,
    answers: Errnos,
    /// The packets that were answered with an error, by kind.
    counts: SendErrorCounts,
}

impl QueuedErrors {
    /// Collects entries, in order; `None` if there is none.
    pub fn collect(entries: impl Iterator<Item = QueuedError>) -> Option<QueuedErrors> {
        let mut errors: Option<QueuedErrors> = None;
        for entry in entries {
            let errors = errors.get_or_insert(QueuedErrors { first: entry.errno, ..QueuedErrors::default() });
            if entry.is_answer {
                errors.answers.add(entry.errno);
                errors.counts.add(entry.kind());
            }
        }
        errors
    }
}

/// ICMP errors of one socket.
#[derive(Clone, Copy, Debug, Default)]
struct SocketErrors {
    /// Those of the batch in which errors were read last.
    last: Errnos,
    /// Those of the previous batch: an error that arrives after a failed send is read with that one's, and fails the next send.
    before: Errnos,
    /// The number of that batch.
    batch: u64,
    /// Errors not reported to the worker yet.
    unreported: SendErrorCounts,
}

/// ICMP errors by socket.
#[derive(Debug, Default)]
pub struct IcmpErrors {
    sockets: Vec<SocketErrors>,
    batch: u64,
    /// Sockets with errors not reported to the worker yet, each once.
    unreported: Vec<SocketSlot>,
}

impl IcmpErrors {
    /// Socket `slot` is connected anew.
    pub fn opened(&mut self, slot: SocketSlot) {
        let index = slot.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize(index + 1, SocketErrors::default());
            // Room for each socket once: nothing is allocated when errors arrive.
            self.unreported.reserve(index + 1 - self.unreported.len());
        }
        self.sockets[index] = SocketErrors::default();
        self.unreported.retain(|unreported| *unreported != slot);
    }

    /// A new batch of outcomes begins.
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// Explains the outcome of a failed send to `slot`; `taken` is what the socket's error queue contained after it.
    ///
    /// If the error was the packet's own after all, the packet is sent once more in vain.
    pub fn explain(&mut self, slot: SocketSlot, outcome: SendOutcome, taken: QueuedErrors) -> SendOutcome {
        let Some(socket) = self.record(slot, taken) else { return outcome };
        let answered = |errno: i32| {
            let is_icmp_error = socket.last.has(errno) || socket.before.has(errno);
            if is_icmp_error { SendOutcome::Answered(errno) } else { outcome }
        };
        match outcome {
            SendOutcome::TooLong => answered(libc::EMSGSIZE),
            SendOutcome::Denied(SendError::NotPermitted) => answered(libc::EPERM),
            SendOutcome::Denied(_) => answered(libc::EACCES),
            SendOutcome::Failed(errno) => answered(errno),
            SendOutcome::Unreachable(_) => {
                // The errno alone does not distinguish these.
                let mut causes = [SendError::Rejected, SendError::NoNeighbor].into_iter();
                causes
                    .find(|error| socket.unreported.get(*error) > 0)
                    .map_or(outcome, SendOutcome::Unreachable)
            }
            _ => outcome,
        }
    }

    /// Records errors from the error queue of `slot`, for [`IcmpErrors::report`] and for sends that failed because of them.
    fn record(&mut self, slot: SocketSlot, taken: QueuedErrors) -> Option<&mut SocketErrors> {
        let batch = self.batch;
        let socket = self.sockets.get_mut(slot.0 as usize)?;
        if socket.batch != batch {
            *socket = SocketErrors {
                last: Errnos::default(),
                before: socket.last,
                batch,
                unreported: socket.unreported,
            };
        }
        taken.answers.0.into_iter().for_each(|errno| socket.last.add(errno));
        if taken.counts.total() > 0 {
            if socket.unreported.total() == 0 {
                self.unreported.push(slot);
            }
            socket.unreported.merge(&taken.counts);
        }
        Some(socket)
    }

    /// Records errors from the error queue of `slot` that was read without a failed send. A send that failed meanwhile
    /// may be explained by them.
    pub fn found(&mut self, slot: SocketSlot, taken: QueuedErrors) {
        self.record(slot, taken);
    }

    /// Reports the errors since the last call to `events`.
    pub fn report(&mut self, events: &mut impl Events) {
        while let Some(slot) = self.unreported.pop() {
            if let Some(socket) = self.sockets.get_mut(slot.0 as usize) {
                events.answered(slot, std::mem::take(&mut socket.unreported));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::errno::send_outcome;

    const SLOT: SocketSlot = SocketSlot(3);

    fn queue(entries: &[(i32, bool)]) -> QueuedErrors {
        let entries = entries.iter().map(|&(errno, is_answer)| QueuedError {
            errno,
            is_answer,
            ..QueuedError::default()
        });
        QueuedErrors::collect(entries).unwrap_or_default()
    }

    fn answers() -> IcmpErrors {
        let mut answers = IcmpErrors::default();
        answers.opened(SLOT);
        answers.next_batch();
        answers
    }

    #[test]
    fn an_answer_explains_its_own_errno_and_no_other() {
        for errno in 1..200 {
            for other in 1..200 {
                let outcome = send_outcome(-other);
                assert_eq!(answers().explain(SLOT, outcome, queue(&[(errno, false)])), outcome);
                let explained = answers().explain(SLOT, outcome, queue(&[(errno, true)]));
                let has_own_meaning = !matches!(
                    outcome,
                    SendOutcome::TooLong | SendOutcome::Denied(_) | SendOutcome::Failed(_)
                );
                match errno == other && !has_own_meaning {
                    true => assert_eq!(explained, SendOutcome::Answered(errno)),
                    false => assert_eq!(explained, outcome, "{errno}"),
                }
            }
        }
    }

    #[test]
    fn an_answer_taken_with_another_sends_error_explains_those_of_this_batch_and_of_the_next_one() {
        let mut answers = answers();
        let failed = SendOutcome::Failed(libc::EPROTO);
        let explain = |answers: &mut IcmpErrors| answers.explain(SLOT, failed, QueuedErrors::default());
        answers.explain(
            SLOT,
            SendOutcome::Refused,
            queue(&[(libc::ECONNREFUSED, true), (libc::EPROTO, true)]),
        );
        assert_eq!([(); 2].map(|()| explain(&mut answers)), [SendOutcome::Answered(libc::EPROTO); 2]);
        answers.next_batch();
        answers.next_batch();
        assert_eq!([(); 2].map(|()| explain(&mut answers)), [SendOutcome::Answered(libc::EPROTO); 2]);
        answers.next_batch();
        assert_eq!(explain(&mut answers), failed);
    }

    #[test]
    fn every_errno_that_icmp_has_is_explained_though_all_come_in_one_batch() {
        let errnos = [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EHOSTDOWN,
            libc::ENONET,
            libc::ENOPROTOOPT,
            libc::EOPNOTSUPP,
            libc::EPROTO,
            libc::EACCES,
            libc::EMSGSIZE,
        ];
        let mut answers = answers();
        answers.found(SLOT, queue(&errnos.map(|errno| (errno, true))));
        for errno in [libc::EMSGSIZE, libc::EACCES, libc::EPROTO, libc::EOPNOTSUPP] {
            let explained = answers.explain(SLOT, send_outcome(-errno), QueuedErrors::default());
            assert_eq!(explained, SendOutcome::Answered(errno));
        }
    }

    #[test]
    fn a_new_socket_has_no_errors_and_an_unknown_one_is_ignored() {
        let mut answers = answers();
        answers.explain(SLOT, SendOutcome::TooLong, queue(&[(libc::EMSGSIZE, true)]));
        answers.opened(SLOT);
        for slot in [SLOT, SocketSlot(9)] {
            assert_eq!(answers.explain(slot, SendOutcome::TooLong, queue(&[])), SendOutcome::TooLong);
        }
    }

    #[test]
    fn a_poll_keeps_the_errors_that_explain_a_send_that_failed_just_before() {
        let mut answers = answers();
        let entry =
            QueuedError { errno: libc::EHOSTUNREACH, is_answer: true, is_own: true, is_prohibited: false };
        let entries = [QueuedError { errno: libc::EACCES, ..entry }, entry];
        answers.found(SLOT, QueuedErrors::collect(entries.into_iter()).unwrap());
        answers.next_batch();
        let mut explain = |errno: i32| answers.explain(SLOT, send_outcome(-errno), QueuedErrors::default());
        assert_eq!(explain(libc::EACCES), SendOutcome::Answered(libc::EACCES));
        assert_eq!(explain(libc::EHOSTUNREACH), SendOutcome::Unreachable(SendError::NoNeighbor));
    }

    /// The errors reported to a worker.
    #[derive(Default)]
    struct Reported(Vec<(SocketSlot, SendErrorCounts)>);

    impl Events for Reported {
        fn datagram(&mut self, _: &[u8], _: usize, _: crate::driver::Stamp) -> crate::driver::Flow {
            crate::driver::Flow::More
        }

        fn sent(&mut self, _: crate::packet::Packet, _: SendOutcome) {}

        fn answered(&mut self, slot: SocketSlot, errors: SendErrorCounts) {
            self.0.push((slot, errors));
        }
    }

    #[test]
    fn every_error_is_reported_once_whether_or_not_a_send_failed_because_of_it() {
        let mut answers = answers();
        answers.opened(SocketSlot(1));
        let refused = queue(&[(libc::ECONNREFUSED, true), (libc::ECONNREFUSED, true), (libc::EIO, false)]);
        answers.explain(SLOT, SendOutcome::Refused, refused);
        answers.found(SLOT, queue(&[(libc::ECONNREFUSED, true)]));
        answers.found(SocketSlot(1), queue(&[(libc::ENETUNREACH, true)]));
        answers.found(SocketSlot(9), queue(&[(libc::ENETUNREACH, true)]));
        let mut reported = Reported::default();
        answers.report(&mut reported);
        answers.report(&mut reported);
        reported.0.sort_by_key(|(slot, _)| *slot);
        let reported: Vec<_> =
            reported.0.iter().map(|(slot, errors)| (slot.0, errors.iter().next())).collect();
        let expected =
            [(1, Some((SendError::NetworkUnreachable, 1))), (SLOT.0, Some((SendError::Refused, 3)))];
        assert_eq!(reported, expected);
        answers.found(SLOT, refused);
        answers.opened(SLOT);
        let mut reported = Reported::default();
        answers.report(&mut reported);
        assert!(reported.0.is_empty(), "errors of a replaced socket must be discarded");
    }

    #[test]
    fn a_host_that_this_host_itself_reports_unreachable_does_not_answer_arp() {
        let failed = send_outcome(-libc::EHOSTUNREACH);
        let entry = QueuedError { errno: libc::EHOSTUNREACH, is_answer: true, ..QueuedError::default() };
        for (entry, error) in [
            (entry, SendError::HostUnreachable),
            (QueuedError { is_own: true, ..entry }, SendError::NoNeighbor),
            (QueuedError { is_own: true, is_prohibited: true, ..entry }, SendError::Rejected),
        ] {
            let errors = QueuedErrors::collect([entry].into_iter()).unwrap();
            assert_eq!(answers().explain(SLOT, failed, errors), SendOutcome::Unreachable(error));
        }
    }

    #[test]
    fn many_entries_are_remembered_as_far_as_there_is_room() {
        let entries: Vec<(i32, bool)> = (1..=24).map(|number| (number / 2, true)).collect();
        let errors = queue(&entries);
        assert_eq!((errors.first, errors.answers), (0, Errnos([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])));
        assert_eq!(errors.counts.total(), 24);
        assert_eq!(QueuedErrors::collect(std::iter::empty()), None);
    }
}
