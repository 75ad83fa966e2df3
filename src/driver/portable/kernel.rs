//! The system calls themselves: recvmmsg, sendmmsg, ppoll, with the memory that they read and write.
//!
//! In: operations from `engine.rs`. Out: the kernel's answers. Next: the kernel.
//!
//! Invariants that the unsafe blocks rest on:
//! (L) each header's vector points to a place of `memory` that is as long as the vector says, or to a packet that the caller
//!     has borrowed for the whole call; neither `memory` nor the vectors of receives are ever replaced or written to here,
//!     and headers and vectors of sends are written anew for each call. Each place begins with `control_bytes` for control
//!     messages, to which the header of a receive points if there are any, and whose length it is given before each call;
//! (S) the kernel uses what it is given during the call only: none of these calls goes on after it has returned.

#![allow(unsafe_code)]

use super::calls::{Calls, Datagram, Sent, Sizes};
use crate::driver::control_messages::AREA_BYTES;
use crate::driver::endpoints::{Backends, Listening};
use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::mapping::Mapping;
use crate::driver::segment::{self, SegmentBytes};
use crate::driver::{DriverError, DriverInfo, DriverLimits, Engine, Restrictions, Waker, clock};
use crate::packet::{Packet, SocketSlot};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Datagrams of one recvmmsg: enough that the call's own cost is small, and few enough that they are still in the
/// processor's cache when they are read.
pub const BATCH: usize = 64;
/// Messages of one sendmmsg.
const MESSAGES_MAX: usize = 64;

/// How late this thread's timers may be, ns: with the kernel's 50 µs the shortest sleeps would last half as long again.
const TIMER_SLACK_NS: libc::c_ulong = 1_000;

/// From one receive buffer's start to the next one's, so that each starts at a cache line.
pub fn stride_bytes(limits: &DriverLimits) -> usize {
    limits.buffer_bytes.next_multiple_of(64)
}

/// Sockets, and memory for system calls on them.
pub struct SystemCalls {
    listeners: Listening,
    backends: Backends,
    waker: Arc<Waker>,
    /// Where datagrams are received, one every `stride_bytes`.
    memory: Mapping,
    stride_bytes: usize,
    /// Room for control messages at the beginning of each place; 0 if none are asked for.
    control_bytes: usize,
    /// Room for one datagram, behind them.
    room_bytes: usize,
    receive_headers: Vec<libc::mmsghdr>,
    /// What those point to, which points into `memory`: (L).
    _receive_vectors: Vec<libc::iovec>,
    send_headers: Vec<libc::mmsghdr>,
    send_vectors: Vec<libc::iovec>,
    segments: Vec<SegmentBytes>,
    /// The listening sockets, then the wake.
    polls: Vec<libc::pollfd>,
    sizes: Sizes,
    facts: DriverInfo,
}

