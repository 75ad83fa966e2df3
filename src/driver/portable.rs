//! The fallback where io_uring is refused: recvmmsg, sendmmsg and ppoll, which no seccomp profile forbids.
//!
//! In: requests of the driver ([`Kernel`]). Out: results. Next: `engine.rs`.
//!
//! Why ppoll instead of epoll: a worker sleeps on two or three descriptors, which ppoll takes with each call, so that no
//! registration survives a handover, and on another set (the waker alone) while datagrams gather. Its timeout
//! is in nanoseconds in every kernel; epoll's is in milliseconds before 5.11.
//!
//! Invariants that the unsafe blocks rest on:
//! (L) each header's vector points to a place of `memory` that is as long as the vector says, or to a packet that the caller
//!     has borrowed for the whole call; neither `memory` nor the vectors of receives are ever replaced or written to here,
//!     and headers and vectors of sends are written anew for each call. Each place begins with `control_bytes` for control
//!     messages, to which the header of a receive points if there are any, and whose length it is given before each call;
//! (S) the kernel uses its arguments during the call only: none of these calls continues after it has returned.

#![allow(unsafe_code)]

use super::endpoints::{Backends, Listening};
use super::gso::{SegmentBytes, empty_message};
use super::icmp_errors::QueuedErrors;
use super::kernel::{Datagram, Drained, Kernel, ReceiveMemory, Sizes, TURN_DATAGRAMS};
use super::{
    Driver, DriverError, DriverInfo, DriverLimits, Engine, RECVMSG_HEADER_BYTES, Restrictions, Waker, clock,
};
use crate::packet::{Packet, SocketSlot};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::sync::Arc;

/// A driver on system calls, made in the thread that will use it.
///
/// # Errors
/// Those of reading the sizes of the listening sockets' buffers.
pub fn open(
    listeners: Vec<UdpSocket>,
    waker: Arc<Waker>,
    limits: &DriverLimits,
) -> Result<Driver<PortableKernel>, DriverError> {
    Ok(Driver::new(PortableKernel::new(listeners, waker, limits)?))
}

/// Bytes of the receive buffers of a driver made with these bounds.
pub fn buffer_bytes(limits: &DriverLimits) -> usize {
    batch(limits) * stride_bytes(limits)
}

/// Datagrams of one recvmmsg: enough that the call's own cost is small, and few enough that they are still in the
/// processor's cache when they are read.
const BATCH: usize = 64;
/// The same where each has room for joined datagrams.
const BATCH_JOINED: usize = 32;
/// How late this thread's timers may be, ns: with the kernel's 50 µs the shortest sleeps would last half as long again.
const TIMER_SLACK_NS: libc::c_ulong = 1_000;

/// Datagrams of one recvmmsg.
fn batch(limits: &DriverLimits) -> usize {
    if limits.gro_datagram_bytes_max.is_some() { BATCH_JOINED } else { BATCH }
}

/// Room for control messages: no header precedes them here.
fn control_bytes(limits: &DriverLimits) -> usize {
    limits.prefix_bytes().saturating_sub(RECVMSG_HEADER_BYTES)
}

/// From one receive buffer's start to the next one's, so that each starts at a cache line.
fn stride_bytes(limits: &DriverLimits) -> usize {
    limits.buffer_bytes.next_multiple_of(64)
}

/// Sockets, and memory for system calls on them.
pub struct PortableKernel {
    listeners: Listening,
    backends: Backends,
    waker: Arc<Waker>,
    /// Where datagrams are received, one every `stride_bytes`.
    memory: Vec<u8>,
    stride_bytes: usize,
    /// Room for control messages at the beginning of each place; 0 if they are disabled.
    control_bytes: usize,
    /// Room for one datagram, after them.
    room_bytes: usize,
    receive_headers: Vec<libc::mmsghdr>,
    /// What those point to, which points into `memory`: (L).
    _receive_vectors: Vec<libc::iovec>,
    send_headers: Vec<libc::mmsghdr>,
    send_vectors: Vec<libc::iovec>,
    segments: Vec<SegmentBytes>,
    /// The listening sockets, then the waker.
    polls: Vec<libc::pollfd>,
    sizes: Sizes,
    info: DriverInfo,
}

