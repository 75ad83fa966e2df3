//! What the kernel writes: the header before a datagram, the control messages behind it, and a completion's result and flags.
//! All of it read by total functions.
//!
//! The bytes: 4 of a result, 4 of flags, 1 of the areas' size, then the buffer.

use statsring::driver::control_messages::{AREA_BYTES, stamp_ns, write_stamp};
use statsring::driver::errno;
use statsring::driver::uring::classify::{self, ReceiveResult};
use statsring::driver::uring::header::{self, HEADER_BYTES};

/// Bit of the header's flags that says that the datagram was cut.
const MSG_TRUNC: u32 = 0x20;

/// Any bytes are what the kernel wrote.
pub fn run(bytes: &[u8]) {
    let Some((start, received)) = bytes.split_at_checked(9) else { return };
    let word = |at: usize| u32::from_ne_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    completion(word(0) as i32, word(4));
    datagram(received, usize::from(start[8]));
    control(received, usize::from(start[8]));
}

fn completion(res: i32, flags: u32) {
    let received = classify::classify(res, flags);
    assert_eq!(received.armed, flags & classify::CQE_MORE != 0, "armed says F_MORE and nothing else");
    assert_eq!(received.buffer.is_some(), flags & classify::CQE_BUFFER != 0, "no buffer is forgotten");
    match received.result {
        ReceiveResult::Datagram { bytes } => {
            assert!(received.buffer.is_some());
            assert_eq!(i32::try_from(bytes), Ok(res));
        }
        ReceiveResult::NoData => assert!(res >= 0),
        _ => assert!(res < 0),
    }
    errno::send_outcome(res);
    errno::wait_result(errno::errno_of(res));
}

/// The control messages lie within their area, and a timestamp in them is found again when it is written as the kernel does.
fn control(received: &[u8], prefix_bytes: usize) {
    let control = header::control(received, prefix_bytes);
    assert!(control.len() <= prefix_bytes.saturating_sub(HEADER_BYTES));
    if !control.is_empty() {
        assert_eq!(Some(control), received.get(HEADER_BYTES..HEADER_BYTES + control.len()));
    }
    // As the portable engine has them: all that was received.
    for messages in [control, received] {
        let Some(stamp) = stamp_ns(messages) else { continue };
        assert!(messages.len() >= AREA_BYTES, "a timestamp was found where there is no room for one");
        let mut area = [0; AREA_BYTES];
        write_stamp(&mut area, stamp);
        assert_eq!(stamp_ns(&area), Some(stamp));
    }
}

fn datagram(received: &[u8], prefix_bytes: usize) {
    let parsed = header::parse(received, prefix_bytes);
    let word = |index: usize| {
        let bytes = received.get(4 * index..4 * index + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let is_readable = prefix_bytes >= HEADER_BYTES && received.len() >= prefix_bytes;
    let (Some(told), Some(flags), true) = (word(2), word(3), is_readable) else {
        assert_eq!(parsed, None, "there is no header");
        return;
    };
    let payload = &received[prefix_bytes..];
    let is_cut = flags & MSG_TRUNC != 0;
    match parsed {
        None => assert!(!is_cut && told as usize != payload.len(), "a header that makes sense was refused"),
        Some(datagram) => {
            assert_eq!(datagram.payload, payload);
            assert_eq!(datagram.datagram_bytes > payload.len(), is_cut);
            assert!(!is_cut || datagram.datagram_bytes == (told as usize).max(payload.len() + 1));
        }
    }
}