impl SystemCalls {
    /// Takes listening sockets that are bound; `waker` wakes this worker.
    pub fn new(
        listeners: Vec<UdpSocket>,
        waker: Arc<Waker>,
        limits: &DriverLimits,
    ) -> Result<SystemCalls, DriverError> {
        let listeners = Listening::new(listeners, limits.timestamps);
        // SAFETY: it takes numbers. A kernel that refuses leaves sleeps a little less exact, and nothing else.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS) };
        let stride_bytes = stride_bytes(limits);
        // Here no header stands before a datagram.
        let room_bytes = limits.buffer_bytes.saturating_sub(limits.prefix_bytes());
        let control_bytes = if limits.timestamps { AREA_BYTES } else { 0 };
        let memory = Mapping::new(BATCH * stride_bytes)
            .map_err(|source| DriverError::System { operation: "mmap of the receive buffers", source })?;
        // Within `memory`, as long as a buffer at least.
        let place = |index: usize| memory.start().wrapping_add(index * stride_bytes);
        let vector = |index: usize| libc::iovec {
            iov_base: place(index).wrapping_add(control_bytes).cast(),
            iov_len: room_bytes,
        };
        let mut receive_vectors: Vec<libc::iovec> = (0..BATCH).map(vector).collect();
        let mut receive_headers: Vec<libc::mmsghdr> =
            receive_vectors.iter_mut().map(|vector| header(vector, 1)).collect();
        if control_bytes > 0 {
            for (index, header) in receive_headers.iter_mut().enumerate() {
                header.msg_hdr.msg_control = place(index).cast();
            }
        }
        let wake = waker.descriptor();
        let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let polls = listeners.descriptors().chain([wake]).map(poll).collect();
        let packets_max = limits.sends_max;
        let facts = DriverInfo {
            engine: Engine::Portable.name(),
            receive_buffer_bytes: listeners.receive_buffer_bytes()?,
            buffers: BATCH,
            buffer_bytes: memory.bytes(),
            sends_in_flight_max: packets_max,
            ring_bytes: 0,
            restrictions: Restrictions::None,
        };
        Ok(SystemCalls {
            backends: Backends::new(limits.sockets_max, limits.send_buffer_bytes),
            waker,
            memory,
            stride_bytes,
            control_bytes,
            room_bytes,
            receive_headers,
            _receive_vectors: receive_vectors,
            send_headers: (0..MESSAGES_MAX).map(|_| header(std::ptr::null_mut(), 0)).collect(),
            send_vectors: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; packets_max],
            segments: vec![SegmentBytes::new(); MESSAGES_MAX],
            polls,
            sizes: Sizes {
                listeners: listeners.count(),
                batch: BATCH,
                turn: limits.buffers.max(BATCH),
                sends_max: packets_max,
                messages_max: MESSAGES_MAX,
                timestamps: limits.timestamps,
            },
            listeners,
            facts,
        })
    }

    /// Writes the headers of these messages; how many there are.
    fn fill(&mut self, packets: &[Packet], gso_batches: &[usize]) -> usize {
        for (place, packet) in self.send_vectors.iter_mut().zip(packets) {
            // The kernel only reads what a send points to.
            let base = packet.bytes().as_ptr().cast_mut().cast();
            *place = libc::iovec { iov_base: base, iov_len: packet.len() };
        }
        let mut rest = self.send_vectors.get_mut(..packets.len()).unwrap_or_default();
        let slots = self.send_headers.iter_mut().zip(&mut self.segments);
        let mut messages = 0;
        for ((slot, segment), count) in slots.zip(gso_batches) {
            let Some((vectors, others)) = rest.split_at_mut_checked(*count) else { break };
            rest = others;
            let segment_bytes = vectors.first().map_or(0, |vector| vector.iov_len);
            *slot = header(vectors.as_mut_ptr(), vectors.len());
            if vectors.len() > 1 {
                segment.set(u16::try_from(segment_bytes).unwrap_or(u16::MAX));
                slot.msg_hdr.msg_control = (&raw mut *segment).cast();
                slot.msg_hdr.msg_controllen = size_of::<SegmentBytes>() as _;
            }
            messages += 1;
        }
        messages
    }
}

/// A header over `count` vectors from `first` on.
fn header(first: *mut libc::iovec, count: usize) -> libc::mmsghdr {
    let mut message = segment::empty_message();
    message.msg_iov = first;
    message.msg_iovlen = count as _;
    libc::mmsghdr { msg_hdr: message, msg_len: 0 }
}

