//! Entering and waiting: what ends a sleep, which thread may enter, what one bad submission does.

use super::bed::{bed, bed_with, limits, packet};
use super::raw;
use io_uring::opcode;
use statsring::driver::kernel::{Drained, Kernel};
use statsring::driver::uring::IoUringKernel;
use statsring::driver::{DriverLimits, Wait, clock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_poll_of_a_readable_socket_ends_the_sleep_at_once_and_one_of_an_idle_socket_when_a_datagram_comes() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.send_and_see(b"one");
    bed.kernel.sleep(&[true], None).unwrap();
    assert!(bed.kernel.is_ready(0));
    assert_eq!(bed.kernel.drain(0, 8), Ok(Drained { datagrams: 1, unreadable: 0, is_empty: true }));
    let sender = bed.sender.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        sender.send(b"two").unwrap();
    });
    bed.kernel.sleep(&[true], None).unwrap();
    assert!(bed.kernel.is_ready(0));
    thread.join().unwrap();
    assert_eq!(bed.kernel.drain(0, 8).unwrap().datagrams, 1);
    assert_eq!(bed.kernel.datagram(0).payload, b"two");
}

#[test]
fn what_is_not_watched_does_not_end_a_sleep_and_a_wake_does() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.send_and_see(b"one");
    let deadline_us = clock::now_us() + 20_000;
    bed.kernel.sleep(&[false], Some(deadline_us)).unwrap();
    assert!(clock::now_us() >= deadline_us && !bed.kernel.is_ready(0));
    for _ in 0..5 {
        let waker = Arc::clone(&bed.waker);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            waker.wake();
            waker.wake();
        });
        bed.kernel.sleep(&[false], Some(clock::now_us() + 60_000_000)).unwrap();
        thread.join().unwrap();
        // The second wake may have come after the first was taken: it ends the next sleep.
        bed.kernel.sleep(&[false], Some(clock::now_us() + 1_000)).unwrap();
    }
    bed.waker.wake();
    bed.waker.wake();
    bed.kernel.sleep(&[false], None).unwrap();
    let deadline_us = clock::now_us() + 2_000;
    bed.kernel.sleep(&[false], Some(deadline_us)).unwrap();
    assert!(clock::now_us() >= deadline_us, "both wakes ended one sleep");
}

/// Does nothing; it is there so that the signal interrupts and does not kill.
extern "C" fn on_signal(_signal: libc::c_int) {}

/// Signals this thread again and again while `wait` runs.
fn interrupted<T>(wait: impl FnOnce() -> T) -> T {
    // SAFETY: zeroes are a valid sigaction; the handler does nothing, and no other test uses this signal.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
    }
    // SAFETY: takes nothing, gives the calling thread's handle.
    let thread = unsafe { libc::pthread_self() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                // SAFETY: the thread outlives this scope.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = wait();
        is_over.store(true, Ordering::Release);
        result
    })
}

#[test]
fn a_signal_ends_a_sleep_with_eintr_which_is_normal() {
    let Some(mut bed) = bed(&limits()) else { return };
    // An enter that submitted something returns without an error: here the polls are armed already.
    bed.kernel.sleep(&[true], Some(clock::now_us() + 1_000)).unwrap();
    for until_us in [None, Some(clock::now_us() + 60_000_000)] {
        assert_eq!(interrupted(|| bed.kernel.sleep(&[true], until_us)), Err(libc::EINTR));
    }
    let (mut driver, _sender) = bed.into_driver();
    driver.enter(Wait::Poll).unwrap();
    interrupted(|| driver.enter(Wait::Event)).unwrap();
    assert_eq!(driver.receive_events().wait_errors, 0);
    assert!(driver.is_reading());
}

