//! The driver on both real kernel interfaces, over loopback: the same behaviour, whichever it is.

#[path = "process/bare_ring.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod bare_ring;
#[path = "kernel_facts/descriptor.rs"]
mod descriptor;
#[path = "process/seccomp.rs"]
mod seccomp;
#[path = "process/skip.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod skip;

use descriptor::descriptor_connected_to;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use statsring::driver::gro::JOINED_BYTES_MAX;
use statsring::driver::kernel::Kernel;
use statsring::driver::{
    Delivered, Driver, DriverError, DriverLimits, Events, Flow, Restrictions, Stamp, Wait, Waker, portable,
    prefix_bytes, socket, uring,
};
use statsring::packet::{Packet, SendOutcome, SocketSlot};
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
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

/// Makes a driver.
type Open<K> = fn(Vec<UdpSocket>, Arc<Waker>, &DriverLimits) -> Result<Driver<K>, DriverError>;

/// Each of these tests on io_uring and on the portable kernel interface.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod on_io_uring {
            $(#[test]
            fn $test() {
                if !super::bare_ring::is_refused() {
                    super::$test(super::uring::open);
                }
            })*
        }

        mod on_portable {
            $(#[test]
            fn $test() {
                super::$test(super::portable::open);
            })*
        }
    };
}

on_both! {
    datagrams_of_every_size_are_delivered_with_their_true_length_in_order
    arrivals_are_reported_of_every_datagram_of_every_batch_while_the_option_is_on
    without_room_a_timestamp_changes_nothing
    one_turn_takes_a_bounded_number_of_datagrams_and_the_next_one_the_rest
    a_gather_lasts_until_its_deadline_and_a_wake_ends_any_sleep
    while_datagrams_gather_none_of_them_wakes_the_thread
    an_idle_driver_sleeps_until_a_datagram_comes
    a_wake_while_datagrams_are_received_is_not_lost
    packets_and_gso_batches_arrive_one_by_one_and_whole
    each_packet_of_a_mixed_batch_has_its_own_outcome
    a_refused_gso_batch_comes_back_whole_and_no_more_are_made
    every_second_packet_to_nobody_is_refused_and_the_error_queue_stays_empty
    a_socket_that_was_left_stays_for_others_and_a_fenced_one_is_read_out
    the_port_is_free_as_soon_as_a_driver_is_dropped
    datagrams_that_the_kernel_drops_are_counted
    the_path_of_loopback_takes_the_longest_datagram
    joined_datagrams_are_delivered_one_by_one_whole_and_in_order
    joined_datagrams_longer_than_the_limit_are_cut_one_by_one
    each_joined_datagram_has_the_arrival_of_all_of_them
    a_timestamp_leaves_room_for_the_length_of_joined_datagrams
    a_worker_that_pauses_gets_the_next_of_the_joined_datagrams
    one_turn_takes_a_bounded_number_of_joined_datagrams
    joined_datagrams_that_the_kernel_drops_count_as_one
}

struct Bed<K: Kernel> {
    driver: Driver<K>,
    /// The listening socket once more, as another process has it.
    listener: UdpSocket,
    waker: Arc<Waker>,
    sender: UdpSocket,
}

fn limits(timestamps: bool, gro: bool) -> DriverLimits {
    DriverLimits {
        buffers: if gro { 64 } else { 200 },
        buffer_bytes: prefix_bytes(timestamps, gro) + if gro { JOINED_BYTES_MAX } else { ROOM_BYTES },
        sends_max: 300,
        sockets_max: 4,
        send_buffer_bytes: 1 << 20,
        rings_bytes: 0,
        timestamps,
        gro_datagram_bytes_max: gro.then_some(ROOM_BYTES),
    }
}

fn bed<K: Kernel>(open: Open<K>) -> Bed<K> {
    bed_with(open, false, false)
}

/// A test bed with timestamps or without, whose listening socket joins datagrams or does not.
fn bed_with<K: Kernel>(open: Open<K>, timestamps: bool, gro: bool) -> Bed<K> {
    let (listen, options) = (["127.0.0.1:0".parse().unwrap()], socket::ListenOptions::here(8 << 20));
    // Another test may take the free port before it is bound.
    let mut listeners = (0..100).find_map(|_| socket::bind_listeners(&listen, 1, options).ok()).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(listeners.addresses[0]).unwrap();
    let listener = listeners.workers[0][0].try_clone().unwrap();
    if gro {
        socket::join_datagrams(&listener).unwrap();
    }
    let waker = Arc::new(Waker::new().unwrap());
    let limits = limits(timestamps, gro);
    let driver = open(listeners.workers.remove(0), Arc::clone(&waker), &limits).unwrap();
    Bed { driver, listener, waker, sender }
}

