//! The ring: an io_uring instance, its sockets, its buffers, and the messages that it sends.
//!
//! In: requests of the driver ([`Kernel`]). Out: results. Next: `engine.rs`.
//!
//! Nothing stays armed while traffic flows. A drain is one enter with several multishot receives that do not wait
//! (MSG_DONTWAIT): each takes up to 32 datagrams, or ends with EAGAIN when the queue is empty. Only an idle worker has a poll
//! armed, and the waker's is always.
//!
//! Invariants that the unsafe blocks rest on:
//! (A) what a submission points to stays at its address until the kernel has consumed it and it has ended: the receive's msghdr
//!     is boxed and never replaced; messages, iovecs and control messages of sends are boxed, and none is rewritten while its
//!     submission is queued. Packets are borrowed for the whole of `submit`, which returns when every submission was consumed,
//!     by which time a send with MSG_DONTWAIT has ended. If the kernel refuses to consume them, the ring is broken: nothing
//!     queued is submitted any more, so nobody reads it.
//! (B) the ring is dropped first (see the order of the fields), which ends all requests; only then what they point to.
//! (C) the ring is used by one thread: `IoUringKernel` is made inside the worker's thread and is not `Send`.

#![allow(unsafe_code)]

use super::buffers::{Buffers, GROUP};
use super::cqe::{self, HEADER_BYTES, Operation, ReceiveResult, Received, Token};
use super::refusal::{Host, refusal, retry_on_enomem};
use super::restrict::restrict;
use crate::driver::endpoints::{Backends, Listening};
use crate::driver::errno::{WaitResult, errno_of, wait_result};
use crate::driver::gso::{SegmentBytes, empty_message};
use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::kernel::{Datagram, Drained, Kernel, ReceiveMemory, Sizes, TURN_DATAGRAMS};
use crate::driver::{DriverError, DriverInfo, DriverLimits, Engine, Waker, clock};
use crate::packet::{Packet, SocketSlot};
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// IORING_ENTER_GETEVENTS of io_uring_enter(2).
const ENTER_GETEVENTS: u32 = 1;
/// Datagrams that one multishot receive takes before it ends (MULTISHOT_MAX_RETRY of the kernel's io_uring/net.c); Linux 6.1 has no
/// such limit.
const RECEIVE_DATAGRAMS: usize = 32;
/// Receives submitted together; an empty datagram ends one.
const RECEIVES_MAX: usize = 64;
/// The errno of a ring that made no progress; fatal to a worker.
const BROKEN_ERRNO: i32 = libc::EBADFD;
/// Enters without progress before the ring counts as broken: about a second with the pauses between all but the first.
const ENTERS_MAX: usize = 1_000;
const ENTERS_AT_ONCE: usize = 10;
const ENTER_PAUSE: Duration = Duration::from_millis(1);
/// How long the end of armed polls is awaited when the ring is closed.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(100);

/// An io_uring instance and everything its requests point to.
pub struct IoUringKernel {
    // Dropped first: (B).
    ring: IoUring,
    buffers: Buffers,
    messages: Messages,
    receive_message: Box<libc::msghdr>,
    listeners: Listening,
    backends: Backends,
    /// Its eventfd is registered; it must stay open.
    waker: Arc<Waker>,
    polls: Polls,
    drain: Drain,
    /// The number of receives for the next drain of each listener, from the last one.
    receives: Vec<usize>,
    /// Messages that were not sent, with their errnos.
    send_errors: Vec<(usize, i32)>,
    /// The errno with which the kernel refused to consume what was queued: the ring is not entered any more.
    broken: Option<i32>,
    /// Bytes before a datagram's payload in its buffer: 0 with RECV; with RECVMSG the header and the area for control messages.
    prefix_bytes: usize,
    sizes: Sizes,
    facts: DriverInfo,
    not_send: PhantomData<*const ()>,
}

/// The polls of the listeners, then that of the waker.
struct Polls {
    is_armed: Vec<bool>,
    is_ready: Vec<bool>,
    /// A wake was consumed that has not ended a sleep yet.
    is_woken: bool,
    errno: i32,
}

