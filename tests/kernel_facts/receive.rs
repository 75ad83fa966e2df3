//! Multishot recvmsg into provided buffers: what a completion brings, and what ends it.

use super::bed::{Log, RECEIVE, bed, drive, goes_on, header, limits, sender_to, stamp_arrivals};
use super::raw::Raw;
use io_uring::cqueue;
use statsring::driver::control_messages::{AREA_BYTES, stamp_ns};
use statsring::driver::uring::header::{self as layout, HEADER_BYTES};
use statsring::driver::uring::ring::Ring;
use statsring::driver::{Delivered, Driver, DriverError, DriverLimits, Stamp, Wait, clock, prefix_bytes};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

#[test]
fn a_buffer_is_a_header_of_16_bytes_and_the_payload() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.arm();
    bed.sender.send(b"gorets:1|c").unwrap();
    let completion = bed.complete_one();
    assert_eq!(completion.token, RECEIVE);
    assert_eq!(completion.res, 16 + 10, "the result counts the header");
    assert!(goes_on(completion));
    let received = bed.received(completion);
    assert_eq!(header(received), [0, 0, 10, 0]);
    assert_eq!(&received[16..], b"gorets:1|c");
}

#[test]
fn areas_for_name_and_control_stand_before_the_payload_as_asked() {
    let Some(mut raw) = Raw::new(4, 512, 128, 64) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = sender_to(listener.local_addr().unwrap());
    raw.receive(listener.as_raw_fd(), libc::MSG_TRUNC, 1);
    sender.send(b"gorets:1|c").unwrap();
    let completion = &raw.complete(1)[0];
    assert_eq!(completion.result(), 16 + 128 + 64 + 10);
    let received = raw.received(completion);
    // The header tells how much of each area was used; where the payload starts depends on what was asked alone.
    let [name_bytes, control_bytes, payload_bytes, _] = header(received);
    assert_eq!((name_bytes, control_bytes, payload_bytes), (size_of::<libc::sockaddr_in>() as u32, 0, 10));
    assert_eq!(&received[16 + 128 + 64..], b"gorets:1|c");
}

/// Bounds as `limits`, with timestamps.
fn stamped_limits() -> DriverLimits {
    DriverLimits { timestamps: true, buffer_bytes: prefix_bytes(true) + 240, ..limits() }
}

#[test]
fn with_so_timestampns_the_control_area_holds_the_moment_of_arrival() {
    let Some(mut bed) = bed(&stamped_limits()) else { return };
    let before_ns = clock::wall_ns();
    bed.arm();
    bed.sender.send(b"gorets:1|c").unwrap();
    let completion = bed.complete_one();
    let after_ns = clock::wall_ns();
    assert_eq!(completion.res, 16 + 32 + 10);
    assert!(goes_on(completion));
    let received = bed.received(completion);
    assert_eq!(
        header(received),
        [0, 32, 10, 0],
        "room for one timestamp is used to the last byte, and nothing is cut"
    );
    assert_eq!(&received[48..], b"gorets:1|c");
    let stamp_ns = stamp_ns(layout::control(received, 48)).expect("a timestamp");
    assert!((before_ns..=after_ns).contains(&stamp_ns), "{before_ns} {stamp_ns} {after_ns}");
}

#[test]
fn the_driver_tells_arrivals_on_its_own_clock() {
    let Some(bed) = bed(&stamped_limits()) else { return };
    let (mut driver, sender) = bed.into_driver();
    let mut log = Log::default();
    let before_us = driver.now_us() as i64;
    for text in ["one", "", "three"] {
        sender.send(text.as_bytes()).unwrap();
    }
    drive(&mut driver, &mut log, "three datagrams", |log| log.datagrams.len() == 3);
    let after_us = driver.now_us() as i64;
    assert_eq!(log.datagrams[2], (b"three".to_vec(), 5));
    for stamp in &log.stamps {
        let Stamp::At(at_us) = stamp else { panic!("{:?}", log.stamps) };
        // Both clocks are told in whole µs, and are read one after the other.
        assert!((before_us - 1_000..=after_us + 1).contains(at_us), "{before_us} {at_us} {after_us}");
    }
}

