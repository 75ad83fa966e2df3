//! The control message UDP_SEGMENT, which makes the kernel split one send into packets, and its message header.
//!
//! In: the length of a GSO batch's packets. Out: memory in the kernel's layout. Next: the engines' sends.

#![allow(unsafe_code)]

/// The control message that tells the kernel how long a GSO batch's segments are.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SegmentBytes {
    header: libc::cmsghdr,
    bytes: u16,
    padding: [u8; 6],
}

/// CMSG_LEN of a `u16`.
const SEGMENT_BYTES_LEN: usize = size_of::<libc::cmsghdr>() + size_of::<u16>();

impl SegmentBytes {
    /// One whose length is to be set.
    pub fn new() -> SegmentBytes {
        SegmentBytes {
            header: libc::cmsghdr {
                cmsg_len: SEGMENT_BYTES_LEN as _,
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            bytes: 0,
            padding: [0; 6],
        }
    }

    /// Sets the length of a segment.
    pub fn set(&mut self, bytes: u16) {
        self.bytes = bytes;
    }
}

/// A message without name, areas and control messages.
pub fn empty_message() -> libc::msghdr {
    // SAFETY: zeroes are a valid msghdr.
    unsafe { std::mem::zeroed() }
}
