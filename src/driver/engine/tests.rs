use super::*;
use crate::driver::Engine;
use crate::driver::sim::{Fault, Faults, Random, SimDriver, SimHandle, SimKernel, SimSetup};
use crate::packet::SendError;

/// Records events, and pauses when requested.
#[derive(Default)]
struct Log {
    datagrams: Vec<(Vec<u8>, usize)>,
    stamps: Vec<Stamp>,
    /// Whether each packet went in a GSO batch.
    batched: Vec<bool>,
    sent: Vec<(String, SendOutcome)>,
    pause_every: usize,
}

impl Events for Log {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.stamps.push(stamp);
        self.datagrams.push((bytes.to_vec(), datagram_bytes));
        let pauses = self.pause_every > 0 && self.datagrams.len().is_multiple_of(self.pause_every);
        if pauses { Flow::Pause } else { Flow::More }
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        self.batched.push(packet.in_gso_batch());
        self.sent.push((String::from_utf8_lossy(packet.bytes()).into(), outcome));
    }
}

/// The kernel interfaces that the fake kernel resembles.
const ENGINES: [Engine; 2] = [Engine::IoUring, Engine::Portable];

/// On a fake kernel that resembles sendmmsg and recvmmsg, unless a test sets otherwise.
fn driver(setup: &SimSetup) -> (SimDriver, SimHandle) {
    SimKernel::driver(&SimSetup { engine: Engine::Portable, ..setup.clone() })
}

fn packet(text: &str, slot: u32) -> Packet {
    let mut packet = Packet::with_capacity(64);
    assert!(packet.append(text.as_bytes()));
    packet.set_destination(0, SocketSlot(slot));
    packet
}

fn joining(text: &str) -> Packet {
    let mut packet = packet(text, 0);
    packet.set_may_join(true);
    packet
}

fn backend() -> SocketAddr {
    "127.0.0.1:8125".parse().unwrap()
}

fn check(handle: &SimHandle, seed: u64) {
    assert_eq!(handle.violations(), Vec::<String>::new(), "seed {seed}");
}

#[test]
fn what_comes_while_it_gathers_wakes_nobody_and_is_taken_at_the_deadline() {
    let (mut driver, handle) = driver(&SimSetup::roomy(1));
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    let start_us = handle.now_us();
    for at_us in [100, 2_000, 4_900] {
        handle.datagram_at(start_us + at_us, 0, *b"a:1|c");
    }
    driver.enter(Wait::GatherUntil { deadline_us: start_us + 5_000 }).unwrap();
    assert!((5_000..5_100).contains(&(handle.now_us() - start_us)));
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!(log.datagrams.len(), 3);
    assert!(driver.is_reading());
}

#[test]
fn a_datagram_a_wake_and_a_deadline_each_end_a_sleep() {
    let (mut driver, handle) = driver(&SimSetup::roomy(2));
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut log);
    let start_us = handle.now_us();
    handle.datagram_at(start_us + 1_000, 0, *b"a:1|c");
    driver.enter(Wait::Event).unwrap();
    assert!((1_000..1_100).contains(&(handle.now_us() - start_us)));
    driver.deliver(&mut log);
    assert_eq!(log.datagrams.len(), 1);
    driver.enter(Wait::EventUntil { deadline_us: start_us + 3_000 }).unwrap();
    assert!((3_000..3_100).contains(&(handle.now_us() - start_us)));
    driver.deliver(&mut log);
    for wait in [Wait::Event, Wait::GatherUntil { deadline_us: start_us + 900_000 }] {
        handle.wake();
        driver.enter(wait).unwrap();
        assert!(!handle.is_stuck() && handle.now_us() < start_us + 4_000);
        assert_eq!(driver.deliver(&mut log), Delivered::All);
    }
    driver.enter(Wait::Event).unwrap();
    assert!(handle.is_stuck(), "without a wake it sleeps");
}

#[test]
fn an_empty_and_a_cut_datagram_are_told_as_what_they_are() {
    let (mut driver, handle) = driver(&SimSetup { payload_bytes_max: 8, ..SimSetup::roomy(3) });
    for bytes in [&b""[..], b"123456789abc", b"three"] {
        handle.datagram_at(0, 0, bytes);
    }
    let mut log = Log::default();
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!(log.datagrams, [(b"".to_vec(), 0), (b"12345678".to_vec(), 12), (b"three".to_vec(), 5)]);
    assert_eq!(driver.receive_events().zero_length, 1);
}

