//! Multishot receives that do not wait, into provided buffers: what a completion brings, and what ends them.

use super::bed::{header, sender_to, stamp_arrivals, wait_until};
use super::raw::Raw;
use io_uring::cqueue;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use statsring::driver::clock::{self, AREA_BYTES, stamp_ns};
use statsring::driver::gro::{self, segment_bytes};
use statsring::driver::socket::{ListenOptions, bind_listeners, join_datagrams, joins_datagrams};
use statsring::driver::uring::cqe::{HEADER_BYTES, control, parse};
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const DONTWAIT: i32 = libc::MSG_DONTWAIT | libc::MSG_TRUNC;

/// A ring with buffers, a listening socket, and a sender to it.
struct Bed {
    raw: Raw,
    listener: UdpSocket,
    sender: UdpSocket,
}

fn bed(buffers: usize, buffer_bytes: usize, name_bytes: u32, control_bytes: usize) -> Option<Bed> {
    let raw = Raw::new(buffers, buffer_bytes, name_bytes, control_bytes)?;
    let listen = ["127.0.0.1:0".parse().unwrap()];
    let mut listeners = bind_listeners(&listen, 1, ListenOptions::here(8 << 20)).unwrap();
    let listener = listeners.workers.remove(0).remove(0);
    listener.set_nonblocking(true).unwrap();
    let sender = sender_to(listener.local_addr().unwrap());
    Some(Bed { raw, listener, sender })
}

impl Bed {
    /// Sends, and waits until all are queued.
    fn send_all(&self, datagrams: &[&[u8]]) {
        for bytes in datagrams {
            self.sender.send(bytes).unwrap();
        }
        let mut byte = [0];
        wait_until("they are queued", || self.listener.peek(&mut byte).is_ok());
    }

    /// One RECV that does not wait; its completions.
    fn recv(&mut self) -> Vec<cqueue::Entry> {
        self.raw.recv(self.listener.as_raw_fd(), DONTWAIT, 1);
        self.raw.ring.completion().collect()
    }

    /// One RECVMSG that does not wait; its completions.
    fn recvmsg(&mut self) -> Vec<cqueue::Entry> {
        self.raw.receive(self.listener.as_raw_fd(), DONTWAIT, 1);
        self.raw.ring.completion().collect()
    }
}

fn results(completions: &[cqueue::Entry]) -> Vec<i32> {
    completions.iter().map(cqueue::Entry::result).collect()
}

/// Whether all but the last say that more is to come.
fn only_the_last_ends(completions: &[cqueue::Entry]) -> bool {
    let more: Vec<bool> = completions.iter().map(|entry| cqueue::more(entry.flags())).collect();
    more.split_last().is_some_and(|(last, others)| !last && others.iter().all(|more| *more))
}

#[test]
fn a_receive_that_does_not_wait_takes_what_is_queued_and_ends_with_eagain_within_the_enter() {
    let Some(mut bed) = bed(8, 64, 0, 0) else { return };
    bed.send_all(&[b"one", b"three"]);
    let completions = bed.recv();
    assert_eq!(results(&completions), [3, 5, -libc::EAGAIN]);
    assert!(only_the_last_ends(&completions));
    assert_eq!(bed.raw.received(&completions[0]), b"one", "RECV writes no header");
    assert_eq!(bed.raw.received(&completions[1]), b"three");
}

#[test]
fn a_buffer_that_comes_with_the_end_is_used_up_like_any_other() {
    let Some(mut bed) = bed(8, 64, 0, 0) else { return };
    let mut used = Vec::new();
    for _ in 0..2 {
        bed.send_all(&[b"one", b"two"]);
        let completions = bed.recv();
        assert_eq!(results(&completions), [3, 3, -libc::EAGAIN]);
        // Linux 6.1 names the buffer that it had chosen for the datagram that was not there; 6.18 does not.
        used.extend(completions.iter().filter_map(|entry| cqueue::buffer_select(entry.flags())));
    }
    let count = used.len();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), count, "a buffer that was named came again, though nobody gave it back");
}

