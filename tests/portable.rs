//! The portable driver on the real kernel, over loopback: what it relies on, and what it makes of the kernel's answers.

use nix::sys::socket::{setsockopt, sockopt};
use statsring::driver::portable::{self, SystemCalls, engine::PortableDriver};
use statsring::driver::{
    Delivered, Driver, DriverLimits, Events, Flow, Restrictions, Stamp, Wait, Waker, prefix_bytes, socket,
};
use statsring::packet::{Packet, SendOutcome, SocketSlot};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOT: SocketSlot = SocketSlot(0);
/// Room for a datagram.
const ROOM_BYTES: usize = 240;

#[derive(Default)]
struct Log {
    datagrams: Vec<(Vec<u8>, usize)>,
    sent: Vec<SendOutcome>,
    stamps: Vec<Stamp>,
}

impl Events for Log {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.stamps.push(stamp);
        self.datagrams.push((bytes.to_vec(), datagram_bytes));
        Flow::More
    }

    fn sent(&mut self, _packet: Packet, outcome: SendOutcome) {
        self.sent.push(outcome);
    }
}

impl Log {
    fn count(&self, outcome: SendOutcome) -> usize {
        self.sent.iter().filter(|one| **one == outcome).count()
    }
}

struct Bed {
    driver: PortableDriver<SystemCalls>,
    /// The listening socket once more, as another process has it.
    listener: UdpSocket,
    waker: Arc<Waker>,
    sender: UdpSocket,
}

fn bed() -> Bed {
    bed_with(false)
}

/// A bed whose driver is told when datagrams arrive, or not.
fn bed_with(timestamps: bool) -> Bed {
    let mut listeners =
        socket::bind_listeners(&["127.0.0.1:0".parse().unwrap()], 1, socket::ListenOptions::here(8 << 20))
            .unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(listeners.addresses[0]).unwrap();
    let listener = listeners.workers[0][0].try_clone().unwrap();
    let waker = Arc::new(Waker::new().unwrap());
    let limits = DriverLimits {
        buffers: 200,
        buffer_bytes: prefix_bytes(timestamps) + ROOM_BYTES,
        sends_max: 300,
        sockets_max: 4,
        send_buffer_bytes: 1 << 20,
        rings_bytes: 0,
        timestamps,
    };
    let driver = portable::open(listeners.workers.remove(0), Arc::clone(&waker), &limits).unwrap();
    Bed { driver, listener, waker, sender }
}

/// A socket that takes what is sent to it, with the driver's slot leading there.
fn backend(driver: &mut impl Driver, listen: &str) -> (UdpSocket, SocketAddr) {
    let backend = UdpSocket::bind(listen).unwrap();
    socket2::SockRef::from(&backend).set_recv_buffer_size(4 << 20).unwrap();
    backend.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let address = backend.local_addr().unwrap();
    driver.open_backend(SLOT, address).unwrap();
    (backend, address)
}

fn packet(bytes: &[u8], may_join: bool) -> Packet {
    let mut packet = Packet::with_capacity(1_432);
    assert!(packet.append(bytes));
    (packet.socket, packet.may_join) = (SLOT, may_join);
    packet
}