impl PortableKernel {
    /// Takes listening sockets that are bound; `waker` wakes this worker.
    pub fn new(
        listeners: Vec<UdpSocket>,
        waker: Arc<Waker>,
        limits: &DriverLimits,
    ) -> Result<PortableKernel, DriverError> {
        let listeners = Listening::new(listeners, limits.timestamps);
        // SAFETY: it takes numbers. A kernel that refuses leaves sleeps a little less exact, and nothing else.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS) };
        let (batch, stride_bytes, control_bytes) =
            (batch(limits), stride_bytes(limits), control_bytes(limits));
        let room_bytes = limits.buffer_bytes.saturating_sub(limits.prefix_bytes());
        let mut memory = vec![0u8; batch * stride_bytes];
        // Moving the vector does not move its memory.
        let start: *mut u8 = memory.as_mut_ptr();
        // Within `memory`, as long as a buffer at least.
        let place = |index: usize| start.wrapping_add(index * stride_bytes);
        let vector = |index: usize| libc::iovec {
            iov_base: place(index).wrapping_add(control_bytes).cast(),
            iov_len: room_bytes,
        };
        let mut receive_vectors: Vec<libc::iovec> = (0..batch).map(vector).collect();
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
        let info = DriverInfo {
            engine: Engine::Portable.name(),
            receive_buffer_bytes: listeners.receive_buffer_bytes()?,
            buffers: batch,
            buffer_bytes: memory.len(),
            sends_in_flight_max: packets_max,
            ring_bytes: 0,
            restrictions: Restrictions::None,
        };
        Ok(PortableKernel {
            backends: Backends::new(limits.sockets_max, limits.send_buffer_bytes),
            waker,
            memory,
            stride_bytes,
            control_bytes,
            room_bytes,
            receive_headers,
            _receive_vectors: receive_vectors,
            send_headers: (0..packets_max).map(|_| header(std::ptr::null_mut(), 0)).collect(),
            send_vectors: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; packets_max],
            segments: vec![SegmentBytes::new(); packets_max],
            polls,
            sizes: Sizes {
                listeners: listeners.count(),
                batch,
                turn: TURN_DATAGRAMS,
                sends_max: packets_max,
                messages_max: packets_max,
                timestamps: limits.timestamps,
                gro_datagram_bytes_max: limits.gro_datagram_bytes_max,
            },
            listeners,
            info,
        })
    }

    /// Writes the headers of these messages; how many there are.
    fn fill(&mut self, packets: &[Packet], messages: &[usize]) -> usize {
        for (place, packet) in self.send_vectors.iter_mut().zip(packets) {
            // The kernel only reads what a send points to.
            let base = packet.bytes().as_ptr().cast_mut().cast();
            *place = libc::iovec { iov_base: base, iov_len: packet.len() };
        }
        let mut rest = self.send_vectors.get_mut(..packets.len()).unwrap_or_default();
        let slots = self.send_headers.iter_mut().zip(&mut self.segments);
        let mut filled = 0;
        for ((slot, segment), count) in slots.zip(messages) {
            let Some((vectors, others)) = rest.split_at_mut_checked(*count) else { break };
            rest = others;
            let segment_bytes = vectors.first().map_or(0, |vector| vector.iov_len);
            *slot = header(vectors.as_mut_ptr(), vectors.len());
            if vectors.len() > 1 {
                segment.set(u16::try_from(segment_bytes).unwrap_or(u16::MAX));
                slot.msg_hdr.msg_control = (&raw mut *segment).cast();
                slot.msg_hdr.msg_controllen = size_of::<SegmentBytes>() as _;
            }
            filled += 1;
        }
        filled
    }

    /// Sends messages to one socket; how many the kernel took, or the errno of the first.
    fn send(&mut self, fd: RawFd, packets: &[Packet], messages: &[usize]) -> Result<usize, i32> {
        let filled = self.fill(packets, messages);
        // SAFETY: (L), (S): `fill` has written so many headers, over vectors of this struct and packets that the caller has
        // borrowed.
        let result = unsafe {
            libc::sendmmsg(
                fd,
                self.send_headers.as_mut_ptr(),
                filled as u32,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(result).map_err(|_| errno())
    }
}

/// A header over `count` vectors from `first` on.
fn header(first: *mut libc::iovec, count: usize) -> libc::mmsghdr {
    let mut message = empty_message();
    message.msg_iov = first;
    message.msg_iovlen = count as _;
    libc::mmsghdr { msg_hdr: message, msg_len: 0 }
}

/// The errno of the last call.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// How many messages at the front, with how many packets, are for `slot`.
fn same_socket(slot: SocketSlot, packets: &[Packet], messages: &[usize]) -> (usize, usize) {
    let (mut same, mut same_packets) = (0, 0);
    for count in messages {
        if packets.get(same_packets).is_none_or(|packet| packet.socket() != slot) {
            break;
        }
        (same, same_packets) = (same + 1, (same_packets + count).min(packets.len()));
    }
    (same, same_packets)
}

impl Kernel for PortableKernel {
    fn now_us(&self) -> u64 {
        clock::now_us()
    }

    fn wall_ns(&self) -> u64 {
        clock::wall_ns()
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn drain(&mut self, listener: usize, count_max: usize) -> Result<Drained, i32> {
        let Some(fd) = self.listeners.descriptor(listener) else { return Err(libc::EBADF) };
        let count = count_max.min(self.receive_headers.len());
        if self.control_bytes > 0 {
            // The kernel has written there how much it used.
            for header in &mut self.receive_headers[..count] {
                header.msg_hdr.msg_controllen = self.control_bytes as _;
            }
        }
        // SAFETY: (L), (S): `count` headers, each with one vector over a place of `memory`, and either no room for control
        // messages or that at the place's beginning; nothing else borrows it, since this takes `&mut self`; without a timeout.
        let result = unsafe {
            libc::recvmmsg(
                fd,
                self.receive_headers.as_mut_ptr(),
                count as u32,
                (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(result) {
            Ok(datagrams) => Ok(Drained { datagrams, unreadable: 0, is_empty: datagrams < count }),
            Err(_) => match errno() {
                libc::EAGAIN => Ok(Drained { is_empty: true, ..Drained::default() }),
                errno => Err(errno),
            },
        }
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let datagram_bytes = self.receive_headers.get(index).map_or(0, |header| header.msg_len as usize);
        if index >= self.receive_headers.len() {
            return Datagram { payload: &[], datagram_bytes: 0 };
        }
        // SAFETY: the place of this index lies within `memory` and has `room_bytes` after its `control_bytes`; its bytes were zeroed
        // when it was mapped, and the kernel writes there only while `receive` runs, which needs `&mut self`.
        let payload = unsafe {
            let start = self.memory.as_ptr().add(index * self.stride_bytes + self.control_bytes);
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
            let start = self.memory.as_ptr().add(index * self.stride_bytes);
            std::slice::from_raw_parts(start, used_bytes)
        }
    }

    /// sendmmsg(2) reports the errno of its first message only. If it stops at a later one, that one's error is gone from the
    /// socket: an ICMP error is then in the socket's error queue, and any other error is returned again when the
    /// message is tried again as the first one. Either way an error means that the message was not sent.
    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>) {
        let (mut packets, mut messages) = (packets, messages);
        while let Some(slot) = packets.first().map(|packet| packet.socket()) {
            let (same, same_packets) = same_socket(slot, packets, messages);
            let Some(fd) = self.backends.descriptor(slot) else { return results.push(libc::EBADF) };
            match self.send(fd, &packets[..same_packets], &messages[..same]) {
                Ok(taken) => {
                    results.resize(results.len() + taken, 0);
                    if taken < same {
                        return;
                    }
                }
                Err(errno) => return results.push(errno),
            }
            (packets, messages) = (&packets[same_packets..], &messages[same..]);
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
        // The receive reports an error of the socket.
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

    fn receive_memory(&mut self, listener: usize) -> ReceiveMemory {
        self.listeners.receive_memory(listener)
    }
}