#[test]
fn on_an_empty_queue_it_ends_at_once_and_nothing_is_armed() {
    let Some(mut bed) = bed(8, 64, 0, 0) else { return };
    assert_eq!(results(&bed.recv()), [-libc::EAGAIN]);
    bed.send_all(&[b"later"]);
    bed.raw.ring.submitter().submit_and_wait(0).unwrap();
    assert_eq!(bed.raw.ring.completion().len(), 0, "it does not hear what comes later");
    assert_eq!(results(&bed.recv()), [5, -libc::EAGAIN]);
}

#[test]
fn one_receive_takes_at_least_32_and_several_in_one_enter_take_all_in_order() {
    let Some(mut bed) = bed(600, 64, 0, 0) else { return };
    let numbers: Vec<[u8; 4]> = (0..500u32).map(u32::to_ne_bytes).collect();
    let datagrams: Vec<&[u8]> = numbers.iter().map(|number| &number[..]).collect();
    bed.send_all(&datagrams[..100]);
    let completions = bed.recv();
    let taken = completions.len() - 1;
    // Linux 6.1 has no limit, 6.18 one of 33.
    assert!((32..=100).contains(&taken), "{taken} in one receive");
    assert_eq!(completions[taken].result(), -libc::EAGAIN, "the end looks like that of an empty queue");
    bed.send_all(&datagrams[100..]);
    bed.raw.recv_times(bed.listener.as_raw_fd(), DONTWAIT, 16);
    let all: Vec<cqueue::Entry> = bed.raw.ring.completion().collect();
    let rest = all.iter().filter(|entry| entry.result() >= 0);
    let received = completions[..taken].iter().chain(rest).map(|entry| bed.raw.received(entry));
    assert!(received.eq(datagrams.iter().copied()), "each once, in order");
    assert_eq!(all.iter().filter(|entry| entry.result() == -libc::EAGAIN).count(), 16);
}

#[test]
fn with_msg_trunc_the_result_of_recv_is_the_true_length() {
    let Some(mut bed) = bed(8, 8, 0, 0) else { return };
    bed.send_all(&[b"12345678abcd", b"12345678", &[b'x'; 65_507]]);
    let completions = bed.recv();
    assert_eq!(results(&completions), [12, 8, 65_507, -libc::EAGAIN]);
    assert_eq!(bed.raw.buffer(&completions[0]), b"12345678");
    assert_eq!(bed.raw.buffer(&completions[2]), b"xxxxxxxx");
}

#[test]
fn an_empty_datagram_ends_recv_with_0_and_without_a_buffer() {
    let Some(mut bed) = bed(8, 64, 0, 0) else { return };
    bed.send_all(&[b"one", b"", b"three"]);
    let completions = bed.recv();
    assert_eq!(results(&completions), [3, 0]);
    assert!(only_the_last_ends(&completions));
    assert_eq!(cqueue::buffer_select(completions[1].flags()), None, "its buffer stays with the kernel");
    assert_eq!(results(&bed.recv()), [5, -libc::EAGAIN], "the next receive goes on behind it");
}

#[test]
fn without_a_free_buffer_the_receive_ends_with_enobufs_and_the_socket_keeps_what_it_has() {
    let Some(mut bed) = bed(2, 64, 0, 0) else { return };
    bed.send_all(&[b"a", b"b", b"c"]);
    let completions = bed.recv();
    assert_eq!(results(&completions), [1, 1, -libc::ENOBUFS]);
    assert_eq!(cqueue::buffer_select(completions[2].flags()), None);
    assert_eq!(results(&bed.recv()), [-libc::ENOBUFS]);
    let mut byte = [0];
    assert_eq!((bed.listener.recv(&mut byte).unwrap(), byte), (1, *b"c"));
}

