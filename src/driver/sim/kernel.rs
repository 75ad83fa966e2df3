//! The fake kernel as the driver sees it, with all its faults.
//!
//! In: requests of the driver ([`Kernel`]). Out: datagrams, counts and errnos. Next: `engine.rs` runs on it.
//!
//! It behaves like either real kernel interface ([`SimSetup::engine`]): io_uring reports the result of every
//! message, and a drain may stop before the queue is empty; sendmmsg stops at a message that fails, and may not report why.

use super::faults::Fault;
use super::handle::SimHandle;
use super::network::SimNetwork;
use super::setup::{START_US, SimSetup};
use super::state::{OVERSLEEP_US_MAX, State};
use super::timestamps::{Control, wall_ns};
use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::kernel::{Datagram, Drained, Kernel, ReceiveMemory, Sizes};
use crate::driver::{Driver, DriverInfo, Engine};
use crate::failpoint::{Mutation, is_active};
use crate::packet::{Packet, SocketSlot};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Room for datagrams that come joined, besides that for one. The real one has room for any; a large one would make the runs
/// slow.
const JOINED_ROOM_BYTES: usize = 600;

/// The fake kernel, which a driver owns.
pub struct SimKernel {
    state: Rc<RefCell<State>>,
    memory: Vec<u8>,
    room_bytes: usize,
    /// Bytes of a datagram that the driver delivers.
    payload_bytes_max: usize,
    /// True lengths of the datagrams in `memory`.
    lengths: Vec<usize>,
    /// Their control messages.
    controls: Vec<Control>,
    /// What the last sleep found readable.
    ready: Vec<bool>,
    sizes: Sizes,
    info: DriverInfo,
}

/// A driver on a fake kernel.
pub type SimDriver = Driver<SimKernel>;

impl SimKernel {
    /// A driver with listening sockets of its own, each at an address of its own, and the test's handle of its kernel.
    pub fn driver(setup: &SimSetup) -> (SimDriver, SimHandle) {
        let (network, sockets) = setup.network();
        SimKernel::driver_on(setup, &network, &sockets, START_US)
    }

    /// A driver on these sockets of a network, which may be shared; the clock shows `now_us`.
    pub fn driver_on(
        setup: &SimSetup,
        network: &SimNetwork,
        sockets: &[usize],
        now_us: u64,
    ) -> (SimDriver, SimHandle) {
        let state = State::new(setup, Rc::clone(&network.network), sockets, now_us);
        let state = Rc::new(RefCell::new(state));
        let batch = match setup.engine {
            Engine::IoUring => setup.buffers,
            Engine::Portable => setup.buffers.min(8),
        };
        let room_bytes = setup.payload_bytes_max + if setup.gro { JOINED_ROOM_BYTES } else { 0 };
        let kernel = SimKernel {
            state: Rc::clone(&state),
            memory: vec![0; batch * room_bytes],
            room_bytes,
            payload_bytes_max: setup.payload_bytes_max,
            lengths: vec![0; batch],
            controls: std::iter::repeat_with(Control::default).take(batch).collect(),
            ready: vec![false; sockets.len()],
            sizes: Sizes {
                listeners: sockets.len(),
                batch,
                turn: setup.turn,
                sends_max: setup.sends_max,
                messages_max: setup.messages_max,
                timestamps: setup.timestamps,
                gro_datagram_bytes_max: setup.gro.then_some(setup.payload_bytes_max),
            },
            info: setup.info(),
        };
        (Driver::new(kernel), SimHandle::new(state, network.clone()))
    }
}

impl Kernel for SimKernel {
    fn now_us(&self) -> u64 {
        self.state.borrow().clock_us
    }

    fn wall_ns(&self) -> u64 {
        wall_ns(self.state.borrow().clock_us)
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn drain(&mut self, listener: usize, count_max: usize) -> Result<Drained, i32> {
        let state = &mut *self.state.borrow_mut();
        state.pass();
        // Stale contents must not be read.
        self.memory.fill(b'?');
        let Some(reception) = state.receptions.get(listener) else { return Err(libc::EBADF) };
        let (socket, is_left) = (reception.socket, reception.is_left);
        if is_left {
            state.violations.push(format!("listener {listener} was read after it was left"));
        }
        if let Some(errno) = state.strike_receive() {
            return Err(errno);
        }
        let mut count_max = count_max.min(self.sizes.batch);
        let is_short =
            state.engine == Engine::IoUring && state.faults.strikes(Fault::DrainStopped, &mut state.random);
        if is_short {
            // No buffer was free, for example.
            count_max = 1 + state.random.below(count_max as u64) as usize;
        }
        let mut count = 0;
        let places = self.memory.chunks_mut(self.room_bytes).zip(&mut self.lengths).zip(&mut self.controls);
        for ((place, length), control) in places.take(count_max) {
            let taken = state.take_joined(socket, place.len());
            let Some(first) = taken.first() else { break };
            *control = Control::default();
            if state.timestamps {
                control.stamp(first.arrived_us, state.gro, &mut state.faults, &mut state.random);
            }
            let is_joined = taken.len() > 1;
            if is_joined {
                control.add_segment_bytes(first.bytes.len());
            }
            *length = 0;
            for datagram in taken {
                let bytes = datagram.bytes.len();
                let copied = bytes.min(place.len() - *length);
                place[*length..][..copied].copy_from_slice(&datagram.bytes[..copied]);
                *length += bytes;
                let received = copied.min(self.payload_bytes_max);
                state.record(listener, datagram, received, (control.stamped, is_joined));
            }
            count += 1;
        }
        let is_empty = count < count_max || is_active(Mutation::FullBatchAssumedLast);
        Ok(Drained { datagrams: count, unreadable: 0, is_empty })
    }

    fn datagram(&self, index: usize) -> Datagram<'_> {
        let datagram_bytes = self.lengths.get(index).copied().unwrap_or(0);
        let start = index * self.room_bytes;
        let payload = self.memory.get(start..start + datagram_bytes.min(self.room_bytes)).unwrap_or(&[]);
        if is_active(Mutation::TruncatedLineForwarded) {
            return Datagram { payload, datagram_bytes: payload.len() };
        }
        Datagram { payload, datagram_bytes }
    }

