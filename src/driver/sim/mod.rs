//! A seeded fake kernel for tests: the same seed gives the same run, to the microsecond.
//!
//! It stands in for the kernel below the drivers' own bookkeeping, so that a test on it exercises the code that runs on the
//! real ring, or makes the real system calls (`calls.rs`). In: a setup and a script. Out: everything that a kernel may do,
//! and a record of it. Next: `driver/uring/engine.rs` and `driver/portable/engine.rs`, which are driven by it.

mod backends;
mod buffers;
mod calls;
#[cfg(test)]
mod engine_tests;
mod engines;
mod faults;
mod kernel;
mod listener;
mod network;
mod random;
mod sends;
mod setup;
mod sockets;
mod timestamps;

pub use backends::Accepted;
pub use buffers::Census;
pub use calls::SimCalls;
pub use engines::SimDriver;
pub use faults::{Fault, Faults};
pub use network::SimNetwork;
pub use random::Random;
pub use setup::{ReceivedDatagram, START_US, SimSetup};
pub use timestamps::Stamped;

use super::icmp_errors::{QueuedError, QueuedErrors};
use super::uring::ring::{Completion, Entered, Ring, RingSizes, Token};
use super::{DriverInfo, Wait};
use crate::packet::{Packet, SocketSlot};
use kernel::{Kernel, SlottedPacket, Submission};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use timestamps::wall_ns;

/// The fake ring, which a driver owns.
pub struct SimRing {
    kernel: Rc<RefCell<Kernel>>,
    memory: Vec<u8>,
    buffer_bytes: usize,
    sizes: RingSizes,
    facts: DriverInfo,
}

/// The test's hand on the fake kernel while a driver owns its ring.
#[derive(Clone)]
pub struct SimHandle {
    kernel: Rc<RefCell<Kernel>>,
    network: SimNetwork,
}

impl SimRing {
    /// A fake ring with listening sockets of its own, each at an address of its own, and the hand on it.
    pub fn new(setup: &SimSetup) -> (SimRing, SimHandle) {
        let (network, sockets) = setup.network();
        SimRing::on(setup, &network, &sockets, START_US)
    }

    /// A fake ring on these sockets of a network, which others may have too; the clock shows `now_us`.
    pub fn on(
        setup: &SimSetup,
        network: &SimNetwork,
        sockets: &[usize],
        now_us: u64,
    ) -> (SimRing, SimHandle) {
        let kernel = Kernel::new(setup, Rc::clone(&network.network), sockets, now_us);
        let kernel = Rc::new(RefCell::new(kernel));
        let buffer_bytes = setup.prefix_bytes + setup.payload_bytes_max;
        let ring = SimRing {
            kernel: Rc::clone(&kernel),
            memory: vec![0; setup.buffers * buffer_bytes],
            buffer_bytes,
            sizes: RingSizes {
                listeners: sockets.len(),
                buffers: setup.buffers,
                prefix_bytes: setup.prefix_bytes,
                timestamps: setup.timestamps,
                sends_max: setup.sends_max,
            },
            facts: setup.facts(),
        };
        (ring, SimHandle { kernel, network: network.clone() })
    }
}

impl Ring for SimRing {
    fn now_us(&self) -> u64 {
        self.kernel.borrow().clock_us
    }

    fn wall_ns(&self) -> u64 {
        wall_ns(self.kernel.borrow().clock_us)
    }

    fn sizes(&self) -> RingSizes {
        self.sizes
    }

    fn facts(&self) -> &DriverInfo {
        &self.facts
    }

    fn receive(&mut self, listener: usize, token: Token) -> bool {
        listener < self.sizes.listeners && self.kernel.borrow_mut().submit_receive(listener, token)
    }

    fn read_wake(&mut self, token: Token) -> bool {
        self.kernel.borrow_mut().submit(Submission::ReadWake { token })
    }

    fn cancel(&mut self, target: Token, token: Token) -> bool {
        self.kernel.borrow_mut().submit(Submission::Cancel { target, token })
    }

    fn send(&mut self, slot: usize, packet: Packet, token: Token) -> Result<(), Packet> {
        let mut kernel = self.kernel.borrow_mut();
        if !matches!(kernel.slots.get(slot), Some(None)) {
            kernel.violations.push(format!("slot {slot} for a packet is taken, or does not exist"));
            return Err(packet);
        }
        if !kernel.submit(Submission::Send { head: slot, packets: 1, token }) {
            return Err(packet);
        }
        kernel.slots[slot] = Some(SlottedPacket { packet, is_consumed: false });
        Ok(())
    }

