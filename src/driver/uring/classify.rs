//! What a receive's completion means, as a total function: any result with any flags has exactly one meaning.
//!
//! In: `res` and `flags` as the kernel wrote them. Out: [`Received`]. Next: `engine.rs`, which acts on it; what the errno
//! of a send or of a wait means is in `driver/errno.rs`.

use crate::driver::errno::{errno_of, is_impossible};

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
    /// ECANCELED: as requested.
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
}
