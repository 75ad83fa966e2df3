//! The driver: what was pushed, what was received, when to sleep; on any [`Kernel`]. All of it is safe code.
//!
//! In: packets from the worker, datagrams and errnos from the kernel. Out: datagrams and outcomes to the worker. One batch:
//! `enter` sends what was pushed and sleeps; `deliver` reports the outcomes, then takes datagrams batch by batch and hands each
//! to the worker while it is in the processor's cache. Next: `worker/`.
//!
//! Rules kept here: while traffic flows nothing waits for datagrams in the kernel, so that they gather in the sockets until
//! the sleep's deadline, which only a wake, a signal or the first datagram of a socket that was idle ends sooner; there is no
//! sleep on unread datagrams or unreported outcomes; a socket counts as read only when the kernel found it empty; one `enter`
//! takes no more than `Sizes::turn` datagrams, so that orders are followed under any flood.
//!
//! Its failpoints concern what it keeps between two calls of the kernel, which no fake kernel can alter.

mod sends;

use super::backoff::Backoff;
use super::clock::{self, Stamp, Stamps};
use super::errno::{self, WaitResult};
use super::gro;
use super::gso::GsoBatches;
use super::icmp_errors::IcmpErrors;
use super::kernel::{Kernel, ReceiveMemory, Sizes};
use super::{Delivered, DriverError, DriverInfo, Events, Flow, ReceiveEvents, Wait};
use crate::failpoint::{Mutation, is_active};
use crate::packet::{Packet, SendOutcome, SocketSlot};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// This many consecutive unexpected errors of the sleep are fatal: it does not recover.
const SLEEP_ERRORS_IN_A_ROW_MAX: u32 = 100;

/// The driver of one worker, used from its thread only.
pub struct Driver<K: Kernel> {
    kernel: K,
    sizes: Sizes,
    listeners: Vec<Listener>,
    /// Which of them a sleep watches.
    watched: Vec<bool>,
    /// Datagrams of the last drain, and how many of them were delivered.
    held: usize,
    delivered: usize,
    /// Where the next segment of the next datagram begins, if some of it was delivered.
    segment_at: usize,
    /// Datagrams that may still be taken before the next `enter`.
    turn_left: usize,
    /// Which listener is the first to be read next.
    first: usize,
    /// Pushed, not sent yet.
    unsent: Vec<Packet>,
    /// The outcomes of those of `unsent` that were tried.
    outcomes: Vec<SendOutcome>,
    /// How many packets each message of one submission has, and what the kernel said to each.
    messages: Vec<usize>,
    results: Vec<i32>,
    /// A socket that was found full in this batch.
    busy: Option<SocketSlot>,
    /// Sent, or not, and not reported yet.
    settled: VecDeque<(Packet, SendOutcome)>,
    /// One of those was not sent: the worker may send it again at once.
    has_failed_sends: bool,
    gso_batches: GsoBatches,
    /// ICMP errors that were found.
    icmp_errors: IcmpErrors,
    /// Sockets with errors queued, while they are polled.
    failing: Vec<SocketSlot>,
    is_ending: bool,
    has_entered: bool,
    sleep_errors_in_a_row: u32,
    receive_events: ReceiveEvents,
    stamps: Stamps,
    /// What to report as fatal at the next `enter`.
    broken: Option<(&'static str, i32)>,
}

/// What is known of a listening socket.
#[derive(Clone, Debug, Default)]
struct Listener {
    /// It was left to other processes.
    is_left: bool,
    /// It may have datagrams: it is read before the next sleep.
    may_have_more: bool,
    backoff: Backoff,
}

/// Result of reading the sockets.
enum Refill {
    Some,
    /// Every socket was empty.
    Empty,
    /// The worker must have its turn first, or there was an error.
    Later,
}

impl<K: Kernel> Driver<K> {
    /// A driver that has not read its sockets yet.
    pub fn new(kernel: K) -> Driver<K> {
        let sizes = kernel.sizes();
        Driver {
            kernel,
            sizes,
            listeners: vec![Listener::default(); sizes.listeners],
            watched: vec![true; sizes.listeners],
            held: 0,
            delivered: 0,
            segment_at: 0,
            turn_left: 0,
            first: 0,
            unsent: Vec::with_capacity(sizes.sends_max),
            outcomes: Vec::with_capacity(sizes.sends_max),
            messages: Vec::with_capacity(sizes.messages_max),
            results: Vec::with_capacity(sizes.messages_max),
            busy: None,
            settled: VecDeque::with_capacity(sizes.sends_max),
            has_failed_sends: false,
            gso_batches: GsoBatches::default(),
            icmp_errors: IcmpErrors::default(),
            failing: Vec::new(),
            is_ending: false,
            has_entered: false,
            sleep_errors_in_a_row: 0,
            receive_events: ReceiveEvents::default(),
            stamps: Stamps::default(),
            broken: None,
        }
    }

