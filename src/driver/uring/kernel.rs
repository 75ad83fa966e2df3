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
use super::cqe::{self, HEADER_BYTES, Operation, Token};
use super::drain::{Drain, Held, RECEIVE_DATAGRAMS, RECEIVES_MAX};
use super::messages::Messages;
use super::refusal::{Host, refusal, retry_on_enomem};
use super::restrict::restrict;
use crate::driver::endpoints::{Backends, Listening};
use crate::driver::errno::{WaitResult, errno_of, wait_result};
use crate::driver::gso::empty_message;
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
/// The errno of a ring that made no progress; fatal to a worker.
const BROKEN_ERRNO: i32 = libc::EBADFD;
/// Enters without progress before the ring counts as broken: about a second with the pauses between all but the first.
const ENTERS_MAX: usize = 1_000;
const ENTERS_AT_ONCE: usize = 10;
const ENTER_PAUSE: Duration = Duration::from_millis(1);
/// A datagram without a payload.
const EMPTY: Datagram<'_> = Datagram { payload: &[], datagram_bytes: 0 };
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
    info: DriverInfo,
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

        let ring = disabled_ring(sq_entries, cq_entries).map_err(|error| refused("io_uring_setup", error))?;
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
        let info = DriverInfo {
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
            polls: Polls::new(count + 1),
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
                gro_datagram_bytes_max: limits.gro_datagram_bytes_max,
            },
            listeners,
            info,
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
            // Without a wake there would be nothing to take, and no harm.
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
    fn read(&self, held: Held) -> Option<Datagram<'_>> {
        let Some(id) = held.id else { return Some(EMPTY) };
        let buffer = self.buffers.bytes(id);
        if self.prefix_bytes == 0 {
            let payload = &buffer[..held.bytes.min(buffer.len())];
            return Some(Datagram { payload, datagram_bytes: held.bytes });
        }
        cqe::parse(buffer.get(..held.bytes)?, self.prefix_bytes)
    }
}

impl Polls {
    fn new(count: usize) -> Polls {
        Polls { is_armed: vec![false; count], is_ready: vec![false; count], is_woken: false, errno: 0 }
    }

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

    fn info(&self) -> &DriverInfo {
        &self.info
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
            (false, true) => (self.info.buffers / RECEIVE_DATAGRAMS).max(1),
            (false, false) => (2 * receives).min(RECEIVES_MAX),
        };
        drain.result()
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        self.drain.held.get(index).and_then(|held| self.read(*held)).unwrap_or(EMPTY)
    }

    fn control(&self, index: usize) -> &[u8] {
        let held = self.drain.held.get(index);
        let Some((id, bytes)) = held.and_then(|held| Some((held.id?, held.bytes))) else { return &[] };
        self.buffers.bytes(id).get(..bytes).map_or(&[], |received| cqe::control(received, self.prefix_bytes))
    }

    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>) {
        self.send_errors.clear();
        let first = results.len();
        let mut at = 0;
        let mut queued = 0;
        for count in messages.iter().copied() {
            let Some(parts) = packets.get(at..at + count) else { break };
            let Some(slot) = parts.first().map(|packet| packet.socket()) else { break };
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

/// A ring that takes nothing before it is enabled.
fn disabled_ring(sq_entries: u32, cq_entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_r_disabled()
        .setup_cqsize(cq_entries);
    retry_on_enomem(|| builder.build(sq_entries))
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
