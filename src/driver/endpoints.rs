//! The sockets of one worker, the same for all engines: listening sockets, and sockets connected to backends.
//!
//! In: bound sockets, backends' addresses. Out: their properties and errors as reported by the kernel; fences. Next: the
//! kernel interfaces receive from the first and send to the second.

use super::icmp_errors::{QueuedError, QueuedErrors};
use super::kernel::ReceiveMemory;
use super::{DriverError, options, socket};
use crate::packet::SocketSlot;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Entries of an error queue taken at once.
const ERRORS_TAKEN_MAX: usize = 64;

/// Listening sockets.
pub struct Listening {
    sockets: Vec<UdpSocket>,
    /// Those left to other processes.
    left: Vec<bool>,
    /// They hold the addresses that fenced sockets are connected to.
    fences: Vec<UdpSocket>,
    drops: Vec<DropCount>,
}

/// A socket's drop count, beyond the kernel's 32 bits.
#[derive(Clone, Copy, Default)]
struct DropCount {
    last: u32,
    total: u64,
}

impl Listening {
    /// Takes bound sockets, and enables or disables timestamps on them.
    pub fn new(sockets: Vec<UdpSocket>, timestamps: bool) -> Listening {
        for socket in &sockets {
            // Disabled explicitly: an inherited socket keeps the setting of the previous process. If refused, datagrams come without
            // timestamps, which is counted.
            let _ = options::stamp_arrivals(socket, timestamps);
        }
        let count = sockets.len();
        Listening {
            sockets,
            left: vec![false; count],
            fences: Vec::new(),
            drops: vec![DropCount::default(); count],
        }
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Their descriptors, in order.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.sockets.iter().map(AsRawFd::as_raw_fd)
    }

    /// The descriptor of one.
    pub fn descriptor(&self, listener: usize) -> Option<RawFd> {
        self.sockets.get(listener).map(AsRawFd::as_raw_fd)
    }

    /// The smallest receive buffer among them, as the kernel granted it.
    pub fn receive_buffer_bytes(&self) -> Result<usize, DriverError> {
        let mut granted = usize::MAX;
        for listener in &self.sockets {
            let bytes = socket2::SockRef::from(listener)
                .recv_buffer_size()
                .map_err(|source| DriverError::System { operation: "reading SO_RCVBUF back", source })?;
            granted = granted.min(bytes);
        }
        Ok(granted)
    }

    /// Leaves one to the other processes that receive from it.
    pub fn leave(&mut self, listener: usize) {
        self.receive_memory(listener);
        if let Some(is_left) = self.left.get_mut(listener) {
            *is_left = true;
        }
    }

    fn own(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().zip(&self.left).filter(|(_, is_left)| !**is_left).map(|(socket, _)| socket)
    }

    /// Makes sure that nothing new arrives at those that were not left; their queues stay readable. A failure does not keep the
    /// others from being fenced; the last one is returned.
    pub fn fence(&mut self) -> io::Result<()> {
        let mut told = Ok(());
        let fenced: Vec<io::Result<Option<UdpSocket>>> = self.own().map(socket::fence).collect();
        for fence in fenced {
            match fence {
                Ok(holder) => self.fences.extend(holder),
                Err(error) => told = Err(error),
            }
        }
        told
    }

    /// Whether none of those that were not left has a datagram queued.
    pub fn is_queue_empty(&self) -> bool {
        !options::is_any_readable(self.own().map(AsRawFd::as_raw_fd))
    }

    /// The bytes queued in one's receive buffer, and the datagrams that the kernel dropped there since the socket was made; of
    /// one that was left, until then: the process that receives from it counts later ones.
    pub fn receive_memory(&mut self, listener: usize) -> ReceiveMemory {
        let (Some(count), Some(socket)) = (self.drops.get_mut(listener), self.sockets.get(listener)) else {
            return ReceiveMemory::default();
        };
        let is_left = self.left.get(listener).is_some_and(|is_left| *is_left);
        let mut queued_bytes = 0;
        if !is_left && let Ok((queued, drops)) = options::receive_memory(socket) {
            count.total += u64::from(drops.wrapping_sub(count.last));
            count.last = drops;
            queued_bytes = u64::from(queued);
        }
        ReceiveMemory { queued_bytes, drops: count.total }
    }
}

