//! Waking and ending: the eventfd's read, cancels, what closing does not do, and a port that is free afterwards.

use super::bed::{
    Bed, CANCEL, Log, RECEIVE, WAKE, bed, bed_without_children, goes_on, limits, no_children, sender_to,
};
use super::raw::{Raw, complete};
use io_uring::opcode;
use statsring::driver::socket::bind_listeners;
use statsring::driver::uring::ring::{Completion, Ring};
use statsring::driver::{Driver, Wait};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_pending_read_of_the_eventfd_ends_the_sleep() {
    let Some(mut bed) = bed(&limits()) else { return };
    for _ in 0..5 {
        assert!(bed.ring.read_wake(WAKE));
        bed.ring.enter(Wait::Poll);
        assert_eq!(bed.ring.next_completion(), None, "it waits");
        let waker = Arc::clone(&bed.waker);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            waker.wake();
            waker.wake();
        });
        let completion = wait_for_event(&mut bed);
        assert_eq!((completion.token, completion.res), (WAKE, 8));
        thread.join().unwrap();
        // The second wake may have come after the read: it is kept for the next one.
        if bed.ring.read_wake(WAKE) && bed.linger().is_empty() {
            bed.waker.wake();
            bed.complete_one();
        }
    }
}

/// Sleeps without a timer until something completes.
fn wait_for_event(bed: &mut Bed) -> Completion {
    loop {
        bed.ring.enter(Wait::Event);
        if let Some(completion) = bed.ring.next_completion() {
            return completion;
        }
    }
}

#[test]
fn a_wake_before_the_read_is_armed_is_not_lost() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.waker.wake();
    bed.waker.wake();
    assert!(bed.ring.read_wake(WAKE));
    let completion = wait_for_event(&mut bed);
    assert_eq!((completion.token, completion.res), (WAKE, 8), "both as one");
    assert!(bed.ring.read_wake(WAKE));
    assert_eq!(bed.linger(), []);
}

#[test]
fn closing_a_descriptor_does_not_end_its_receive() {
    let Some(mut raw) = Raw::new(4, 512, 0, 0) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    raw.receive(listener.as_raw_fd(), libc::MSG_TRUNC, 1);
    drop(listener);
    let sender = sender_to(address);
    sender.send(b"still heard").unwrap();
    let completion = &raw.complete(1)[0];
    assert_eq!(&raw.received(completion)[16..], b"still heard");

    raw.submit(&opcode::AsyncCancel::new(1).build().user_data(2));
    let mut results: Vec<(u64, i32)> =
        complete(&mut raw.ring, 2).iter().map(|entry| (entry.user_data(), entry.result())).collect();
    results.sort_unstable();
    assert_eq!(results, [(1, -libc::ECANCELED), (2, 0)]);
}

/// The results of the receive and of the cancel, whichever came first.
fn results(completions: &[Completion]) -> (Vec<i32>, Vec<i32>) {
    let of = |token| completions.iter().filter(|one| one.token == token).map(|one| one.res).collect();
    (of(RECEIVE), of(CANCEL))
}

#[test]
fn a_cancel_by_token_ends_an_armed_receive_and_one_of_an_ended_receive_finds_nothing() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.arm();
    assert!(bed.ring.cancel(RECEIVE, CANCEL));
    let completions = bed.complete(2);
    assert!(completions.iter().all(|completion| !goes_on(*completion)));
    assert_eq!(results(&completions), (vec![-libc::ECANCELED], vec![0]));
    assert!(bed.ring.cancel(RECEIVE, CANCEL));
    assert_eq!(bed.complete_one().res, -libc::ENOENT);
}

#[test]
fn a_cancel_with_a_datagram_on_its_way_loses_nothing() {
    let Some(mut bed) = bed(&limits()) else { return };
    for round in 0..200u32 {
        bed.arm();
        bed.send_and_see(&round.to_ne_bytes());
        assert!(bed.ring.cancel(RECEIVE, CANCEL));
        let mut completions = Vec::new();
        let has_ended = |completions: &[Completion]| {
            let cancels = completions.iter().any(|one| one.token == CANCEL);
            cancels && completions.iter().any(|one| one.token == RECEIVE && !goes_on(*one))
        };
        while !has_ended(&completions) {
            completions.push(bed.complete_one_of_several());
        }
        if results(&completions).0.iter().all(|res| *res < 0) {
            // It was cancelled first: the datagram is still in the socket.
            bed.arm();
            completions = vec![bed.complete_one()];
            assert!(bed.ring.cancel(RECEIVE, CANCEL));
            bed.complete(2);
        }
        let datagram = *completions.iter().find(|one| one.res >= 16).expect("the datagram");
        assert_eq!(&bed.received(datagram)[16..], round.to_ne_bytes());
        bed.give_back(datagram);
    }
}

impl Bed {
    fn complete_one_of_several(&mut self) -> Completion {
        match self.ring.next_completion() {
            Some(completion) => completion,
            None => wait_for_event(self),
        }
    }
}

#[test]
fn a_cancelled_driver_comes_to_rest() {
    let Some(bed) = bed(&limits()) else { return };
    let (mut driver, sender) = bed.into_driver();
    driver.enter(Wait::Poll).unwrap();
    assert!(driver.is_armed());
    sender.send(b"queued").unwrap();
    come_to_rest(&mut driver);
    assert!(!driver.is_armed());
    assert_eq!((driver.buffers_held(), driver.stray_completions()), (0, 0));
}

/// Cancels, and enters until nothing is in flight.
fn come_to_rest(driver: &mut impl Driver) {
    driver.cancel();
    for _ in 0..1_000 {
        let deadline_us = driver.now_us() + 20_000;
        driver.enter(Wait::EventUntil { deadline_us }).unwrap();
        driver.deliver(&mut Log::default());
        if driver.is_quiet() {
            return;
        }
    }
    panic!("never quiet");
}

#[test]
fn the_port_is_free_as_soon_as_a_driver_at_rest_is_dropped() {
    for round in 0..20 {
        let children = no_children();
        let Some(bed) = bed_without_children(&limits(), 1 << 16, &children) else { return };
        let address = bed.address;
        let (mut driver, sender) = bed.into_driver();
        driver.enter(Wait::Poll).unwrap();
        sender.send(b"x").unwrap();
        driver.fence().unwrap();
        come_to_rest(&mut driver);
        drop(driver);
        if let Err(error) =
            bind_listeners(&[address], 1, statsring::driver::socket::ListenOptions::here(1 << 16))
        {
            panic!("round {round}: {error}");
        }
    }
}