#[test]
fn a_buffer_of_recvmsg_is_a_header_of_16_bytes_and_the_payload() {
    let Some(mut bed) = bed(8, 512, 0, 0) else { return };
    bed.send_all(&[b"gorets:1|c", b""]);
    let completions = bed.recvmsg();
    assert_eq!(completions[0].result(), 16 + 10, "the result counts the header");
    let received = bed.raw.received(&completions[0]);
    assert_eq!(header(received), [0, 0, 10, 0]);
    assert_eq!(&received[16..], b"gorets:1|c");
    // An empty datagram has a header too, and ends the receive.
    assert_eq!(completions[1].result(), 16);
    assert!(!cqueue::more(completions[1].flags()));
    assert_eq!(header(bed.raw.received(&completions[1])), [0, 0, 0, 0]);
}

#[test]
fn areas_for_name_and_control_are_before_the_payload_as_asked() {
    let Some(mut bed) = bed(4, 512, 128, 64) else { return };
    bed.send_all(&[b"gorets:1|c"]);
    let completions = bed.recvmsg();
    assert_eq!(completions[0].result(), 16 + 128 + 64 + 10);
    let received = bed.raw.received(&completions[0]);
    // The header tells how much of each area was used; where the payload starts depends on what was asked alone.
    let [name_bytes, control_bytes, payload_bytes, _] = header(received);
    assert_eq!((name_bytes, control_bytes, payload_bytes), (size_of::<libc::sockaddr_in>() as u32, 0, 10));
    assert_eq!(&received[16 + 128 + 64..], b"gorets:1|c");
}

#[test]
fn with_so_timestampns_the_control_area_holds_the_moment_of_arrival() {
    let Some(mut bed) = bed(4, 512, 0, AREA_BYTES) else { return };
    stamp_arrivals(&bed.listener, true);
    let before_ns = clock::wall_ns();
    bed.send_all(&[b"gorets:1|c"]);
    let after_ns = clock::wall_ns();
    let completions = bed.recvmsg();
    assert_eq!(completions[0].result(), 16 + 32 + 10);
    let received = bed.raw.received(&completions[0]);
    assert_eq!(header(received), [0, 32, 10, 0], "room for one timestamp is used to the last byte");
    assert_eq!(&received[48..], b"gorets:1|c");
    let stamp_ns = stamp_ns(control(received, 48)).expect("a timestamp");
    assert!((before_ns..=after_ns).contains(&stamp_ns), "{before_ns} {stamp_ns} {after_ns}");
}

#[test]
fn a_timestamp_without_room_leaves_the_datagram_as_it_is() {
    // As after a hand-over: another process has switched the option of the shared socket on.
    let Some(mut bed) = bed(4, 512, 0, 0) else { return };
    stamp_arrivals(&bed.listener, true);
    bed.send_all(&[b"gorets:1|c"]);
    let completions = bed.recvmsg();
    let received = bed.raw.received(&completions[0]);
    let [_, control_bytes, payload_bytes, flags] = header(received);
    assert_eq!((completions[0].result(), control_bytes, payload_bytes), (16 + 10, 0, 10));
    assert_eq!(flags, libc::MSG_CTRUNC as u32);
    assert_eq!(parse(received, HEADER_BYTES).unwrap().payload, b"gorets:1|c");
}

#[test]
fn room_without_a_timestamp_stays_empty() {
    // And the other way round: it has been switched off.
    let Some(mut bed) = bed(4, 512, 0, AREA_BYTES) else { return };
    stamp_arrivals(&bed.listener, true);
    stamp_arrivals(&bed.listener, false);
    bed.send_all(&[b"gorets:1|c"]);
    let completions = bed.recvmsg();
    let received = bed.raw.received(&completions[0]);
    assert_eq!(header(received), [0, 0, 10, 0]);
    assert_eq!(stamp_ns(control(received, 16 + AREA_BYTES)), None);
    assert_eq!(parse(received, 16 + AREA_BYTES).unwrap().payload, b"gorets:1|c");
}

