//! Entering and waiting: when completions run, what a wait returns, how a batch is gathered.

use super::bed::{
    Bed, RECEIVE, WAKE, bed, bed_with, goes_on, limits, packet, send_token, sender_to, wait_until,
};
use super::raw;
use io_uring::opcode;
use statsring::driver::uring::KernelRing;
use statsring::driver::uring::ring::Ring;
use statsring::driver::{Driver, DriverLimits, Wait, clock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[test]
fn completions_appear_only_inside_an_enter_that_asks_for_events() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.arm();
    bed.send_and_see(b"one");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bed.ring.next_completion(), None, "looking without entering shows nothing");
    bed.ring.enter(Wait::Poll);
    assert!(bed.ring.next_completion().is_some());
}

#[test]
fn an_enter_without_getevents_runs_no_completion() {
    let Some(mut raw) = raw::Raw::new(4, 512, 0, 0) else { return };
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = sender_to(listener.local_addr().unwrap());
    raw.receive(std::os::fd::AsRawFd::as_raw_fd(&listener), libc::MSG_TRUNC, 1);
    sender.send(b"one").unwrap();
    let mut byte = [0];
    wait_until("it is queued", || listener.peek(&mut byte).is_ok());
    // SAFETY: no argument is passed.
    unsafe { raw.ring.submitter().enter::<libc::sigset_t>(0, 0, 0, None) }.unwrap();
    assert_eq!(raw.ring.completion().len(), 0);
    assert_eq!(raw.complete(1).len(), 1);
}

#[test]
fn etime_comes_only_if_nothing_was_submitted_and_nothing_came() {
    let Some(mut bed) = bed(&limits()) else { return };
    let soon = || clock::now_us() + 2_000;
    assert!(bed.ring.receive(0, RECEIVE));
    let entered = bed.ring.enter(Wait::EventUntil { deadline_us: soon() });
    assert_eq!((entered.consumed, entered.errno), (1, 0), "something was submitted");
    let entered = bed.ring.enter(Wait::EventUntil { deadline_us: soon() });
    assert_eq!((entered.consumed, entered.errno), (0, libc::ETIME));
    let entered = bed.ring.enter(Wait::GatherUntil { deadline_us: soon() });
    assert_eq!((entered.consumed, entered.errno), (0, libc::ETIME));
    bed.send_and_see(b"one");
    let entered = bed.ring.enter(Wait::GatherUntil { deadline_us: soon() });
    assert_eq!((entered.consumed, entered.errno), (0, 0), "something came");
    assert!(bed.ring.next_completion().is_some());

    let (mut driver, _sender) = bed.into_driver();
    driver.enter(Wait::EventUntil { deadline_us: soon() }).unwrap();
    driver.enter(Wait::EventUntil { deadline_us: soon() }).unwrap();
    assert_eq!(driver.receive_events().wait_errors, 0);
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
fn a_signal_ends_a_wait_with_eintr_which_is_normal() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.arm();
    let far = clock::now_us() + 60_000_000;
    for wait in [Wait::Event, Wait::EventUntil { deadline_us: far }, Wait::GatherUntil { deadline_us: far }] {
        let entered = interrupted(|| bed.ring.enter(wait));
        assert_eq!(entered.errno, libc::EINTR, "{wait:?}");
    }
    let (mut driver, _sender) = bed.into_driver();
    driver.enter(Wait::Poll).unwrap();
    interrupted(|| driver.enter(Wait::Event)).unwrap();
    assert_eq!(driver.receive_events().wait_errors, 0);
    assert!(driver.is_armed());
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

/// Compiles only as long as the driver's ring is not `Send`: for a type that is, both implementations fit.
#[test]
fn the_compiler_knows_that_a_ring_stays_in_its_thread() {
    trait AmbiguousIfSend<Marker> {
        fn stays() {}
    }
    struct IsSend;
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}
    <KernelRing as AmbiguousIfSend<_>>::stays();
}

/// Times that this thread went to sleep by itself.
fn sleeps() -> i64 {
    // SAFETY: zeroes are a valid rusage, which outlives the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage.ru_nvcsw
    }
}

/// One gather while a thread sends; `None` if the sender was too slow for the deadline.
fn gather(bed: &mut Bed, datagrams: usize, sleep_us: u64) -> Option<i64> {
    let sender = sender_to(bed.address);
    let sent_us = Arc::new(AtomicU64::new(u64::MAX));
    let sent_at = Arc::clone(&sent_us);
    let deadline_us = clock::now_us() + sleep_us;
    let thread = std::thread::spawn(move || {
        for number in 0..datagrams {
            sender.send(&(number as u32).to_ne_bytes()).unwrap();
            if number % 100 == 99 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        sent_at.store(clock::now_us(), Ordering::Release);
    });
    let sleeps_before = sleeps();
    let entered = bed.ring.enter(Wait::GatherUntil { deadline_us });
    let slept = sleeps() - sleeps_before;
    assert_eq!(entered.errno, 0);
    assert!(clock::now_us() >= deadline_us, "only the clock ends it");
    let is_in_time = sent_us.load(Ordering::Acquire) < deadline_us;
    let mut completions: Vec<_> = std::iter::from_fn(|| bed.ring.next_completion()).collect();
    assert!(!bed.ring.has_overflowed());
    thread.join().unwrap();
    if is_in_time {
        assert_eq!(completions.len(), datagrams, "all of them, in one enter");
    } else {
        while completions.len() < datagrams {
            completions.extend(bed.complete_one_more());
        }
    }
    for (number, completion) in completions.iter().enumerate() {
        assert!(goes_on(*completion));
        assert_eq!(&bed.received(*completion)[16..], (number as u32).to_ne_bytes());
        bed.give_back(*completion);
    }
    is_in_time.then_some(slept)
}

impl Bed {
    fn complete_one_more(&mut self) -> Option<statsring::driver::uring::ring::Completion> {
        self.ring.enter(Wait::EventUntil { deadline_us: clock::now_us() + 100_000 });
        self.ring.next_completion()
    }
}

/// Major and minor version of the running kernel.
fn release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse().ok());
    (numbers.next().expect("a major version"), numbers.next().expect("a minor version"))
}

