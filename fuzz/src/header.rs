//! Data written by the kernel: the header before a datagram, the control messages after it, and a completion's result and
//! flags. All parsers are total functions.
//!
//! Input: 4 bytes of a result, 4 of flags, 1 of the area size, then the buffer.

use statsring::driver::clock::{AREA_BYTES, stamp_ns, write_stamp};
use statsring::driver::errno;
use statsring::driver::gro;
use statsring::driver::kernel::Datagram;
use statsring::driver::uring::cqe::{self, HEADER_BYTES, ReceiveResult};

/// Bit of the header's flags for a truncated datagram.
const MSG_TRUNC: u32 = 0x20;

/// Parses any input as kernel data.
pub fn run(bytes: &[u8]) {
    let Some((start, received)) = bytes.split_at_checked(9) else { return };
    let word = |at: usize| u32::from_ne_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    completion(word(0) as i32, word(4));
    datagram(received, usize::from(start[8]));
    control(received, usize::from(start[8]));
}

fn completion(res: i32, flags: u32) {
    let received = cqe::classify(res, flags);
    assert_eq!(received.is_last, flags & cqe::CQE_MORE == 0, "only F_MORE says that more completions follow");
    assert_eq!(received.buffer.is_some(), flags & cqe::CQE_BUFFER != 0, "a buffer was not reported");
    match received.result {
        ReceiveResult::Datagram { bytes } => {
            assert!(received.buffer.is_some());
            assert_eq!(i32::try_from(bytes), Ok(res));
        }
        ReceiveResult::NoBuffer { bytes } => {
            assert!(received.buffer.is_none());
            assert_eq!(i32::try_from(bytes), Ok(res));
        }
        _ => assert!(res < 0),
    }
    errno::send_outcome(res);
    errno::wait_result(errno::errno_of(res));
}

/// Control messages lie within their area, and a timestamp written as by the kernel is found again.
fn control(received: &[u8], prefix_bytes: usize) {
    let control = cqe::control(received, prefix_bytes);
    assert!(control.len() <= prefix_bytes.saturating_sub(HEADER_BYTES));
    if !control.is_empty() {
        assert_eq!(Some(control), received.get(HEADER_BYTES..HEADER_BYTES + control.len()));
    }
    // The portable engine passes everything received.
    for messages in [control, received] {
        let Some(stamp) = stamp_ns(messages) else { continue };
        assert!(messages.len() >= AREA_BYTES, "a timestamp was found outside of the area");
        let mut area = [0; AREA_BYTES];
        write_stamp(&mut area, stamp);
        assert_eq!(stamp_ns(&area), Some(stamp));
    }
}

/// The segments of a datagram with any control messages add up to it.
fn segments(datagram: Datagram<'_>, control: &[u8], bytes_max: usize) {
    let segment_bytes = gro::segment_bytes(control);
    let mut at = 0;
    loop {
        let (segment, next) = gro::segment(datagram, segment_bytes, at, bytes_max);
        assert!(segment.payload.len() <= segment.datagram_bytes.min(bytes_max));
        let Some(next) = next else {
            assert_eq!(at + segment.datagram_bytes, datagram.datagram_bytes);
            return;
        };
        assert!(next > at && next <= datagram.payload.len());
        at = next;
    }
}

fn datagram(received: &[u8], prefix_bytes: usize) {
    let parsed = cqe::parse(received, prefix_bytes);
    if let Some(datagram) = parsed {
        segments(datagram, cqe::control(received, prefix_bytes), prefix_bytes);
    }
    let word = |index: usize| {
        let bytes = received.get(4 * index..4 * index + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let is_readable = prefix_bytes >= HEADER_BYTES && received.len() >= prefix_bytes;
    let (Some(length), Some(flags), true) = (word(2), word(3), is_readable) else {
        assert_eq!(parsed, None, "too short for a header");
        return;
    };
    let payload = &received[prefix_bytes..];
    let is_cut = flags & MSG_TRUNC != 0;
    match parsed {
        None => assert!(!is_cut && length as usize != payload.len(), "a valid header was rejected"),
        Some(datagram) => {
            assert_eq!(datagram.payload, payload);
            assert_eq!(datagram.datagram_bytes > payload.len(), is_cut);
            assert!(!is_cut || datagram.datagram_bytes == (length as usize).max(payload.len() + 1));
        }
    }
}