#[test]
fn a_timestamp_without_room_leaves_the_datagram_as_it_is() {
    // As after a hand-over: another process has switched the option of the shared socket on.
    let Some(mut raw) = Raw::new(4, 512, 0, 0) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    stamp_arrivals(&listener, true);
    let sender = sender_to(listener.local_addr().unwrap());
    raw.receive(listener.as_raw_fd(), libc::MSG_TRUNC, 1);
    sender.send(b"gorets:1|c").unwrap();
    let completion = &raw.complete(1)[0];
    let received = raw.received(completion);
    let [_, control_bytes, payload_bytes, flags] = header(received);
    assert_eq!((completion.result(), control_bytes, payload_bytes), (16 + 10, 0, 10));
    assert_eq!(flags, libc::MSG_CTRUNC as u32);
    assert_eq!(layout::parse(received, HEADER_BYTES).unwrap().payload, b"gorets:1|c");
}

#[test]
fn room_without_a_timestamp_stays_empty() {
    // And the other way round: it has been switched off.
    let Some(mut raw) = Raw::new(4, 512, 0, AREA_BYTES) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    stamp_arrivals(&listener, true);
    stamp_arrivals(&listener, false);
    let sender = sender_to(listener.local_addr().unwrap());
    raw.receive(listener.as_raw_fd(), libc::MSG_TRUNC, 1);
    sender.send(b"gorets:1|c").unwrap();
    let completion = &raw.complete(1)[0];
    let received = raw.received(completion);
    assert_eq!(header(received), [0, 0, 10, 0]);
    assert_eq!(stamp_ns(layout::control(received, 16 + AREA_BYTES)), None);
    assert_eq!(layout::parse(received, 16 + AREA_BYTES).unwrap().payload, b"gorets:1|c");
}

#[test]
fn a_datagram_without_payload_ends_the_receive_with_a_good_result() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.arm();
    bed.sender.send(b"").unwrap();
    let completion = bed.complete_one();
    assert_eq!(completion.res, 16);
    assert!(!goes_on(completion), "{completion:?}");
    assert_eq!(header(bed.received(completion)), [0, 0, 0, 0]);
    bed.give_back(completion);

    bed.send_and_see(b"next");
    assert_eq!(bed.linger(), [], "a receive that ended is deaf");
    bed.arm();
    let completion = bed.complete_one();
    assert_eq!(&bed.received(completion)[16..], b"next");
}

#[test]
fn the_driver_arms_again_after_a_datagram_without_payload() {
    let Some(bed) = bed(&limits()) else { return };
    let (mut driver, sender) = bed.into_driver();
    let mut log = Log::default();
    for text in ["one", "", "two", "", "", "three"] {
        sender.send(text.as_bytes()).unwrap();
    }
    drive(&mut driver, &mut log, "six datagrams", |log| log.datagrams.len() == 6);
    let lengths: Vec<usize> = log.datagrams.iter().map(|(bytes, _)| bytes.len()).collect();
    assert_eq!(lengths, [3, 0, 3, 0, 0, 5]);
    let events = driver.receive_events();
    assert_eq!((events.zero_length, events.armed), (3, 4), "{events:?}");
    assert_eq!((events.errors, events.bad_headers, driver.stray_completions()), (0, 0, 0));
}

#[test]
fn without_a_free_buffer_the_receive_ends_with_enobufs_and_the_socket_keeps_what_it_has() {
    let Some(mut bed) = bed(&DriverLimits { buffers: 2, ..limits() }) else { return };
    for text in ["a", "b", "c", "d"] {
        bed.sender.send(text.as_bytes()).unwrap();
    }
    bed.arm();
    let completions = bed.complete(3);
    assert!(goes_on(completions[0]) && goes_on(completions[1]));
    assert_eq!(&bed.received(completions[1])[16..], b"b");
    assert_eq!(completions[2].res, -libc::ENOBUFS);
    assert!(!goes_on(completions[2]));
    assert_eq!(cqueue::buffer_select(completions[2].flags), None);

    // Arming again before a buffer is back fails at once, so a driver that does it spins.
    for _ in 0..3 {
        bed.arm();
        let completion = bed.ring.next_completion().expect("its end, in the same enter");
        assert_eq!(completion.res, -libc::ENOBUFS);
        assert!(!goes_on(completion));
    }

    assert!(!bed.ring.is_queue_empty());
    bed.give_back(completions[0]);
    bed.give_back(completions[1]);
    bed.arm();
    let completions = bed.complete(3);
    assert_eq!(&bed.received(completions[0])[16..], b"c");
    assert_eq!(&bed.received(completions[1])[16..], b"d");
    assert_eq!(completions[2].res, -libc::ENOBUFS);
}