/// The result of the receives of one drain.
#[derive(Default)]
struct Drain {
    held: Vec<Held>,
    unreadable: usize,
    /// Datagrams of each receive. Linux 6.2 to 6.14 may post the ends of all receives behind the datagrams of all.
    taken: Vec<usize>,
    /// Receives that have ended.
    ended: usize,
    /// Whether the last receive found the queue empty.
    is_empty: bool,
    has_no_buffers: bool,
    errno: i32,
}

/// A buffer with a datagram.
#[derive(Clone, Copy)]
struct Held {
    /// `None`: an empty datagram, which has no buffer.
    id: Option<u16>,
    /// As the receive counts them: see [`ReceiveResult::Datagram`].
    bytes: usize,
}

/// The memory that sends point to.
struct Messages {
    headers: Box<[libc::msghdr]>,
    iovecs: Box<[libc::iovec]>,
    segments: Box<[SegmentBytes]>,
}

impl IoUringKernel {
    /// Builds the ring in this thread; `listeners` are bound, `waker` wakes this worker.
    ///
    /// # Errors
    /// io_uring is refused here: the cause and the remedy.
    pub fn new(
        listeners: Vec<UdpSocket>,
        waker: Arc<Waker>,
        limits: &DriverLimits,
    ) -> Result<IoUringKernel, DriverError> {
        let listeners = Listening::new(listeners, limits.timestamps);
        let (sq_entries, cq_entries) = queue_entries(limits, listeners.count());
        let ring_bytes = IoUringKernel::bytes(limits, listeners.count());
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

        let count = listeners.count();
        let facts = DriverInfo {
            engine: Engine::IoUring.name(),
            receive_buffer_bytes: listeners.receive_buffer_bytes()?,
            buffers: limits.buffers,
            buffer_bytes: buffers.data_bytes(),
            sends_in_flight_max: limits.sends_max,
            ring_bytes,
            restrictions,
        };
        Ok(IoUringKernel {
            ring,
            buffers,
            messages: Messages::new(limits.sends_max),
            receive_message: Box::new(receive_message(limits)),
            backends: Backends::new(limits.sockets_max, limits.send_buffer_bytes),
            waker,
            polls: Polls {
                is_armed: vec![false; count + 1],
                is_ready: vec![false; count + 1],
                is_woken: false,
                errno: 0,
            },
            drain: Drain::new(limits.buffers + RECEIVES_MAX),
            receives: vec![1; count],
            send_errors: Vec::with_capacity(limits.sends_max),
            broken: None,
            prefix_bytes: limits.prefix_bytes(),
            sizes: Sizes {
                listeners: count,
                batch: limits.buffers + RECEIVES_MAX,
                turn: TURN_DATAGRAMS,
                sends_max: limits.sends_max,
                messages_max: limits.sends_max,
                timestamps: limits.timestamps,
            },
            listeners,
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

    /// Index of a backend's socket among the registered files: the listeners and the waker are before it.
    fn file_index(&self, slot: SocketSlot) -> u32 {
        self.sizes.listeners as u32 + 1 + slot.0
    }

    /// Queues a submission. The queue has room for all that one call queues, and is emptied by each.
    fn queue(&mut self, entry: &squeue::Entry) -> Result<(), i32> {
        // SAFETY: (A): the callers build entries that point to such memory only.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| libc::EBUSY)
    }

    /// Makes the kernel consume all that is queued, and takes the completions.
    fn enter(&mut self) -> Result<(), i32> {
        for tries in 0..ENTERS_MAX {
            if let Some(errno) = self.broken {
                return Err(errno);
            }
            let queued = self.ring.submission().len() as u32;
            let flags = if tries == 0 { 0 } else { ENTER_GETEVENTS };
            // SAFETY: no argument, and entries that keep (A). GETEVENTS runs deferred work without waiting.
            let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) };
            self.reap();
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            let errno = entered.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
            if wait_result(errno) == WaitResult::Broken {
                return Err(self.break_with(errno));
            }
            // The kernel is short of memory, or of room for completions (EAGAIN, EBUSY): the next enter may succeed.
            if tries < ENTERS_AT_ONCE { std::thread::yield_now() } else { std::thread::sleep(ENTER_PAUSE) }
        }
        Err(self.break_with(BROKEN_ERRNO))
    }

    /// From now on the ring is not entered: what is queued may point to packets of a caller (A). Returns the errno.
    fn break_with(&mut self, errno: i32) -> i32 {
        self.broken = Some(errno);
        errno
    }

    /// Takes every completion there is.
    fn reap(&mut self) {
        let waker = self.sizes.listeners;
        let is_recv = self.prefix_bytes == 0;
        for entry in self.ring.completion() {
            let token = Token::from_user_data(entry.user_data());
            match token.operation() {
                Some(Operation::Receive) => {
                    let received = cqe::classify(entry.result(), entry.flags());
                    self.drain.add(token.index(), received, is_recv, &mut self.buffers);
                }
                Some(Operation::Poll) => self.polls.fired(token.index(), entry.result()),
                Some(Operation::Send) if entry.result() < 0 => {
                    self.send_errors.push((token.index(), errno_of(entry.result())));
                }
                // A send that succeeded, though success should not be reported.
                Some(Operation::Send) | None => {}
            }
        }
        if std::mem::take(&mut self.polls.is_ready[waker]) {
            // It is readable, and this worker is the only one that reads it: this does not block.
            let _ = self.waker.take();
            self.polls.is_woken = true;
        }
    }

    /// Submits receives for a listener and collects their results.
    fn receive(&mut self, listener: usize, receives: usize) -> Result<(), i32> {
        let file = types::Fixed(listener as u32);
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let entry = if self.prefix_bytes == 0 {
            opcode::RecvMulti::new(file, GROUP).flags(flags).build()
        } else {
            opcode::RecvMsgMulti::new(file, &raw const *self.receive_message, GROUP)
                .flags(flags as u32)
                .build()
        };
        // One more for each receive: Linux 6.1 uses a buffer up for its end.
        self.buffers.offer(receives * (RECEIVE_DATAGRAMS + 1));
        self.drain.begin(receives);
        for index in 0..receives {
            let token = Token::new(Operation::Receive, index);
            self.queue(&entry.clone().user_data(token.user_data()))?;
        }
        self.enter()?;
        for _ in 0..ENTERS_MAX {
            if self.drain.ended >= receives {
                return Ok(());
            }
            // SAFETY: no argument, nothing queued.
            let _ = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
            self.reap();
        }
        // This kernel waits despite MSG_DONTWAIT: unusable.
        Err(self.break_with(BROKEN_ERRNO))
    }

    /// Recycles buffers with an invalid header.
    fn discard_unreadable(&mut self) {
        if self.prefix_bytes == 0 {
            return;
        }
        let mut held = std::mem::take(&mut self.drain.held);
        held.retain(|one| {
            let is_readable = self.read(*one).is_some();
            if !is_readable && let Some(id) = one.id {
                self.buffers.recycle(id);
                self.drain.unreadable += 1;
            }
            is_readable
        });
        self.drain.held = held;
    }

    /// Arms the poll of a listener, or of the waker.
    fn arm(&mut self, index: usize) -> Result<(), i32> {
        if self.polls.is_armed[index] {
            return Ok(());
        }
        let entry = opcode::PollAdd::new(types::Fixed(index as u32), libc::POLLIN as u32)
            .build()
            .user_data(Token::new(Operation::Poll, index).user_data());
        self.queue(&entry)?;
        self.polls.is_armed[index] = true;
        Ok(())
    }

    /// Ends every armed poll, so that the kernel releases a file that was taken out of the table: up to Linux 6.12 it keeps every
    /// such file until all requests that began before have ended. The next sleep arms them again.
    fn disarm(&mut self) {
        if !self.polls.is_armed.contains(&true) || self.broken.is_some() {
            return;
        }
        let timeout = types::Timespec::from(CANCEL_TIMEOUT);
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), types::CancelBuilder::any());
        // SAFETY: no argument, nothing queued. It runs the work that the cancels left.
        let _ = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
        self.reap();
    }

    /// The datagram in a held buffer; `None` if the header before it is invalid.
    fn read(&self, held: Held) -> Option<(&[u8], Datagram<'_>)> {
        let Some(id) = held.id else { return Some((&[], Datagram { payload: &[], datagram_bytes: 0 })) };
        let buffer = self.buffers.bytes(id);
        if self.prefix_bytes == 0 {
            let payload = &buffer[..held.bytes.min(buffer.len())];
            return Some((&[], Datagram { payload, datagram_bytes: held.bytes }));
        }
        let received = buffer.get(..held.bytes)?;
        let datagram = cqe::parse(received, self.prefix_bytes)?;
        Some((cqe::control(received, self.prefix_bytes), datagram))
    }
}

