//! The test bed: one listening socket on loopback with its io_uring kernel interface, a sender, and what the tests ask of them.

use crate::bare_ring;
pub use crate::descriptor::descriptor_connected_to;
use nix::sys::socket::{setsockopt, sockopt};
use statsring::driver::kernel::Kernel;
use statsring::driver::uring::IoUringKernel;
use statsring::driver::{Driver, DriverLimits, Events, Flow, Stamp, Wait, Waker, socket};
use statsring::packet::{Packet, SendOutcome, SocketSlot};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// How long a test waits for what has to come; never for what must not.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Small bounds; buffers with room for 240 bytes.
pub fn limits() -> DriverLimits {
    DriverLimits {
        buffers: 64,
        buffer_bytes: 240,
        sends_max: 64,
        sockets_max: 8,
        send_buffer_bytes: 1 << 20,
        rings_bytes: 0,
        timestamps: false,
        gro_datagram_bytes_max: None,
    }
}

/// Children are born under the write lock.
static CHILDREN: RwLock<()> = RwLock::new(());

/// While it lives, no child process is born.
pub type NoChildren = RwLockReadGuard<'static, ()>;

/// Keeps children away: one that is being born has a copy of every descriptor until it runs its own program, so what is
/// closed meanwhile is not closed yet, and its port is still taken. A thread asks for this once at a time.
pub fn no_children() -> NoChildren {
    CHILDREN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command to its end.
pub fn run(command: &str) -> std::io::Result<Output> {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _birth = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
        command.spawn()?
    };
    child.wait_with_output()
}

/// A kernel interface with its listener, and a sender to it.
pub struct Bed {
    pub kernel: IoUringKernel,
    pub waker: Arc<Waker>,
    pub sender: UdpSocket,
}

/// A bed with a large receive buffer; `None` where io_uring is refused.
pub fn bed(limits: &DriverLimits) -> Option<Bed> {
    bed_with(limits, 8 << 20)
}

/// A bed whose listener asked for `receive_buffer_bytes`.
pub fn bed_with(limits: &DriverLimits, receive_buffer_bytes: usize) -> Option<Bed> {
    let _children = no_children();
    if bare_ring::is_refused() {
        return None;
    }
    let mut listeners = socket::bind_listeners(
        &["127.0.0.1:0".parse().unwrap()],
        1,
        socket::ListenOptions::here(receive_buffer_bytes),
    )
    .unwrap();
    let address = listeners.addresses[0];
    let waker = Arc::new(Waker::new().unwrap());
    let kernel = match IoUringKernel::new(listeners.workers.remove(0), Arc::clone(&waker), limits) {
        Ok(kernel) => kernel,
        Err(error) => {
            bare_ring::skip_for_locked_memory(&error);
            return None;
        }
    };
    Some(Bed { kernel, waker, sender: sender_to(address) })
}

/// A socket that sends to `address` over loopback.
pub fn sender_to(address: SocketAddr) -> UdpSocket {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(address).unwrap();
    sender
}

impl Bed {
    /// Sends a datagram to the listener and waits until its queue shows it.
    pub fn send_and_see(&mut self, bytes: &[u8]) {
        self.sender.send(bytes).unwrap();
        wait_until("the datagram is queued", || !self.kernel.is_queue_empty());
    }

    /// Sends `bytes` by socket 0: 0, or the errno.
    pub fn send(&mut self, bytes: &[u8]) -> i32 {
        let mut results = Vec::new();
        self.kernel.submit(&[packet(bytes, 0)], &[1], &mut results);
        assert_eq!(results.len(), 1);
        results[0]
    }

    /// The driver on this kernel interface.
    pub fn into_driver(self) -> (Driver<IoUringKernel>, UdpSocket) {
        (Driver::new(self.kernel), self.sender)
    }
}

/// The header's numbers: namelen, controllen, payloadlen, flags.
pub fn header(received: &[u8]) -> [u32; 4] {
    std::array::from_fn(|index| u32::from_ne_bytes(received[index * 4..][..4].try_into().unwrap()))
}

/// A packet of these bytes for a socket slot.
pub fn packet(bytes: &[u8], slot: u32) -> Packet {
    let mut packet = Packet::with_capacity(bytes.len());
    assert!(packet.append(bytes));
    packet.set_destination(0, SocketSlot(slot));
    packet
}

/// A backend's socket, with a read timeout.
pub fn backend() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address on loopback where nobody listens.
pub fn deserted() -> SocketAddr {
    let _children = no_children();
    backend().1
}

/// Waits for what has to come.
pub fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Whether a socket has an error to tell, or an error queue that is not empty.
pub fn has_error(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & libc::POLLERR != 0
}

/// Switches SO_TIMESTAMPNS of a socket on or off.
pub fn stamp_arrivals(socket: &UdpSocket, is_on: bool) {
    setsockopt(socket, sockopt::ReceiveTimestampns, &is_on).unwrap();
}

/// The number of a socket's descriptor.
pub fn number(socket: &UdpSocket) -> RawFd {
    socket.as_raw_fd()
}

/// Remembers what a driver tells.
#[derive(Default)]
pub struct Log {
    pub datagrams: Vec<(Vec<u8>, usize)>,
    pub stamps: Vec<Stamp>,
    pub sent: Vec<(Vec<u8>, SendOutcome)>,
}

impl Events for Log {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.stamps.push(stamp);
        self.datagrams.push((bytes.to_vec(), datagram_bytes));
        Flow::More
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        self.sent.push((packet.bytes().to_vec(), outcome));
    }
}

/// Steps a driver until `met`; it wakes at least every 100 ms to look.
pub fn drive(driver: &mut Driver<impl Kernel>, log: &mut Log, what: &str, met: impl Fn(&Log) -> bool) {
    let start = Instant::now();
    while !met(log) {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        let deadline_us = driver.now_us() + 100_000;
        driver.enter(Wait::EventUntil { deadline_us }).unwrap();
        driver.deliver(log);
    }
}