#[test]
fn a_flood_does_not_keep_the_worker_from_its_turn() {
    let (mut driver, handle) = driver(&SimSetup { turn: 20, ..SimSetup::roomy(4) });
    (0..50u8).for_each(|number| handle.datagram_at(0, 0, [number]));
    let mut log = Log::default();
    for taken in [20, 40] {
        // It does not sleep on what it knows of.
        driver.enter(Wait::Event).unwrap();
        assert_eq!(driver.deliver(&mut log), Delivered::Paused);
        assert_eq!(log.datagrams.len(), taken);
    }
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    let numbers: Vec<u8> = log.datagrams.iter().map(|(bytes, _)| bytes[0]).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<u8>>());
}

#[test]
fn each_answer_to_a_send_becomes_its_outcome() {
    let cases = [
        (Fault::SendBusy, SendOutcome::Busy),
        (Fault::SendRefused, SendOutcome::Refused),
        (Fault::SendNoBuffers, SendOutcome::NoBuffers(SendError::NoBuffers)),
        (Fault::SendTooLong, SendOutcome::TooLong),
        (Fault::SendDenied, SendOutcome::Denied(SendError::NotPermitted)),
        (Fault::SendUnreachable, SendOutcome::Unreachable(SendError::HostUnreachable)),
        (Fault::SendAnswered, SendOutcome::Answered(libc::EPROTO)),
        (Fault::SendInvalid, SendOutcome::Failed(libc::EINVAL)),
        (Fault::SendInputOutput, SendOutcome::Failed(libc::EIO)),
    ];
    for (fault, expected) in cases {
        let mut setup = SimSetup::roomy(5);
        setup.faults.set(fault, 10_000);
        let (mut driver, handle) = driver(&setup);
        driver.open_backend(SocketSlot(5), backend()).unwrap();
        for text in ["a:1|c", "b:1|c", "c:1|c"] {
            driver.push(packet(text, 5)).unwrap();
        }
        let mut log = Log::default();
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        // Any errno is possible.
        let any = |outcome: &mut SendOutcome| {
            if let SendOutcome::Answered(errno) = outcome {
                *errno = libc::EPROTO;
            }
        };
        log.sent.iter_mut().for_each(|(_, outcome)| any(outcome));
        let reported = ["a:1|c", "b:1|c", "c:1|c"].map(|text| (text.to_owned(), expected));
        assert_eq!(log.sent, reported);
        check(&handle, 5);
    }
}

#[test]
fn a_refusal_that_the_call_does_not_tell_is_found_and_nothing_else_is_sent_twice() {
    for (fault, expected) in [
        (Fault::SendRefused, SendOutcome::Refused),
        (Fault::SendNoBuffers, SendOutcome::NoBuffers(SendError::NoBuffers)),
    ] {
        let mut seen = 0;
        for seed in 0..40 {
            let mut setup = SimSetup::roomy(seed);
            setup.faults.set(fault, 3_000);
            let (mut driver, handle) = driver(&setup);
            driver.open_backend(SocketSlot(0), backend()).unwrap();
            let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
            texts.iter().for_each(|text| driver.push(packet(text, 0)).unwrap());
            let mut log = Log::default();
            driver.enter(Wait::Poll).unwrap();
            driver.deliver(&mut log);
            let reported: Vec<&String> = log.sent.iter().map(|(text, _)| text).collect();
            assert_eq!(reported, texts.iter().collect::<Vec<_>>(), "seed {seed}");
            let sent = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::Sent);
            let accepted = handle.with_accepted(|all| {
                all.iter().map(|one| String::from_utf8_lossy(&one.bytes).into()).collect::<Vec<String>>()
            });
            assert!(sent.map(|(text, _)| text).eq(accepted.iter()), "seed {seed}");
            seen += log.sent.iter().filter(|(_, outcome)| *outcome == expected).count();
            check(&handle, seed);
        }
        assert!(seen > 10, "{fault:?}: {seen}");
    }
}

