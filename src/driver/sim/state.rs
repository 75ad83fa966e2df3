//! The state of the fake kernel: a clock, listening sockets, backends' sockets, and scheduled events.
//!
//! In: the datagrams that the network has for its sockets; signals, wakes. Out: the passage of time. Everything depends on one
//! seed. Next: `kernel.rs`, which is what the driver sees of it, and `handle.rs`, which is what a test does.

use super::backends::Backends;
use super::faults::{Fault, Faults};
use super::listener::Queued;
use super::network::Network;
use super::random::Random;
use super::setup::{ReceivedDatagram, SimSetup};
use super::timestamps::Stamped;
use crate::driver::Engine;
use crate::packet::Packet;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Longest time of one kernel call without its sleep, µs.
const CALL_US_MAX: u64 = 10;
/// Longest oversleeping, µs.
pub(super) const OVERSLEEP_US_MAX: u64 = 4_000;

/// A listening socket as one driver has it.
#[derive(Debug)]
pub(super) struct Reception {
    /// Its number in the network.
    pub socket: usize,
    /// It was left to others, which receive from it.
    pub is_left: bool,
}

/// The fake kernel's state, shared by the driver's side and the test's side.
pub(super) struct State {
    pub random: Random,
    pub faults: Faults,
    pub clock_us: u64,
    pub engine: Engine,
    pub timestamps: bool,
    pub gro: bool,
    pub network: Rc<RefCell<Network>>,
    pub receptions: Vec<Reception>,
    pub wakes: u64,
    pub backends: Backends,
    /// When signals come.
    pub interrupts: BinaryHeap<Reverse<u64>>,
    /// A sleep ends at this time at the latest, as by a signal, so that others can run.
    pub horizon_us: Option<u64>,
    /// Datagrams taken out of the sockets' queues, in order.
    pub received: Vec<ReceivedDatagram>,
    /// Rules that the driver broke.
    pub violations: Vec<String>,
    /// A signal came while the thread was not asleep.
    pub was_interrupted: bool,
    /// The next receives fail with this.
    pub receive_errno: Option<i32>,
    /// The last sleep had no deadline, and no event was scheduled.
    pub is_stuck: bool,
}

impl State {
    /// One whose clock shows `now_us`, with these sockets of the network.
    pub fn new(setup: &SimSetup, network: Rc<RefCell<Network>>, sockets: &[usize], now_us: u64) -> State {
        State {
            random: Random::new(setup.seed),
            faults: setup.faults.clone(),
            clock_us: now_us,
            engine: setup.engine,
            timestamps: setup.timestamps,
            gro: setup.gro,
            network,
            receptions: sockets.iter().map(|socket| Reception { socket: *socket, is_left: false }).collect(),
            wakes: 0,
            backends: Backends::new(setup.paths),
            interrupts: BinaryHeap::new(),
            horizon_us: None,
            received: Vec::new(),
            violations: Vec::new(),
            was_interrupted: false,
            receive_errno: None,
            is_stuck: false,
        }
    }

    /// The time of the next scheduled event.
    pub fn next_us(&self) -> Option<u64> {
        let signal_us = self.interrupts.peek().map(|Reverse(at_us)| *at_us);
        let network = self.network.borrow();
        let own = self.receptions.iter().filter_map(|of| network.sockets[of.socket].next_us(self.clock_us));
        own.chain(signal_us).chain(network.next_us()).chain(self.horizon_us).min()
    }

    /// Whether the horizon has been reached.
    pub fn is_at_horizon(&self) -> bool {
        self.horizon_us.is_some_and(|horizon_us| self.clock_us >= horizon_us)
    }

    /// Runs the events that are due; whether a signal was among them.
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

    /// Whether the queue of `listener` is empty at this time.
    pub fn is_queue_empty(&self, listener: usize) -> bool {
        self.network.borrow().sockets[self.receptions[listener].socket].is_empty(self.clock_us)
    }

    /// Passes the time of a call, in which datagrams may arrive.
    pub fn pass(&mut self) {
        self.clock_us += 1 + self.random.below(CALL_US_MAX);
        self.was_interrupted |= self.arrive();
    }

    /// The errno of a receive, if a fault occurs.
    pub fn strike_receive(&mut self) -> Option<i32> {
        if let Some(errno) = self.receive_errno {
            return Some(errno);
        }
        let errnos = [(Fault::ReceiveError, libc::ENOMEM), (Fault::ReceiveInterrupted, libc::EINTR)];
        self.strike(&errnos)
    }