/// A socket that takes what is sent to it, with the driver's slot leading there.
fn backend(driver: &mut Driver<impl Kernel>, listen: &str) -> (UdpSocket, SocketAddr) {
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
    packet.set_destination(0, SLOT);
    packet.set_may_join(may_join);
    packet
}

fn arrived(backend: &UdpSocket) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2_048];
    std::iter::from_fn(|| backend.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

fn datagrams_of_every_size_are_delivered_with_their_true_length_in_order<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let info = bed.driver.info().clone();
    let is_portable = info.engine == "portable";
    let restrictions = if is_portable { Restrictions::None } else { Restrictions::InForce };
    assert_eq!((info.restrictions, info.ring_bytes == 0), (restrictions, is_portable));
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
    assert!(bed.driver.is_reading() && bed.driver.is_drained());
}

/// Switches SO_TIMESTAMPNS of a socket on or off, as another process that has it does.
fn stamp_arrivals(socket: &UdpSocket, is_on: bool) {
    setsockopt(socket, sockopt::ReceiveTimestampns, &is_on).unwrap();
}

/// Sends datagrams of several sizes and receives them; what was reported.
fn relay_sizes(bed: &mut Bed<impl Kernel>, count: usize) -> Log {
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

fn arrivals_are_reported_of_every_datagram_of_every_batch_while_the_option_is_on<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, true, false);
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

fn without_room_a_timestamp_changes_nothing<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    stamp_arrivals(&bed.listener, true);
    assert_eq!(relay_sizes(&mut bed, 100).stamps, [Stamp::Disabled; 100]);
}

/// What is delivered in two turns, the first of which ends at its bound.
fn relay_in_two_turns<K: Kernel>(bed: &mut Bed<K>) -> Log {
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    assert_eq!(bed.driver.deliver(&mut log), Delivered::Paused);
    assert!((1_000..1_300).contains(&log.datagrams.len()), "{}", log.datagrams.len());
    bed.driver.enter(Wait::Event).unwrap();
    assert_eq!(bed.driver.deliver(&mut log), Delivered::All);
    log
}

fn one_turn_takes_a_bounded_number_of_datagrams_and_the_next_one_the_rest<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let count = 1_500u32;
    (0..count).for_each(|number| assert_eq!(bed.sender.send(&number.to_ne_bytes()).unwrap(), 4));
    let log = relay_in_two_turns(&mut bed);
    let numbers = log.datagrams.iter().map(|(bytes, _)| u32::from_ne_bytes(bytes[..].try_into().unwrap()));
    assert!(numbers.eq(0..count), "in order, each once");
}

fn a_gather_lasts_until_its_deadline_and_a_wake_ends_any_sleep<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
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

/// Times that this thread went to sleep.
fn sleeps() -> i64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
        .unwrap()
        .voluntary_context_switches()
}

/// A thread that sends `count` datagrams, each after a pause.
fn send_slowly<K: Kernel>(bed: &Bed<K>, count: u32) -> std::thread::JoinHandle<()> {
    let sender = bed.sender.try_clone().unwrap();
    std::thread::spawn(move || {
        for _ in 0..count {
            std::thread::sleep(Duration::from_micros(500));
            sender.send(b"a:1|c").unwrap();
        }
    })
}

fn while_datagrams_gather_none_of_them_wakes_the_thread<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    bed.driver.deliver(&mut log);
    let sending = send_slowly(&bed, 400);
    let (before, mut gathers) = (sleeps(), 0);
    while log.datagrams.len() < 400 {
        let deadline_us = bed.driver.now_us() + 20_000;
        bed.driver.enter(Wait::GatherUntil { deadline_us }).unwrap();
        bed.driver.deliver(&mut log);
        gathers += 1;
    }
    let slept = sleeps() - before;
    sending.join().unwrap();
    // A busy machine lengthens the sending and adds gathers; a wake for each datagram would be ten times as many.
    assert!(slept <= 2 * gathers + 20, "{slept} sleeps in {gathers} gathers");
}

fn an_idle_driver_sleeps_until_a_datagram_comes<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    bed.driver.deliver(&mut log);
    let sending = send_slowly(&bed, 50);
    let mut rounds = 0;
    while log.datagrams.len() < 50 {
        bed.driver.enter(Wait::Event).unwrap();
        bed.driver.deliver(&mut log);
        rounds += 1;
    }
    sending.join().unwrap();
    assert!(rounds <= 101, "{rounds} wake-ups for 50 datagrams");
}