#[test]
fn a_wait_for_many_sleeps_to_its_deadline_and_then_brings_thousands() {
    let many = DriverLimits { buffers: 4_096, buffer_bytes: 64, ..limits() };
    let Some(mut bed) = bed(&many) else { return };
    bed.arm();
    // A small datagram takes about 832 bytes of a receive buffer; without privileges there may not be room for thousands.
    let datagrams = (bed.ring.facts().receive_buffer_bytes / 832 / 2).min(3_000);
    // A busy machine may send too slowly; then the sleep is made longer.
    let slept = (0..6).find_map(|round| gather(&mut bed, datagrams, 150_000 << round));
    let slept = slept.expect("a sender that is done within ten seconds");
    if release() >= (6, 7) {
        assert!(slept <= 20, "{slept} sleeps for {datagrams} datagrams: it woke for each");
    } else {
        // Before 6.7 every datagram wakes the sleeper, though the enter goes on to its deadline.
        assert!(slept > 1, "{slept} sleeps for {datagrams} datagrams: lazy wake-ups before Linux 6.7");
    }
}

#[test]
fn what_does_not_fit_the_receive_buffer_is_dropped_and_told_by_so_meminfo() {
    let Some(mut bed) = bed_with(&DriverLimits { buffers: 1_024, ..limits() }, 16 << 10) else { return };
    assert_eq!(bed.ring.kernel_drops(0), 0);
    for _ in 0..500 {
        bed.sender.send(b"one").unwrap();
    }
    bed.arm();
    let received = bed.linger().len() as u64;
    let dropped = bed.ring.kernel_drops(0);
    assert!(received > 0 && dropped > 0, "{received} received, {dropped} dropped");
    assert_eq!(received + dropped, 500);
    assert_eq!(bed.ring.kernel_drops(0), dropped, "reading does not reset it");
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
fn the_completion_queue_has_room_for_everything_that_can_be_under_way() {
    for (buffers, sends_max) in [(1, 1), (64, 64), (1_021, 512)] {
        let Some(mut bed) = bed(&DriverLimits { buffers, sends_max, ..limits() }) else { return };
        assert!(bed.ring.receive(0, RECEIVE) && bed.ring.read_wake(WAKE));
        bed.ring.enter(Wait::Poll);
        for _ in 0..buffers + 10 {
            bed.sender.send(b"x").unwrap();
        }
        bed.waker.wake();
        for slot in 0..sends_max {
            assert!(bed.ring.send(slot, packet(b"x", 0), send_token(slot)).is_ok());
        }
        // Without sleeping, the kernel takes a few dozen datagrams in one enter; until the deadline, all of them.
        bed.ring.enter(Wait::GatherUntil { deadline_us: clock::now_us() + 50_000 });
        assert!(bed.ring.cancel(RECEIVE, super::bed::CANCEL) && bed.ring.cancel(WAKE, super::bed::CANCEL));
        bed.ring.enter(Wait::Poll);
        assert!(!bed.ring.has_overflowed());
        let completions = std::iter::from_fn(|| bed.ring.next_completion()).count();
        // Each buffer, ENOBUFS, each send's error, the wake, two cancels.
        assert_eq!(completions, buffers + 1 + sends_max + 1 + 2);
    }
}

#[test]
fn completions_beyond_the_queue_wait_in_the_kernel_and_none_is_lost() {
    let Some(mut bed) = bed(&DriverLimits { buffers: 1, sends_max: 1, ..limits() }) else { return };
    let mut sends = 0;
    while !bed.ring.has_overflowed() {
        // The socket slot is empty, so each send completes with an error, which nobody takes.
        bed.send(0, b"x");
        bed.ring.enter(Wait::Poll);
        assert!(bed.ring.take_packet(0).is_some());
        sends += 1;
        assert!(sends < 10_000, "it never overflows");
    }
    let in_queue = std::iter::from_fn(|| bed.ring.next_completion()).count();
    assert!(in_queue < sends, "{in_queue} of {sends}");
    bed.ring.enter(Wait::Poll);
    assert!(!bed.ring.has_overflowed());
    let late = std::iter::from_fn(|| bed.ring.next_completion()).count();
    assert_eq!(in_queue + late, sends);
}
