//! What a completion means, as total functions: any result with any flags has exactly one meaning.
//!
//! In: `res` and `flags` as the kernel wrote them. Out: [`Received`], [`SendOutcome`], [`WaitResult`].
//! Next: `engine.rs`, which acts on them.

use crate::packet::SendOutcome;

/// A buffer comes with the completion; its id is in the upper half of the flags.
pub const CQE_BUFFER: u32 = 1 << 0;
/// The multishot goes on.
pub const CQE_MORE: u32 = 1 << 1;
/// Where the buffer's id starts in the flags.
pub const CQE_BUFFER_SHIFT: u32 = 16;

/// One completion of a multishot receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// A buffer that has to go back to the ring, whatever the result.
    pub buffer: Option<u16>,
    /// Whether the receive is still armed. It is not without F_MORE, whatever the result: a datagram without a payload
    /// and a full completion queue end it with a good one.
    pub armed: bool,
    /// What happened.
    pub result: ReceiveResult,
}

/// What a receive reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveResult {
    /// So many bytes of the buffer were written: header, areas, payload.
    Datagram {
        /// Bytes of the buffer.
        bytes: usize,
    },
    /// A good result without a buffer: there is nothing to read, a datagram may be lost.
    NoData,
    /// ENOBUFS: no buffer was free.
    NoBuffers,
    /// ECANCELED: as asked.
    Cancelled,
    /// EINTR, EAGAIN: arm it again.
    Interrupted,
    /// An error that another try may outlive, with its errno.
    Failed(i32),
    /// The receive was asked for in a way that this kernel cannot serve; trying again is of no use. With its errno.
    Impossible(i32),
}

/// The meaning of a multishot receive's completion.
pub fn classify(res: i32, flags: u32) -> Received {
    let buffer = (flags & CQE_BUFFER != 0).then_some((flags >> CQE_BUFFER_SHIFT) as u16);
    let result = match (usize::try_from(res), buffer) {
        (Ok(bytes), Some(_)) => ReceiveResult::Datagram { bytes },
        (Ok(_), None) => ReceiveResult::NoData,
        (Err(_), _) => match errno_of(res) {
            libc::ENOBUFS => ReceiveResult::NoBuffers,
            libc::ECANCELED => ReceiveResult::Cancelled,
            libc::EINTR | libc::EAGAIN => ReceiveResult::Interrupted,
            errno if is_impossible(errno) => ReceiveResult::Impossible(errno),
            errno => ReceiveResult::Failed(errno),
        },
    };
    Received { buffer, armed: flags & CQE_MORE != 0, result }
}

/// What the kernel said to a send; successes usually say nothing.
pub fn send_outcome(res: i32) -> SendOutcome {
    if res >= 0 {
        return SendOutcome::Sent;
    }
    match errno_of(res) {
        // A cancelled send was not tried.
        libc::EAGAIN | libc::EINTR | libc::ECANCELED => SendOutcome::Busy,
        libc::ECONNREFUSED => SendOutcome::Refused,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => SendOutcome::Unreachable,
        libc::ENOBUFS | libc::ENOMEM => SendOutcome::NoBuffers,
        libc::EMSGSIZE => SendOutcome::TooLong,
        libc::EPERM | libc::EACCES => SendOutcome::Denied,
        errno => SendOutcome::Failed(errno),
    }
}

/// Whether the error of a train's send means that this host, route or device takes no trains. Single packets go on.
/// Sources: udp(7) on UDP_SEGMENT; devices that pass the probe may answer EIO at run time.
pub fn is_train_refusal(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
}

/// What the end of a wait means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// Part of normal work.
    Normal,
    /// Worth counting; go on.
    Odd,
    /// The ring cannot be used (any more).
    Broken,
}

/// The meaning of the errno of a wait, 0 for none.
pub fn wait_result(errno: i32) -> WaitResult {
    match errno {
        0 | libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN => WaitResult::Normal,
        libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENXIO | libc::EEXIST | libc::EOPNOTSUPP => {
            WaitResult::Broken
        }
        libc::EBADFD | libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOWNERDEAD => WaitResult::Broken,
        _ => WaitResult::Odd,
    }
}

