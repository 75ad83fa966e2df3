use super::*;
use crate::driver::sim::{Fault, Faults, Random, SimHandle, SimRing, SimSetup};
use crate::packet::SendError;

type SimDriver = RingDriver<SimRing>;

/// Remembers what it is told, and pauses when asked to.
#[derive(Default)]
struct Log {
    datagrams: Vec<(Vec<u8>, usize)>,
    sent: Vec<(Vec<u8>, SendOutcome)>,
    pause_every: usize,
}

impl Events for Log {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, _stamp: Stamp) -> Flow {
        self.datagrams.push((bytes.to_vec(), datagram_bytes));
        let pauses = self.pause_every > 0 && self.datagrams.len().is_multiple_of(self.pause_every);
        if pauses { Flow::Pause } else { Flow::More }
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        self.sent.push((packet.bytes().to_vec(), outcome));
    }
}

fn driver(setup: &SimSetup) -> (SimDriver, SimHandle) {
    let (ring, handle) = SimRing::new(setup);
    (RingDriver::new(ring), handle)
}

fn packet(text: &str, slot: u32) -> Packet {
    let mut packet = Packet::with_capacity(64);
    assert!(packet.append(text.as_bytes()));
    packet.socket = SocketSlot(slot);
    packet
}

fn backend() -> SocketAddr {
    "127.0.0.1:8125".parse().unwrap()
}

/// What has to hold whenever the driver is not at work.
fn check(driver: &SimDriver, handle: &SimHandle, seed: u64) {
    assert_eq!(handle.violations(), Vec::<String>::new(), "seed {seed}");
    let census = handle.census();
    assert_eq!(census.held, driver.buffers_held(), "seed {seed}: {census:?}");
    for listener in 0..driver.ring().sizes().listeners {
        if driver.is_receive_standing(listener) {
            assert!(handle.is_receive_standing(listener), "seed {seed}: receive {listener} is deaf");
        }
    }
    assert_eq!(driver.stray_completions(), 0, "seed {seed}");
}

#[test]
fn datagrams_come_in_order_and_an_empty_one_does_not_end_the_receiving() {
    let (mut driver, handle) = driver(&SimSetup::roomy(1));
    let start_us = handle.now_us();
    for (at_us, text) in [(100, "one"), (200, ""), (300, "three")] {
        handle.datagram_at(start_us + at_us, 0, text.as_bytes());
    }
    let mut log = Log::default();
    while log.datagrams.len() < 3 {
        driver.enter(Wait::Event).unwrap();
        assert!(!handle.is_stuck(), "asleep for ever");
        assert_eq!(driver.deliver(&mut log), Delivered::All);
        check(&driver, &handle, 1);
    }
    let texts: Vec<&[u8]> = log.datagrams.iter().map(|(bytes, _)| bytes.as_slice()).collect();
    assert_eq!(texts, [&b"one"[..], b"", b"three"]);
    assert_eq!(driver.receive_events().zero_length, 1);
    assert_eq!(driver.receive_events().armed, 2);
}

#[test]
fn a_cut_datagram_is_told_with_its_length() {
    let (mut driver, handle) = driver(&SimSetup { payload_bytes_max: 8, ..SimSetup::roomy(2) });
    handle.datagram_at(0, 0, *b"123456789abc");
    let mut log = Log::default();
    driver.enter(Wait::Event).unwrap();
    driver.deliver(&mut log);
    assert_eq!(log.datagrams, [(b"12345678".to_vec(), 12)]);
}

#[test]
fn a_paused_driver_keeps_its_datagrams_and_arms_when_buffers_are_back() {
    let setup = SimSetup { buffers: 8, ..SimSetup::roomy(3) };
    let (mut driver, handle) = driver(&setup);
    for number in 0..40u8 {
        handle.datagram_at(0, 0, [number]);
    }
    let mut log = Log { pause_every: 3, ..Log::default() };
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.buffers_held(), 8);
    let mut rounds = 0;
    while log.datagrams.len() < 40 {
        // A driver that holds datagrams does not sleep, whatever the wait.
        driver.enter(Wait::Event).unwrap();
        assert!(!handle.is_stuck());
        driver.deliver(&mut log);
        check(&driver, &handle, 3);
        rounds += 1;
        assert!(rounds < 100);
    }
    let numbers: Vec<u8> = log.datagrams.iter().map(|(bytes, _)| bytes[0]).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<u8>>());
    assert!(driver.receive_events().no_buffers > 0);
}