fn a_wake_while_datagrams_are_received_is_not_lost<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let (_backend, _) = backend(&mut bed.driver, "127.0.0.1:0");
    let mut log = Log::default();
    // Its poll is armed by a first sleep.
    let deadline_us = bed.driver.now_us() + 1_000;
    bed.driver.enter(Wait::EventUntil { deadline_us }).unwrap();
    for _ in 0..200 {
        bed.sender.send(b"a:1|c").unwrap();
        bed.waker.wake();
        bed.driver.deliver(&mut log);
        bed.driver.push(packet(b"a:1|c", false)).unwrap();
        // The wake was before this sleep: it may have been noticed by the receive or by the send before it.
        bed.driver.enter(Wait::GatherUntil { deadline_us: bed.driver.now_us() + 60_000_000 }).unwrap();
        bed.driver.deliver(&mut log);
    }
    assert_eq!(log.datagrams.len(), 200);
}

fn packets_and_gso_batches_arrive_one_by_one_and_whole<K: Kernel>(open: Open<K>) {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut bed = bed(open);
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

fn each_packet_of_a_mixed_batch_has_its_own_outcome<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let (backend, _) = backend(&mut bed.driver, "127.0.0.1:0");
    let packet_to = |slot: u32, bytes: &[u8]| {
        let mut packet = Packet::with_capacity(bytes.len());
        assert!(packet.append(bytes));
        packet.set_destination(0, SocketSlot(slot));
        packet
    };
    let long = vec![b'x'; 65_508];
    for round in 0..30u8 {
        let mut log = Log::default();
        for (slot, bytes) in
            [(0, &[round, 1][..]), (0, &long), (0, &[round, 2]), (3, &[round, 3]), (0, &[round, 4])]
        {
            bed.driver.push(packet_to(slot, bytes)).unwrap();
        }
        bed.driver.enter(Wait::Poll).unwrap();
        bed.driver.deliver(&mut log);
        use SendOutcome::{Failed, Sent, TooLong};
        assert_eq!(log.sent, [Sent, TooLong, Sent, Failed(libc::EBADF), Sent], "round {round}");
        let mut buffer = [0; 16];
        for number in [1, 2, 4] {
            let length = backend.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [round, number]);
        }
    }
}

fn a_refused_gso_batch_comes_back_whole_and_no_more_are_made<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    let (backend, _) = backend(&mut bed.driver, "127.0.0.1:0");
    // The kernel refuses GSO batches (EINVAL) on a socket without checksums.
    let fd = descriptor_connected_to(backend.local_addr().unwrap());
    let value: libc::c_int = 1;
    // SAFETY: the option's value outlives the call.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const value).cast(), 4) };
    assert_eq!(set, 0);
    let mut log = Log::default();
    for _ in 0..2 {
        for _ in 0..2 {
            bed.driver.push(packet(b"same length", true)).unwrap();
        }
        bed.driver.enter(Wait::Poll).unwrap();
        bed.driver.deliver(&mut log);
    }
    use SendOutcome::{GsoRefused, Sent};
    assert_eq!(log.sent, [GsoRefused(libc::EINVAL), GsoRefused(libc::EINVAL), Sent, Sent]);
    assert_eq!(arrived(&backend).len(), 2);
}

fn every_second_packet_to_nobody_is_refused_and_the_error_queue_stays_empty<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
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

fn a_socket_that_was_left_stays_for_others_and_a_fenced_one_is_read_out<K: Kernel>(open: Open<K>) {
    for is_left in [true, false] {
        let mut bed = bed(open);
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
        bed.driver.end();
        assert!(bed.driver.is_idle());
        let _ = bed.sender.send(b"b:1|c");
        bed.driver.enter(Wait::Poll).unwrap();
        assert_eq!(bed.driver.deliver(&mut log), Delivered::All);
        bed.listener.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let rest = arrived(&bed.listener).len();
        assert_eq!((log.datagrams.len(), rest), if is_left { (0, 11) } else { (10, 0) });
    }
}

fn the_port_is_free_as_soon_as_a_driver_is_dropped<K: Kernel>(open: Open<K>) {
    for round in 0..20 {
        let listen = ["127.0.0.1:0".parse().unwrap()];
        let options = socket::ListenOptions::here(1 << 16);
        let mut listeners = socket::bind_listeners(&listen, 1, options).unwrap();
        let address = listeners.addresses[0];
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let limits = limits(false, false);
        let mut driver = open(listeners.workers.remove(0), Arc::new(Waker::new().unwrap()), &limits).unwrap();
        let deadline_us = driver.now_us() + 1_000;
        driver.enter(Wait::EventUntil { deadline_us }).unwrap();
        sender.send_to(b"x", address).unwrap();
        if round % 2 == 0 {
            driver.deliver(&mut Log::default());
            driver.fence().unwrap();
            driver.end();
        }
        drop(driver);
        // A child of another test may have a copy of the socket for a moment.
        let start = Instant::now();
        while let Err(error) = socket::bind_listeners(&[address], 1, options) {
            assert!(start.elapsed() < Duration::from_millis(20), "round {round}: {error}");
        }
    }
}

