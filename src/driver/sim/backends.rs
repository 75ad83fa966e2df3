//! The fake backends' sockets: each send has one of the kernel's results, and accepted packets are recorded.
//!
//! In: packets as the kernel executes their sends. Out: results, and the record of accepted packets. Next: `kernel.rs`.

use super::faults::{Fault, Faults};
use super::random::Random;
use crate::driver::icmp_errors::{QueuedError, QueuedErrors};
use crate::failpoint::{Mutation, is_active};
use crate::packet::{Arrival, Arrivals, Packet, SocketSlot};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Longest time for which a full send buffer stays full, µs.
const BUSY_US_MAX: u64 = 8_000;

/// A packet that the fake kernel accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Where the socket was connected to.
    pub address: SocketAddr,
    /// When, on the fake clock.
    pub at_us: u64,
    /// When that socket was made.
    pub opened_us: u64,
    /// What was known of the arrival of its oldest metric.
    pub arrival: Arrival,
    /// When its metrics arrived, and how many together, as recorded in the packet.
    pub arrivals: Vec<(i64, u32)>,
    /// The payload.
    pub bytes: Box<[u8]>,
    /// It exceeded the path MTU at that time.
    pub is_fragmented: bool,
}

/// One connected socket.
#[derive(Debug)]
struct Socket {
    address: SocketAddr,
    /// The address that it sends from.
    source: IpAddr,
    opened_us: u64,
    /// The number of the call that made it.
    serial: u64,
    /// Its send buffer is full until then.
    busy_until_us: u64,
    /// The longest packet that its path MTU permits; `None`: unknown, and without a limit.
    path_payload_bytes: Option<usize>,
    /// Number of further refusals.
    refusals_left: u64,
    /// Its error queue.
    queued_errors: Vec<QueuedError>,
}

/// All sockets by slot.
#[derive(Debug)]
pub(super) struct Backends {
    sockets: Vec<Option<Socket>>,
    /// The host's address, which new sockets send from; others fail.
    source: IpAddr,
    /// The longest packets that path MTUs permit; each socket gets one by its slot.
    paths: &'static [Option<usize>],
    /// Sockets made so far.
    made: u64,
    /// What was accepted, in order.
    pub accepted: Vec<Accepted>,
    /// Packets that were empty, or longer than any datagram: the relay must not make any.
    pub unfit: u64,
}

