//! What a test does with the fake kernel while a driver owns it, and what it reads there.
//!
//! In: datagrams, signals, wakes, faults. Out: what was received and accepted, rules that the driver broke.

use super::backends::Accepted;
use super::faults::Fault;
use super::network::SimNetwork;
use super::setup::ReceivedDatagram;
use super::state::State;
use crate::driver::icmp_errors::QueuedError;
use crate::packet::SocketSlot;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// The test's handle of the fake kernel while a driver owns it.
#[derive(Clone)]
pub struct SimHandle {
    state: Rc<RefCell<State>>,
    network: SimNetwork,
}

impl SimHandle {
    pub(super) fn new(state: Rc<RefCell<State>>, network: SimNetwork) -> SimHandle {
        SimHandle { state, network }
    }

    /// A datagram will arrive at the `listener`-th address at `at_us`.
    pub fn datagram_at(&self, at_us: u64, listener: usize, bytes: impl Into<Box<[u8]>>) {
        self.network.datagram_at(at_us, listener, 0, bytes);
    }

    /// A signal will end the sleep at `at_us`.
    pub fn interrupt_at(&self, at_us: u64) {
        self.state.borrow_mut().interrupts.push(Reverse(at_us));
    }

    /// From now on a sleep ends when the clock shows `at_us` at the latest, as by a signal, so that others can run.
    pub fn set_horizon(&self, at_us: u64) {
        self.state.borrow_mut().horizon_us = Some(at_us);
    }

    /// The thread does not run for a while.
    pub fn pause(&self, pause_us: u64) {
        self.state.borrow_mut().clock_us += pause_us;
    }

    /// The sockets to backends: where each leads, and the number of the call that made it.
    pub fn backend_sockets(&self) -> Vec<(SocketAddr, u64)> {
        self.state.borrow().backends.open_sockets()
    }

    /// The address that new sockets to backends send from.
    pub fn source(&self) -> IpAddr {
        self.state.borrow().backends.source()
    }

    /// Changes that address; sends by sockets that were made before fail.
    pub fn change_source(&self) {
        self.state.borrow_mut().backends.change_source();
    }

    /// An ICMP answer with `errno` comes to a packet that the socket in `slot` sent earlier; `is_own`: from this host itself,
    /// for want of a neighbor.
    pub fn answer(&self, slot: SocketSlot, errno: i32, is_own: bool) {
        let answer = QueuedError { errno, is_answer: true, is_own, is_prohibited: false };
        self.state.borrow_mut().backends.answer(slot.0 as usize, answer);
    }

    /// Wakes the driver, as control does.
    pub fn wake(&self) {
        self.state.borrow_mut().wakes += 1;
    }

    /// From now on every receive fails with `errno`, or none does.
    pub fn fail_receives(&self, errno: Option<i32>) {
        self.state.borrow_mut().receive_errno = errno;
    }

    /// From now on `fault` strikes so many times in ten thousand.
    pub fn set_fault(&self, fault: Fault, per_ten_thousand: u32) {
        self.state.borrow_mut().faults.set(fault, per_ten_thousand);
    }

    /// From now on nothing goes wrong by chance.
    pub fn stop_faults(&self) {
        self.state.borrow_mut().faults.stop();
    }

    /// The clock, µs.
    pub fn now_us(&self) -> u64 {
        self.state.borrow().clock_us
    }

    /// How often each fault struck, in the order of [`Fault::ALL`].
    pub fn fault_counts(&self) -> Vec<u64> {
        let state = self.state.borrow();
        Fault::ALL.iter().map(|fault| state.faults.counted(*fault)).collect()
    }

    /// The rules that the driver broke.
    pub fn violations(&self) -> Vec<String> {
        let state = self.state.borrow();
        let mut violations = state.violations.clone();
        if state.backends.unfit > 0 {
            violations.push(format!("{} packets were empty or too long", state.backends.unfit));
        }
        violations
    }

    /// Whether the driver broke a rule.
    pub fn has_violations(&self) -> bool {
        let state = self.state.borrow();
        !state.violations.is_empty() || state.backends.unfit > 0
    }

    /// Whether the driver has left a listening socket to others.
    pub fn has_left(&self, listener: usize) -> bool {
        self.state.borrow().receptions.get(listener).is_some_and(|reception| reception.is_left)
    }

    /// Whether the last sleep would have been for ever.
    pub fn is_stuck(&self) -> bool {
        self.state.borrow().is_stuck
    }

    /// Whether the listening sockets' queues are empty.
    pub fn is_queue_empty(&self) -> bool {
        self.network.queued() == 0
    }

    /// Reads the datagrams that were received, in order.
    pub fn with_received<T>(&self, read: impl FnOnce(&[ReceivedDatagram]) -> T) -> T {
        read(&self.state.borrow().received)
    }

    /// Reads the packets that were accepted, in order.
    pub fn with_accepted<T>(&self, read: impl FnOnce(&[Accepted]) -> T) -> T {
        read(&self.state.borrow().backends.accepted)
    }
}