impl Polls {
    /// The poll of a listener or of the waker has ended.
    fn fired(&mut self, index: usize, res: i32) {
        let (Some(is_armed), Some(is_ready)) = (self.is_armed.get_mut(index), self.is_ready.get_mut(index))
        else {
            return;
        };
        *is_armed = false;
        match res {
            events if events >= 0 => *is_ready = true,
            // See `disarm`.
            cancelled if cancelled == -libc::ECANCELED => {}
            res => self.errno = errno_of(res),
        }
    }
}

impl Drain {
    fn new(datagrams_max: usize) -> Drain {
        Drain {
            held: Vec::with_capacity(datagrams_max),
            taken: Vec::with_capacity(RECEIVES_MAX),
            ..Drain::default()
        }
    }

    /// Starts a new one of so many receives.
    fn begin(&mut self, receives: usize) {
        self.held.clear();
        self.taken.clear();
        self.taken.resize(receives, 0);
        (self.unreadable, self.ended, self.errno) = (0, 0, 0);
        (self.is_empty, self.has_no_buffers) = (false, false);
    }

    /// Receives that took something.
    fn used(&self) -> usize {
        self.taken.iter().filter(|taken| **taken > 0).count()
    }

    /// Adds one completion of the receive at `index`.
    fn add(&mut self, index: usize, received: Received, is_recv: bool, buffers: &mut Buffers) {
        if let Some(id) = received.buffer {
            buffers.take(id);
        }
        match (received.result, received.buffer) {
            (ReceiveResult::Datagram { bytes }, id @ Some(_)) => self.hold(index, Held { id, bytes }),
            (ReceiveResult::NoBuffer { bytes: 0 }, None) if is_recv => {
                self.hold(index, Held { id: None, bytes: 0 });
            }
            (result, buffer) => {
                if let Some(id) = buffer {
                    buffers.recycle(id);
                }
                match result {
                    ReceiveResult::Datagram { .. } | ReceiveResult::NoBuffer { .. } => self.unreadable += 1,
                    ReceiveResult::NoBuffers => self.has_no_buffers = true,
                    ReceiveResult::Interrupted => self.errno = libc::EINTR,
                    ReceiveResult::Failed(errno) => self.errno = errno,
                    ReceiveResult::Again => {}
                }
            }
        }
        if received.is_last {
            self.ended += 1;
            if index + 1 == self.taken.len() {
                self.is_empty =
                    received.result == ReceiveResult::Again && self.taken[index] < RECEIVE_DATAGRAMS;
            }
        }
    }