#[test]
fn what_queues_behind_an_empty_datagram_does_not_wait_for_the_next_sleep() {
    let (mut driver, handle) = driver(&SimSetup::roomy(10));
    driver.enter(Wait::Poll).unwrap();
    let start_us = handle.now_us();
    for (at_us, text) in [(10, "one"), (20, ""), (30, ""), (40, "two")] {
        handle.datagram_at(start_us + at_us, 0, text.as_bytes());
    }
    let mut log = Log::default();
    let mut deadline_us = start_us + 5_000;
    for _ in 0..3 {
        driver.enter(Wait::GatherUntil { deadline_us }).unwrap();
        driver.deliver(&mut log);
        deadline_us += 5_000;
    }
    assert_eq!(log.datagrams.len(), 4);
    assert!(handle.now_us() < start_us + 5_200, "it slept before everything was taken");
}

#[test]
fn what_overflowed_is_not_forgotten() {
    let (mut driver, handle) = driver(&SimSetup { completions_max: 1, ..SimSetup::roomy(11) });
    driver.open_backend(SocketSlot(0), backend()).unwrap();
    handle.datagram_at(0, 0, *b"one");
    handle.datagram_at(0, 0, *b"two");
    driver.push(packet("a:1|c", 0)).unwrap();
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    assert!(!driver.is_armed());
    assert_eq!(driver.deliver(&mut log), Delivered::Paused);
    assert_eq!(
        (log.datagrams.len(), log.sent.len()),
        (1, 0),
        "a send is not told before its error could be seen"
    );
    driver.enter(Wait::Event).unwrap();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!((log.datagrams.len(), log.sent.len()), (2, 1));
    check(&driver, &handle, 11);
}

#[test]
fn a_worker_without_room_gets_outcomes_and_no_datagram() {
    struct Full(Log);
    impl Events for Full {
        fn flow(&self) -> Flow {
            Flow::Pause
        }
        fn datagram(&mut self, _bytes: &[u8], _datagram_bytes: usize, _stamp: Stamp) -> Flow {
            panic!("a datagram came without room for it");
        }
        fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
            self.0.sent(packet, outcome);
        }
    }
    let (mut driver, handle) = driver(&SimSetup::roomy(12));
    driver.open_backend(SocketSlot(0), backend()).unwrap();
    handle.datagram_at(0, 0, *b"one");
    driver.push(packet("a:1|c", 0)).unwrap();
    driver.enter(Wait::Poll).unwrap();
    let mut full = Full(Log::default());
    assert_eq!(driver.deliver(&mut full), Delivered::Paused);
    assert_eq!(full.0.sent.len(), 1);
    let mut log = Log::default();
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!(log.datagrams.len(), 1);
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
        (Fault::SendSuccessTold, SendOutcome::Sent),
    ];
    for (fault, expected) in cases {
        let mut setup = SimSetup::roomy(4);
        setup.faults.set(fault, 10_000);
        let (mut driver, handle) = driver(&setup);
        driver.open_backend(SocketSlot(5), backend()).unwrap();
        driver.push(packet("a:1|c", 5)).unwrap();
        let mut log = Log::default();
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        // The errno of such an answer is any.
        let any = |outcome: &mut SendOutcome| {
            if let SendOutcome::Answered(errno) = outcome {
                *errno = libc::EPROTO;
            }
        };
        log.sent.iter_mut().for_each(|(_, outcome)| any(outcome));
        assert_eq!(log.sent, [(b"a:1|c".to_vec(), expected)]);
        check(&driver, &handle, 4);
    }
}