    fn join(&mut self, head: usize, slot: usize, packet: Packet) -> Result<(), Packet> {
        let mut kernel = self.kernel.borrow_mut();
        if !matches!(kernel.slots.get(slot), Some(None)) {
            kernel.violations.push(format!("slot {slot} for a packet is taken, or does not exist"));
            return Err(packet);
        }
        match kernel.submissions.back_mut() {
            Some(Submission::Send { head: queued, packets, .. })
                if *queued == head && slot == head + *packets =>
            {
                *packets += 1;
            }
            _ => {
                kernel.violations.push(format!("slot {slot} cannot join the send of slot {head}"));
                return Err(packet);
            }
        }
        kernel.slots[slot] = Some(SlottedPacket { packet, is_consumed: false });
        Ok(())
    }

    fn take_packet(&mut self, slot: usize) -> Option<Packet> {
        let mut kernel = self.kernel.borrow_mut();
        let place = kernel.slots.get_mut(slot)?;
        let taken = place.take_if(|slotted| slotted.is_consumed);
        if taken.is_none() {
            kernel
                .violations
                .push(format!("the packet of slot {slot} was asked for before its send was consumed"));
        }
        taken.map(|slotted| slotted.packet)
    }

    fn enter(&mut self, wait: Wait) -> Entered {
        self.kernel.borrow_mut().enter(wait, &mut self.memory)
    }

    fn next_completion(&mut self) -> Option<Completion> {
        use super::uring::classify::classify;
        let mut kernel = self.kernel.borrow_mut();
        let completion = kernel.completions.pop_front()?;
        if let Some(id) = classify(completion.res, completion.flags).buffer {
            kernel.buffers.hold(id);
        }
        Some(completion)
    }

    fn has_overflowed(&self) -> bool {
        !self.kernel.borrow().overflowed.is_empty()
    }

    fn buffer(&self, id: u16) -> &[u8] {
        if !self.kernel.borrow().buffers.is_held(id) {
            return &[];
        }
        let start = usize::from(id) * self.buffer_bytes;
        &self.memory[start..start + self.buffer_bytes]
    }

    fn give_back(&mut self, id: u16) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        let is_held = kernel.buffers.give_back(id);
        if is_held {
            // The kernel may write it at once: whoever still reads it, reads this.
            let start = usize::from(id) * self.buffer_bytes;
            self.memory[start..start + self.buffer_bytes].fill(b'!');
        } else {
            kernel.violations.push(format!("buffer {id} was given back by who does not hold it"));
        }
        is_held
    }

    fn publish_buffers(&mut self) {
        self.kernel.borrow_mut().buffers.publish();
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr> {
        self.kernel.borrow_mut().open_backend(slot, address)
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        let kernel = self.kernel.borrow();
        kernel.backends.has_unsent(slot.0 as usize, kernel.clock_us)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        path_payload_bytes(slot)
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.slots.iter().flatten().any(|slotted| slotted.packet.socket == slot) {
            kernel
                .violations
                .push(format!("socket {} was closed while a packet for it was in flight", slot.0));
        }
        kernel.backends.close(slot.0 as usize);
    }

    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors> {
        self.kernel.borrow_mut().backends.take_errors(slot.0 as usize)
    }

    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>) {
        self.kernel.borrow().backends.failing(slots);
    }

    fn let_go(&mut self) {}

    fn leave(&mut self, listener: usize) {
        self.kernel.borrow_mut().leave(listener);
    }

    fn fence(&mut self) -> std::io::Result<()> {
        self.kernel.borrow_mut().fence();
        Ok(())
    }

    fn is_queue_empty(&mut self) -> bool {
        self.kernel.borrow().are_queues_empty()
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.kernel.borrow().kernel_drops(listener)
    }
}

/// Paths of several widths, and one that is not known.
fn path_payload_bytes(slot: SocketSlot) -> Option<usize> {
    [None, Some(0), Some(600), Some(1_472)][slot.0 as usize % 4]
}

impl SimHandle {
    /// A datagram will arrive at the `listener`-th address at `at_us`.
    pub fn datagram_at(&self, at_us: u64, listener: usize, bytes: impl Into<Box<[u8]>>) {
        self.network.datagram_at(at_us, listener, 0, bytes);
    }

    /// A signal will end the sleep at `at_us`.
    pub fn interrupt_at(&self, at_us: u64) {
        self.kernel.borrow_mut().interrupts.push(Reverse(at_us));
    }