fn the_path_of_loopback_takes_the_longest_datagram<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    assert_eq!(bed.driver.path_payload_bytes(SLOT), None);
    backend(&mut bed.driver, "127.0.0.1:0");
    assert_eq!(bed.driver.path_payload_bytes(SLOT), Some(65_507));
}

fn datagrams_that_the_kernel_drops_are_counted<K: Kernel>(open: Open<K>) {
    let mut bed = bed(open);
    socket2::SockRef::from(&bed.listener).set_recv_buffer_size(4_096).unwrap();
    (0..200).for_each(|_| assert_eq!(bed.sender.send(&[b'x'; 200]).unwrap(), 200));
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    while bed.driver.deliver(&mut log) == Delivered::Paused {
        bed.driver.enter(Wait::Poll).unwrap();
    }
    let drops = bed.driver.receive_memory(0).drops;
    assert!(drops > 0);
    assert_eq!(log.datagrams.len() as u64 + drops, 200);
}

/// Sends datagrams of `segment_bytes` each, the last one possibly shorter, in one system call (UDP_SEGMENT).
fn send_joined(sender: &UdpSocket, bytes: &[u8], segment_bytes: u16) {
    let segments = [ControlMessage::UdpGsoSegments(&segment_bytes)];
    let sent = sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(bytes)], &segments, MsgFlags::empty(), None)
        .unwrap();
    assert_eq!(sent, bytes.len());
}

/// Bytes of which no two runs are equal soon.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number % 251) as u8).collect()
}

/// Receives until `count` datagrams have arrived in total.
fn receive(bed: &mut Bed<impl Kernel>, log: &mut Log, count: usize) {
    let start = Instant::now();
    while log.datagrams.len() < count {
        bed.driver.enter(Wait::Event).unwrap();
        bed.driver.deliver(log);
        assert!(start.elapsed() < PATIENCE, "{} of {count}", log.datagrams.len());
    }
    assert_eq!(log.datagrams.len(), count);
    assert!(bed.driver.is_drained());
}

fn joined_datagrams_are_delivered_one_by_one_whole_and_in_order<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, false, true);
    let (mut log, mut expected, mut joined) = (Log::default(), Vec::new(), 0);
    for round in 0..50 {
        for (segment_bytes, length) in
            [(200, 16 * 200), (7, 16 * 7 - 3), (ROOM_BYTES, 2 * ROOM_BYTES), (1, 2)]
        {
            let sent = bytes(length + round);
            send_joined(&bed.sender, &sent[round..], segment_bytes as u16);
            expected.extend(sent[round..].chunks(segment_bytes).map(<[u8]>::to_vec));
            joined += length.div_ceil(segment_bytes);
            // Sent alone; so is what fits into one segment.
            for alone in [&[round as u8; 5][..], &[], &[b'x'; ROOM_BYTES]] {
                bed.sender.send(alone).unwrap();
                expected.push(alone.to_vec());
            }
            send_joined(&bed.sender, b"short", 8);
            expected.push(b"short".to_vec());
        }
    }
    receive(&mut bed, &mut log, expected.len());
    for (number, ((bytes, datagram_bytes), expected)) in log.datagrams.iter().zip(&expected).enumerate() {
        assert_eq!((bytes, *datagram_bytes), (expected, expected.len()), "datagram {number}");
    }
    let events = bed.driver.receive_events();
    assert_eq!((events.joined, events.zero_length), (joined as u64, 200));
    // The kernel's longest.
    log.datagrams.clear();
    let longest = bytes(63 * 1_039 + 50);
    assert_eq!(longest.len(), 65_507);
    send_joined(&bed.sender, &longest, 1_039);
    receive(&mut bed, &mut log, 64);
    assert_eq!(log.datagrams[63], (longest[63 * 1_039..].to_vec(), 50));
}

