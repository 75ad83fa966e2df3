//! The memory that sends point to: headers, vectors and control messages in the kernel's layout, at addresses that stay.
//!
//! In: packets. Out: a pointer to a message header. Next: `kernel.rs`, whose invariant (A) this memory is part of.

use crate::driver::gso::{SegmentBytes, empty_message};
use crate::packet::Packet;

/// The memory that sends point to.
pub(super) struct Messages {
    headers: Box<[libc::msghdr]>,
    iovecs: Box<[libc::iovec]>,
    segments: Box<[SegmentBytes]>,
}

impl Messages {
    /// Room for `count` packets, and as many messages.
    pub fn new(count: usize) -> Messages {
        Messages {
            headers: vec![empty_message(); count].into_boxed_slice(),
            iovecs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; count]
                .into_boxed_slice(),
            segments: vec![SegmentBytes::new(); count].into_boxed_slice(),
        }
    }

    /// Writes message `index` over these packets, which are at `first` among those of this submission; `None` without room.
    pub fn fill(&mut self, index: usize, first: usize, packets: &[Packet]) -> Option<*const libc::msghdr> {
        let iovecs = self.iovecs.get_mut(first..first + packets.len())?;
        for (iovec, packet) in iovecs.iter_mut().zip(packets) {
            // The kernel only reads what a send points to.
            let base = packet.bytes().as_ptr().cast_mut().cast();
            *iovec = libc::iovec { iov_base: base, iov_len: packet.len() };
        }
        let message = self.headers.get_mut(index)?;
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len() as _;
        (message.msg_control, message.msg_controllen) = (std::ptr::null_mut(), 0);
        if packets.len() > 1 {
            let segment = &mut self.segments[index];
            segment.set(u16::try_from(packets[0].len()).unwrap_or(u16::MAX));
            message.msg_control = (&raw mut *segment).cast();
            message.msg_controllen = size_of::<SegmentBytes>() as _;
        }
        Some(message)
    }
}
