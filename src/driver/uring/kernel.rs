//! The real ring: an io_uring instance, its sockets, its buffers, and the packets that the kernel reads.
//!
//! In: operations from `engine.rs`. Out: the kernel's completions. Next: the kernel.
//!
//! Invariants that the unsafe blocks rest on:
//! (A) what a submission points to stays at its address until its completion: the receive's msghdr and the wake's
//!     counter are boxed and never replaced; each send slot's msghdr, iovec and control message are boxed and written only
//!     while the slot is free, or while its send is queued and the kernel has not seen it; a packet's bytes are on the heap, do not move with the packet, and the packet stays in its slot until an
//!     `enter` has consumed the send (`take_packet` checks it), by which time a send with MSG_DONTWAIT is finished.
//! (B) the ring is dropped first (see the order of the fields), which ends all requests; only then what they point to.
//! (C) the ring is used by one thread: `KernelRing` is made inside the worker's thread and is not `Send`.

#![allow(unsafe_code)]

use super::buffers::{Buffers, GROUP};
use super::header::HEADER_BYTES;
use super::refusal::{Host, refusal};
use super::restrict::restrict;
use super::retry::retry_on_enomem;
use super::ring::{Completion, Entered, Ring, RingSizes, Token};
use crate::driver::endpoints::{Backends, Listening};
use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::segment::{self, SegmentBytes};
use crate::driver::{DriverError, DriverInfo, DriverLimits, Engine, Wait, Waker, clock};
use crate::packet::{Packet, SocketSlot};
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// IORING_ENTER_GETEVENTS of io_uring_enter(2).
const ENTER_GETEVENTS: u32 = 1;

/// An io_uring instance and everything its requests point to.
pub struct KernelRing {
    // Dropped first: (B).
    ring: IoUring,
    buffers: Buffers,
    sends: SendSlots,
    receive_message: Box<libc::msghdr>,
    wake_count: Box<[u8; 8]>,
    listeners: Listening,
    backends: Backends,
    /// Its eventfd is registered; it has to stay open.
    _waker: Arc<Waker>,
    /// What was queued and not consumed yet, in order: a send's slot, or nothing.
    queued: VecDeque<Option<usize>>,
    sizes: RingSizes,
    facts: DriverInfo,
    not_send: PhantomData<*const ()>,
}

/// The places that sends are made from.
struct SendSlots {
    packets: Vec<Option<Packet>>,
    consumed: Vec<bool>,
    messages: Box<[libc::msghdr]>,
    iovecs: Box<[libc::iovec]>,
    segments: Box<[SegmentBytes]>,
}

impl KernelRing {
    /// Builds the ring in this thread; `listeners` are bound, `waker` wakes this worker.
    pub fn new(
        listeners: Vec<UdpSocket>,
        waker: Arc<Waker>,
        limits: &DriverLimits,
    ) -> Result<KernelRing, DriverError> {
        let listeners = Listening::new(listeners, limits.timestamps);
        let (sq_entries, cq_entries) = queue_entries(limits, listeners.count());
        let ring_bytes = KernelRing::bytes(limits, listeners.count());
        let refused = |operation, error: io::Error| {
            refusal(operation, error, limits.rings_bytes.max(ring_bytes), &Host::read())
        };

        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(cq_entries);
        let ring = retry_on_enomem(|| builder.build(sq_entries))
            .map_err(|error| refused("io_uring_setup", error))?;
        let buffers = Buffers::new(limits.buffers, limits.buffer_bytes)
            .map_err(|source| DriverError::System { operation: "mmap of the receive buffers", source })?;
        retry_on_enomem(|| buffers.register(&ring.submitter()))
            .map_err(|error| refused("registering the buffer ring", error))?;
        register_files(&ring, &listeners, &waker, limits.sockets_max)
            .map_err(|error| refused("registering files", error))?;
        let restrictions = restrict(&ring.submitter());
        // From here on the ring belongs to this thread (SINGLE_ISSUER), and is restricted.
        ring.submitter().register_enable_rings().map_err(|error| refused("enabling the ring", error))?;

        let sizes = RingSizes {
            listeners: listeners.count(),
            buffers: limits.buffers,
            prefix_bytes: limits.prefix_bytes(),
            timestamps: limits.timestamps,
            sends_max: limits.sends_max,
        };
        let facts = DriverInfo {
            engine: Engine::IoUring.name(),
            receive_buffer_bytes: listeners.receive_buffer_bytes()?,
            buffers: limits.buffers,
            buffer_bytes: buffers.data_bytes(),
            sends_in_flight_max: limits.sends_max,
            ring_bytes,
            restrictions,
        };
        Ok(KernelRing {
            ring,
            buffers,
            sends: SendSlots::new(limits.sends_max),
            receive_message: Box::new(receive_message(&sizes)),
            wake_count: Box::new([0; 8]),
            backends: Backends::new(limits.sockets_max, limits.send_buffer_bytes),
            _waker: waker,
            queued: VecDeque::with_capacity(sq_entries as usize),
            listeners,
            sizes,
            facts,
            not_send: PhantomData,
        })
    }