fn arrived(backend: &UdpSocket) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2_048];
    std::iter::from_fn(|| backend.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

#[test]
fn datagrams_of_every_size_are_told_with_their_true_length_in_order() {
    let mut bed = bed();
    assert_eq!(bed.driver.facts().engine, "portable");
    assert_eq!((bed.driver.facts().restrictions, bed.driver.facts().ring_bytes), (Restrictions::None, 0));
    let mut log = Log::default();
    let sizes = [1, 0, ROOM_BYTES, ROOM_BYTES + 1, 60_000, 5];
    let rounds = 100;
    for round in 0..rounds {
        for size in sizes {
            bed.sender.send(&vec![round as u8; size]).unwrap();
        }
    }
    let start = Instant::now();
    while log.datagrams.len() < rounds * sizes.len() {
        bed.driver.enter(Wait::Event).unwrap();
        bed.driver.deliver(&mut log);
        assert!(start.elapsed() < PATIENCE, "{} of {}", log.datagrams.len(), rounds * sizes.len());
    }
    for (number, (bytes, datagram_bytes)) in log.datagrams.iter().enumerate() {
        let (round, size) = (number / sizes.len(), sizes[number % sizes.len()]);
        assert_eq!((*datagram_bytes, bytes.len()), (size, size.min(ROOM_BYTES)), "datagram {number}");
        assert!(bytes.iter().all(|byte| *byte == round as u8), "datagram {number}");
    }
    assert_eq!(bed.driver.receive_events().zero_length, rounds as u64);
    assert!(bed.driver.is_armed() && bed.driver.is_drained());
}

/// Switches SO_TIMESTAMPNS of a socket on or off, as another process that has it does.
fn stamp_arrivals(socket: &UdpSocket, is_on: bool) {
    setsockopt(socket, sockopt::ReceiveTimestampns, &is_on).unwrap();
}

/// Sends datagrams of several sizes and takes them; what was told of them.
fn relay_sizes(bed: &mut Bed, count: usize) -> Log {
    let mut log = Log::default();
    for number in 0..count {
        bed.sender.send(&vec![b'x'; number % 300]).unwrap();
    }
    let start = Instant::now();
    while log.datagrams.len() < count {
        bed.driver.enter(Wait::Event).unwrap();
        bed.driver.deliver(&mut log);
        assert!(start.elapsed() < PATIENCE, "{} of {count}", log.datagrams.len());
    }
    for (number, (bytes, datagram_bytes)) in log.datagrams.iter().enumerate() {
        let size = number % 300;
        assert_eq!((*datagram_bytes, bytes.len()), (size, size.min(ROOM_BYTES)), "datagram {number}");
    }
    log
}

#[test]
fn arrivals_are_told_of_every_datagram_of_every_batch_while_the_option_is_on() {
    let mut bed = bed_with(true);
    let before_us = bed.driver.now_us() as i64;
    // More than one call takes, so that the room of each message is used again.
    let log = relay_sizes(&mut bed, 400);
    let after_us = bed.driver.now_us() as i64;
    for stamp in &log.stamps {
        let Stamp::At(at_us) = stamp else { panic!("{stamp:?}") };
        assert!((before_us - 1_000..=after_us + 1).contains(at_us), "{before_us} {at_us} {after_us}");
    }
    // A process that takes the socket over has another wish; the datagrams are whole all the same.
    stamp_arrivals(&bed.listener, false);
    assert_eq!(relay_sizes(&mut bed, 100).stamps, [Stamp::Missing; 100]);
    stamp_arrivals(&bed.listener, true);
    assert!(relay_sizes(&mut bed, 100).stamps.iter().all(|stamp| matches!(stamp, Stamp::At(_))));
}

#[test]
fn without_room_a_timestamp_changes_nothing() {
    let mut bed = bed();
    stamp_arrivals(&bed.listener, true);
    assert_eq!(relay_sizes(&mut bed, 100).stamps, [Stamp::Unasked; 100]);
}

#[test]
fn one_turn_takes_so_many_datagrams_and_the_next_one_the_rest() {
    let mut bed = bed();
    (0..300u32).for_each(|number| assert_eq!(bed.sender.send(&number.to_ne_bytes()).unwrap(), 4));
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    assert_eq!(bed.driver.deliver(&mut log), Delivered::Paused);
    assert_eq!(log.datagrams.len(), 200);
    bed.driver.enter(Wait::Event).unwrap();
    assert_eq!(bed.driver.deliver(&mut log), Delivered::All);
    assert_eq!(log.datagrams.len(), 300);
}

#[test]
fn a_gather_lasts_until_its_deadline_and_a_wake_ends_any_sleep() {
    let mut bed = bed();
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    bed.driver.deliver(&mut log);
    bed.sender.send(b"a:1|c").unwrap();
    for sleep_us in [100, 300, 20_000] {
        bed.sender.send(b"a:1|c").unwrap();
        let deadline_us = bed.driver.now_us() + sleep_us;
        bed.driver.enter(Wait::GatherUntil { deadline_us }).unwrap();
        assert!(bed.driver.now_us() >= deadline_us, "a datagram ended it");
        assert_eq!(bed.driver.deliver(&mut log), Delivered::All);
    }
    assert_eq!(log.datagrams.len(), 4);
    let far_us = bed.driver.now_us() + 3_600_000_000;
    for wait in
        [Wait::Event, Wait::EventUntil { deadline_us: far_us }, Wait::GatherUntil { deadline_us: far_us }]
    {
        bed.waker.wake();
        bed.waker.wake();
        bed.driver.enter(wait).unwrap();
        bed.driver.deliver(&mut log);
    }
    let deadline_us = bed.driver.now_us() + 1_000;
    bed.driver.enter(Wait::EventUntil { deadline_us }).unwrap();
    assert!(bed.driver.now_us() >= deadline_us, "the wakes were not taken");
    let waker = Arc::clone(&bed.waker);
    let waking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    bed.driver.enter(Wait::Event).unwrap();
    waking.join().unwrap();
}

#[test]
fn packets_and_trains_arrive_one_by_one_and_whole() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut bed = bed();
        let (backend, _) = backend(&mut bed.driver, listen);
        let mut expected = Vec::new();
        let mut log = Log::default();
        for number in 0..250usize {
            // Runs of packets of one length, and some of another length between them.
            let length = if number % 40 == 39 { 7 } else { 200 };
            let bytes = vec![b'a' + (number % 26) as u8; length];
            bed.driver.push(packet(&bytes, number % 5 != 0)).unwrap();
            expected.push(bytes);
        }
        bed.driver.enter(Wait::Poll).unwrap();
        bed.driver.deliver(&mut log);
        assert_eq!(log.count(SendOutcome::Sent), 250);
        assert_eq!(arrived(&backend), expected, "{listen}");
        assert!(bed.driver.path_payload_bytes(SLOT).is_some_and(|bytes| bytes > 1_000));
    }
}