    fn hold(&mut self, index: usize, held: Held) {
        self.held.push(held);
        if let Some(taken) = self.taken.get_mut(index) {
            *taken += 1;
        }
    }

    /// The result for the driver; an error if nothing was taken and the queue was not found empty.
    fn result(&self) -> Result<Drained, i32> {
        if self.held.is_empty() && self.unreadable == 0 && !self.is_empty {
            return Err(if self.errno == 0 { libc::ENOBUFS } else { self.errno });
        }
        Ok(Drained { datagrams: self.held.len(), unreadable: self.unreadable, is_empty: self.is_empty })
    }
}

impl Kernel for IoUringKernel {
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

    fn drain(&mut self, listener: usize, count_max: usize) -> Result<Drained, i32> {
        let Some(expected) = self.receives.get(listener).copied() else { return Err(libc::EBADF) };
        for held in self.drain.held.drain(..) {
            if let Some(id) = held.id {
                self.buffers.recycle(id);
            }
        }
        let receives = expected.min(count_max).max(1);
        self.receive(listener, receives)?;
        self.discard_unreadable();
        let drain = &mut self.drain;
        // As many as the next one is expected to need, so that it is one enter.
        self.receives[listener] = match (drain.is_empty, drain.has_no_buffers) {
            (true, _) => drain.used().max(1),
            (false, true) => (self.facts.buffers / RECEIVE_DATAGRAMS).max(1),
            (false, false) => (2 * receives).min(RECEIVES_MAX),
        };
        drain.result()
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let held = self.drain.held.get(index).copied();
        held.and_then(|held| self.read(held))
            .map_or(Datagram { payload: &[], datagram_bytes: 0 }, |read| read.1)
    }