#[test]
fn an_armed_receive_of_an_idle_socket_with_no_buffer_ends_at_once_too() {
    let Some(mut bed) = bed(&DriverLimits { buffers: 1, ..limits() }) else { return };
    bed.arm();
    bed.send_and_see(b"only");
    let completions = bed.complete(2);
    assert!(goes_on(completions[0]));
    assert_eq!(completions[1].res, -libc::ENOBUFS, "no datagram has to come for it");
    assert!(bed.ring.is_queue_empty());
}

#[test]
fn the_driver_takes_everything_in_order_with_hardly_any_buffers() {
    let Some(bed) = bed(&DriverLimits { buffers: 3, ..limits() }) else { return };
    let (mut driver, sender) = bed.into_driver();
    for number in 0..200u32 {
        sender.send(&number.to_ne_bytes()).unwrap();
    }
    let mut log = Log::default();
    drive(&mut driver, &mut log, "200 datagrams", |log| log.datagrams.len() == 200);
    let expected: Vec<_> = (0..200u32).map(|number| (number.to_ne_bytes().to_vec(), 4)).collect();
    assert_eq!(log.datagrams, expected);
    let events = driver.receive_events();
    assert!(events.no_buffers > 0 && events.errors == 0, "{events:?}");
    assert_eq!(driver.deliver(&mut log), Delivered::All);
    assert_eq!((driver.buffers_held(), driver.stray_completions()), (0, 0));
}

#[test]
fn msg_trunc_in_the_submission_tells_a_cut_datagrams_true_length() {
    let Some(mut bed) = bed(&DriverLimits { buffer_bytes: 16 + 8, ..limits() }) else { return };
    bed.arm();
    bed.sender.send(b"12345678abcd").unwrap();
    bed.sender.send(b"12345678").unwrap();
    let completions = bed.complete(2);
    assert_eq!((completions[0].res, goes_on(completions[0])), (16 + 8, true));
    let received = bed.received(completions[0]);
    let [_, _, payload_bytes, flags] = header(received);
    assert_eq!(payload_bytes, 12, "the true length");
    assert_ne!(flags & libc::MSG_TRUNC as u32, 0);
    assert_eq!(&received[16..], b"12345678");
    assert_eq!(header(bed.received(completions[1])), [0, 0, 8, 0], "one that just fits is not cut");
}

#[test]
fn without_msg_trunc_in_the_submission_the_true_length_is_not_told() {
    let Some(mut raw) = Raw::new(4, 16 + 8, 0, 0) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = sender_to(listener.local_addr().unwrap());
    raw.receive(listener.as_raw_fd(), 0, 1);
    sender.send(b"12345678abcd").unwrap();
    let completion = &raw.complete(1)[0];
    let [_, _, payload_bytes, flags] = header(raw.received(completion));
    assert_eq!(payload_bytes, 8);
    assert_ne!(flags & libc::MSG_TRUNC as u32, 0, "that it was cut is told all the same");
}

#[test]
fn the_driver_tells_a_cut_datagram_with_its_true_length() {
    let Some(bed) = bed(&DriverLimits { buffer_bytes: 16 + 8, ..limits() }) else { return };
    let (mut driver, sender) = bed.into_driver();
    sender.send(b"12345678abcd").unwrap();
    sender.send(&[b'x'; 65_507]).unwrap();
    let mut log = Log::default();
    drive(&mut driver, &mut log, "both", |log| log.datagrams.len() == 2);
    assert_eq!(log.datagrams, [(b"12345678".to_vec(), 12), (b"xxxxxxxx".to_vec(), 65_507)]);
}

#[test]
fn a_buffer_too_small_for_the_header_is_efault_and_fatal_to_the_driver() {
    let small = DriverLimits { buffer_bytes: 15, ..limits() };
    let Some(mut bed) = bed(&small) else { return };
    bed.sender.send(b"x").unwrap();
    bed.arm();
    let completion = bed.complete_one();
    assert_eq!(completion.res, -libc::EFAULT);
    assert!(!goes_on(completion));

    let Some(bed) = super::bed::bed(&small) else { return };
    let (mut driver, sender) = bed.into_driver();
    sender.send(b"x").unwrap();
    let error = (0..3).find_map(|_| driver.enter(Wait::Poll).err());
    match error {
        Some(DriverError::System { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EFAULT)),
        other => panic!("{other:?}"),
    }
}