#[test]
fn every_second_packet_to_nobody_is_refused_and_the_error_queue_stays_empty() {
    let mut bed = bed();
    let (backend, address) = backend(&mut bed.driver, "127.0.0.1:0");
    drop(backend);
    let mut log = Log::default();
    for _ in 0..3 {
        for _ in 0..100 {
            bed.driver.push(packet(b"a:1|c", false)).unwrap();
        }
        bed.driver.enter(Wait::Poll).unwrap();
        bed.driver.deliver(&mut log);
    }
    let (sent, refused) = (log.count(SendOutcome::Sent), log.count(SendOutcome::Refused));
    assert_eq!(sent + refused, 300, "{:?}", log.sent);
    assert!((140..=160).contains(&refused), "{refused} refused");
    // Somebody is there again: nothing of the past is held against him.
    let backend = UdpSocket::bind(address).unwrap();
    backend.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    log.sent.clear();
    for _ in 0..10 {
        bed.driver.push(packet(b"b:1|c", false)).unwrap();
    }
    bed.driver.enter(Wait::Poll).unwrap();
    bed.driver.deliver(&mut log);
    assert!(log.count(SendOutcome::Refused) <= 1, "{:?}", log.sent);
    assert_eq!(arrived(&backend).len(), log.count(SendOutcome::Sent));
}

#[test]
fn what_was_left_stays_for_others_and_what_is_fenced_is_read_out() {
    for is_left in [true, false] {
        let mut bed = bed();
        let mut log = Log::default();
        bed.driver.enter(Wait::Poll).unwrap();
        bed.driver.deliver(&mut log);
        (0..10).for_each(|_| assert_eq!(bed.sender.send(b"a:1|c").unwrap(), 5));
        if is_left {
            bed.driver.leave(0);
        }
        bed.driver.fence().unwrap();
        let start = Instant::now();
        while !bed.driver.is_drained() {
            bed.driver.enter(Wait::Poll).unwrap();
            bed.driver.deliver(&mut log);
            assert!(start.elapsed() < PATIENCE);
        }
        bed.driver.cancel();
        assert!(bed.driver.is_quiet());
        let _ = bed.sender.send(b"b:1|c");
        bed.driver.enter(Wait::Poll).unwrap();
        assert_eq!(bed.driver.deliver(&mut log), Delivered::All);
        bed.listener.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let rest = arrived(&bed.listener).len();
        assert_eq!((log.datagrams.len(), rest), if is_left { (0, 11) } else { (10, 0) });
    }
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let mut bed = bed();
    socket2::SockRef::from(&bed.listener).set_recv_buffer_size(4_096).unwrap();
    (0..200).for_each(|_| assert_eq!(bed.sender.send(&[b'x'; 200]).unwrap(), 200));
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    while bed.driver.deliver(&mut log) == Delivered::Paused {
        bed.driver.enter(Wait::Poll).unwrap();
    }
    let drops = bed.driver.kernel_drops(0);
    assert!(drops > 0);
    assert_eq!(log.datagrams.len() as u64 + drops, 200);
}
