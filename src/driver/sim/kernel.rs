//! The fake kernel: a submission queue, a completion queue, multishot receives, sends, cancels, a clock.
//!
//! In: submissions, and the datagrams that the network has for its sockets. Out: completions, as a kernel might give them on
//! a bad day. Everything follows from one seed. Next: `mod.rs`, which is the ring in front of it.

use super::backends::Backends;
use super::buffers::Buffers;
use super::faults::{Fault, Faults};
use super::listener::Queued;
use super::network::Network;
use super::random::Random;
use super::sends::{Tries, send_gso_batch};
use super::setup::{ReceivedDatagram, SimSetup};
use super::timestamps::Control;
use crate::driver::Wait;
use crate::driver::control_messages::AREA_BYTES;
use crate::driver::uring::classify::{CQE_BUFFER, CQE_BUFFER_SHIFT, CQE_MORE};
use crate::driver::uring::header::{self, HEADER_BYTES, Told};
use crate::driver::uring::ring::{Completion, Entered, Token};
use crate::packet::Packet;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

/// Datagrams that one turn of a receive takes before others run.
const TURN_DATAGRAMS_MAX: usize = 32;
/// Longest time that one call of the kernel takes beside its sleep, µs.
pub(super) const CALL_US_MAX: u64 = 20;
/// Longest oversleeping, µs.
pub(super) const OVERSLEEP_US_MAX: u64 = 4_000;

/// A queued submission.
#[derive(Clone, Copy, Debug)]
pub(super) enum Submission {
    Receive { listener: usize, token: Token },
    ReadWake { token: Token },
    Cancel { target: Token, token: Token },
    Send { head: usize, packets: usize, token: Token },
}

/// A packet in its slot.
#[derive(Debug)]
pub(super) struct SlottedPacket {
    pub packet: Packet,
    pub is_consumed: bool,
}

/// A listening socket as one ring has it.
#[derive(Debug)]
pub(super) struct Reception {
    /// Its number in the network.
    pub socket: usize,
    /// The receive that stands on it.
    pub receive: Option<Token>,
    /// That receive ends as cancelled at the next turn.
    pub is_ending: bool,
    /// Others go on receiving from it.
    pub is_left: bool,
}

/// The fake kernel's state.
pub(super) struct Kernel {
    pub random: Random,
    pub faults: Faults,
    pub clock_us: u64,
    pub submissions: VecDeque<Submission>,
    pub submissions_max: usize,
    pub completions: VecDeque<Completion>,
    completions_max: usize,
    pub overflowed: VecDeque<Completion>,
    pub buffers: Buffers,
    pub buffer_bytes: usize,
    prefix_bytes: usize,
    pub timestamps: bool,
    pub network: Rc<RefCell<Network>>,
    pub receptions: Vec<Reception>,
    wake: Option<Token>,
    pub wakes: u64,
    pub slots: Vec<Option<SlottedPacket>>,
    pub backends: Backends,
    /// When signals come.
    pub interrupts: BinaryHeap<Reverse<u64>>,
    /// A sleep ends here at the latest, as by a signal: others have to run.
    pub horizon_us: Option<u64>,
    /// Datagrams taken out of the sockets' queues, in order.
    pub received: Vec<ReceivedDatagram>,
    /// Rules that the driver broke.
    pub violations: Vec<String>,
    /// A signal came while the thread was not asleep.
    pub was_interrupted: bool,
    /// The next receives to be armed fail with this.
    pub arm_errno: Option<i32>,
    /// The last `enter` was to sleep for ever, and nothing was to come.
    pub is_stuck: bool,
}

impl Kernel {
    /// One whose clock shows `now_us`, with these sockets of the network.
    pub fn new(setup: &SimSetup, network: Rc<RefCell<Network>>, sockets: &[usize], now_us: u64) -> Kernel {
        let reception =
            |socket: &usize| Reception { socket: *socket, receive: None, is_ending: false, is_left: false };
        Kernel {
            random: Random::new(setup.seed),
            faults: setup.faults.clone(),
            clock_us: now_us,
            submissions: VecDeque::new(),
            submissions_max: setup.submissions_max,
            completions: VecDeque::new(),
            completions_max: setup.completions_max,
            overflowed: VecDeque::new(),
            buffers: Buffers::new(setup.buffers),
            buffer_bytes: setup.prefix_bytes + setup.payload_bytes_max,
            prefix_bytes: setup.prefix_bytes,
            timestamps: setup.timestamps,
            network,
            receptions: sockets.iter().map(reception).collect(),
            wake: None,
            wakes: 0,
            slots: (0..setup.sends_max).map(|_| None).collect(),
            backends: Backends::new(),
            interrupts: BinaryHeap::new(),
            horizon_us: None,
            received: Vec::new(),
            violations: Vec::new(),
            was_interrupted: false,
            arm_errno: None,
            is_stuck: false,
        }
    }

