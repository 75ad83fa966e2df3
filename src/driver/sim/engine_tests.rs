//! What both engines do alike, on the fake kernel.

use super::*;
use crate::driver::{Driver, Engine, Events, Flow, Stamp};
use crate::packet::SendOutcome;

const ENGINES: [Engine; 2] = [Engine::IoUring, Engine::Portable];

/// Remembers what it is told.
#[derive(Default)]
struct Log {
    datagrams: Vec<(Vec<u8>, usize)>,
    stamps: Vec<Stamp>,
    /// Whether it went in a GSO batch, and what the kernel said.
    sent: Vec<(bool, SendOutcome)>,
}

impl Events for Log {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.datagrams.push((bytes.to_vec(), datagram_bytes));
        self.stamps.push(stamp);
        Flow::More
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        self.sent.push((packet.in_gso_batch, outcome));
    }
}

#[test]
fn an_answer_to_an_earlier_packet_says_nothing_about_trains() {
    for engine in ENGINES {
        let mut setup = SimSetup { engine, ..SimSetup::roomy(8) };
        setup.faults.set(Fault::SendAnswered, 10_000);
        let (mut driver, handle) = SimDriver::new(&setup);
        driver.open_backend(SocketSlot(0), "127.0.0.1:8125".parse().unwrap()).unwrap();
        for _ in 0..2 {
            for number in 10..30 {
                let mut packet = Packet::with_capacity(64);
                assert!(packet.append(number.to_string().as_bytes()));
                (packet.socket, packet.may_join) = (SocketSlot(0), true);
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
            assert!(log.sent.iter().any(|(in_gso_batch, _)| *in_gso_batch));
        }
        assert_eq!(handle.violations(), [""; 0]);
    }
}

#[test]
fn datagrams_are_told_with_the_moment_of_their_arrival_if_that_is_asked_for() {
    for engine in ENGINES {
        let prefix_bytes = SimSetup::STAMPED_PREFIX_BYTES;
        let setup = SimSetup { timestamps: true, prefix_bytes, engine, ..SimSetup::roomy(5) };
        let (mut driver, handle) = SimDriver::new(&setup);
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
        let prefix_bytes = SimSetup::STAMPED_PREFIX_BYTES;
        let cases = [
            (Fault::TimestampMissing, Stamp::Missing),
            (Fault::ControlTruncated, Stamp::Missing),
            (Fault::TimestampAbsurd, Stamp::Absurd),
        ];
        for (fault, expected) in cases {
            let mut setup = SimSetup { timestamps: true, prefix_bytes, engine, ..SimSetup::roomy(6) };
            setup.faults.set(fault, 10_000);
            let (mut driver, handle) = SimDriver::new(&setup);
            let mut log = Log::default();
            for after_us in 1..50 {
                handle.datagram_at(handle.now_us() + after_us, 0, b"x".as_slice());
            }
            while log.stamps.len() < 49 {
                driver.enter(Wait::GatherUntil { deadline_us: driver.now_us() + 2_000 }).unwrap();
                driver.deliver(&mut log);
            }
            assert_eq!(log.stamps, [expected; 49], "{}", fault.name());
            assert_eq!(driver.receive_events().bad_headers, 0);
        }
    }
}