fn joined_datagrams_longer_than_the_limit_are_cut_one_by_one<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, true, true);
    let mut log = Log::default();
    let sent = bytes(3 * 1_000 + 100);
    send_joined(&bed.sender, &sent, 1_000);
    bed.sender.send(&sent[..ROOM_BYTES + 1]).unwrap();
    receive(&mut bed, &mut log, 5);
    let cut = |start: usize, length: usize| (sent[start..][..length.min(ROOM_BYTES)].to_vec(), length);
    assert_eq!(
        log.datagrams,
        [cut(0, 1_000), cut(1_000, 1_000), cut(2_000, 1_000), cut(3_000, 100), cut(0, ROOM_BYTES + 1)]
    );
}

fn each_joined_datagram_has_the_arrival_of_all_of_them<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, true, true);
    let mut log = Log::default();
    let before_us = bed.driver.now_us() as i64;
    // More than one call takes.
    (0..100).for_each(|_| send_joined(&bed.sender, &bytes(400), 100));
    receive(&mut bed, &mut log, 400);
    let after_us = bed.driver.now_us() as i64;
    for stamps in log.stamps.chunks(4) {
        let Stamp::At(at_us) = stamps[0] else { panic!("{stamps:?}") };
        assert!((before_us - 1_000..=after_us + 1).contains(&at_us), "{before_us} {at_us} {after_us}");
        assert_eq!(stamps, [stamps[0]; 4]);
    }
}

fn a_timestamp_leaves_room_for_the_length_of_joined_datagrams<K: Kernel>(open: Open<K>) {
    // As after a hand-over: another process that has the socket enables timestamps.
    let mut bed = bed_with(open, false, true);
    stamp_arrivals(&bed.listener, true);
    let mut log = Log::default();
    let sent = bytes(350);
    send_joined(&bed.sender, &sent, 100);
    receive(&mut bed, &mut log, 4);
    assert_eq!(log.stamps, [Stamp::Disabled; 4]);
    assert!(log.datagrams.iter().map(|(bytes, _)| &bytes[..]).eq(sent.chunks(100)));
}

/// Pauses after each datagram.
struct Pausing(Log);

impl Events for Pausing {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.0.datagram(bytes, datagram_bytes, stamp);
        Flow::Pause
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        self.0.sent(packet, outcome);
    }
}

fn a_worker_that_pauses_gets_the_next_of_the_joined_datagrams<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, false, true);
    let mut log = Pausing(Log::default());
    let sent = bytes(950);
    send_joined(&bed.sender, &sent, 100);
    bed.sender.send(b"alone").unwrap();
    send_joined(&bed.sender, &sent, 100);
    let start = Instant::now();
    for count in 1..=21 {
        // It does not sleep while it holds a segment.
        while log.0.datagrams.len() < count {
            bed.driver.enter(Wait::Event).unwrap();
            let delivered = bed.driver.deliver(&mut log);
            assert!(count == 21 || delivered == Delivered::Paused);
            assert!(start.elapsed() < PATIENCE);
        }
        assert_eq!((log.0.datagrams.len(), bed.driver.is_drained()), (count, count == 21));
    }
    let expected = sent.chunks(100).chain([&b"alone"[..]]).chain(sent.chunks(100));
    assert!(log.0.datagrams.iter().map(|(bytes, _)| &bytes[..]).eq(expected));
}

fn one_turn_takes_a_bounded_number_of_joined_datagrams<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, false, true);
    let numbers: Vec<u8> = (0..2_000u32).flat_map(u32::to_ne_bytes).collect();
    numbers.chunks(4 * 50).for_each(|numbers| send_joined(&bed.sender, numbers, 4));
    let log = relay_in_two_turns(&mut bed);
    assert!(log.datagrams.iter().map(|(bytes, _)| &bytes[..]).eq(numbers.chunks(4)), "in order, each once");
}

fn joined_datagrams_that_the_kernel_drops_count_as_one<K: Kernel>(open: Open<K>) {
    let mut bed = bed_with(open, false, true);
    socket2::SockRef::from(&bed.listener).set_recv_buffer_size(4_096).unwrap();
    (0..50).for_each(|_| send_joined(&bed.sender, &bytes(10 * 200), 200));
    let mut log = Log::default();
    bed.driver.enter(Wait::Poll).unwrap();
    while bed.driver.deliver(&mut log) == Delivered::Paused {
        bed.driver.enter(Wait::Poll).unwrap();
    }
    let drops = bed.driver.receive_memory(0).drops;
    assert!(drops > 0 && !log.datagrams.is_empty());
    assert_eq!(log.datagrams.len() as u64 + 10 * drops, 500);
}

#[test]
fn a_ring_that_cannot_be_made_fails_the_tests() {
    bare_ring::assert_noticed_by("on_io_uring::the_path_of_loopback_takes_the_longest_datagram");
}