    /// Queues a receive, for which a buffer should be free: with a datagram waiting it would fail at once, again and
    /// again. Those of completions that overflowed cannot be seen.
    pub fn submit_receive(&mut self, listener: usize, token: Token) -> bool {
        if self.buffers.is_empty() && self.overflowed.is_empty() {
            self.violations
                .push(format!("a receive was queued on listener {listener} while no buffer was free"));
        }
        if self.receptions.get(listener).is_some_and(|reception| reception.is_left) {
            self.violations.push(format!("a receive was queued on listener {listener}, which was left"));
        }
        self.submit(Submission::Receive { listener, token })
    }

    /// Queues a submission, or says that there is no room.
    pub fn submit(&mut self, submission: Submission) -> bool {
        let has_room = self.submissions.len() < self.submissions_max;
        if has_room {
            self.submissions.push_back(submission);
        } else {
            self.faults.count(Fault::SubmissionQueueFull);
        }
        has_room
    }

    /// Whether a receive on `listener` is queued, armed, or has an end that the driver has not taken yet.
    pub fn is_receive_standing(&self, listener: usize) -> bool {
        let is_queued = self.submissions.iter().any(
            |submission| matches!(submission, Submission::Receive { listener: of, .. } if *of == listener),
        );
        let is_armed = self.receptions.get(listener).is_some_and(|reception| reception.receive.is_some());
        let ends = |completion: &Completion| {
            completion.flags & CQE_MORE == 0
                && completion.token
                    == Token::new(
                        crate::driver::uring::ring::Operation::Receive,
                        listener,
                        completion.token.generation(),
                    )
        };
        is_queued || is_armed || self.completions.iter().chain(&self.overflowed).any(ends)
    }

    /// Whether the kernel has nothing of the driver's: no submission, no request, no completion.
    pub fn is_quiet(&self) -> bool {
        self.submissions.is_empty()
            && self.completions.is_empty()
            && self.overflowed.is_empty()
            && self.wake.is_none()
            && self.receptions.iter().all(|reception| reception.receive.is_none())
            && self.slots.iter().all(Option::is_none)
    }

    /// One `io_uring_enter`, or a bad day's imitation of it.
    pub fn enter(&mut self, wait: Wait, memory: &mut [u8]) -> Entered {
        self.is_stuck = false;
        self.clock_us += 1 + self.random.below(CALL_US_MAX);
        let is_interrupted = self.arrive() | std::mem::take(&mut self.was_interrupted);
        for (fault, errno) in [
            (Fault::EnterBusy, libc::EBUSY),
            (Fault::EnterAgain, libc::EAGAIN),
            (Fault::EnterOdd, libc::ENOMEM),
        ] {
            if self.faults.strikes(fault, &mut self.random) {
                return Entered { consumed: 0, errno };
            }
        }
        let queued = self.submissions.len();
        let is_short = queued > 0 && self.faults.strikes(Fault::ShortSubmit, &mut self.random);
        let taken = if is_short { self.random.below(queued as u64) as usize } else { queued };
        for _ in 0..taken {
            if let Some(submission) = self.submissions.pop_front() {
                self.execute(submission);
            }
        }
        self.run(memory);
        let errno = match (taken < queued, is_interrupted) {
            (true, _) => 0,
            (false, true) => libc::EINTR,
            (false, false) => self.sleep(wait, memory),
        };
        if self.faults.strikes(Fault::Preempted, &mut self.random) {
            self.clock_us += self.random.below(OVERSLEEP_US_MAX);
            self.was_interrupted |= self.arrive();
        }
        // The kernel tells the error only if it took nothing.
        Entered { consumed: taken, errno: if taken > 0 { 0 } else { errno } }
    }

