//! ICMP answers to packets that were sent earlier, told apart from errors of the packet that is being sent. Pure.
//!
//! In: what lay in a socket's error queue, outcomes of its sends. Out: the outcomes, explained. Next: the engines, which tell
//! them to the worker.
//!
//! The errno of an ICMP answer stays at the socket, where the next send finds it and is not made (`__udp4_lib_err` and
//! `sock_error` of the kernel): nothing is wrong with that packet. Where IP_RECVERR is set, the error queue says which errnos
//! came by an answer.

use crate::packet::{SendOutcome, SocketSlot};

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedError {
    /// Its errno; 0 if it cannot be told.
    pub errno: i32,
    /// It is an ICMP answer.
    pub is_answer: bool,
}

/// Different errnos that are remembered of one look into an error queue; there are hardly more.
const ERRNOS_MAX: usize = 4;

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

/// What lay in a socket's error queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedErrors {
    /// The errno of its first entry; 0 if it cannot be told.
    pub first: i32,
    answers: Errnos,
}

impl QueuedErrors {
    /// Those of entries, in order; `None` if there is none.
    pub fn collect(entries: impl Iterator<Item = QueuedError>) -> Option<QueuedErrors> {
        let mut errors: Option<QueuedErrors> = None;
        for entry in entries {
            let errors = errors.get_or_insert(QueuedErrors { first: entry.errno, ..QueuedErrors::default() });
            if entry.is_answer {
                errors.answers.add(entry.errno);
            }
        }
        errors
    }
}

/// Answers that came to one socket.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// In the batch in which they were taken last.
    last: Errnos,
    /// In the one before: an answer that comes behind a failed send is taken with that one's, and fails the next send.
    before: Errnos,
    /// The number of that batch.
    batch: u64,
}

/// Answers by socket.
#[derive(Debug, Default)]
pub struct Answers {
    sockets: Vec<Heard>,
    batch: u64,
}

impl Answers {
    /// Socket `slot` leads somewhere new.
    pub fn opened(&mut self, slot: SocketSlot) {
        let index = slot.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize(index + 1, Heard::default());
        }
        self.sockets[index] = Heard::default();
    }

    /// Another batch of outcomes is told.
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// What the outcome of a failed send to `slot` means, after which `taken` lay in the socket's error queue.
    ///
    /// Who is told so though the error was the packet's own tries it once more for nothing.
    pub fn explain(&mut self, slot: SocketSlot, outcome: SendOutcome, taken: QueuedErrors) -> SendOutcome {
        let Some(heard) = self.sockets.get_mut(slot.0 as usize) else { return outcome };
        if heard.batch != self.batch {
            *heard = Heard { last: Errnos::default(), before: heard.last, batch: self.batch };
        }
        taken.answers.0.into_iter().for_each(|errno| heard.last.add(errno));
        let is_heard = |errno: i32| heard.last.has(errno) || heard.before.has(errno);
        let is_answer = match outcome {
            SendOutcome::TooLong => is_heard(libc::EMSGSIZE),
            SendOutcome::Denied => is_heard(libc::EACCES) || is_heard(libc::EPERM),
            SendOutcome::Failed(errno) => is_heard(errno),
            _ => false,
        };
        if is_answer { SendOutcome::Answered } else { outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::errno::send_outcome;

    const SLOT: SocketSlot = SocketSlot(3);

    fn queue(entries: &[(i32, bool)]) -> QueuedErrors {
        let entries = entries.iter().map(|&(errno, is_answer)| QueuedError { errno, is_answer });
        QueuedErrors::collect(entries).unwrap_or_default()
    }

    fn answers() -> Answers {
        let mut answers = Answers::default();
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
                let has_own_meaning =
                    !matches!(outcome, SendOutcome::TooLong | SendOutcome::Denied | SendOutcome::Failed(_));
                match errno == other && !has_own_meaning {
                    true => assert_eq!(explained, SendOutcome::Answered, "{errno}"),
                    // EPERM and EACCES are one outcome.
                    false => assert!(explained == outcome || outcome == SendOutcome::Denied),
                }
            }
        }
    }

    #[test]
    fn an_answer_taken_with_another_sends_error_explains_those_of_this_batch_and_of_the_next_one() {
        let mut answers = answers();
        let failed = SendOutcome::Failed(libc::EPROTO);
        let explain = |answers: &mut Answers| answers.explain(SLOT, failed, QueuedErrors::default());
        answers.explain(
            SLOT,
            SendOutcome::Refused,
            queue(&[(libc::ECONNREFUSED, true), (libc::EPROTO, true)]),
        );
        assert_eq!([(); 2].map(|()| explain(&mut answers)), [SendOutcome::Answered; 2]);
        answers.next_batch();
        answers.next_batch();
        assert_eq!([(); 2].map(|()| explain(&mut answers)), [SendOutcome::Answered; 2]);
        answers.next_batch();
        assert_eq!(explain(&mut answers), failed);
    }

    #[test]
    fn a_new_socket_has_heard_nothing_and_an_unknown_one_is_no_harm() {
        let mut answers = answers();
        answers.explain(SLOT, SendOutcome::TooLong, queue(&[(libc::EMSGSIZE, true)]));
        answers.opened(SLOT);
        for slot in [SLOT, SocketSlot(9)] {
            assert_eq!(answers.explain(slot, SendOutcome::TooLong, queue(&[])), SendOutcome::TooLong);
        }
    }

    #[test]
    fn many_entries_are_remembered_as_far_as_there_is_room() {
        let entries: Vec<(i32, bool)> = (1..=9).map(|number| (number / 2, true)).collect();
        assert_eq!(queue(&entries), QueuedErrors { first: 0, answers: Errnos([1, 2, 3, 4]) });
        assert_eq!(QueuedErrors::collect(std::iter::empty()), None);
    }
}