/// The errno in a negative result.
pub fn errno_of(res: i32) -> i32 {
    res.checked_neg().unwrap_or(i32::MAX)
}

/// Whether a receive's or a wake's errno says that the request itself is wrong.
pub fn is_impossible(errno: i32) -> bool {
    matches!(
        errno,
        libc::EBADF
            | libc::EFAULT
            | libc::EINVAL
            | libc::ENOTSOCK
            | libc::EOPNOTSUPP
            | libc::EPERM
            | libc::EACCES
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag bit below the id, with ids at their ends.
    fn all_flags() -> impl Iterator<Item = u32> {
        (0u32..1 << 6).flat_map(|low| [0u32, 1, 4095, 65535].map(|id| low | id << CQE_BUFFER_SHIFT))
    }

    /// Every errno, good results at their ends, and the worst.
    fn all_results() -> impl Iterator<Item = i32> {
        (-4096..=80).chain([8208, 65_535, i32::MAX, i32::MIN, i32::MIN + 1])
    }

    #[test]
    fn every_combination_has_one_meaning() {
        for res in all_results() {
            for flags in all_flags() {
                let got = classify(res, flags);
                assert_eq!(got.armed, flags & CQE_MORE != 0, "armed is what F_MORE says: {res} {flags:#x}");
                let id = (flags & CQE_BUFFER != 0).then_some((flags >> 16) as u16);
                assert_eq!(got.buffer, id, "a buffer is never overlooked: {res} {flags:#x}");
                match got.result {
                    ReceiveResult::Datagram { bytes } => {
                        assert!(res >= 0 && id.is_some() && bytes == res as usize)
                    }
                    ReceiveResult::NoData => assert!(res >= 0 && id.is_none()),
                    ReceiveResult::NoBuffers => assert_eq!(res, -libc::ENOBUFS),
                    ReceiveResult::Cancelled => assert_eq!(res, -libc::ECANCELED),
                    ReceiveResult::Interrupted => assert!([-libc::EINTR, -libc::EAGAIN].contains(&res)),
                    ReceiveResult::Failed(errno) => {
                        assert!(res < 0 && !is_impossible(errno));
                        assert_eq!(-i64::from(errno), i64::from(res).max(-i64::from(i32::MAX)));
                    }
                    ReceiveResult::Impossible(errno) => assert!(res == -errno && is_impossible(errno)),
                }
            }
        }
    }

    #[test]
    fn every_send_result_has_one_outcome() {
        for res in all_results() {
            let outcome = send_outcome(res);
            assert_eq!(res >= 0, outcome == SendOutcome::Sent, "{res}");
            if let SendOutcome::Failed(errno) = outcome {
                assert_eq!(errno, errno_of(res));
            }
        }
        assert_eq!(send_outcome(-libc::EAGAIN), SendOutcome::Busy);
        assert_eq!(send_outcome(-libc::ECONNREFUSED), SendOutcome::Refused);
        assert_eq!(send_outcome(-libc::EHOSTUNREACH), SendOutcome::Unreachable);
        assert_eq!(send_outcome(-libc::ENOBUFS), SendOutcome::NoBuffers);
        assert_eq!(send_outcome(-libc::EMSGSIZE), SendOutcome::TooLong);
        assert_eq!(send_outcome(-libc::EPERM), SendOutcome::Denied);
        assert_eq!(send_outcome(-libc::EIO), SendOutcome::Failed(libc::EIO));
    }

    #[test]
    fn only_the_four_normal_errors_of_a_wait_are_normal() {
        let normal: Vec<i32> = (1..4096).filter(|errno| wait_result(*errno) == WaitResult::Normal).collect();
        let mut expected = vec![libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
        expected.sort_unstable();
        assert_eq!(normal, expected);
        assert_eq!(wait_result(0), WaitResult::Normal);
    }
}