    /// Sleeps as `wait` says; the errno with which it ends.
    fn sleep(&mut self, wait: Wait, memory: &mut [u8]) -> i32 {
        if wait != Wait::Poll && self.faults.strikes(Fault::EnterInterrupted, &mut self.random) {
            return libc::EINTR;
        }
        let errno = match wait {
            Wait::Poll => return 0,
            Wait::Event => self.sleep_until(None, memory),
            Wait::EventUntil { deadline_us } => self.sleep_until(Some(deadline_us), memory),
            Wait::GatherUntil { deadline_us } => self.gather_until(deadline_us, memory),
        };
        if self.faults.strikes(Fault::Overslept, &mut self.random) {
            self.clock_us += self.random.below(OVERSLEEP_US_MAX);
            self.arrive();
            self.run(memory);
        }
        errno
    }

    /// Sleeps until there is a completion.
    fn sleep_until(&mut self, deadline_us: Option<u64>, memory: &mut [u8]) -> i32 {
        while self.completions.is_empty() {
            if self.is_at_horizon() {
                return libc::EINTR;
            }
            match (self.next_us(), deadline_us) {
                (None, None) => {
                    self.is_stuck = true;
                    return libc::EINTR;
                }
                (next, Some(deadline)) if next.is_none_or(|next| next > deadline) => {
                    self.clock_us = self.clock_us.max(deadline);
                    self.faults.count(Fault::EnterTimeout);
                    return libc::ETIME;
                }
                (next, _) => self.clock_us = self.clock_us.max(next.unwrap_or(0)),
            }
            if self.arrive() {
                self.run(memory);
                return libc::EINTR;
            }
            self.run(memory);
        }
        0
    }

    /// Sleeps until the deadline, while datagrams gather in the sockets' queues.
    fn gather_until(&mut self, deadline_us: u64, memory: &mut [u8]) -> i32 {
        while let Some(at_us) = self.next_us() {
            if at_us > deadline_us {
                break;
            }
            self.clock_us = self.clock_us.max(at_us);
            if self.arrive() || self.is_at_horizon() {
                self.run(memory);
                return libc::EINTR;
            }
        }
        self.clock_us = self.clock_us.max(deadline_us);
        self.run_out(memory);
        if self.completions.is_empty() {
            self.faults.count(Fault::EnterTimeout);
            return libc::ETIME;
        }
        0
    }

    /// When something happens next of itself.
    pub fn next_us(&self) -> Option<u64> {
        let signal_us = self.interrupts.peek().map(|Reverse(at_us)| *at_us);
        let network = self.network.borrow();
        let own = self.receptions.iter().filter_map(|of| network.sockets[of.socket].next_us(self.clock_us));
        own.chain(signal_us).chain(network.next_us()).chain(self.horizon_us).min()
    }

    /// Whether others have to run.
    pub fn is_at_horizon(&self) -> bool {
        self.horizon_us.is_some_and(|horizon_us| self.clock_us >= horizon_us)
    }

    /// Lets happen what is due; whether a signal was part of it.
    pub fn arrive(&mut self) -> bool {
        let dropped = self.network.borrow_mut().advance(self.clock_us);
        for _ in 0..dropped {
            self.faults.count(Fault::KernelDrop);
        }
        let mut is_interrupted = false;
        while self.interrupts.peek().is_some_and(|Reverse(at_us)| *at_us <= self.clock_us) {
            self.interrupts.pop();
            is_interrupted = true;
        }
        is_interrupted
    }

    /// Whether nothing has arrived that waits for a receive on `listener`.
    pub fn is_queue_empty(&self, listener: usize) -> bool {
        self.network.borrow().sockets[self.receptions[listener].socket].is_empty(self.clock_us)
    }

    /// Executes one submission.
    fn execute(&mut self, submission: Submission) {
        match submission {
            Submission::Receive { listener, token } => self.arm(listener, token),
            Submission::ReadWake { token } => {
                if self.wake.replace(token).is_some() {
                    self.violations.push("two reads of the wake at once".into());
                }
            }
            Submission::Cancel { target, token } => self.cancel(target, token),
            Submission::Send { head, packets, token } => self.send(head, packets, token),
        }
    }