/// Whether `ip` is an address of this host: the one that `socket` sends from, or the source address for packets to it. Whether
/// it can be bound proves nothing with `ip_nonlocal_bind`.
fn is_own(ip: IpAddr, socket: &UdpSocket) -> bool {
    // The port does not matter, since nothing is sent.
    let is_its_own_source = || socket::source_of((ip, 9).into()).is_ok_and(|source| source == ip);
    socket.local_addr().is_ok_and(|local| local.ip() == ip) || is_its_own_source()
}

/// Connected sockets to backends, by slot.
pub struct Backends {
    sockets: Vec<Option<UdpSocket>>,
    send_buffer_bytes: usize,
    /// Which of them have errors queued; one entry for each slot, used while they are polled.
    polls: Vec<libc::pollfd>,
}

impl Backends {
    /// None yet, at most `sockets_max`; each requests a send buffer of `send_buffer_bytes`.
    pub fn new(sockets_max: usize, send_buffer_bytes: usize) -> Backends {
        Backends {
            sockets: std::iter::repeat_with(|| None).take(sockets_max).collect(),
            send_buffer_bytes,
            polls: Vec::with_capacity(sockets_max),
        }
    }

    /// Connects slot `slot`, and replaces its socket if `made`, which gets the new descriptor, succeeds.
    /// Returns the address of this host that the kernel chose for the new socket.
    pub fn open(
        &mut self,
        slot: SocketSlot,
        address: SocketAddr,
        made: impl FnOnce(RawFd) -> io::Result<()>,
    ) -> io::Result<IpAddr> {
        let Some(place) = self.sockets.get_mut(slot.0 as usize) else {
            return Err(io::Error::other(format!("no such socket slot: {}", slot.0)));
        };
        let socket = socket::connect_backend(address, self.send_buffer_bytes)?;
        let source = socket.local_addr()?.ip();
        made(socket.as_raw_fd())?;
        *place = Some(socket);
        Ok(source)
    }

    /// Whether the kernel still holds packets that were sent by slot `slot`.
    pub fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.get(slot).is_some_and(|socket| options::unsent_bytes(socket).is_ok_and(|bytes| bytes > 0))
    }

    /// Closes slot `slot`; whether there was a socket.
    pub fn close(&mut self, slot: SocketSlot) -> bool {
        self.sockets.get_mut(slot.0 as usize).is_some_and(|place| place.take().is_some())
    }

    /// The descriptor in slot `slot`.
    pub fn descriptor(&self, slot: SocketSlot) -> Option<RawFd> {
        self.get(slot).map(AsRawFd::as_raw_fd)
    }

    fn get(&self, slot: SocketSlot) -> Option<&UdpSocket> {
        self.sockets.get(slot.0 as usize)?.as_ref()
    }

    /// The longest datagram that can be sent to slot `slot` unfragmented; `None` if unknown.
    pub fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        let socket = self.get(slot)?;
        let is_ipv6 = socket.peer_addr().ok()?.is_ipv6();
        options::path_payload_bytes(socket, is_ipv6).ok()
    }

    /// Reads and empties the error queue of slot `slot`, which receives ICMP errors with IP_RECVERR.
    pub fn take_errors(&self, slot: SocketSlot) -> Option<QueuedErrors> {
        let socket = self.get(slot)?;
        let mut asked = None;
        let entries = (0..ERRORS_TAKEN_MAX).map_while(|_| options::take_error(socket));
        QueuedErrors::collect(entries.map(|taken| QueuedError {
            errno: taken.errno,
            is_answer: taken.is_answer,
            is_prohibited: taken.is_prohibited,
            // Only these need it.
            is_own: taken.errno == libc::EHOSTUNREACH
                && taken.reporter.is_some_and(|reporter| match asked {
                    Some((known, is_own)) if known == reporter => is_own,
                    _ => asked.insert((reporter, is_own(reporter, socket))).1,
                }),
        }))
    }

    /// Adds the slots whose sockets have errors queued: one system call for all of them.
    pub fn failing(&mut self, slots: &mut Vec<SocketSlot>) {
        self.polls.clear();
        // The kernel reports errors without being asked, and skips negative descriptors.
        self.polls.extend(self.sockets.iter().map(|socket| libc::pollfd {
            fd: socket.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            events: 0,
            revents: 0,
        }));
        if options::poll_now(&mut self.polls) == 0 {
            return;
        }
        let failing = self.polls.iter().enumerate().filter(|(_, poll)| poll.revents & libc::POLLERR != 0);
        slots.extend(failing.map(|(index, _)| SocketSlot(index as u32)));
    }
}
