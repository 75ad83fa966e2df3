//! What the kernel's completions mean, as total functions: any result with any flags has exactly one meaning, and a received
//! buffer is read with checked arithmetic, since the kernel wrote it.
//!
//! In: `user_data`, `res` and `flags` of a completion; a buffer that came with it. Out: which submission it belongs to, what
//! happened, the datagram. Next: `kernel.rs`, which acts on it; what an errno of a send or of a wait means is in
//! `driver/errno.rs`.

use crate::driver::RECVMSG_HEADER_BYTES;
use crate::driver::errno::errno_of;
use crate::driver::kernel::Datagram;

/// What a submission is for, in the top byte of its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A receive; the index is its place among those that were submitted together.
    Receive,
    /// A poll; the index is the listener's, or the number of listeners for the waker.
    Poll,
    /// A send; the index is the message's.
    Send,
}

/// Names a submission: an operation and an index, never a pointer.
///
/// It travels as the submission's `user_data`: the operation in bits 56 to 63, the index below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// A token; `index` is less than 2^56.
    pub const fn new(operation: Operation, index: usize) -> Token {
        let operation: u64 = match operation {
            Operation::Receive => 1,
            Operation::Poll => 2,
            Operation::Send => 3,
        };
        Token((operation << 56) | (index as u64 & ((1 << 56) - 1)))
    }

    /// From a completion's `user_data`.
    pub const fn from_user_data(user_data: u64) -> Token {
        Token(user_data)
    }

    /// For a submission's `user_data`.
    pub const fn user_data(self) -> u64 {
        self.0
    }

    /// What it is for; `None` if no [`Token::new`] made it.
    pub const fn operation(self) -> Option<Operation> {
        match self.0 >> 56 {
            1 => Some(Operation::Receive),
            2 => Some(Operation::Poll),
            3 => Some(Operation::Send),
            _ => None,
        }
    }

    /// Its index.
    pub const fn index(self) -> usize {
        (self.0 & ((1 << 56) - 1)) as usize
    }
}

/// A buffer comes with the completion; its id is in the upper half of the flags.
pub const CQE_BUFFER: u32 = 1 << 0;
/// The submission has more completions to come.
pub const CQE_MORE: u32 = 1 << 1;
/// Where the buffer's id starts in the flags.
pub const CQE_BUFFER_SHIFT: u32 = 16;

/// One completion of a multishot receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// A buffer that has to go back to the ring, whatever the result.
    pub buffer: Option<u16>,
    /// Whether this was the receive's last completion, whatever the result: an empty datagram ends it with a good one.
    pub is_last: bool,
    /// What happened.
    pub result: ReceiveResult,
}

/// What a receive reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveResult {
    /// A datagram in the buffer; so many bytes, as the operation counts them.
    Datagram {
        /// RECV: the datagram's length. RECVMSG: bytes of the buffer that were written.
        bytes: usize,
    },
    /// A good result without a buffer, of so many bytes: an empty datagram (RECV), or one that cannot be read.
    NoBuffer {
        /// The result.
        bytes: usize,
    },
    /// EAGAIN: the queue was empty, or the receive has taken as many as it may.
    Again,
    /// ENOBUFS: no buffer was free.
    NoBuffers,
    /// EINTR, ECANCELED: try again.
    Interrupted,
    /// Another errno.
    Failed(i32),
}

/// The meaning of a multishot receive's completion.
pub fn classify(res: i32, flags: u32) -> Received {
    let buffer = (flags & CQE_BUFFER != 0).then_some((flags >> CQE_BUFFER_SHIFT) as u16);
    let result = match (usize::try_from(res), buffer) {
        (Ok(bytes), Some(_)) => ReceiveResult::Datagram { bytes },
        (Ok(bytes), None) => ReceiveResult::NoBuffer { bytes },
        (Err(_), _) => match errno_of(res) {
            libc::EAGAIN => ReceiveResult::Again,
            libc::ENOBUFS => ReceiveResult::NoBuffers,
            libc::EINTR | libc::ECANCELED => ReceiveResult::Interrupted,
            errno => ReceiveResult::Failed(errno),
        },
    };
    Received { buffer, is_last: flags & CQE_MORE == 0, result }
}

/// Bytes of the header, four 32-bit numbers in the machine's order.
pub const HEADER_BYTES: usize = RECVMSG_HEADER_BYTES;

/// Finds the datagram in `received`; `prefix_bytes` is the header and the areas. `None`: the header is invalid.
pub fn parse(received: &[u8], prefix_bytes: usize) -> Option<Datagram<'_>> {
    if prefix_bytes < HEADER_BYTES {
        return None;
    }
    let payload = received.get(prefix_bytes..)?;
    let payload_bytes = usize::try_from(word(received, 2)?).ok()?;
    let is_cut = word(received, 3)? & libc::MSG_TRUNC as u32 != 0;
    if !is_cut && payload_bytes != payload.len() {
        return None;
    }
    // A truncated datagram of unknown length was longer by at least one byte.
    let datagram_bytes = if is_cut { payload_bytes.max(payload.len() + 1) } else { payload_bytes };
    Some(Datagram { payload, datagram_bytes })
}

/// The control messages in `received`, as far as the kernel used their area, which ends where the payload starts at
/// `prefix_bytes`; no name is requested, so it starts after the header. Empty if the header is invalid.
pub fn control(received: &[u8], prefix_bytes: usize) -> &[u8] {
    let area = received.get(HEADER_BYTES..prefix_bytes).unwrap_or(&[]);
    let used = word(received, 1).and_then(|bytes| usize::try_from(bytes).ok());
    used.and_then(|bytes| area.get(..bytes)).unwrap_or(&[])
}