impl Backends {
    /// No socket yet.
    pub fn new(paths: &'static [Option<usize>]) -> Backends {
        Backends {
            paths,
            sockets: Vec::new(),
            source: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0)),
            made: 0,
            accepted: Vec::new(),
            unfit: 0,
        }
    }

    /// Connects a slot; the address that it sends from.
    pub fn open(&mut self, slot: usize, address: SocketAddr, now_us: u64) -> IpAddr {
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        if let Some(source) = self.unreplaced(slot, address) {
            return source;
        }
        self.made += 1;
        if is_active(Mutation::SocketReplacedAtReload) {
            for other in self.sockets.iter_mut().flatten() {
                other.serial = self.made;
                self.made += 1;
            }
        }
        self.sockets[slot] = Some(Socket {
            address,
            source: self.source,
            opened_us: now_us,
            serial: self.made,
            busy_until_us: 0,
            path_payload_bytes: self.paths[slot % self.paths.len()],
            refusals_left: 0,
            queued_errors: Vec::new(),
        });
        self.source
    }

    /// The source address of a socket that a mutation keeps, though a new one to the same address was requested: one that
    /// still has the host's address, or one that has an old one.
    fn unreplaced(&self, slot: usize, address: SocketAddr) -> Option<IpAddr> {
        let old = self.sockets[slot].as_ref().filter(|old| old.address == address)?;
        let is_failing = old.source != self.source;
        let kept = if is_failing { Mutation::FailingSocketKept } else { Mutation::ScheduledReopenSkipped };
        is_active(kept).then_some(old.source)
    }

    /// Whether a slot's socket leads to `address` and has packets in its send buffer.
    pub fn is_filled(&self, slot: usize, address: SocketAddr, now_us: u64) -> bool {
        let socket = self.sockets.get(slot).and_then(Option::as_ref);
        socket.is_some_and(|socket| socket.address == address && now_us < socket.busy_until_us)
    }

    /// The longest packet that the path MTU of a slot's socket permits.
    pub fn path_payload_bytes(&self, slot: usize) -> Option<usize> {
        let known = self.sockets.get(slot)?.as_ref()?.path_payload_bytes;
        known.filter(|_| !is_active(Mutation::PathMtuHidden))
    }

    /// Changes the path MTU of a slot's socket.
    pub fn set_path(&mut self, slot: usize, path_payload_bytes: Option<usize>) {
        if let Some(Some(socket)) = self.sockets.get_mut(slot) {
            socket.path_payload_bytes = path_payload_bytes;
        }
    }

    /// Whether a slot's socket has packets in its send buffer.
    pub fn has_unsent(&self, slot: usize, now_us: u64) -> bool {
        let socket = self.sockets.get(slot).and_then(Option::as_ref);
        socket.is_some_and(|socket| now_us < socket.busy_until_us)
    }

    /// The host gets another address.
    pub fn change_source(&mut self) {
        if let IpAddr::V4(source) = self.source {
            self.source = IpAddr::V4(Ipv4Addr::from_bits(source.to_bits() + 1));
        }
    }

    /// The host's address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Where each open socket leads, and the number of the call that made it.
    pub fn open_sockets(&self) -> Vec<(SocketAddr, u64)> {
        self.sockets.iter().flatten().map(|socket| (socket.address, socket.serial)).collect()
    }

    /// Closes a slot.
    pub fn close(&mut self, slot: usize) {
        if let Some(socket) = self.sockets.get_mut(slot) {
            *socket = None;
        }
    }

    /// Empties a socket's error queue.
    pub fn take_errors(&mut self, slot: usize) -> Option<QueuedErrors> {
        QueuedErrors::collect(self.sockets.get_mut(slot)?.as_mut()?.queued_errors.drain(..))
    }

    /// Adds the slots of sockets with something in their error queues.
    pub fn failing(&self, slots: &mut Vec<SocketSlot>) {
        let is_failing =
            |socket: &Option<Socket>| socket.as_ref().is_some_and(|socket| !socket.queued_errors.is_empty());
        let failing = self.sockets.iter().enumerate().filter(|(_, socket)| is_failing(socket));
        slots.extend(failing.map(|(slot, _)| SocketSlot(slot as u32)));
    }

    /// Queues an ICMP error for a packet that was accepted earlier.
    pub fn answer(&mut self, slot: usize, answer: QueuedError) {
        if let Some(Some(socket)) = self.sockets.get_mut(slot) {
            socket.queued_errors.push(answer);
        }
    }

    /// Executes a send of one packet or of a GSO batch to one socket: the number of bytes, or a negated errno.
    pub fn send(
        &mut self,
        gso_batch: &[&Packet],
        now_us: u64,
        faults: &mut Faults,
        random: &mut Random,
    ) -> i32 {
        let slot = gso_batch.first().map_or(usize::MAX, |packet| packet.socket().0 as usize);
        self.unfit += u64::from(gso_batch.iter().any(|packet| packet.socket().0 as usize != slot));
        if faults.strikes(Fault::SourceChanged, random) {
            self.change_source();
        }
        let (source, paths) = (self.source, self.paths);
        let Some(Some(socket)) = self.sockets.get_mut(slot) else {
            return -libc::EBADF;
        };
        if faults.strikes(Fault::PathChanged, random) {
            socket.path_payload_bytes = paths[random.below(paths.len() as u64) as usize];
        }
        if socket.source != source {
            return -libc::ENETUNREACH;
        }
        if let Some(errno) = socket.refuse(now_us, faults, random) {
            if matches!(errno, libc::ECONNREFUSED | libc::EHOSTUNREACH) {
                socket.queued_errors.push(QueuedError { errno, is_answer: true, ..QueuedError::default() });
            }
            return -errno;
        }
        let path_bytes = socket.path_payload_bytes.unwrap_or(usize::MAX);
        if gso_batch.len() > 1 && gso_batch[0].len() > path_bytes {
            faults.count(Fault::GsoTooBig);
            if is_active(Mutation::PathMtuReportedAsRefusal) {
                return -libc::EIO;
            }
            // By the kernel's version.
            return -[libc::EMSGSIZE, libc::EINVAL][random.below(2) as usize];
        }
        for packet in gso_batch {
            self.unfit += u64::from(packet.is_empty() || packet.len() > 65_507);
            self.accepted.push(Accepted {
                address: socket.address,
                at_us: now_us,
                opened_us: socket.opened_us,
                arrival: packet.arrival(),
                arrivals: packet.arrivals().into_iter().flat_map(Arrivals::iter).collect(),
                bytes: packet.bytes().into(),
                is_fragmented: packet.len() > path_bytes,
            });
        }
        gso_batch.iter().map(|packet| packet.len() as i32).sum()
    }
}

impl Socket {
    /// The errno of a send at this time, if it fails.
    fn refuse(&mut self, now_us: u64, faults: &mut Faults, random: &mut Random) -> Option<i32> {
        if now_us < self.busy_until_us {
            faults.count(Fault::SendBusy);
            return Some(libc::EAGAIN);
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            faults.count(Fault::SendRefused);
            return Some(libc::ECONNREFUSED);
        }
        if faults.strikes(Fault::SendBusy, random) {
            // In half of the cases it stays full for a while, not for one send only.
            self.busy_until_us = now_us + random.below(2) * random.below(BUSY_US_MAX);
            return Some(libc::EAGAIN);
        }
        if faults.strikes(Fault::SendRefused, random) {
            self.refusals_left = random.below(2) * random.below(12);
            return Some(libc::ECONNREFUSED);
        }
        if faults.strikes(Fault::SendAnswered, random) {
            let errno = [libc::EMSGSIZE, libc::EPROTO, libc::EACCES][random.below(3) as usize];
            self.queued_errors.push(QueuedError { errno, is_answer: true, ..QueuedError::default() });
            return Some(errno);
        }
        let errnos = [
            (Fault::SendNoBuffers, libc::ENOBUFS),
            (Fault::SendTooLong, libc::EMSGSIZE),
            (Fault::SendDenied, libc::EPERM),
            (Fault::SendUnreachable, libc::EHOSTUNREACH),
            (Fault::SendInvalid, libc::EINVAL),
            (Fault::SendInputOutput, libc::EIO),
        ];
        errnos.into_iter().find(|(fault, _)| faults.strikes(*fault, random)).map(|(_, errno)| errno)
    }
}