    /// From now on a sleep ends when the clock shows `at_us` at the latest, as by a signal, so that others can run.
    pub fn set_horizon(&self, at_us: u64) {
        self.kernel.borrow_mut().horizon_us = Some(at_us);
    }

    /// The thread does not run for a while.
    pub fn pause(&self, pause_us: u64) {
        self.kernel.borrow_mut().clock_us += pause_us;
    }

    /// The sockets to backends: where each leads, and the number of the call that made it.
    pub fn backend_sockets(&self) -> Vec<(SocketAddr, u64)> {
        self.kernel.borrow().backends.open_sockets()
    }

    /// The address that new sockets to backends send from.
    pub fn source(&self) -> IpAddr {
        self.kernel.borrow().backends.source()
    }

    /// Changes that address; sends by sockets that were made before fail.
    pub fn change_source(&self) {
        self.kernel.borrow_mut().backends.change_source();
    }

    /// An ICMP answer with `errno` comes to a packet that the socket in `slot` sent earlier; `is_own`: from this host itself,
    /// for want of a neighbor.
    pub fn answer(&self, slot: SocketSlot, errno: i32, is_own: bool) {
        let answer = QueuedError { errno, is_answer: true, is_own, is_prohibited: false };
        self.kernel.borrow_mut().backends.answer(slot.0 as usize, answer);
    }

    /// Wakes the driver, as control does.
    pub fn wake(&self) {
        self.kernel.borrow_mut().wakes += 1;
    }

    /// From now on every receive fails with `errno` as it is armed, or with none.
    pub fn fail_receives(&self, errno: Option<i32>) {
        self.kernel.borrow_mut().arm_errno = errno;
    }

    /// From now on `fault` strikes so many times in ten thousand.
    pub fn set_fault(&self, fault: Fault, per_ten_thousand: u32) {
        self.kernel.borrow_mut().faults.set(fault, per_ten_thousand);
    }

    /// From now on nothing goes wrong by chance.
    pub fn stop_faults(&self) {
        self.kernel.borrow_mut().faults.stop();
    }

    /// The clock, µs.
    pub fn now_us(&self) -> u64 {
        self.kernel.borrow().clock_us
    }

    /// How often each fault struck, in the order of [`Fault::ALL`].
    pub fn fault_counts(&self) -> Vec<u64> {
        let kernel = self.kernel.borrow();
        Fault::ALL.iter().map(|fault| kernel.faults.counted(*fault)).collect()
    }

    /// The rules that the driver broke.
    pub fn violations(&self) -> Vec<String> {
        let kernel = self.kernel.borrow();
        let mut violations = kernel.violations.clone();
        if kernel.backends.unfit > 0 {
            violations.push(format!("{} packets were empty or too long", kernel.backends.unfit));
        }
        violations
    }

    /// Whether the driver broke a rule.
    pub fn has_violations(&self) -> bool {
        let kernel = self.kernel.borrow();
        !kernel.violations.is_empty() || kernel.backends.unfit > 0
    }

    /// Whether the driver has left a listening socket to others.
    pub fn has_left(&self, listener: usize) -> bool {
        self.kernel.borrow().receptions.get(listener).is_some_and(|reception| reception.is_left)
    }

    /// Whether the last sleep would have been for ever.
    pub fn is_stuck(&self) -> bool {
        self.kernel.borrow().is_stuck
    }

    /// Where the buffers are.
    pub fn census(&self) -> Census {
        self.kernel.borrow().buffers.census()
    }

    /// Whether a receive on `listener` is queued, armed, or has an end that the driver has not taken yet.
    pub fn is_receive_standing(&self, listener: usize) -> bool {
        self.kernel.borrow().is_receive_standing(listener)
    }

    /// Whether the kernel has nothing of the driver's: no submission, no request, no completion.
    pub fn is_quiet(&self) -> bool {
        self.kernel.borrow().is_quiet()
    }

    /// Whether the listening sockets' queues are empty.
    pub fn is_queue_empty(&self) -> bool {
        self.network.queued() == 0
    }

    /// Reads the datagrams that were received, in order.
    pub fn with_received<T>(&self, read: impl FnOnce(&[ReceivedDatagram]) -> T) -> T {
        read(&self.kernel.borrow().received)
    }

    /// Reads the packets that were accepted, in order.
    pub fn with_accepted<T>(&self, read: impl FnOnce(&[Accepted]) -> T) -> T {
        read(&self.kernel.borrow().backends.accepted)
    }
}