    /// Kernel memory of a ring made with these bounds, as charged to RLIMIT_MEMLOCK, each part in whole pages.
    pub fn bytes(limits: &DriverLimits, listeners: usize) -> usize {
        const PAGE: usize = 4096;
        let (submissions, completions) = queue_entries(limits, listeners);
        let (submissions, completions) = (submissions as usize, completions as usize);
        (submissions * 64).next_multiple_of(PAGE)
            + (completions * 16 + submissions * 4 + 256).next_multiple_of(PAGE)
            + (Buffers::entries(limits.buffers) * 16).next_multiple_of(PAGE)
    }

    /// Index of a backend's socket among the registered files: the listeners and the waker stand before it.
    fn file_index(&self, slot: SocketSlot) -> u32 {
        self.sizes.listeners as u32 + 1 + slot.0
    }

    /// Queues a submission; false if the queue is full.
    fn queue(&mut self, entry: &squeue::Entry, send_slot: Option<usize>) -> bool {
        // SAFETY: (A): the callers build entries that point to such memory only.
        let is_queued = unsafe { self.ring.submission().push(entry) }.is_ok();
        if is_queued {
            self.queued.push_back(send_slot);
        }
        is_queued
    }

    fn submit(&mut self, wait: Wait) -> io::Result<usize> {
        let queued = self.queued.len() as u32;
        let submitter = self.ring.submitter();
        let until = |deadline_us: u64, want: usize| {
            let left_us = deadline_us.saturating_sub(self.now_us());
            let timespec = types::Timespec::from(Duration::from_micros(left_us));
            submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&timespec))
        };
        match wait {
            // SAFETY: no argument, and entries that keep (A). GETEVENTS runs the deferred work without waiting.
            Wait::Poll => unsafe { submitter.enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) },
            Wait::Event => submitter.submit_and_wait(1),
            Wait::EventUntil { deadline_us } => until(deadline_us, 1),
            // More than can ever come: only the clock ends the sleep, and until the socket is empty the kernel goes on
            // taking datagrams.
            Wait::GatherUntil { deadline_us } => until(deadline_us, self.ring.params().cq_entries() as usize),
        }
    }
}

impl Ring for KernelRing {
    fn now_us(&self) -> u64 {
        clock::now_us()
    }

    fn wall_ns(&self) -> u64 {
        clock::wall_ns()
    }

    fn sizes(&self) -> RingSizes {
        self.sizes
    }

    fn facts(&self) -> &DriverInfo {
        &self.facts
    }

    fn receive(&mut self, listener: usize, token: Token) -> bool {
        if listener >= self.sizes.listeners {
            return false;
        }
        let file = types::Fixed(listener as u32);
        let entry = opcode::RecvMsgMulti::new(file, &raw const *self.receive_message, GROUP)
            .flags(libc::MSG_TRUNC as u32)
            .build()
            .user_data(token.user_data());
        self.queue(&entry, None)
    }

    fn read_wake(&mut self, token: Token) -> bool {
        let file = types::Fixed(self.sizes.listeners as u32);
        let entry = opcode::Read::new(file, self.wake_count.as_mut_ptr(), 8)
            .offset(u64::MAX)
            .build()
            .user_data(token.user_data());
        self.queue(&entry, None)
    }

    fn cancel(&mut self, target: Token, token: Token) -> bool {
        // It has no file; the flag is what the restrictions ask of every submission.
        let entry = opcode::AsyncCancel::new(target.user_data())
            .build()
            .flags(squeue::Flags::FIXED_FILE)
            .user_data(token.user_data());
        self.queue(&entry, None)
    }