    /// The errno of the first fault that occurs.
    pub fn strike(&mut self, errnos: &[(Fault, i32)]) -> Option<i32> {
        let struck = errnos.iter().find(|(fault, _)| self.faults.strikes(*fault, &mut self.random));
        struck.map(|(_, errno)| *errno)
    }

    /// Sleeps until `is_ready` reports a watched socket readable, a wake or the deadline.
    pub fn sleep_until(
        &mut self,
        until_us: Option<u64>,
        is_ready: impl Fn(&State) -> bool,
    ) -> Result<(), i32> {
        loop {
            if self.wakes > 0 {
                self.wakes = 0;
                return Ok(());
            }
            if is_ready(self) {
                return Ok(());
            }
            if self.is_at_horizon() {
                return Err(libc::EINTR);
            }
            match (self.next_us(), until_us) {
                (None, None) => {
                    self.is_stuck = true;
                    return Err(libc::EINTR);
                }
                (next, Some(until)) if next.is_none_or(|next| next > until) => {
                    self.clock_us = self.clock_us.max(until);
                    self.faults.count(Fault::EnterTimeout);
                    return Ok(());
                }
                (next, _) => self.clock_us = self.clock_us.max(next.unwrap_or(0)),
            }
            if self.arrive() {
                return Err(libc::EINTR);
            }
        }
    }

    /// Takes the datagrams that the kernel hands over as one, at most `bytes_max` bytes: the oldest, and with UDP_GRO those that
    /// arrived together with it from the same sender and have its length, or less for the last; empty if none has arrived.
    pub fn take_joined(&mut self, socket: usize, bytes_max: usize) -> Vec<Queued> {
        let mut network = self.network.borrow_mut();
        let Some(listener) = network.sockets.get_mut(socket) else { return Vec::new() };
        let mut taken: Vec<Queued> = listener.take(self.clock_us).into_iter().collect();
        let Some(first) = taken.first().filter(|first| self.gro && !first.bytes.is_empty()) else {
            return taken;
        };
        let (segment_bytes, arrived_us, sender) = (first.bytes.len(), first.arrived_us, first.sender);
        let mut joined_bytes = segment_bytes;
        // A network device merges what it finds at once.
        while self.random.below(8) > 0
            && let Some(next) = listener.take_if(self.clock_us, |next| {
                (next.arrived_us, next.sender) == (arrived_us, sender)
                    && (1..=segment_bytes).contains(&next.bytes.len())
                    && joined_bytes + next.bytes.len() <= bytes_max
            })
        {
            joined_bytes += next.bytes.len();
            let is_last = next.bytes.len() < segment_bytes;
            taken.push(next);
            if is_last {
                break;
            }
        }
        taken
    }

    /// Records a datagram taken from a queue, of which `copied` bytes were received; `is_joined`: in one with others.
    pub fn record(
        &mut self,
        listener: usize,
        datagram: Queued,
        copied: usize,
        (stamped, is_joined): (Option<Stamped>, bool),
    ) {
        let Queued { arrived_us, bytes, .. } = datagram;
        for (fault, is_so) in
            [(Fault::Truncated, copied < bytes.len()), (Fault::ZeroLength, bytes.is_empty())]
        {
            if is_so {
                self.faults.count(fault);
            }
        }
        self.received.push(ReceivedDatagram {
            listener,
            arrived_us,
            at_us: self.clock_us,
            bytes_received: copied,
            bytes,
            stamped,
            is_joined,
        });
    }

    /// Checks that these messages are valid.
    pub fn judge_messages(&mut self, packets: &[Packet], messages: &[usize], messages_max: usize) {
        if messages.is_empty()
            || messages.len() > messages_max
            || messages.iter().sum::<usize>() != packets.len()
        {
            self.violations
                .push(format!("invalid submission: messages {messages:?}, {} packets", packets.len()));
        }
    }

    /// Sends one message: the number of bytes, or a negated errno.
    pub fn send(&mut self, message: &[Packet]) -> i32 {
        let message: Vec<&Packet> = message.iter().collect();
        let lengths: Vec<usize> = message.iter().map(|packet| packet.len()).collect();
        if lengths.split_last().is_some_and(|(last, others)| {
            others.iter().any(|length| *length != lengths[0]) || *last > lengths[0] || lengths.len() > 64
        }) {
            self.violations.push(format!("invalid GSO batch: packets of {lengths:?} bytes"));
        }
        if lengths.len() > 1 && self.faults.strikes(Fault::GsoRefused, &mut self.random) {
            return -libc::EIO;
        }
        self.backends.send(&message, self.clock_us, &mut self.faults, &mut self.random)
    }
}