/// The header's number at `index`.
fn word(received: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(4)?;
    let bytes = received.get(start..start.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for operation in [Operation::Receive, Operation::Poll, Operation::Send] {
            for index in [0, 1, 511, (1 << 56) - 1] {
                let back = Token::from_user_data(Token::new(operation, index).user_data());
                assert_eq!((back.operation(), back.index()), (Some(operation), index));
            }
        }
        assert_eq!(Token::from_user_data(0).operation(), None);
        assert_eq!(Token::from_user_data(u64::MAX).operation(), None);
    }

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
                assert_eq!(
                    got.is_last,
                    flags & CQE_MORE == 0,
                    "F_MORE and nothing else decides: {res} {flags:#x}"
                );
                let id = (flags & CQE_BUFFER != 0).then_some((flags >> 16) as u16);
                assert_eq!(got.buffer, id, "a buffer is never overlooked: {res} {flags:#x}");
                match got.result {
                    ReceiveResult::Datagram { bytes } => {
                        assert!(res >= 0 && id.is_some() && bytes == res as usize)
                    }
                    ReceiveResult::NoBuffer { bytes } => {
                        assert!(res >= 0 && id.is_none() && bytes == res as usize)
                    }
                    ReceiveResult::Again => assert_eq!(res, -libc::EAGAIN),
                    ReceiveResult::NoBuffers => assert_eq!(res, -libc::ENOBUFS),
                    ReceiveResult::Interrupted => assert!([-libc::EINTR, -libc::ECANCELED].contains(&res)),
                    ReceiveResult::Failed(errno) => {
                        assert_eq!(-i64::from(errno), i64::from(res).max(-i64::from(i32::MAX)));
                    }
                }
            }
        }
    }

    /// The contents of a header.
    #[derive(Clone, Copy, Debug, Default)]
    struct Header {
        /// Bytes of control messages.
        control_bytes: usize,
        /// Whether some were truncated (MSG_CTRUNC).
        is_control_cut: bool,
        /// The datagram's length.
        payload_bytes: usize,
        /// Whether it was truncated (MSG_TRUNC).
        is_cut: bool,
    }

    /// Writes a header as the kernel does.
    fn write(buffer: &mut [u8; HEADER_BYTES], header: Header) {
        let flag = |is_set: bool, flag: i32| if is_set { flag as u32 } else { 0 };
        let flags = flag(header.is_cut, libc::MSG_TRUNC) | flag(header.is_control_cut, libc::MSG_CTRUNC);
        let words = [0, header.control_bytes as u32, header.payload_bytes as u32, flags];
        for (to, word) in buffer.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
    }

    fn buffer(payload: &[u8], payload_bytes: usize, is_cut: bool, area: usize) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        write(&mut header, Header { payload_bytes, is_cut, ..Header::default() });
        [&header[..], &vec![0xAA; area], payload].concat()
    }

    #[test]
    fn the_payload_starts_behind_header_and_areas() {
        for area in [0, 64] {
            let received = buffer(b"a:1|c", 5, false, area);
            let expected = Datagram { payload: b"a:1|c", datagram_bytes: 5 };
            assert_eq!(parse(&received, HEADER_BYTES + area), Some(expected));
        }
    }

    #[test]
    fn a_cut_datagram_tells_its_true_length() {
        let received = buffer(b"a:1|", 9000, true, 0);
        assert_eq!(parse(&received, 16), Some(Datagram { payload: b"a:1|", datagram_bytes: 9000 }));
        let unknown = buffer(b"a:1|", 4, true, 0);
        assert_eq!(parse(&unknown, 16), Some(Datagram { payload: b"a:1|", datagram_bytes: 5 }));
    }

    #[test]
    fn an_empty_datagram_is_one() {
        assert_eq!(parse(&buffer(b"", 0, false, 0), 16), Some(Datagram { payload: b"", datagram_bytes: 0 }));
    }

    #[test]
    fn senseless_headers_are_refused() {
        assert_eq!(parse(&[], 16), None);
        assert_eq!(parse(&[0; 15], 16), None);
        assert_eq!(parse(&[0; 16], 8), None);
        assert_eq!(parse(&buffer(b"abc", 4, false, 0), 16), None);
        assert_eq!(parse(&buffer(b"abc", 3, false, 0), 64), None);
    }

    #[test]
    fn control_messages_are_what_the_kernel_used_of_their_area() {
        let with = |control_bytes: usize| {
            let mut header = [0; HEADER_BYTES];
            write(&mut header, Header { control_bytes, payload_bytes: 3, ..Header::default() });
            [&header[..], b"12345678", b"abc"].concat()
        };
        for (length, used) in [(0, &b""[..]), (5, b"12345"), (8, b"12345678"), (9, b"")] {
            let received = with(length);
            assert_eq!(control(&received, HEADER_BYTES + 8), used, "{length}");
            assert_eq!(parse(&received, HEADER_BYTES + 8).unwrap().payload, b"abc");
        }
        assert_eq!(control(&with(5), HEADER_BYTES), b"", "no area");
        assert_eq!(control(&with(5)[..20], HEADER_BYTES + 8), b"");
        assert_eq!(control(&[1; 7], 5), b"");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(received in proptest::collection::vec(any::<u8>(), 0..80), prefix in 0usize..96) {
            let area = prefix.saturating_sub(HEADER_BYTES);
            prop_assert!(control(&received, prefix).len() <= area.min(received.len()));
            if let Some(datagram) = parse(&received, prefix) {
                prop_assert_eq!(datagram.payload.len() + prefix, received.len());
                prop_assert!(datagram.datagram_bytes >= datagram.payload.len());
            }
        }
    }
}