    fn arm(&mut self, index: usize, token: Token) {
        if let Some(errno) = self.arm_errno {
            self.post(token, -errno, 0);
            return;
        }
        if self.buffers.is_empty() {
            self.faults.count(Fault::NoBuffers);
            self.post(token, -libc::ENOBUFS, 0);
            return;
        }
        if self.receptions[index].receive.replace(token).is_some() {
            self.violations.push(format!("two receives at once on listener {index}"));
        }
        self.receptions[index].is_ending = false;
    }

    fn cancel(&mut self, target: Token, token: Token) {
        let listener = self.receptions.iter().position(|reception| reception.receive == Some(target));
        if listener.is_none() && self.wake != Some(target) {
            self.faults.count(Fault::CancelMissed);
            self.post(token, -libc::ENOENT, 0);
            return;
        }
        if let Some(index) = listener
            && self.faults.strikes(Fault::CancelAlready, &mut self.random)
        {
            self.receptions[index].is_ending = true;
            self.post(token, -libc::EALREADY, 0);
            return;
        }
        match listener {
            Some(index) => self.receptions[index].receive = None,
            None => self.wake = None,
        }
        if self.random.below(2) == 0 {
            self.faults.count(Fault::CancelFirst);
            self.post(token, 0, 0);
            self.post(target, -libc::ECANCELED, 0);
        } else {
            self.faults.count(Fault::CancelLast);
            self.post(target, -libc::ECANCELED, 0);
            self.post(token, 0, 0);
        }
    }

    /// Executes a send of one packet, or of a GSO batch, which goes or fails as a whole.
    fn send(&mut self, head: usize, packets: usize, token: Token) {
        for slot in head..head + packets {
            match self.slots.get_mut(slot) {
                Some(Some(slotted)) => slotted.is_consumed = true,
                _ => {
                    self.violations.push(format!("the send of slot {slot} lost its packet"));
                    return;
                }
            }
        }
        let gso_batch: Vec<&Packet> =
            self.slots[head..head + packets].iter().flatten().map(|slotted| &slotted.packet).collect();
        let tries = Tries { faults: &mut self.faults, random: &mut self.random, now_us: self.clock_us };
        let res = send_gso_batch(&gso_batch, &mut self.backends, tries, &mut self.violations);
        if res < 0 || self.faults.strikes(Fault::SendSuccessTold, &mut self.random) {
            self.post(token, res, 0);
        }
    }

    /// Runs what is ready, and leaves off after any turn.
    fn run(&mut self, memory: &mut [u8]) {
        self.run_turns(memory, false);
    }

    /// Runs until nothing is ready, as the kernel does while more completions are awaited than there are.
    fn run_out(&mut self, memory: &mut [u8]) {
        self.run_turns(memory, true);
    }

    /// Runs what is ready: overflowed completions, the wake, the receives.
    fn run_turns(&mut self, memory: &mut [u8], takes_all: bool) {
        while self.completions.len() < self.completions_max
            && let Some(completion) = self.overflowed.pop_front()
        {
            self.completions.push_back(completion);
        }
        self.run_wake();
        let first = self.random.below(self.receptions.len() as u64) as usize;
        for step in 0..self.receptions.len() {
            let index = (first + step) % self.receptions.len();
            while self.run_turn(index, memory) {
                self.faults.count(Fault::TurnEnded);
                if !takes_all && self.random.below(4) == 0 {
                    break;
                }
            }
        }
    }

    fn run_wake(&mut self) {
        let Some(token) = self.wake else { return };
        if self.faults.strikes(Fault::WakeError, &mut self.random) {
            self.wake = None;
            self.post(token, -libc::EINTR, 0);
        } else if self.wakes > 0 {
            self.wake = None;
            self.wakes = 0;
            self.post(token, 8, 0);
        }
    }

    /// One turn of the receive on a listener; whether more is queued for it.
    fn run_turn(&mut self, index: usize, memory: &mut [u8]) -> bool {
        for _ in 0..TURN_DATAGRAMS_MAX {
            let Some(token) = self.receptions[index].receive else { return false };
            if self.receptions[index].is_ending {
                self.end_receive(index, token, -libc::ECANCELED, 0);
                return false;
            }
            if self.is_queue_empty(index) {
                return false;
            }
            if let Some((res, flags)) = self.receive_fault() {
                self.end_receive(index, token, res, flags);
                return false;
            }
            self.receive_one(index, token, memory);
        }
        !self.is_queue_empty(index) && self.receptions[index].receive.is_some()
    }