    fn control(&self, index: usize) -> &[u8] {
        self.controls.get(index).map_or(&[], |control| &control.area)
    }

    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>) {
        let state = &mut *self.state.borrow_mut();
        state.pass();
        state.judge_messages(packets, messages, self.sizes.messages_max);
        let first = results.len();
        let mut rest = packets;
        for count in messages {
            if state.faults.strikes(Fault::SendStopped, &mut state.random) {
                break;
            }
            let (message, others) = rest.split_at((*count).min(rest.len()));
            rest = others;
            let res = state.send(message);
            if res < 0 && state.engine == Engine::Portable {
                if results.len() > first && state.random.below(2) == 0 {
                    state.faults.count(Fault::SendErrorUnreported);
                } else {
                    results.push(reported_errno(-res));
                }
                break;
            }
            results.push(reported_errno(-res.min(0)));
        }
        if is_active(Mutation::UnsubmittedSendAssumedSent) {
            results.resize(first + messages.len(), 0);
        }
    }

    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32> {
        let state = &mut *self.state.borrow_mut();
        state.is_stuck = false;
        state.pass();
        self.ready.fill(false);
        let errnos = [
            (Fault::EnterInterrupted, libc::EINTR),
            (Fault::EnterError, libc::ENOMEM),
            (Fault::EnterBusy, libc::EBUSY),
            (Fault::EnterAgain, libc::EAGAIN),
        ];
        let concerned = if state.engine == Engine::IoUring { &errnos[..] } else { &errnos[..2] };
        if std::mem::take(&mut state.was_interrupted) {
            return Err(libc::EINTR);
        }
        if let Some(errno) = state.strike(concerned) {
            return Err(errno);
        }
        let watched = || (0..).zip(watched).filter(|(_, is_watched)| **is_watched).map(|(index, _)| index);
        if state.faults.strikes(Fault::SpuriousReadiness, &mut state.random) {
            watched().for_each(|index: usize| self.ready[index] = true);
            return Ok(());
        }
        state.sleep_until(until_us, |state| watched().any(|index| !state.is_queue_empty(index)))?;
        if state.faults.strikes(Fault::Overslept, &mut state.random) {
            state.clock_us += state.random.below(OVERSLEEP_US_MAX);
            state.arrive();
        }
        watched().for_each(|index| self.ready[index] = !state.is_queue_empty(index));
        if state.faults.strikes(Fault::Preempted, &mut state.random) {
            state.clock_us += state.random.below(OVERSLEEP_US_MAX);
            state.was_interrupted |= state.arrive();
        }
        Ok(())
    }

    fn is_ready(&self, listener: usize) -> bool {
        self.ready.get(listener).copied().unwrap_or(false)
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr> {
        self.state.borrow_mut().open_backend(slot, address)
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        let state = self.state.borrow();
        state.backends.has_unsent(slot.0 as usize, state.clock_us) && !is_active(Mutation::ReopenedWhileBusy)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        self.state.borrow().backends.path_payload_bytes(slot.0 as usize)
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        if !is_active(Mutation::SocketLeakedAtReload) {
            self.state.borrow_mut().backends.close(slot.0 as usize);
        }
    }

    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors> {
        self.state.borrow_mut().backends.take_errors(slot.0 as usize)
    }

    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>) {
        self.state.borrow().backends.failing(slots);
    }

    fn leave(&mut self, listener: usize) {
        self.state.borrow_mut().leave(listener);
    }

    fn fence(&mut self) -> std::io::Result<()> {
        self.state.borrow_mut().fence();
        Ok(())
    }

    fn is_queue_empty(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        // A call takes time; otherwise polling until the retry of a failed receive would never end.
        state.clock_us += 1;
        state.was_interrupted |= state.arrive();
        state.are_queues_empty() || is_active(Mutation::DrainedReportedEarly)
    }

    fn receive_memory(&mut self, listener: usize) -> ReceiveMemory {
        self.state.borrow().receive_memory(listener)
    }
}

/// The errno that is reported for a message.
fn reported_errno(errno: i32) -> i32 {
    let is_lost = is_active(Mutation::SendErrorIgnored)
        || (errno == libc::ECONNREFUSED && is_active(Mutation::RefusedPacketLost));
    if is_lost { 0 } else { errno }
}