    /// The driver's clock, in µs from an arbitrary start; monotonic.
    pub fn now_us(&self) -> u64 {
        self.kernel.now_us()
    }

    /// Connects socket `slot` to a backend, replacing what was there; no packet for it may be in flight. The address of this
    /// host that the kernel chose for it, and that it keeps.
    ///
    /// # Errors
    /// The kernel's; what was there before stays.
    pub fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr> {
        let source = self.kernel.open_backend(slot, address)?;
        self.icmp_errors.opened(slot);
        // Room for every socket: polling allocates nothing.
        self.failing.reserve(slot.0 as usize + 1);
        self.gso_batches.opened(slot, self.kernel.path_payload_bytes(slot));
        Ok(source)
    }

    /// Closes socket `slot`; no packet for it may be in flight.
    pub fn close_backend(&mut self, slot: SocketSlot) {
        self.kernel.close_backend(slot);
    }

    /// Whether the kernel still holds packets that were sent to socket `slot`: they wait in a queueing discipline or device.
    pub fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.kernel.has_unsent(slot)
    }

    /// The longest datagram that can be sent to socket `slot` unfragmented, by its path's MTU now; `None` if unknown. It also
    /// limits the segments of GSO batches to `slot`.
    pub fn path_payload_bytes(&mut self, slot: SocketSlot) -> Option<usize> {
        let bytes = self.kernel.path_payload_bytes(slot);
        self.gso_batches.limit_segments(slot, bytes);
        bytes
    }

    /// Has GSO batches go to socket `slot` again, though one was refused there.
    pub fn allow_gso(&mut self, slot: SocketSlot) {
        self.gso_batches.allow(slot);
    }

    /// Polls for ICMP errors that no send has reported; the next [`Driver::deliver`] reports them. Use it when sends are
    /// rare or have ended: the errors that a send meets are read without a poll.
    pub fn look_for_icmp_errors(&mut self) {
        self.failing.clear();
        self.kernel.failing_backends(&mut self.failing);
        for slot in self.failing.drain(..) {
            if let Some(errors) = self.kernel.take_errors(slot) {
                self.icmp_errors.found(slot, errors);
            }
        }
    }

    /// Takes a packet to send with the next [`Driver::enter`]. Without room it is returned.
    ///
    /// # Errors
    /// The packet, if there is no room.
    pub fn push(&mut self, mut packet: Packet) -> Result<(), Packet> {
        if self.unsent.len() + self.settled.len() >= self.sizes.sends_max {
            return Err(packet);
        }
        packet.set_in_gso_batch(false);
        self.unsent.push(packet);
        Ok(())
    }

