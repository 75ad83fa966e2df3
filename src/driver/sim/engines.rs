//! Either driver on the fake kernel, so that one test exercises both.
//!
//! In: a setup that says which. Out: a [`Driver`]. Next: the simulation's workers.

use super::{SimCalls, SimHandle, SimNetwork, SimRing, SimSetup};
use crate::driver::portable::engine::PortableDriver;
use crate::driver::uring::engine::RingDriver;
use crate::driver::{Delivered, Driver, DriverError, DriverInfo, Engine, Events, ReceiveEvents, Wait};
use crate::packet::{Packet, SocketSlot};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A driver on a fake kernel.
pub enum SimDriver {
    /// On a fake ring.
    Ring(RingDriver<SimRing>),
    /// On fake system calls.
    Portable(PortableDriver<SimCalls>),
}

/// The same expression for whichever driver it is.
macro_rules! either {
    ($sim:expr, $driver:ident => $then:expr) => {
        match $sim {
            SimDriver::Ring($driver) => $then,
            SimDriver::Portable($driver) => $then,
        }
    };
}

impl SimDriver {
    /// A driver with listening sockets of its own, and the hand on its kernel.
    pub fn new(setup: &SimSetup) -> (SimDriver, SimHandle) {
        let (network, sockets) = setup.network();
        SimDriver::on(setup, &network, &sockets, super::START_US)
    }

    /// A driver on these sockets of a network, which others may have too; the clock shows `now_us`.
    pub fn on(
        setup: &SimSetup,
        network: &SimNetwork,
        sockets: &[usize],
        now_us: u64,
    ) -> (SimDriver, SimHandle) {
        match setup.engine {
            Engine::IoUring => {
                let (ring, handle) = SimRing::on(setup, network, sockets, now_us);
                (SimDriver::Ring(RingDriver::new(ring)), handle)
            }
            Engine::Portable => {
                let (calls, handle) = SimCalls::on(setup, network, sockets, now_us);
                (SimDriver::Portable(PortableDriver::new(calls)), handle)
            }
        }
    }

    /// Buffers of the fake ring that the driver holds; those of the portable driver are its own.
    pub fn buffers_held(&self) -> usize {
        match self {
            SimDriver::Ring(driver) => driver.buffers_held(),
            SimDriver::Portable(_) => 0,
        }
    }

    /// Completions that belonged to nothing.
    pub fn stray_completions(&self) -> u64 {
        match self {
            SimDriver::Ring(driver) => driver.stray_completions(),
            SimDriver::Portable(_) => 0,
        }
    }

    /// Whether the driver believes that a receive stands at `listener`; that of the portable driver never does.
    pub fn is_receive_standing(&self, listener: usize) -> bool {
        match self {
            SimDriver::Ring(driver) => driver.is_receive_standing(listener),
            SimDriver::Portable(_) => false,
        }
    }
}

impl Driver for SimDriver {
    fn now_us(&self) -> u64 {
        either!(self, driver => driver.now_us())
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        either!(self, driver => driver.open_backend(slot, address))
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        either!(self, driver => driver.has_unsent(slot))
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        either!(self, driver => driver.path_payload_bytes(slot))
    }

    fn allow_gso(&mut self, slot: SocketSlot) {
        either!(self, driver => driver.allow_gso(slot))
    }

    fn look_for_answers(&mut self) {
        either!(self, driver => driver.look_for_answers())
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        either!(self, driver => driver.close_backend(slot))
    }

    fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        either!(self, driver => driver.push(packet))
    }

    fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        either!(self, driver => driver.enter(wait))
    }

    fn deliver(&mut self, events: &mut impl Events) -> Delivered {
        either!(self, driver => driver.deliver(events))
    }

    fn fence(&mut self) -> io::Result<()> {
        either!(self, driver => driver.fence())
    }

    fn leave(&mut self, listener: usize) {
        either!(self, driver => driver.leave(listener))
    }

    fn is_drained(&mut self) -> bool {
        either!(self, driver => driver.is_drained())
    }

    fn cancel(&mut self) {
        either!(self, driver => driver.cancel())
    }

    fn is_quiet(&self) -> bool {
        either!(self, driver => driver.is_quiet())
    }

    fn is_armed(&self) -> bool {
        either!(self, driver => driver.is_armed())
    }

    fn listeners(&self) -> usize {
        either!(self, driver => driver.listeners())
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        either!(self, driver => driver.kernel_drops(listener))
    }

    fn receive_events(&self) -> ReceiveEvents {
        either!(self, driver => driver.receive_events())
    }

    fn facts(&self) -> &DriverInfo {
        either!(self, driver => driver.facts())
    }
}