#[test]
fn a_closed_socket_answers_with_its_errno() {
    let (mut driver, _handle) = driver(&SimSetup::roomy(4));
    driver.push(packet("a:1|c", 9)).unwrap();
    let mut log = Log::default();
    driver.enter(Wait::Poll).unwrap();
    driver.deliver(&mut log);
    assert_eq!(log.sent, [(b"a:1|c".to_vec(), SendOutcome::Failed(libc::EBADF))]);
}

#[test]
fn packets_that_the_kernel_did_not_take_wait_and_keep_their_order() {
    let mut setup = SimSetup { sends_max: 6, ..SimSetup::roomy(5) };
    setup.faults.set(Fault::ShortSubmit, 7_000);
    let (mut driver, handle) = driver(&setup);
    driver.open_backend(SocketSlot(0), backend()).unwrap();
    let mut log = Log::default();
    let mut pushed = 0;
    while log.sent.len() < 200 {
        while pushed < 200 && driver.push(packet(&pushed.to_string(), 0)).is_ok() {
            pushed += 1;
        }
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        check(&driver, &handle, 5);
    }
    let texts: Vec<String> =
        log.sent.iter().map(|(bytes, _)| String::from_utf8_lossy(bytes).into()).collect();
    assert_eq!(texts, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(log.sent.iter().all(|(_, outcome)| *outcome == SendOutcome::Sent));
    assert_eq!(handle.with_accepted(<[_]>::len), 200);
}

#[test]
fn a_wake_ends_the_sleep_every_time() {
    let (mut driver, handle) = driver(&SimSetup::roomy(6));
    for _ in 0..5 {
        handle.wake();
        driver.enter(Wait::Event).unwrap();
        assert!(!handle.is_stuck());
        assert_eq!(driver.deliver(&mut Log::default()), Delivered::All);
    }
    driver.enter(Wait::Event).unwrap();
    assert!(handle.is_stuck(), "without a wake it sleeps");
}

#[test]
fn what_was_cancelled_ends_in_either_order() {
    for seed in 0..50 {
        let mut setup = SimSetup { listeners: 2, ..SimSetup::roomy(seed) };
        setup.faults.set(Fault::CancelAlready, 3_000);
        setup.faults.set(Fault::ShortSubmit, 3_000);
        let (mut driver, handle) = driver(&setup);
        for _ in 0..3 {
            driver.enter(Wait::Poll).unwrap();
        }
        handle.datagram_at(0, 1, *b"queued");
        driver.fence().unwrap();
        driver.cancel();
        let mut log = Log::default();
        let mut rounds = 0;
        while !driver.is_quiet() {
            driver.enter(Wait::Poll).unwrap();
            driver.deliver(&mut log);
            check(&driver, &handle, seed);
            rounds += 1;
            assert!(rounds < 100, "seed {seed}");
        }
        assert!(handle.is_quiet() && !driver.is_armed(), "seed {seed}");
    }
}

#[test]
fn a_receive_that_the_kernel_cannot_serve_is_fatal() {
    for errno in [libc::EINVAL, libc::EBADF, libc::EFAULT] {
        let (mut driver, handle) = driver(&SimSetup::roomy(7));
        handle.fail_receives(Some(errno));
        match driver.enter(Wait::Poll) {
            Err(DriverError::System { source, .. }) => assert_eq!(source.raw_os_error(), Some(errno)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_receive_that_goes_on_failing_is_tried_ever_more_rarely_and_comes_back() {
    let (mut driver, handle) = driver(&SimSetup::roomy(8));
    handle.fail_receives(Some(libc::ENOMEM));
    let start_us = handle.now_us();
    while handle.now_us() < start_us + 10_000_000 {
        driver.enter(Wait::Event).unwrap();
        assert!(!driver.is_armed());
    }
    let tries = driver.receive_events().errors;
    assert!((10..40).contains(&tries), "{tries} tries in ten seconds");
    handle.fail_receives(None);
    handle.datagram_at(handle.now_us(), 0, *b"again");
    let mut log = Log::default();
    for _ in 0..3 {
        driver.enter(Wait::EventUntil { deadline_us: handle.now_us() + 2_000_000 }).unwrap();
        driver.deliver(&mut log);
    }
    assert_eq!(log.datagrams.len(), 1);
}

#[test]
fn lasting_odd_errors_of_the_wait_are_fatal_and_rare_ones_are_counted() {
    let mut setup = SimSetup::roomy(9);
    setup.faults.set(Fault::EnterOdd, 10_000);
    let (mut driver, _handle) = driver(&setup);
    let entered = (0..1_000).find_map(|_| driver.enter(Wait::Poll).err());
    assert!(matches!(entered, Some(DriverError::System { operation: "io_uring_enter", .. })));
    assert_eq!(driver.receive_events().wait_errors, u64::from(WAIT_ERRORS_IN_A_ROW_MAX) + 1);
}

/// Everything at once: datagrams and packets go through whatever the kernel does, each once and in order.
#[test]
fn nothing_is_lost_on_bad_days() {
    for seed in 0..1_500 {
        bad_day(seed);
    }
}

fn bad_day(seed: u64) {
    let mut random = Random::new(seed ^ 0xBAD);
    let setup = SimSetup {
        listeners: random.between(1, 2) as usize,
        buffers: random.between(1, 24) as usize,
        sends_max: random.between(1, 12) as usize,
        submissions_max: random.between(1, 20) as usize,
        completions_max: random.between(1, 40) as usize,
        payload_bytes_max: 16,
        faults: Faults::mixed(&mut random),
        ..SimSetup::roomy(seed)
    };
    let (mut driver, handle) = driver(&setup);
    while driver.open_backend(SocketSlot(0), backend()).is_err() {}
    let start_us = handle.now_us();
    for number in 0..60u8 {
        let bytes = vec![number; random.below(20) as usize];
        let listener = random.below(setup.listeners as u64) as usize;
        handle.datagram_at(start_us + random.below(2_000), listener, bytes);
    }
    let mut log = Log { pause_every: random.below(5) as usize, ..Log::default() };
    let mut pushed = 0;
    let mut rounds = 0;
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
        if let Err(error) = driver.enter(wait) {
            panic!("seed {seed}: {error}");
        }
        check(&driver, &handle, seed);
        driver.deliver(&mut log);
        check(&driver, &handle, seed);
        rounds += 1;
        assert!(rounds < 100_000, "seed {seed}: {} and {}", log.datagrams.len(), log.sent.len());
    }
    let expected: Vec<(Vec<u8>, usize)> = handle.with_received(|received| {
        received.iter().map(|one| (one.bytes[..one.bytes_received].to_vec(), one.bytes.len())).collect()
    });
    assert_eq!(log.datagrams, expected, "seed {seed}");
    let texts: Vec<String> =
        log.sent.iter().map(|(bytes, _)| String::from_utf8_lossy(bytes).into()).collect();
    assert_eq!(texts, (0..60).map(|n| n.to_string()).collect::<Vec<_>>(), "seed {seed}");
    let sent = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::Sent);
    let accepted = handle.with_accepted(|all| all.iter().map(|one| one.bytes.to_vec()).collect::<Vec<_>>());
    assert!(sent.map(|(bytes, _)| bytes).eq(accepted.iter()), "seed {seed}");
    end(driver, handle, seed);
}

/// Cancels, and expects everything to come to rest.
fn end(mut driver: SimDriver, handle: SimHandle, seed: u64) {
    driver.fence().unwrap();
    let mut rounds = 0;
    while !driver.is_drained() {
        let _ = driver.enter(Wait::Poll);
        driver.deliver(&mut Log::default());
        rounds += 1;
        assert!(rounds < 1_000, "seed {seed}: never drained");
    }
    driver.cancel();
    while !driver.is_quiet() {
        let _ = driver.enter(Wait::Poll);
        driver.deliver(&mut Log::default());
        check(&driver, &handle, seed);
        rounds += 1;
        assert!(rounds < 10_000, "seed {seed}: never quiet");
    }
    assert!(handle.is_quiet(), "seed {seed}");
    let census = handle.census();
    assert_eq!((census.held, census.posted), (0, 0), "seed {seed}");
}
