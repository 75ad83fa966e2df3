//! A bare ring, for facts that the driver's own ring cannot be made to show.

use super::bed::PATIENCE;
use crate::bare_ring::is_refused;
use crate::skip::skip_unprivileged;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// The one buffer group.
pub const GROUP: u16 = 7;
/// Marks the completion of handing the buffers over.
const PROVIDED: u64 = u64::MAX;

/// A ring, with buffers that a receive may take.
pub struct Raw {
    // Dropped first, which ends all requests; only then what they point to.
    pub ring: IoUring,
    message: Box<libc::msghdr>,
    memory: Box<[u8]>,
    buffer_bytes: usize,
}

/// A ring as the driver makes it, but for the sizes; `None` where io_uring is refused.
pub fn ring(submits_all: bool) -> Option<IoUring> {
    if is_refused() {
        return None;
    }
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    if submits_all {
        builder.setup_submit_all();
    }
    match builder.setup_cqsize(1_024).build(16) {
        Ok(ring) => Some(ring),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            skip_unprivileged("the limit of locked memory is reached");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Raw {
    /// With `buffers` of `buffer_bytes`, and areas for a name and for control messages in front of the payload.
    pub fn new(buffers: usize, buffer_bytes: usize, name_bytes: u32, control_bytes: usize) -> Option<Raw> {
        let ring = ring(true)?;
        // SAFETY: zeroes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_namelen = name_bytes;
        message.msg_controllen = control_bytes as _;
        let memory = vec![0; buffers * buffer_bytes].into_boxed_slice();
        let mut raw = Raw { ring, message: Box::new(message), memory, buffer_bytes };
        let start = raw.memory.as_mut_ptr();
        let provide = opcode::ProvideBuffers::new(start, buffer_bytes as i32, buffers as u16, GROUP, 0);
        raw.submit(&provide.build().user_data(PROVIDED));
        let provided = raw.complete(1);
        assert!(provided[0].result() >= 0, "{provided:?}");
        Some(raw)
    }

    /// Submits a multishot RECV on `fd`.
    pub fn recv(&mut self, fd: RawFd, flags: i32, user_data: u64) {
        let entry = opcode::RecvMulti::new(types::Fd(fd), GROUP).flags(flags).build().user_data(user_data);
        self.submit(&entry);
    }

    /// Submits `times` of them in one enter.
    pub fn recv_times(&mut self, fd: RawFd, flags: i32, times: usize) {
        let entry = opcode::RecvMulti::new(types::Fd(fd), GROUP).flags(flags).build();
        for _ in 0..times {
            // SAFETY: it points to nothing but the provided buffers.
            unsafe { self.ring.submission().push(&entry) }.unwrap();
        }
        assert_eq!(self.ring.submit_and_wait(0).unwrap(), times);
    }

    /// Submits a multishot RECVMSG on `fd`.
    pub fn receive(&mut self, fd: RawFd, flags: i32, user_data: u64) {
        let entry = opcode::RecvMsgMulti::new(types::Fd(fd), &raw const *self.message, GROUP)
            .flags(flags as u32)
            .build()
            .user_data(user_data);
        self.submit(&entry);
    }

    /// Submits one entry, and runs what is pending.
    pub fn submit(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entries of this file point to is boxed and outlives the ring.
        unsafe { self.ring.submission().push(entry) }.unwrap();
        assert_eq!(self.ring.submit_and_wait(0).unwrap(), 1);
    }

    /// The next `count` completions.
    pub fn complete(&mut self, count: usize) -> Vec<cqueue::Entry> {
        complete(&mut self.ring, count)
    }

    /// The whole buffer that a completion brought.
    pub fn buffer(&self, completion: &cqueue::Entry) -> &[u8] {
        let id = cqueue::buffer_select(completion.flags()).expect("a completion with a buffer");
        &self.memory[usize::from(id) * self.buffer_bytes..][..self.buffer_bytes]
    }

    /// What a completion brought, up to its result.
    pub fn received(&self, completion: &cqueue::Entry) -> &[u8] {
        let id = cqueue::buffer_select(completion.flags()).expect("a completion with a buffer");
        let length = usize::try_from(completion.result()).unwrap();
        &self.memory[usize::from(id) * self.buffer_bytes..][..length]
    }
}

/// The next `count` completions of a ring.
pub fn complete(ring: &mut IoUring, count: usize) -> Vec<cqueue::Entry> {
    let start = Instant::now();
    let mut completions: Vec<cqueue::Entry> = Vec::new();
    loop {
        completions.extend(ring.completion());
        if completions.len() >= count {
            return completions;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {count} completions: {completions:?}");
        let timespec = types::Timespec::from(Duration::from_millis(100));
        let _ = ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec));
    }
}