#[test]
fn what_follows_a_packet_for_a_full_socket_does_not_overtake_it() {
    let mut setup = SimSetup::roomy(6);
    setup.faults.set(Fault::SendBusy, 4_000);
    for seed in 0..50 {
        setup.seed = seed;
        let (mut driver, handle) = driver(&setup);
        driver.open_backend(SocketSlot(0), backend()).unwrap();
        (0..20).for_each(|number| driver.push(packet(&number.to_string(), 0)).unwrap());
        let mut log = Log::default();
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        let first_busy = log.sent.iter().position(|(_, outcome)| *outcome == SendOutcome::Busy);
        let after = log.sent.iter().skip(first_busy.unwrap_or(20));
        assert!(after.into_iter().all(|(_, outcome)| *outcome == SendOutcome::Busy), "seed {seed}");
        check(&handle, seed);
    }
}

#[test]
fn a_refused_gso_batch_is_taken_apart_and_no_other_is_made() {
    let mut setup = SimSetup::roomy(7);
    setup.faults.set(Fault::GsoRefused, 10_000);
    let (mut driver, handle) = driver(&setup);
    driver.open_backend(SocketSlot(0), backend()).unwrap();
    let push = |driver: &mut SimDriver| {
        for number in 10..30 {
            driver.push(joining(&number.to_string())).unwrap();
        }
    };
    push(&mut driver);
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut log);
    let refused = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::GsoRefused(libc::EIO));
    assert_eq!(refused.count(), 16, "the first GSO batch, of the maximum size");
    assert!(log.sent[16..].iter().all(|(_, outcome)| *outcome == SendOutcome::Sent));
    log.sent.clear();
    push(&mut driver);
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut log);
    assert!(log.sent.len() == 20 && log.sent.iter().all(|(_, outcome)| *outcome == SendOutcome::Sent));
    check(&handle, 7);
}

/// Sends packets of `bytes` in one batch; whether each went in a GSO batch, and its outcome.
fn send_alike(driver: &mut SimDriver, packets: usize, bytes: usize) -> Vec<(bool, SendOutcome)> {
    for _ in 0..packets {
        let mut packet = Packet::with_capacity(2_000);
        packet.pad(bytes);
        packet.set_destination(0, SocketSlot(0));
        packet.set_may_join(true);
        driver.push(packet).unwrap();
    }
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut log);
    log.batched.into_iter().zip(log.sent.into_iter().map(|(_, outcome)| outcome)).collect()
}

#[test]
fn gso_follows_a_path_that_shrinks_and_grows() {
    use SendOutcome::{Sent, TooBigForPath};
    for (engine, seed) in ENGINES.into_iter().flat_map(|engine| (0..20).map(move |seed| (engine, seed))) {
        let setup = SimSetup { engine, ..SimSetup::roomy(seed) };
        let (mut driver, handle) = SimKernel::driver(&setup);
        driver.open_backend(SocketSlot(0), backend()).unwrap();
        assert_eq!(send_alike(&mut driver, 20, 1_472), [(true, Sent); 20]);
        handle.set_path(SocketSlot(0), 1_372);
        let sent = send_alike(&mut driver, 20, 1_472);
        // io_uring submits both batches, sendmmsg stops at the first.
        let taken_apart = if engine == Engine::IoUring { 20 } else { 16 };
        assert_eq!(sent[..taken_apart], vec![(true, TooBigForPath); taken_apart]);
        assert!(sent[taken_apart..].iter().all(|one| *one == (false, Sent)));
        // Those go alone, shorter ones together.
        assert_eq!(send_alike(&mut driver, 20, 1_472), [(false, Sent); 20]);
        assert_eq!(send_alike(&mut driver, 20, 1_372), [(true, Sent); 20]);
        handle.set_path(SocketSlot(0), 1_472);
        assert_eq!(driver.path_payload_bytes(SocketSlot(0)), Some(1_472));
        assert_eq!(send_alike(&mut driver, 20, 1_472), [(true, Sent); 20]);
        check(&handle, seed);
    }
}