    fn send(&mut self, slot: usize, packet: Packet, token: Token) -> Result<(), Packet> {
        let file = types::Fixed(self.file_index(packet.socket));
        let Some(message) = self.sends.fill(slot, &packet) else { return Err(packet) };
        let entry = opcode::SendMsg::new(file, message)
            .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token.user_data());
        if !self.queue(&entry, Some(slot)) {
            return Err(packet);
        }
        self.sends.packets[slot] = Some(packet);
        self.sends.consumed[slot] = false;
        Ok(())
    }

    fn join(&mut self, head: usize, slot: usize, packet: Packet) -> Result<(), Packet> {
        if !self.sends.join(head, slot, &packet) {
            return Err(packet);
        }
        self.sends.packets[slot] = Some(packet);
        self.sends.consumed[slot] = false;
        Ok(())
    }

    fn take_packet(&mut self, slot: usize) -> Option<Packet> {
        if !self.sends.consumed.get(slot).copied().unwrap_or(false) {
            return None;
        }
        self.sends.packets[slot].take()
    }

    fn enter(&mut self, wait: Wait) -> Entered {
        let errno = match self.submit(wait) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let left = self.ring.submission().len();
        let consumed = self.queued.len().saturating_sub(left);
        for head in self.queued.drain(..consumed).flatten() {
            let gso_batch = self.sends.messages[head].msg_iovlen;
            self.sends.consumed[head..head + gso_batch].fill(true);
        }
        Entered { consumed, errno }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        if let Some(id) = io_uring::cqueue::buffer_select(entry.flags()) {
            self.buffers.take(id);
        }
        Some(Completion {
            token: Token::from_user_data(entry.user_data()),
            res: entry.result(),
            flags: entry.flags(),
        })
    }

    fn has_overflowed(&self) -> bool {
        // SAFETY: (C): no other submission queue view exists while this one is read and dropped.
        unsafe { self.ring.submission_shared() }.cq_overflow()
    }

    fn buffer(&self, id: u16) -> &[u8] {
        self.buffers.bytes(id)
    }

    fn give_back(&mut self, id: u16) -> bool {
        self.buffers.give_back(id)
    }

    fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        let (index, submitter) = (self.file_index(slot), self.ring.submitter());
        self.backends.open(slot, address, |fd| submitter.register_files_update(index, &[fd]).map(|_| ()))
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.backends.has_unsent(slot)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        self.backends.path_payload_bytes(slot)
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        let index = self.file_index(slot);
        if self.backends.close(slot) {
            // Taking a file out of the table fails only for an index beyond it.
            let _ = self.ring.submitter().register_files_update(index, &[-1]);
        }
    }

    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors> {
        self.backends.take_errors(slot)
    }

    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>) {
        self.backends.failing(slots);
    }

    fn let_go(&mut self) {
        let _ = self.ring.submitter().unregister_files();
    }

    fn leave(&mut self, listener: usize) {
        self.listeners.leave(listener);
    }

    fn fence(&mut self) -> io::Result<()> {
        self.listeners.fence()
    }

    fn is_queue_empty(&mut self) -> bool {
        self.listeners.is_queue_empty()
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.listeners.kernel_drops(listener)
    }
}

impl SendSlots {
    fn new(count: usize) -> SendSlots {
        SendSlots {
            packets: std::iter::repeat_with(|| None).take(count).collect(),
            consumed: vec![false; count],
            messages: vec![segment::empty_message(); count].into_boxed_slice(),
            iovecs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; count]
                .into_boxed_slice(),
            segments: vec![SegmentBytes::new(); count].into_boxed_slice(),
        }
    }

    /// Lets the packet of `slot` join the send from `head`; false, and nothing changed, if that cannot be.
    fn join(&mut self, head: usize, slot: usize, packet: &Packet) -> bool {
        let is_queued = self.packets.get(head).is_some_and(Option::is_some) && !self.consumed[head];
        if !is_queued || !self.packets.get(slot).is_some_and(Option::is_none) {
            return false;
        }
        let count = self.messages[head].msg_iovlen;
        let segment_bytes = self.iovecs[head].iov_len;
        let is_next = slot == head + count && self.iovecs[slot - 1].iov_len == segment_bytes;
        let Ok(bytes) = u16::try_from(segment_bytes) else { return false };
        if !is_next || packet.len() > segment_bytes {
            return false;
        }
        self.iovecs[slot] =
            libc::iovec { iov_base: packet.bytes().as_ptr().cast_mut().cast(), iov_len: packet.len() };
        self.segments[head].set(bytes);
        let message = &mut self.messages[head];
        message.msg_iovlen = count + 1;
        message.msg_control = (&raw mut self.segments[head]).cast();
        message.msg_controllen = size_of::<SegmentBytes>() as _;
        true
    }

    /// Writes the header of a send from a free slot; `None` if there is no such slot or it is taken.
    fn fill(&mut self, slot: usize, packet: &Packet) -> Option<*const libc::msghdr> {
        if self.packets.get(slot)?.is_some() {
            return None;
        }
        let iovec = &mut self.iovecs[slot];
        // The kernel only reads what a send points to.
        iovec.iov_base = packet.bytes().as_ptr().cast_mut().cast();
        iovec.iov_len = packet.len();
        let message = &mut self.messages[slot];
        message.msg_iov = iovec;
        message.msg_iovlen = 1;
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
        Some(message)
    }
}

/// What each receive asks for beside the payload: no name; room for control messages, which is in the buffer.
fn receive_message(sizes: &RingSizes) -> libc::msghdr {
    let mut message = segment::empty_message();
    message.msg_controllen = sizes.prefix_bytes.saturating_sub(HEADER_BYTES) as _;
    message
}

fn register_files(
    ring: &IoUring,
    listeners: &Listening,
    waker: &Waker,
    sockets_max: usize,
) -> io::Result<()> {
    let submitter = ring.submitter();
    submitter.register_files_sparse((listeners.count() + 1 + sockets_max) as u32)?;
    let mut files: Vec<_> = listeners.descriptors().collect();
    files.push(waker.descriptor());
    submitter.register_files_update(0, &files).map(|_| ())
}

/// Entries of the submission and of the completion queue.
fn queue_entries(limits: &DriverLimits, listeners: usize) -> (u32, u32) {
    let submissions = (limits.sends_max + listeners + 8).next_power_of_two();
    // Room for a completion of everything that can be under way, so that the queue cannot overflow.
    let completions = (limits.buffers + limits.sends_max + 4 * listeners + 8).next_power_of_two();
    (submissions as u32, completions as u32)
}