    /// Sends the pushed packets, and sleeps for `wait`.
    ///
    /// # Errors
    /// The kernel's interface cannot be used any more.
    pub fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        if let Some((operation, errno)) = self.broken.take() {
            return Err(broken(operation, errno));
        }
        self.send_all();
        let wait = self.bounded(wait);
        self.turn_left = self.sizes.turn;
        let slept = self.sleep(wait);
        self.has_entered = true;
        slept
    }

    /// Delivers outcomes of sends and datagrams to `events`.
    pub fn deliver(&mut self, events: &mut impl Events) -> Delivered {
        while let Some((packet, outcome)) = self.settled.pop_front() {
            events.sent(packet, outcome);
        }
        self.has_failed_sends = false;
        self.icmp_errors.report(events);
        let may_be_some = self.delivered < self.held || self.may_have_more();
        if may_be_some && events.flow() == Flow::Pause {
            return self.paused();
        }
        loop {
            if self.deliver_held(events) == Flow::Pause {
                return self.paused();
            }
            match self.refill() {
                Refill::Some => {}
                Refill::Empty => return Delivered::All,
                Refill::Later => return Delivered::Paused,
            }
        }
    }

    /// Fences the listening sockets: nothing new arrives, while queued datagrams stay readable.
    ///
    /// # Errors
    /// The kernel's; new datagrams may still arrive.
    pub fn fence(&mut self) -> std::io::Result<()> {
        self.kernel.fence()
    }

    /// Leaves a listening socket to other processes that receive from it: its queue is not read any more, what was received
    /// before is still delivered, and [`Driver::fence`] does not touch it. Without such a listener it does nothing.
    pub fn leave(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.is_left = !is_active(Mutation::LeftSocketRead);
            listener.may_have_more &= !listener.is_left;
            self.kernel.leave(index);
        }
    }

    /// Whether the queues of the listening sockets that were not left are empty, and every received datagram was delivered.
    pub fn is_drained(&mut self) -> bool {
        self.delivered >= self.held && self.kernel.is_queue_empty()
    }

    /// Ends receiving. What was received before is still delivered; continue entering until [`Driver::is_idle`].
    pub fn end(&mut self) {
        self.is_ending = true;
        self.listeners.iter_mut().for_each(|listener| listener.may_have_more = false);
    }

    /// Whether nothing is in progress: no socket is being read, and the driver holds no packet and no datagram.
    pub fn is_idle(&self) -> bool {
        let reads = self.listeners.iter().any(|listener| self.reads(listener));
        !reads && self.unsent.is_empty() && self.settled.is_empty() && self.delivered >= self.held
    }

    /// Whether every listening socket is read: then a batch without datagrams means that there were none.
    pub fn is_reading(&self) -> bool {
        let reads = |listener: &Listener| self.reads(listener) && !listener.backoff.is_failing();
        self.has_entered && self.listeners.iter().all(reads)
    }

    /// Listening sockets.
    pub fn listeners(&self) -> usize {
        self.sizes.listeners
    }

    /// What a listening socket's receive buffer holds and has dropped.
    pub fn receive_memory(&mut self, listener: usize) -> ReceiveMemory {
        self.kernel.receive_memory(listener)
    }

    /// The receive side's events.
    pub fn receive_events(&self) -> ReceiveEvents {
        self.receive_events
    }

    /// What the driver was granted.
    pub fn info(&self) -> &DriverInfo {
        self.kernel.info()
    }

    /// Whether this driver reads a listener.
    fn reads(&self, listener: &Listener) -> bool {
        !self.is_ending && !listener.is_left
    }

    /// The wait, shortened where a sleep would delay something known. Sets what to watch.
    fn bounded(&mut self, wait: Wait) -> Wait {
        let now_us = self.kernel.now_us();
        let mut has_news = self.delivered < self.held || self.has_failed_sends || !self.has_entered;
        let mut retry_us: Option<u64> = None;
        for index in 0..self.listeners.len() {
            let listener = &self.listeners[index];
            let (reads, retry_at_us) = (self.reads(listener), listener.backoff.retry_at_us());
            let waits_us = retry_at_us.filter(|at_us| reads && *at_us > now_us);
            has_news |=
                reads && waits_us.is_none() && (listener.may_have_more || listener.backoff.is_failing());
            self.watched[index] = reads && waits_us.is_none();
            retry_us = retry_us.into_iter().chain(waits_us).min();
        }
        match (wait, retry_us) {
            _ if has_news => Wait::Poll,
            (Wait::Event, Some(at)) => Wait::EventUntil { deadline_us: at },
            (Wait::EventUntil { deadline_us }, Some(at)) => {
                Wait::EventUntil { deadline_us: deadline_us.min(at) }
            }
            _ => wait,
        }
    }

    /// Sleeps for `wait`, then marks every socket that may be readable.
    fn sleep(&mut self, wait: Wait) -> Result<(), DriverError> {
        let (until_us, gathers) = match wait {
            Wait::Poll => (None, true),
            Wait::Event => (None, false),
            Wait::EventUntil { deadline_us } => (Some(deadline_us), false),
            Wait::GatherUntil { deadline_us } => (Some(deadline_us), true),
        };
        if gathers {
            // Datagrams do not end it: no socket is watched.
            self.watched.fill(false);
        }
        let slept = if wait == Wait::Poll { Ok(()) } else { self.kernel.sleep(&self.watched, until_us) };
        let now_us = self.kernel.now_us();
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let is_due = listener.backoff.retry_at_us().is_none_or(|at_us| at_us <= now_us);
            let reads = !self.is_ending && !listener.is_left && is_due;
            let may_have = gathers || slept.is_err() || self.kernel.is_ready(index);
            listener.may_have_more = reads && (listener.may_have_more || may_have);
            if listener.may_have_more && listener.backoff.is_failing() {
                listener.backoff.tried();
            }
        }
        self.judge_sleep(slept.err().unwrap_or(0))
    }

    /// Classifies the errno of a sleep: normal, unexpected, or fatal.
    fn judge_sleep(&mut self, errno: i32) -> Result<(), DriverError> {
        match errno::wait_result(errno) {
            WaitResult::Normal => self.sleep_errors_in_a_row = 0,
            WaitResult::Odd => {
                self.receive_events.wait_errors += 1;
                self.sleep_errors_in_a_row += 1;
                if self.sleep_errors_in_a_row > SLEEP_ERRORS_IN_A_ROW_MAX {
                    return Err(broken("waiting for events", errno));
                }
            }
            WaitResult::Broken => return Err(broken("waiting for events", errno)),
        }
        Ok(())
    }

    /// Takes the next batch of datagrams from a socket that may have some.
    fn refill(&mut self) -> Refill {
        let count = self.listeners.len();
        let mut has_failed = false;
        for step in 0..count {
            let index = (self.first + step) % count;
            while self.listeners[index].may_have_more {
                if self.turn_left == 0 {
                    return Refill::Later;
                }
                match self.kernel.drain(index, self.sizes.batch.min(self.turn_left)) {
                    Ok(drained) => {
                        let taken = drained.datagrams + drained.unreadable;
                        self.turn_left -= taken.min(self.turn_left);
                        self.receive_events.unreadable += drained.unreadable as u64;
                        self.listeners[index].may_have_more = !drained.is_empty && taken > 0;
                        self.listeners[index].backoff.succeeded();
                        if drained.datagrams > 0 {
                            self.hold(drained.datagrams);
                            self.first = (index + 1) % count;
                            return Refill::Some;
                        }
                    }
                    Err(errno) => {
                        has_failed = true;
                        self.receive_failed(index, errno);
                    }
                }
            }
        }
        if has_failed {
            return Refill::Later;
        }
        self.stamps.drained();
        Refill::Empty
    }

    /// So many datagrams are to be delivered.
    fn hold(&mut self, datagrams: usize) {
        (self.held, self.delivered) = (datagrams, 0);
        if self.sizes.timestamps {
            self.stamps.read(self.kernel.now_us(), self.kernel.wall_ns());
        }
    }

    fn receive_failed(&mut self, index: usize, errno: i32) {
        let now_us = self.kernel.now_us();
        let listener = &mut self.listeners[index];
        listener.may_have_more = false;
        listener.backoff.failed(now_us);
        if errno == libc::EINTR {
            return;
        }
        self.receive_events.errors += 1;
        self.receive_events.last_errno = errno;
        if errno::is_impossible(errno) {
            self.broken = Some(("receiving datagrams", errno));
        }
    }

    /// Hands the held datagrams to the worker until it pauses.
    fn deliver_held(&mut self, events: &mut impl Events) -> Flow {
        // Decided once, so that sockets without UDP_GRO do not pay for it.
        if let Some(bytes_max) = self.sizes.gro_datagram_bytes_max {
            while self.delivered < self.held {
                if self.deliver_segments(bytes_max, events) == Flow::Pause {
                    return Flow::Pause;
                }
            }
            return Flow::More;
        }
        while self.delivered < self.held {
            if self.deliver_one(events) == Flow::Pause {
                return Flow::Pause;
            }
        }
        Flow::More
    }

    /// Hands the next held datagram to the worker, segment by segment, until it pauses or its turn comes.
    fn deliver_segments(&mut self, bytes_max: usize, events: &mut impl Events) -> Flow {
        let stamp = self.stamp(self.delivered);
        let datagram = self.kernel.datagram(self.delivered);
        let segment_bytes = gro::segment_bytes(self.kernel.control(self.delivered));
        let is_joined = segment_bytes.is_some_and(|bytes| bytes < datagram.datagram_bytes);
        let mut at = self.segment_at;
        loop {
            let (segment, next) = gro::segment(datagram, segment_bytes, at, bytes_max);
            self.receive_events.zero_length += u64::from(segment.datagram_bytes == 0);
            self.receive_events.joined += u64::from(is_joined);
            let flow = events.datagram(segment.payload, segment.datagram_bytes, stamp);
            let Some(next) = next else {
                (self.delivered, self.segment_at) = (self.delivered + 1, 0);
                return flow;
            };
            (at, self.segment_at) = (next, next);
            if flow == Flow::Pause || self.turn_left == 0 {
                if is_active(Mutation::DatagramLostOnPause) {
                    self.segment_at += segment.datagram_bytes;
                }
                return Flow::Pause;
            }
            // The drain has counted the first one.
            self.turn_left -= 1;
        }
    }

    /// Hands the next held datagram to the worker.
    fn deliver_one(&mut self, events: &mut impl Events) -> Flow {
        let stamp = self.stamp(self.delivered);
        let datagram = self.kernel.datagram(self.delivered);
        self.delivered += 1;
        self.receive_events.zero_length += u64::from(datagram.datagram_bytes == 0);
        let flow = events.datagram(datagram.payload, datagram.datagram_bytes, stamp);
        if flow == Flow::Pause && is_active(Mutation::DatagramLostOnPause) && self.delivered < self.held {
            self.delivered += 1;
        }
        flow
    }

    /// The arrival of a held datagram.
    fn stamp(&self, index: usize) -> Stamp {
        if !self.sizes.timestamps {
            return Stamp::Disabled;
        }
        self.stamps.stamp(clock::stamp_ns(self.kernel.control(index)))
    }

    fn may_have_more(&self) -> bool {
        self.listeners.iter().any(|listener| listener.may_have_more)
    }

    /// For a worker without room: whether a datagram or outcome is ready.
    fn paused(&mut self) -> Delivered {
        let holds_some = self.delivered < self.held;
        if holds_some || (self.may_have_more() && !self.kernel.is_queue_empty()) {
            return Delivered::Paused;
        }
        Delivered::All
    }
}

fn broken(operation: &'static str, errno: i32) -> DriverError {
    DriverError::System { operation, source: std::io::Error::from_raw_os_error(errno) }
}

#[cfg(test)]
mod tests;