#[test]
fn a_closed_socket_answers_with_its_errno_and_a_full_driver_takes_no_more() {
    let (mut driver, _handle) = driver(&SimSetup { sends_max: 2, ..SimSetup::roomy(8) });
    driver.push(packet("a:1|c", 9)).unwrap();
    driver.push(packet("b:1|c", 9)).unwrap();
    assert!(driver.push(packet("c:1|c", 9)).is_err());
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    assert!(driver.push(packet("c:1|c", 9)).is_err(), "unreported packets count too");
    driver.deliver(&mut log);
    let expected = ["a:1|c", "b:1|c"].map(|text| (text.to_owned(), SendOutcome::Failed(libc::EBADF)));
    assert_eq!(log.sent, expected);
    assert!(driver.push(packet("c:1|c", 9)).is_ok());
}

#[test]
fn a_receive_that_the_kernel_cannot_serve_is_fatal() {
    let (mut driver, handle) = driver(&SimSetup::roomy(9));
    handle.fail_receives(Some(libc::EBADF));
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut Log::default());
    match driver.enter(Wait::Event) {
        Err(DriverError::System { operation: "receiving datagrams", source }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EBADF));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receive_that_goes_on_failing_is_tried_ever_more_rarely_and_comes_back() {
    let (mut driver, handle) = driver(&SimSetup::roomy(10));
    handle.fail_receives(Some(libc::ENOMEM));
    handle.datagram_at(0, 0, *b"again");
    let start_us = handle.now_us();
    let mut log = Log::default();
    while handle.now_us() < start_us + 10_000_000 {
        driver.enter(Wait::Event).unwrap();
        driver.deliver(&mut log);
        assert!(!driver.is_reading() && !handle.is_stuck());
    }
    let tries = driver.receive_events().errors;
    assert!((10..40).contains(&tries), "{tries} tries in ten seconds");
    handle.fail_receives(None);
    for _ in 0..3 {
        driver.enter(Wait::EventUntil { deadline_us: handle.now_us() + 2_000_000 }).unwrap();
        driver.deliver(&mut log);
    }
    assert!(log.datagrams.len() == 1 && driver.is_reading());
}

#[test]
fn lasting_odd_errors_of_the_sleep_are_fatal_and_rare_ones_are_counted() {
    let mut setup = SimSetup::roomy(11);
    setup.faults.set(Fault::EnterError, 10_000);
    let (mut driver, _handle) = driver(&setup);
    let failed = (0..1_000).find_map(|_| {
        driver.deliver(&mut Log::default());
        driver.enter(Wait::Event).err()
    });
    assert!(matches!(failed, Some(DriverError::System { operation: "waiting for events", .. })));
    assert_eq!(driver.receive_events().wait_errors, u64::from(SLEEP_ERRORS_IN_A_ROW_MAX) + 1);
}

#[test]
fn what_was_left_is_not_read_and_what_was_held_is_delivered() {
    let (mut driver, handle) = driver(&SimSetup { listeners: 2, ..SimSetup::roomy(12) });
    (0..6u8).for_each(|number| handle.datagram_at(0, usize::from(number % 2), [number]));
    let mut log = Log { pause_every: 2, ..Log::default() };
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::Paused);
    driver.leave(0);
    driver.fence().unwrap();
    assert!(!driver.is_reading() && !driver.is_drained());
    log.pause_every = 0;
    let mut rounds = 0;
    while !driver.is_drained() {
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        rounds += 1;
        assert!(rounds < 10);
    }
    assert_eq!(log.datagrams.len(), 6);
    assert!(!driver.is_idle());
    driver.end();
    assert!(driver.is_idle());
    handle.datagram_at(handle.now_us(), 0, *b"another's");
    driver.enter(Wait::EventUntil { deadline_us: handle.now_us() + 1_000 }).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!(log.datagrams.len(), 6);
    check(&handle, 12);
}

/// Everything at once: datagrams and packets go through whatever the kernel does, each once and in order.
#[test]
fn nothing_is_lost_on_bad_days() {
    for engine in ENGINES {
        (0..1_500).for_each(|seed| bad_day(engine, seed));
    }
}