#[test]
fn a_ring_belongs_to_the_thread_that_made_it() {
    let Some(mut ring) = raw::ring(true) else { return };
    // SAFETY: a nop points to nothing.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
    let (ring, elsewhere) = std::thread::spawn(move || {
        let submitted = ring.submit();
        (ring, submitted)
    })
    .join()
    .unwrap();
    assert_eq!(elsewhere.unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(ring.submit().unwrap(), 1, "its own thread may");
}

/// Compiles only as long as the io_uring kernel interface is not `Send`: for a type that is, both implementations fit.
#[test]
fn the_compiler_knows_that_a_ring_stays_in_its_thread() {
    trait AmbiguousIfSend<Marker> {
        fn stays() {}
    }
    struct IsSend;
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}
    <IoUringKernel as AmbiguousIfSend<_>>::stays();
}

#[test]
fn what_does_not_fit_the_receive_buffer_is_dropped_and_told_by_so_meminfo() {
    let Some(mut bed) = bed_with(&limits(), 16 << 10) else { return };
    assert_eq!(bed.kernel.receive_memory(0).drops, 0);
    for _ in 0..500 {
        bed.sender.send(b"one").unwrap();
    }
    let mut received = 0;
    while let drained = bed.kernel.drain(0, 64).unwrap()
        && drained.datagrams > 0
    {
        received += drained.datagrams as u64;
    }
    let dropped = bed.kernel.receive_memory(0).drops;
    assert!(received > 0 && dropped > 0, "{received} received, {dropped} dropped");
    assert_eq!(received + dropped, 500);
    assert_eq!(bed.kernel.receive_memory(0).drops, dropped, "reading does not reset it");
}

#[test]
fn one_bad_submission_does_not_stop_the_rest_of_its_batch() {
    // No personality is registered, so every kernel refuses it while it takes it, which is what can stop a batch. A msghdr at
    // a bad address does not do: Linux 6.1 reads it only when it carries the send out, and takes the rest whatever comes of it.
    let bad = || opcode::Nop::new().build().personality(9).user_data(2);
    for (submits_all, taken) in [(true, 3), (false, 2)] {
        let Some(mut ring) = raw::ring(submits_all) else { return };
        for entry in [opcode::Nop::new().build().user_data(1), bad(), opcode::Nop::new().build().user_data(3)]
        {
            // SAFETY: nothing is pointed to that the kernel may read.
            unsafe { ring.submission().push(&entry) }.unwrap();
        }
        assert_eq!(ring.submit_and_wait(1).unwrap(), taken, "with SUBMIT_ALL: {submits_all}");
        let results: Vec<(u64, i32)> =
            raw::complete(&mut ring, taken).iter().map(|entry| (entry.user_data(), entry.result())).collect();
        let failed = results.iter().find(|(user_data, _)| *user_data == 2).unwrap().1;
        assert!(failed < 0, "{results:?}");
        assert_eq!(results.iter().any(|(user_data, _)| *user_data == 3), submits_all);
    }
}

#[test]
fn the_queues_have_room_for_everything_that_one_call_may_bring() {
    for (buffers, sends_max) in [(1, 1), (64, 64), (256, 512)] {
        let Some(mut bed) = bed(&DriverLimits { buffers, sends_max, ..limits() }) else { return };
        // The polls are armed, and fire meanwhile.
        bed.kernel.sleep(&[true], Some(clock::now_us() + 1_000)).unwrap();
        for _ in 0..buffers + 10 {
            bed.sender.send(b"x").unwrap();
        }
        bed.waker.wake();
        // The socket slot is empty, so each send completes with an error.
        let packets: Vec<_> = (0..sends_max).map(|_| packet(b"x", 0)).collect();
        let mut results = Vec::new();
        bed.kernel.submit(&packets, &vec![1; sends_max], &mut results);
        assert_eq!(results, vec![libc::EBADF; sends_max]);
        let mut received = 0;
        while received < buffers + 10 {
            let drained = bed.kernel.drain(0, 1_024).unwrap();
            assert!(drained.datagrams > 0 && drained.datagrams <= buffers);
            received += drained.datagrams;
        }
    }
}
