//! The fake kernel as the portable driver sees it: recvmmsg, sendmmsg, ppoll, on the same clock, network and backends as
//! the fake ring.
//!
//! In: calls. Out: counts and errnos, as a kernel might give them on a bad day. Next: `driver/portable/engine.rs`, which is
//! driven by it.

use super::faults::Fault;
use super::kernel::{CALL_US_MAX, Kernel, OVERSLEEP_US_MAX};
use super::listener::Queued;
use super::network::SimNetwork;
use super::sends::{Tries, send_gso_batch};
use super::setup::{ReceivedDatagram, START_US, SimSetup};
use super::timestamps::{Control, wall_ns};
use super::{SimHandle, path_payload_bytes};
use crate::driver::DriverInfo;
use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::portable::calls::{Calls, Datagram, Sent, Sizes};
use crate::packet::{Packet, SocketSlot};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Messages that one sendmmsg takes.
const MESSAGES_MAX: usize = 5;

/// The fake system calls, which a driver owns.
pub struct SimCalls {
    kernel: Rc<RefCell<Kernel>>,
    memory: Vec<u8>,
    room_bytes: usize,
    /// True lengths of the datagrams in `memory`.
    lengths: Vec<usize>,
    /// Their control messages; as long as timestamps are asked for.
    controls: Vec<Option<Control>>,
    /// What the last sleep found readable.
    ready: Vec<bool>,
    sizes: Sizes,
    facts: DriverInfo,
}

impl SimCalls {
    /// Fake calls on listening sockets of their own, each at an address of its own, and the hand on the kernel.
    pub fn new(setup: &SimSetup) -> (SimCalls, SimHandle) {
        let (network, sockets) = setup.network();
        SimCalls::on(setup, &network, &sockets, START_US)
    }

    /// Fake calls on these sockets of a network, which others may have too; the clock shows `now_us`.
    pub fn on(
        setup: &SimSetup,
        network: &SimNetwork,
        sockets: &[usize],
        now_us: u64,
    ) -> (SimCalls, SimHandle) {
        let kernel = Kernel::new(setup, Rc::clone(&network.network), sockets, now_us);
        let kernel = Rc::new(RefCell::new(kernel));
        let batch = setup.buffers.min(8);
        let calls = SimCalls {
            kernel: Rc::clone(&kernel),
            memory: vec![0; batch * setup.payload_bytes_max],
            room_bytes: setup.payload_bytes_max,
            lengths: vec![0; batch],
            controls: std::iter::repeat_with(|| None).take(batch).collect(),
            ready: vec![false; sockets.len()],
            sizes: Sizes {
                listeners: sockets.len(),
                batch,
                turn: setup.buffers,
                sends_max: setup.sends_max,
                messages_max: MESSAGES_MAX,
                timestamps: setup.timestamps,
            },
            facts: setup.facts(),
        };
        (calls, SimHandle { kernel, network: network.clone() })
    }
}

impl Kernel {
    /// A call takes some time, in which something may arrive.
    fn pass(&mut self) {
        self.clock_us += 1 + self.random.below(CALL_US_MAX / 2);
        self.was_interrupted |= self.arrive();
    }

    /// An errno that a receive answers, if one strikes.
    fn receive_errno(&mut self) -> Option<i32> {
        if let Some(errno) = self.arm_errno {
            return Some(errno);
        }
        let errnos = [(Fault::ReceiveError, libc::ENOMEM), (Fault::ReceiveInterrupted, libc::EINTR)];
        errnos
            .into_iter()
            .find(|(fault, _)| self.faults.strikes(*fault, &mut self.random))
            .map(|(_, errno)| errno)
    }

    /// Sleeps as ppoll does; `is_ready` says whether something that is watched is readable.
    fn sleep_plain(&mut self, until_us: Option<u64>, is_ready: impl Fn(&Kernel) -> bool) -> Result<(), i32> {
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
}

impl Calls for SimCalls {
    fn now_us(&self) -> u64 {
        self.kernel.borrow().clock_us
    }