fn bad_day(engine: Engine, seed: u64) {
    let mut random = Random::new(seed ^ 0xBAD);
    let setup = SimSetup {
        listeners: random.between(1, 2) as usize,
        buffers: random.between(1, 24) as usize,
        turn: random.between(1, 24) as usize,
        messages_max: random.between(1, 12) as usize,
        sends_max: random.between(1, 12) as usize,
        payload_bytes_max: 16,
        faults: Faults::mixed(&mut random),
        engine,
        ..SimSetup::roomy(seed)
    };
    let (mut driver, handle) = SimKernel::driver(&setup);
    while driver.open_backend(SocketSlot(0), backend()).is_err() {}
    let start_us = handle.now_us();
    for number in 0..60u8 {
        let bytes = vec![number; random.below(20) as usize];
        let listener = random.below(setup.listeners as u64) as usize;
        handle.datagram_at(start_us + random.below(2_000), listener, bytes);
    }
    let mut log = Log { pause_every: random.below(5) as usize, ..Log::default() };
    let (mut pushed, mut rounds) = (0, 0);
    while log.datagrams.len() < 60 || log.sent.len() < 60 {
        while pushed < 60 && driver.push(packet(&pushed.to_string(), 0)).is_ok() {
            pushed += 1;
        }
        let deadline_us = handle.now_us() + random.below(500);
        let wait = match random.below(3) {
            0 => Wait::Poll,
            1 => Wait::EventUntil { deadline_us },
            _ => Wait::GatherUntil { deadline_us },
        };
        driver.enter(wait).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        driver.deliver(&mut log);
        check(&handle, seed);
        rounds += 1;
        assert!(rounds < 100_000, "seed {seed}: {} and {}", log.datagrams.len(), log.sent.len());
    }
    let expected: Vec<(Vec<u8>, usize)> = handle.with_received(|received| {
        received.iter().map(|one| (one.bytes[..one.bytes_received].to_vec(), one.bytes.len())).collect()
    });
    assert_eq!(log.datagrams, expected, "seed {seed}");
    let texts: Vec<&str> = log.sent.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, (0..60).map(|n| n.to_string()).collect::<Vec<_>>(), "seed {seed}");
    let sent = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::Sent);
    let accepted = handle.with_accepted(|all| {
        all.iter().map(|one| String::from_utf8_lossy(&one.bytes).into()).collect::<Vec<String>>()
    });
    assert!(sent.map(|(text, _)| text).eq(accepted.iter()), "seed {seed}");
}

#[test]
fn an_answer_to_an_earlier_packet_does_not_end_gso_batches() {
    for engine in ENGINES {
        let mut setup = SimSetup { engine, ..SimSetup::roomy(8) };
        setup.faults.set(Fault::SendAnswered, 10_000);
        let (mut driver, handle) = SimKernel::driver(&setup);
        driver.open_backend(SocketSlot(0), "127.0.0.1:8125".parse().unwrap()).unwrap();
        for _ in 0..2 {
            for number in 10..30 {
                let mut packet = Packet::with_capacity(64);
                assert!(packet.append(number.to_string().as_bytes()));
                packet.set_destination(0, SocketSlot(0));
                packet.set_may_join(true);
                driver.push(packet).unwrap();
            }
            let mut log = Log::default();
            driver.enter(Wait::Poll).unwrap();
            driver.deliver(&mut log);
            assert_eq!(log.sent.len(), 20);
            assert!(
                log.sent.iter().all(|(_, outcome)| matches!(outcome, SendOutcome::Answered(_))),
                "{:?}",
                log.sent
            );
            // In the second batch as in the first: none was refused.
            assert!(log.batched.contains(&true));
        }
        assert_eq!(handle.violations(), [""; 0]);
    }
}

#[test]
fn datagrams_are_told_with_the_moment_of_their_arrival_if_that_is_asked_for() {
    for engine in ENGINES {
        let setup = SimSetup { timestamps: true, engine, ..SimSetup::roomy(5) };
        let (mut driver, handle) = SimKernel::driver(&setup);
        let mut log = Log::default();
        let now_us = handle.now_us();
        for after_us in [100, 250, 251] {
            handle.datagram_at(now_us + after_us, 0, b"x".as_slice());
        }
        while log.stamps.len() < 3 {
            driver.enter(Wait::GatherUntil { deadline_us: driver.now_us() + 2_000 }).unwrap();
            driver.deliver(&mut log);
        }
        assert_eq!(log.stamps, [100, 250, 251].map(|after_us| Stamp::At((now_us + after_us) as i64)));
        assert!(log.datagrams.iter().all(|datagram| *datagram == (b"x".to_vec(), 1)));
        assert_eq!(handle.violations(), [""; 0]);
    }
}