/// The errno that the last call left.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl Calls for SystemCalls {
    fn now_us(&self) -> u64 {
        clock::now_us()
    }

    fn wall_ns(&self) -> u64 {
        clock::wall_ns()
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn facts(&self) -> &DriverInfo {
        &self.facts
    }

    fn receive(&mut self, listener: usize, count_max: usize) -> Result<usize, i32> {
        let Some(fd) = self.listeners.descriptor(listener) else { return Err(libc::EBADF) };
        let count = count_max.min(self.receive_headers.len());
        if self.control_bytes > 0 {
            // The kernel has written there how much it used.
            for header in &mut self.receive_headers[..count] {
                header.msg_hdr.msg_controllen = self.control_bytes as _;
            }
        }
        // SAFETY: (L), (S): `count` headers, each with one vector over a place of `memory`, and either no room for control
        // messages or that at the place's beginning; nobody borrows it, since this takes `&mut self`; without a timeout.
        let result = unsafe {
            libc::recvmmsg(
                fd,
                self.receive_headers.as_mut_ptr(),
                count as u32,
                (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(result).map_err(|_| errno())
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let datagram_bytes = self.receive_headers.get(index).map_or(0, |header| header.msg_len as usize);
        if index >= self.receive_headers.len() {
            return Datagram { payload: &[], datagram_bytes: 0 };
        }
        // SAFETY: the place of this index lies within `memory` and has `room_bytes` behind its `control_bytes`; its bytes were zeroed
        // when it was mapped, and the kernel writes there only while `receive` runs, which needs `&mut self`.
        let payload = unsafe {
            let start = self.memory.start().add(index * self.stride_bytes + self.control_bytes);
            std::slice::from_raw_parts(start, datagram_bytes.min(self.room_bytes))
        };
        Datagram { payload, datagram_bytes }
    }

    fn control(&self, index: usize) -> &[u8] {
        let Some(header) = self.receive_headers.get(index) else { return &[] };
        let told_bytes: usize = header.msg_hdr.msg_controllen as _;
        let used_bytes = told_bytes.min(self.control_bytes);
        // SAFETY: as above: the place of this index begins with `control_bytes`, and of those no more are taken.
        unsafe {
            let start = self.memory.start().add(index * self.stride_bytes);
            std::slice::from_raw_parts(start, used_bytes)
        }
    }

    fn send(&mut self, packets: &[Packet], gso_batches: &[usize]) -> Sent {
        let slot = packets.first().map(|packet| packet.socket);
        let Some(fd) = slot.and_then(|slot| self.backends.descriptor(slot)) else {
            return Sent { messages: 0, errno: libc::EBADF };
        };
        let messages = self.fill(packets, gso_batches);
        // SAFETY: (L), (S): `fill` has written so many headers, over vectors of this struct and packets that the caller has
        // borrowed.
        let result = unsafe {
            libc::sendmmsg(
                fd,
                self.send_headers.as_mut_ptr(),
                messages as u32,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        match usize::try_from(result) {
            Ok(messages) => Sent { messages, errno: 0 },
            Err(_) => Sent { messages: 0, errno: errno() },
        }
    }

    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32> {
        let descriptors = self.listeners.descriptors();
        for ((poll, fd), is_watched) in self.polls.iter_mut().zip(descriptors).zip(watched) {
            // The kernel skips negative ones.
            poll.fd = if *is_watched { fd } else { -1 };
            poll.revents = 0;
        }
        let left_us = until_us.map(|until_us| until_us.saturating_sub(clock::now_us()));
        let time = left_us.map(|left_us| libc::timespec {
            tv_sec: (left_us / 1_000_000) as _,
            tv_nsec: ((left_us % 1_000_000) * 1_000) as _,
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: (S): so many pollfds, and a time, or none, that outlives the call; the signal mask stays as it is.
        let result =
            unsafe { libc::ppoll(self.polls.as_mut_ptr(), self.polls.len() as _, time, std::ptr::null()) };
        if result < 0 {
            return Err(errno());
        }
        if self.polls.last().is_some_and(|wake| wake.revents & libc::POLLIN != 0) {
            // It is readable, and this worker is the only one that reads it: this does not block.
            let _ = self.waker.take();
        }
        Ok(())
    }

    fn is_ready(&self, listener: usize) -> bool {
        // An error of the socket is told by the receive.
        let ready = libc::POLLIN | libc::POLLERR;
        listener < self.sizes.listeners && self.polls[listener].revents & ready != 0
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        self.backends.open(slot, address, |_: RawFd| Ok(()))
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.backends.has_unsent(slot)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        self.backends.path_payload_bytes(slot)
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        self.backends.close(slot);
    }

    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors> {
        self.backends.take_errors(slot)
    }

    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>) {
        self.backends.failing(slots);
    }

    fn leave(&mut self, listener: usize) {
        self.listeners.leave(listener);
    }

    fn fence(&mut self) -> io::Result<()> {
        self.listeners.fence()
    }

    fn is_queue_empty(&self) -> bool {
        self.listeners.is_queue_empty()
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.listeners.kernel_drops(listener)
    }
}
