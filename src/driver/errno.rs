//! The meaning of errnos for both engines, as total functions.
//!
//! In: a result, at least 0 or a negated errno, or a bare errno. Out: [`SendOutcome`], [`WaitResult`]. Next: the engines,
//! which act on them.

use crate::packet::{SendError, SendOutcome};

/// The outcome of a send; successes usually have no completion.
pub fn send_outcome(res: i32) -> SendOutcome {
    if res >= 0 {
        return SendOutcome::Sent;
    }
    match errno_of(res) {
        // A cancelled send was not tried.
        libc::EAGAIN | libc::EINTR | libc::ECANCELED => SendOutcome::Busy,
        libc::ECONNREFUSED => SendOutcome::Refused,
        libc::EMSGSIZE => SendOutcome::TooLong,
        errno => match SendError::of(errno) {
            error if error.is_unreachable() => SendOutcome::Unreachable(error),
            error @ (SendError::NoBuffers | SendError::NoMemory) => SendOutcome::NoBuffers(error),
            error @ (SendError::NotPermitted | SendError::Prohibited) => SendOutcome::Denied(error),
            _ => SendOutcome::Failed(errno),
        },
    }
}

/// Whether the error of a GSO batch's send may mean that its segments exceed the path MTU; compare with that.
/// EMSGSIZE since Linux 6.14 and its stable releases of early 2025 (commit 235174b2bed8), EINVAL before.
pub fn may_be_path(errno: i32) -> bool {
    matches!(errno, libc::EMSGSIZE | libc::EINVAL)
}

/// Whether the error of a GSO batch's send means that this host, route or device supports no GSO. Single packets still work.
/// Sources: udp(7) on UDP_SEGMENT; devices that pass the probe may return EIO at run time.
pub fn is_gso_refusal(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
}

/// The meaning of a wait's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// Part of normal work.
    Normal,
    /// Worth counting; continue.
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

/// Whether the errno of a receive or of a wake means that the request itself is invalid.
pub fn is_impossible(errno: i32) -> bool {
    matches!(
        errno,
        libc::EBADF
            | libc::EBADFD
            | libc::ENOSYS
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

    #[test]
    fn every_send_result_has_one_outcome() {
        for res in (-4096..=80).chain([65_535, i32::MAX, i32::MIN, i32::MIN + 1]) {
            let outcome = send_outcome(res);
            assert_eq!(res >= 0, outcome == SendOutcome::Sent, "{res}");
            if let SendOutcome::Failed(errno) = outcome {
                assert_eq!(errno, errno_of(res));
            }
            let is_error = !matches!(outcome, SendOutcome::Sent | SendOutcome::Busy);
            assert_eq!(outcome.error(), is_error.then(|| SendError::of(errno_of(res))), "{res}");
        }
        assert_eq!(send_outcome(-libc::EAGAIN), SendOutcome::Busy);
        assert_eq!(send_outcome(-libc::ECONNREFUSED), SendOutcome::Refused);
        assert_eq!(send_outcome(-libc::EMSGSIZE), SendOutcome::TooLong);
        for errno in [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN, libc::ENETDOWN] {
            assert_eq!(send_outcome(-errno), SendOutcome::Unreachable(SendError::of(errno)));
        }
        for errno in [libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(send_outcome(-errno), SendOutcome::NoBuffers(SendError::of(errno)));
        }
        for errno in [libc::EPERM, libc::EACCES] {
            assert_eq!(send_outcome(-errno), SendOutcome::Denied(SendError::of(errno)));
        }
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