#[test]
fn a_datagram_whose_stamp_is_missing_cut_or_absurd_is_told_all_the_same() {
    for engine in ENGINES {
        let cases = [
            (Fault::TimestampMissing, Stamp::Missing),
            (Fault::ControlTruncated, Stamp::Missing),
            (Fault::TimestampInvalid, Stamp::Invalid),
        ];
        for (fault, expected) in cases {
            let mut setup = SimSetup { timestamps: true, engine, ..SimSetup::roomy(6) };
            setup.faults.set(fault, 10_000);
            let (mut driver, handle) = SimKernel::driver(&setup);
            let mut log = Log::default();
            for after_us in 1..50 {
                handle.datagram_at(handle.now_us() + after_us, 0, b"x".as_slice());
            }
            while log.stamps.len() < 49 {
                driver.enter(Wait::GatherUntil { deadline_us: driver.now_us() + 2_000 }).unwrap();
                driver.deliver(&mut log);
            }
            assert_eq!(log.stamps, [expected; 49], "{}", fault.name());
            assert_eq!(driver.receive_events().unreadable, 0);
        }
    }
}

/// A fake kernel that joins datagrams, on which these arrive at once.
fn on_joined(seed: u64, engine: Engine, datagrams: &[Vec<u8>]) -> (SimDriver, SimHandle) {
    let setup = SimSetup { gro: true, payload_bytes_max: 40, turn: 16, engine, ..SimSetup::roomy(seed) };
    let (driver, handle) = SimKernel::driver(&setup);
    datagrams.iter().for_each(|bytes| handle.datagram_at(0, 0, bytes.as_slice()));
    (driver, handle)
}

/// Datagrams in runs of one length.
fn runs() -> Vec<Vec<u8>> {
    let lengths = [5, 5, 5, 3, 40, 40, 50, 50, 0, 7, 7, 7, 7, 1, 9, 0];
    lengths.iter().cycle().take(80).zip(0u8..).map(|(length, number)| vec![number; *length]).collect()
}

#[test]
fn joined_datagrams_are_delivered_one_by_one_in_order_however_the_worker_pauses() {
    let sent = runs();
    let expected: Vec<(Vec<u8>, usize)> =
        sent.iter().map(|bytes| (bytes[..bytes.len().min(40)].to_vec(), bytes.len())).collect();
    for engine in ENGINES {
        for pause_every in [0, 1, 2, 3, 7] {
            let (mut driver, handle) = on_joined(pause_every as u64, engine, &sent);
            let mut log = Log { pause_every, ..Log::default() };
            for _ in 0..200 {
                driver.enter(Wait::Poll).unwrap();
                let before = log.datagrams.len();
                driver.deliver(&mut log);
                assert!(log.datagrams.len() - before <= 32, "a turn, and what was held before it");
            }
            assert_eq!(log.datagrams, expected, "{engine:?}, pausing every {pause_every}");
            let joined = handle.with_received(|all| all.iter().filter(|one| one.is_joined).count());
            assert_eq!(driver.receive_events().joined, joined as u64);
            assert!(joined > 30 && driver.is_drained(), "{joined}");
            assert_eq!(driver.receive_events().zero_length, 10);
        }
    }
}

#[test]
fn driver_that_holds_a_segment_neither_sleeps_nor_reports_empty_queues() {
    let (mut driver, handle) = on_joined(3, Engine::Portable, &vec![vec![b'x'; 5]; 2]);
    let mut log = Log { pause_every: 1, ..Log::default() };
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::Paused);
    assert_eq!((log.datagrams.len(), driver.receive_events().joined), (1, 1), "the seed joins them");
    assert!(!driver.is_drained() && handle.is_queue_empty());
    driver.end();
    assert!(!driver.is_idle());
    driver.enter(Wait::Event).unwrap();
    assert!(!handle.is_stuck());
    driver.deliver(&mut log);
    assert_eq!(log.datagrams.len(), 2);
    assert!(driver.is_drained() && driver.is_idle());
}