    fn control(&self, index: usize) -> &[u8] {
        let held = self.drain.held.get(index).copied();
        held.and_then(|held| self.read(held)).map_or(&[], |read| read.0)
    }

    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>) {
        self.send_errors.clear();
        let first = results.len();
        let mut at = 0;
        let mut queued = 0;
        for count in messages.iter().copied() {
            let Some(parts) = packets.get(at..at + count) else { break };
            let Some(slot) = parts.first().map(|packet| packet.socket) else { break };
            let file = types::Fixed(self.file_index(slot));
            let Some(message) = self.messages.fill(queued, at, parts) else { break };
            let entry = opcode::SendMsg::new(file, message)
                .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Token::new(Operation::Send, queued).user_data());
            if self.queue(&entry).is_err() {
                break;
            }
            (at, queued) = (at + count, queued + 1);
        }
        if self.enter().is_err() {
            return;
        }
        results.resize(first + queued, 0);
        for (message, errno) in self.send_errors.drain(..) {
            if let Some(result) = results.get_mut(first + message) {
                *result = errno;
            }
        }
    }

    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32> {
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        self.polls.is_ready.fill(false);
        self.polls.errno = 0;
        if std::mem::take(&mut self.polls.is_woken) {
            // Nothing was asked of the kernel, so whatever is watched may have something.
            let listeners = self.sizes.listeners.min(watched.len());
            self.polls.is_ready[..listeners].copy_from_slice(&watched[..listeners]);
            return Ok(());
        }
        self.arm(self.sizes.listeners)?;
        for listener in (0..self.sizes.listeners).filter(|index| watched.get(*index) == Some(&true)) {
            self.arm(listener)?;
        }
        let submitter = self.ring.submitter();
        let slept = match until_us {
            None => submitter.submit_and_wait(1),
            Some(until_us) => {
                let left_us = until_us.saturating_sub(clock::now_us());
                let timespec = types::Timespec::from(Duration::from_micros(left_us));
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        self.reap();
        self.polls.is_woken = false;
        match slept.err().and_then(|error| error.raw_os_error()) {
            None | Some(libc::ETIME) if self.polls.errno == 0 => Ok(()),
            None | Some(libc::ETIME) => Err(self.polls.errno),
            Some(errno) => Err(errno),
        }
    }

    fn is_ready(&self, listener: usize) -> bool {
        listener < self.sizes.listeners && self.polls.is_ready[listener]
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        let (index, submitter) = (self.file_index(slot), self.ring.submitter());
        let source = self
            .backends
            .open(slot, address, |fd| submitter.register_files_update(index, &[fd]).map(|_| ()))?;
        self.disarm();
        Ok(source)
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
            self.disarm();
        }
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

impl Drop for IoUringKernel {
    /// Ends the polls and releases all sockets. The kernel tears a ring down asynchronously, and keeps registered sockets open
    /// until then: the port would stay taken for some 40 ms, and a restart at once would be refused. Kernels up to 6.12 wait in
    /// the release for every request that has one of the files, so those end first.
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        let timeout = types::Timespec::from(CANCEL_TIMEOUT);
        let cancelled = submitter.register_sync_cancel(Some(timeout), types::CancelBuilder::any());
        let has_none = cancelled.err().is_none_or(|error| error.raw_os_error() == Some(libc::ENOENT));
        // SAFETY: no argument; what is queued, if anything, keeps (A). It runs the work that the cancels left.
        let entered = unsafe { submitter.enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
        if has_none && entered.is_ok() {
            let _ = submitter.unregister_files();
        }
    }
}

impl Messages {
    fn new(count: usize) -> Messages {
        Messages {
            headers: vec![empty_message(); count].into_boxed_slice(),
            iovecs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; count]
                .into_boxed_slice(),
            segments: vec![SegmentBytes::new(); count].into_boxed_slice(),
        }
    }

    /// Writes message `index` over these packets, which are at `first` among those of this submission; `None` without room.
    fn fill(&mut self, index: usize, first: usize, packets: &[Packet]) -> Option<*const libc::msghdr> {
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

/// A RECVMSG requests besides the payload: no name; control messages, into the buffer.
fn receive_message(limits: &DriverLimits) -> libc::msghdr {
    let mut message = empty_message();
    message.msg_controllen = limits.prefix_bytes().saturating_sub(HEADER_BYTES) as _;
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

/// Entries of the submission and completion queues: room for all that one call queues, and for a completion of everything
/// in progress, so that neither can overflow.
fn queue_entries(limits: &DriverLimits, listeners: usize) -> (u32, u32) {
    let polls = listeners + 1;
    let submissions = (limits.sends_max.max(RECEIVES_MAX) + polls).next_power_of_two();
    let completions = (limits.buffers + RECEIVES_MAX + limits.sends_max + polls).next_power_of_two();
    (submissions as u32, completions as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drain of two receives on 100 buffers, after these completions: the receive, the result, the flags.
    fn drained(completions: impl IntoIterator<Item = (usize, i32, u32)>) -> Drain {
        let mut buffers = Buffers::new(100, 64).unwrap();
        buffers.offer(100);
        let mut drain = Drain::new(100);
        drain.begin(2);
        for (index, res, flags) in completions {
            drain.add(index, cqe::classify(res, flags), true, &mut buffers);
        }
        drain
    }

    /// Datagrams of receive `index`, in the buffers `ids`.
    fn datagrams(index: usize, ids: std::ops::Range<u32>) -> impl Iterator<Item = (usize, i32, u32)> {
        ids.map(move |id| (index, 5, cqe::CQE_BUFFER | cqe::CQE_MORE | id << cqe::CQE_BUFFER_SHIFT))
    }

    #[test]
    fn last_receive_decides_whether_the_queue_is_empty_in_any_order_of_the_ends() {
        let end = |index| (index, -libc::EAGAIN, 0);
        for (second, is_empty) in [(0, true), (31, true), (33, false)] {
            let expected = Ok(Drained { datagrams: 33 + second as usize, unreadable: 0, is_empty });
            let (first, second) = (|| datagrams(0, 0..33), || datagrams(1, 33..33 + second));
            let in_order = drained(first().chain([end(0)]).chain(second()).chain([end(1)]));
            let ends_last = drained(first().chain(second()).chain([end(0), end(1)]));
            for drain in [in_order, ends_last] {
                assert_eq!(drain.result(), expected);
                assert_eq!((drain.ended, drain.used()), (2, 1 + usize::from(second().next().is_some())));
            }
        }
    }

    #[test]
    fn empty_datagram_is_held_and_ends_its_receive() {
        let drain = drained([(0, 0, 0), (1, 0, 0)]);
        assert_eq!(drain.result(), Ok(Drained { datagrams: 2, unreadable: 0, is_empty: false }));
        assert!(drain.held.iter().all(|held| held.id.is_none()));
    }

    #[test]
    fn drain_that_took_nothing_and_did_not_find_the_queue_empty_is_an_error() {
        let ends = |errno: i32| drained([(0, -errno, 0), (1, -errno, 0)]).result();
        assert_eq!(ends(libc::EAGAIN), Ok(Drained { is_empty: true, ..Drained::default() }));
        for errno in [libc::ENOBUFS, libc::EINTR, libc::ENOMEM] {
            assert_eq!(ends(errno), Err(errno));
        }
        let with_buffer = drained([(0, -libc::EAGAIN, cqe::CQE_BUFFER), (1, -libc::EAGAIN, 0)]);
        assert_eq!(with_buffer.result(), Ok(Drained { is_empty: true, ..Drained::default() }));
    }
}