/// Sends datagrams of `segment_bytes`, the last one possibly shorter, in one system call (UDP_SEGMENT).
fn send_joined(sender: &UdpSocket, bytes: &[u8], segment_bytes: u16) {
    let segments = [ControlMessage::UdpGsoSegments(&segment_bytes)];
    let sent = sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(bytes)], &segments, MsgFlags::empty(), None)
        .unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn udp_gro_joins_a_gso_batch_and_tells_the_length_of_its_segments_after_the_timestamp() {
    let Some(mut bed) = bed(16, 512, 0, AREA_BYTES + gro::AREA_BYTES) else { return };
    assert!(!joins_datagrams(&bed.listener).unwrap());
    send_joined(&bed.sender, b"aaabbbc", 3);
    join_datagrams(&bed.listener).unwrap();
    assert!(joins_datagrams(&bed.listener).unwrap());
    let payloads = |bed: &mut Bed| -> Vec<(Vec<u8>, Option<usize>, bool)> {
        let completions = bed.recvmsg();
        let received =
            completions.iter().filter(|entry| entry.result() > 0).map(|entry| bed.raw.received(entry));
        let prefix_bytes = HEADER_BYTES + AREA_BYTES + gro::AREA_BYTES;
        received
            .map(|received| {
                let control = control(received, prefix_bytes);
                let payload = parse(received, prefix_bytes).unwrap().payload.to_vec();
                (payload, segment_bytes(control), stamp_ns(control).is_some())
            })
            .collect()
    };
    // What arrived before stays as it was.
    assert_eq!(
        payloads(&mut bed),
        [(b"aaa".to_vec(), None, false), (b"bbb".to_vec(), None, false), (b"c".to_vec(), None, false)]
    );
    send_joined(&bed.sender, b"aaabbbc", 3);
    bed.send_all(&[b"ddd", b"eee"]);
    let alone = [(b"ddd".to_vec(), None), (b"eee".to_vec(), None)];
    let with = |stamp: bool| {
        let joined = (b"aaabbbc".to_vec(), Some(3));
        [joined]
            .into_iter()
            .chain(alone.clone())
            .map(|(bytes, length)| (bytes, length, stamp))
            .collect::<Vec<_>>()
    };
    assert_eq!(payloads(&mut bed), with(false));
    stamp_arrivals(&bed.listener, true);
    send_joined(&bed.sender, b"aaabbbc", 3);
    bed.send_all(&[b"ddd", b"eee"]);
    assert_eq!(payloads(&mut bed), with(true));
}

#[test]
fn without_room_for_it_the_length_of_joined_datagrams_is_lost() {
    // As by a process that does not know of the option of a socket that it was passed.
    for control_bytes in [0, gro::AREA_BYTES] {
        let Some(mut bed) = bed(8, 512, 0, control_bytes) else { return };
        join_datagrams(&bed.listener).unwrap();
        // A timestamp takes the room.
        stamp_arrivals(&bed.listener, true);
        send_joined(&bed.sender, b"aaabbbc", 3);
        let completions = bed.recvmsg();
        let received = bed.raw.received(&completions[0]);
        assert_ne!(header(received)[3] & libc::MSG_CTRUNC as u32, 0);
        assert_eq!(segment_bytes(control(received, HEADER_BYTES + control_bytes)), None);
        assert_eq!(parse(received, HEADER_BYTES + control_bytes).unwrap().payload, b"aaabbbc");
    }
}

#[test]
fn msg_trunc_in_the_submission_tells_a_cut_datagrams_true_length_in_the_header() {
    let Some(mut bed) = bed(4, 16 + 8, 0, 0) else { return };
    bed.send_all(&[b"12345678abcd", b"12345678"]);
    let completions = bed.recvmsg();
    assert_eq!(results(&completions), [16 + 8, 16 + 8, -libc::EAGAIN]);
    let received = bed.raw.received(&completions[0]);
    let [_, _, payload_bytes, flags] = header(received);
    assert_eq!(payload_bytes, 12, "the true length");
    assert_ne!(flags & libc::MSG_TRUNC as u32, 0);
    assert_eq!(&received[16..], b"12345678");
    assert_eq!(header(bed.raw.received(&completions[1])), [0, 0, 8, 0], "one that just fits is not cut");
}