    fn wall_ns(&self) -> u64 {
        wall_ns(self.kernel.borrow().clock_us)
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn facts(&self) -> &DriverInfo {
        &self.facts
    }

    fn receive(&mut self, listener: usize, count_max: usize) -> Result<usize, i32> {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.pass();
        // What a careless reader would find.
        self.memory.fill(b'?');
        let Some(reception) = kernel.receptions.get(listener) else { return Err(libc::EBADF) };
        let (socket, is_left) = (reception.socket, reception.is_left);
        if is_left {
            kernel.violations.push(format!("listener {listener} was read, which was left"));
        }
        if let Some(errno) = kernel.receive_errno() {
            return Err(errno);
        }
        let mut count = 0;
        let places = self.memory.chunks_mut(self.room_bytes).zip(&mut self.lengths).zip(&mut self.controls);
        for ((place, length), control) in places.take(count_max) {
            let taken = kernel.network.borrow_mut().sockets[socket].take(kernel.clock_us);
            let Some(Queued { arrived_us, bytes }) = taken else { break };
            let copied = bytes.len().min(place.len());
            place[..copied].copy_from_slice(&bytes[..copied]);
            *length = bytes.len();
            for (fault, is_so) in
                [(Fault::Truncated, copied < bytes.len()), (Fault::ZeroLength, bytes.is_empty())]
            {
                if is_so {
                    kernel.faults.count(fault);
                }
            }
            let stamps = kernel.timestamps;
            *control = stamps.then(|| Control::new(arrived_us, &mut kernel.faults, &mut kernel.random));
            let at_us = kernel.clock_us;
            kernel.received.push(ReceivedDatagram {
                listener,
                arrived_us,
                at_us,
                bytes_received: copied,
                bytes,
                stamped: control.as_ref().map(|control| control.stamped),
            });
            count += 1;
        }
        if count == 0 { Err(libc::EAGAIN) } else { Ok(count) }
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let datagram_bytes = self.lengths.get(index).copied().unwrap_or(0);
        let start = index * self.room_bytes;
        let payload = self.memory.get(start..start + datagram_bytes.min(self.room_bytes)).unwrap_or(&[]);
        Datagram { payload, datagram_bytes }
    }

    fn control(&self, index: usize) -> &[u8] {
        let control = self.controls.get(index).and_then(Option::as_ref);
        control.and_then(|control| control.area.get(..control.bytes)).unwrap_or(&[])
    }

    fn send(&mut self, packets: &[Packet], gso_batches: &[usize]) -> Sent {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.pass();
        if gso_batches.is_empty()
            || gso_batches.len() > MESSAGES_MAX
            || gso_batches.iter().sum::<usize>() != packets.len()
        {
            kernel.violations.push(format!("messages of {gso_batches:?} packets, {} packets", packets.len()));
        }
        let mut rest = packets;
        for (message, count) in gso_batches.iter().enumerate() {
            if message > 0 && kernel.faults.strikes(Fault::SendStopped, &mut kernel.random) {
                return Sent { messages: message, errno: 0 };
            }
            let (gso_batch, others) = rest.split_at((*count).min(rest.len()));
            let gso_batch: Vec<&Packet> = gso_batch.iter().collect();
            let tries =
                Tries { faults: &mut kernel.faults, random: &mut kernel.random, now_us: kernel.clock_us };
            let res = send_gso_batch(&gso_batch, &mut kernel.backends, tries, &mut kernel.violations);
            if res >= 0 {
                rest = others;
                continue;
            }
            if message == 0 {
                return Sent { messages: 0, errno: -res };
            }
            kernel.faults.count(Fault::SendErrorUntold);
            return Sent { messages: message, errno: 0 };
        }
        Sent { messages: gso_batches.len(), errno: 0 }
    }

    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32> {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.is_stuck = false;
        kernel.pass();
        self.ready.fill(false);
        if std::mem::take(&mut kernel.was_interrupted)
            || kernel.faults.strikes(Fault::EnterInterrupted, &mut kernel.random)
        {
            return Err(libc::EINTR);
        }
        if kernel.faults.strikes(Fault::EnterOdd, &mut kernel.random) {
            return Err(libc::ENOMEM);
        }
        let watched = || (0..).zip(watched).filter(|(_, is_watched)| **is_watched).map(|(index, _)| index);
        if kernel.faults.strikes(Fault::ReadyInVain, &mut kernel.random) {
            watched().for_each(|index: usize| self.ready[index] = true);
            return Ok(());
        }
        kernel.sleep_plain(until_us, |kernel| watched().any(|index| !kernel.is_queue_empty(index)))?;
        if kernel.faults.strikes(Fault::Overslept, &mut kernel.random) {
            kernel.clock_us += kernel.random.below(OVERSLEEP_US_MAX);
            kernel.arrive();
        }
        watched().for_each(|index| self.ready[index] = !kernel.is_queue_empty(index));
        if kernel.faults.strikes(Fault::Preempted, &mut kernel.random) {
            kernel.clock_us += kernel.random.below(OVERSLEEP_US_MAX);
            kernel.was_interrupted |= kernel.arrive();
        }
        Ok(())
    }

    fn is_ready(&self, listener: usize) -> bool {
        self.ready.get(listener).copied().unwrap_or(false)
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
        self.kernel.borrow_mut().backends.close(slot.0 as usize);
    }

    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors> {
        self.kernel.borrow_mut().backends.take_errors(slot.0 as usize)
    }

    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>) {
        self.kernel.borrow().backends.failing(slots);
    }

    fn leave(&mut self, listener: usize) {
        self.kernel.borrow_mut().leave(listener);
    }

    fn fence(&mut self) -> std::io::Result<()> {
        self.kernel.borrow_mut().fence();
        Ok(())
    }

    fn is_queue_empty(&self) -> bool {
        let kernel = &mut *self.kernel.borrow_mut();
        // A call too. Without its time, who polls until a receive that failed may be tried again would do so for ever.
        kernel.clock_us += 1;
        kernel.was_interrupted |= kernel.arrive();
        kernel.are_queues_empty()
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.kernel.borrow().kernel_drops(listener)
    }
}