    /// An end of the receive that takes no datagram, if one strikes.
    fn receive_fault(&mut self) -> Option<(i32, u32)> {
        if self.buffers.is_empty() {
            self.faults.count(Fault::NoBuffers);
            return Some((-libc::ENOBUFS, 0));
        }
        for (fault, errno) in [
            (Fault::NoBuffersSpurious, libc::ENOBUFS),
            (Fault::ReceiveError, libc::ENOMEM),
            (Fault::ReceiveInterrupted, libc::EINTR),
        ] {
            if self.faults.strikes(fault, &mut self.random) {
                return Some((-errno, 0));
            }
        }
        if self.faults.strikes(Fault::ReceiveErrorWithBuffer, &mut self.random) {
            let id = self.buffers.take()?;
            return Some((-libc::ENOMEM, CQE_BUFFER | u32::from(id) << CQE_BUFFER_SHIFT));
        }
        None
    }

    fn end_receive(&mut self, index: usize, token: Token, res: i32, flags: u32) {
        self.receptions[index].receive = None;
        self.receptions[index].is_ending = false;
        self.post(token, res, flags);
    }

    /// Moves one datagram into a buffer and posts its completion.
    fn receive_one(&mut self, index: usize, token: Token, memory: &mut [u8]) {
        let Some(id) = self.buffers.take() else { return };
        let socket = self.receptions[index].socket;
        let taken = self.network.borrow_mut().sockets[socket].take(self.clock_us);
        let Some(Queued { arrived_us, bytes: datagram }) = taken else { return };
        let room = self.buffer_bytes - self.prefix_bytes;
        let copied = datagram.len().min(room);
        let is_cut = copied < datagram.len();
        let start = usize::from(id) * self.buffer_bytes;
        let buffer = &mut memory[start..start + self.buffer_bytes];
        // What a careless reader would find beyond the end.
        buffer.fill(b'?');
        let control = self.timestamps.then(|| Control::new(arrived_us, &mut self.faults, &mut self.random));
        if let Some((place, areas)) = buffer.split_first_chunk_mut::<HEADER_BYTES>() {
            header::write(place, told(control.as_ref(), datagram.len(), is_cut));
            if let (Some(control), Some(area)) = (&control, areas.first_chunk_mut::<AREA_BYTES>()) {
                *area = control.area;
            }
        }
        buffer[self.prefix_bytes..self.prefix_bytes + copied].copy_from_slice(&datagram[..copied]);
        if is_cut {
            self.faults.count(Fault::Truncated);
        }
        let is_full = self.completions.len() >= self.completions_max;
        let mut is_over = is_full || self.faults.strikes(Fault::LostMore, &mut self.random);
        if is_full {
            self.faults.count(Fault::CompletionQueueFull);
        }
        if datagram.is_empty() {
            self.faults.count(Fault::ZeroLength);
            is_over = true;
        }
        self.received.push(ReceivedDatagram {
            listener: index,
            arrived_us,
            at_us: self.clock_us,
            bytes_received: copied,
            bytes: datagram,
            stamped: control.map(|control| control.stamped),
        });
        let flags = CQE_BUFFER | u32::from(id) << CQE_BUFFER_SHIFT | if is_over { 0 } else { CQE_MORE };
        if is_over {
            self.receptions[index].receive = None;
            self.receptions[index].is_ending = false;
        }
        self.post(token, (self.prefix_bytes + copied) as i32, flags);
    }

    fn post(&mut self, token: Token, res: i32, flags: u32) {
        let completion = Completion { token, res, flags };
        if self.completions.len() < self.completions_max && self.overflowed.is_empty() {
            self.completions.push_back(completion);
        } else {
            self.faults.count(Fault::CompletionOverflowed);
            self.overflowed.push_back(completion);
        }
    }
}

/// The header of a datagram with these control messages.
fn told(control: Option<&Control>, payload_bytes: usize, is_cut: bool) -> Told {
    let (control_bytes, is_control_cut) =
        control.map_or((0, false), |control| (control.bytes, control.is_cut));
    Told { control_bytes, is_control_cut, payload_bytes, is_cut }
}
