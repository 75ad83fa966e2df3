//! Sends: finished when the submit returns, silent when they succeed, and what an earlier datagram's refusal does.

use super::bed::{
    Bed, Log, backend, bed, descriptor_connected_to, deserted, drive, has_error, limits, number, packet,
    send_token, wait_until,
};
use super::raw;
use io_uring::{opcode, squeue, types};
use nix::sys::socket::{SockaddrIn, getsockname};
use socket2::{Domain, Protocol, Socket, Type};
use statsring::driver::icmp_errors::IcmpErrors;
use statsring::driver::uring::ring::Ring;
use statsring::driver::{Driver, DriverLimits, Wait, errno, socket};
use statsring::packet::{SendOutcome, SocketSlot};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

const SLOT: SocketSlot = SocketSlot(0);

#[test]
fn a_send_is_finished_when_the_submit_returns_so_its_bytes_may_be_overwritten_at_once() {
    let Some(mut bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    bed.ring.open_backend(SLOT, address).unwrap();
    for round in 0..20 {
        let text = |slot: usize| format!("round {round:02}, packet {slot:02}, {}", "x".repeat(700));
        for slot in 0..64 {
            bed.send(slot, text(slot).as_bytes());
        }
        assert_eq!(bed.ring.enter(Wait::Poll).consumed, 64);
        for slot in 0..64 {
            let mut packet = bed.ring.take_packet(slot).expect("consumed, so given back");
            let length = packet.len();
            packet.clear();
            assert!(packet.append(&vec![b'-'; length]));
        }
        assert_eq!(bed.ring.next_completion(), None, "a success posts nothing");
        let mut buffer = [0; 1_024];
        for slot in 0..64 {
            let length = backend.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), text(slot));
        }
    }
}

#[test]
fn a_packet_is_not_given_back_before_the_kernel_took_its_send() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.ring.open_backend(SLOT, backend().1).unwrap();
    bed.send(3, b"x");
    assert!(bed.ring.take_packet(3).is_none());
    assert!(bed.ring.send(3, packet(b"y", 0), send_token(3)).is_err(), "the slot is taken");
    bed.ring.enter(Wait::Poll);
    assert_eq!(bed.ring.take_packet(3).map(|packet| packet.bytes().to_vec()), Some(b"x".to_vec()));
}

#[test]
fn a_success_posts_nothing_and_each_error_posts_one_completion() {
    let Some(mut bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    bed.ring.open_backend(SLOT, address).unwrap();
    bed.send(0, b"first");
    bed.send(1, &[b'x'; 65_508]);
    assert!(bed.ring.send(2, packet(b"to a closed slot", 5), send_token(2)).is_ok());
    bed.send(3, b"last");
    assert_eq!(bed.ring.enter(Wait::Poll).consumed, 4);
    let mut told: Vec<_> = std::iter::from_fn(|| bed.ring.next_completion())
        .map(|completion| (completion.token, completion.res))
        .collect();
    told.sort_unstable_by_key(|(token, _)| token.index());
    assert_eq!(told, [(send_token(1), -libc::EMSGSIZE), (send_token(2), -libc::EBADF)]);
    assert_eq!(bed.linger(), []);
    let mut buffer = [0; 16];
    for text in ["first", "last"] {
        let length = backend.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], text.as_bytes(), "the others of the batch went");
    }
}

/// A send as the driver makes it, but for the flags of the message.
fn plain_send(socket: &UnixDatagram, message: &libc::msghdr, flags: i32, user_data: u64) -> squeue::Entry {
    opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), message)
        .flags(flags as u32)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(user_data)
}

#[test]
fn msg_dontwait_makes_a_full_socket_answer_eagain_where_a_send_would_else_be_parked() {
    let Some(mut ring) = raw::ring(true) else { return };
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    let bytes = [b'x'; 64];
    let mut iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zeroes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    let mut submit = |flags, user_data| {
        let entry = plain_send(&sender, &message, flags, user_data);
        // SAFETY: message, iovec and bytes outlive the ring's last use below.
        unsafe { ring.submission().push(&entry) }.unwrap();
        ring.submit_and_wait(0).unwrap();
        ring.completion().map(|entry| (entry.user_data(), entry.result())).collect::<Vec<_>>()
    };
    // The receiver's queue is short: it fills after a few.
    let full = (0..100_000).map(|number| submit(libc::MSG_DONTWAIT, number)).find(|told| !told.is_empty());
    let told = full.expect("a queue that is full at last");
    assert_eq!(told[0].1, -libc::EAGAIN);
    assert_eq!(submit(libc::MSG_DONTWAIT, 1 << 40), [(1 << 40, -libc::EAGAIN)], "at once, each time");
    assert_eq!(submit(0, 1 << 41), [], "without the flag it is parked");
    // Ends the parked one, so that nothing points to this stack any more.
    drop(receiver);
    let parked = raw::complete(&mut ring, 1);
    assert_eq!(parked[0].user_data(), 1 << 41);
    assert!(parked[0].result() < 0);
}

#[test]
fn a_later_send_reports_the_refusal_of_an_earlier_one_and_is_not_sent_itself_and_the_next_goes() {
    let Some(mut bed) = bed(&limits()) else { return };
    let send = |bed: &mut Bed, text: &[u8]| {
        bed.send(0, text);
        bed.ring.enter(Wait::Poll);
        assert!(bed.ring.take_packet(0).is_some());
        bed.ring.next_completion().map(|completion| completion.res)
    };
    let mut refuse_then_bind = || {
        let address = deserted();
        bed.ring.open_backend(SLOT, address).unwrap();
        let fd = descriptor_connected_to(address);
        assert_eq!(send(&mut bed, b"lost"), None, "the first knows nothing yet");
        wait_until("the refusal is back", || has_error(fd));
        UdpSocket::bind(address).ok()
    };
    // Another program may take the port meanwhile.
    let backend = (0..20).find_map(|_| refuse_then_bind()).expect("a port that stays free");
    assert_eq!(send(&mut bed, b"not sent"), Some(-libc::ECONNREFUSED));
    assert_eq!(send(&mut bed, b"goes"), None);
    assert_eq!(send(&mut bed, b"too"), None);
    backend.set_read_timeout(Some(super::bed::PATIENCE)).unwrap();
    let mut buffer = [0; 16];
    for text in ["goes", "too"] {
        let length = backend.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], text.as_bytes());
    }
}

#[test]
fn refusals_fill_the_error_queue_and_take_errors_empties_it() {
    let Some(mut bed) = bed(&limits()) else { return };
    let address = deserted();
    bed.ring.open_backend(SLOT, address).unwrap();
    let fd = descriptor_connected_to(address);
    for _ in 0..10 {
        bed.send(0, b"x");
        bed.ring.enter(Wait::Poll);
        assert!(bed.ring.take_packet(0).is_some());
        wait_until("the refusal is back", || has_error(fd));
    }
    while bed.ring.next_completion().is_some() {}
    assert!(has_error(fd), "the errors that sends reported are still in the queue");
    assert_eq!(bed.ring.take_errors(SLOT).unwrap().first, libc::ECONNREFUSED);
    assert!(!has_error(fd));
}

/// ICMP's "protocol unreachable" (RFC 792) about a datagram of 127.0.0.1 from one port to another, as it is sent.
fn protocol_unreachable(from: u16, to: u16) -> Vec<u8> {
    let (unreachable, protocol, udp) = (3, 2, 17);
    let mut message = vec![unreachable, protocol, 0, 0, 0, 0, 0, 0];
    // The header of the datagram, and the first eight bytes in it.
    message.extend([0x45, 0, 0, 29, 0, 0, 0, 0, 64, udp, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    message.extend([from.to_be_bytes(), to.to_be_bytes(), 9u16.to_be_bytes(), [0; 2]].concat());
    // RFC 1071.
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn an_icmp_answer_is_told_by_a_later_send_with_an_errno_that_could_be_its_own_and_the_queue_tells_them_apart()
{
    let Ok(icmp) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) else {
        return crate::skip::skip_unprivileged("only root may send ICMP messages");
    };
    let Some(mut bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    bed.ring.open_backend(SLOT, address).unwrap();
    let fd = descriptor_connected_to(address);
    let own: SockaddrIn = getsockname(fd).unwrap();
    let answer = protocol_unreachable(own.port(), address.port());
    icmp.send_to(&answer, &SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    wait_until("the answer has come", || has_error(fd));
    let mut answers = IcmpErrors::default();
    answers.opened(SLOT);
    let mut send = |bytes: &[u8]| {
        bed.send(0, bytes);
        bed.ring.enter(Wait::Poll);
        assert!(bed.ring.take_packet(0).is_some());
        let res = bed.ring.next_completion().map_or(0, |completion| completion.res);
        answers.next_batch();
        answers.explain(SLOT, errno::send_outcome(res), bed.ring.take_errors(SLOT).unwrap_or_default())
    };
    assert_eq!(send(b"not sent"), SendOutcome::Answered(libc::ENOPROTOOPT));
    assert_eq!(send(b"goes"), SendOutcome::Sent);
    assert_eq!(send(&[b'x'; 65_508]), SendOutcome::TooLong);
    let mut buffer = [0; 16];
    let length = backend.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"goes");
}

#[test]
fn without_clearing_the_error_queue_keeps_memory_and_every_refusal_adds_to_it() {
    let address = deserted();
    let socket = socket::connect_backend(address, 1 << 16).unwrap();
    for _ in 0..5 {
        let _ = socket.send(b"x");
        wait_until("the refusal is back", || has_error(number(&socket)));
    }
    let mut entries = 0;
    while has_error(number(&socket)) {
        entries += u32::from(take_error(&socket));
        assert!(entries <= 5);
    }
    // Every other of five sends was not sent, because it reported the refusal of the one before.
    assert_eq!(entries, 3);
}

/// Takes an entry out of the error queue, or the pending error.
fn take_error(socket: &UdpSocket) -> bool {
    let mut control = [0u64; 64];
    // SAFETY: zeroes are a valid msghdr; the control area outlives the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of_val(&control) as _;
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) >= 0
    }
}

#[test]
fn the_driver_tells_every_second_send_to_a_deserted_port_as_refused() {
    let Some(bed) = bed(&limits()) else { return };
    let address = deserted();
    let (mut driver, _sender) = bed.into_driver();
    driver.open_backend(SLOT, address).unwrap();
    let fd = descriptor_connected_to(address);
    let mut log = Log::default();
    for round in 0..5 {
        driver.push(packet(b"lost", 0)).unwrap();
        drive(&mut driver, &mut log, "the first's outcome", |log| log.sent.len() == 2 * round + 1);
        wait_until("the refusal is back", || has_error(fd));
        driver.push(packet(b"not sent", 0)).unwrap();
        drive(&mut driver, &mut log, "the second's outcome", |log| log.sent.len() == 2 * round + 2);
        assert!(!has_error(fd), "the driver empties the error queue");
    }
    let expected = [(b"lost".to_vec(), SendOutcome::Sent), (b"not sent".to_vec(), SendOutcome::Refused)];
    for pair in log.sent.chunks(2) {
        assert_eq!(pair, expected);
    }
    assert_eq!(driver.stray_completions(), 0);
}

#[test]
fn the_driver_gives_each_packet_of_a_mixed_batch_its_own_outcome() {
    let Some(bed) = bed(&DriverLimits { sends_max: 7, ..limits() }) else { return };
    let (backend, address) = backend();
    let (mut driver, _sender) = bed.into_driver();
    driver.open_backend(SLOT, address).unwrap();
    let long = vec![b'x'; 65_508];
    let mut log = Log::default();
    let mut buffer = [0; 16];
    for round in 0..30u8 {
        driver.push(packet(&[round, 1], 0)).unwrap();
        driver.push(packet(&long, 0)).unwrap();
        driver.push(packet(&[round, 2], 0)).unwrap();
        driver.push(packet(&[round, 3], 4)).unwrap();
        driver.push(packet(&[round, 4], 0)).unwrap();
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        let outcomes: Vec<SendOutcome> = log.sent.drain(..).map(|(_, outcome)| outcome).collect();
        use SendOutcome::{Failed, Sent, TooLong};
        assert_eq!(outcomes, [Sent, TooLong, Sent, Failed(libc::EBADF), Sent], "round {round}");
        for number in [1, 2, 4] {
            let length = backend.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [round, number]);
        }
    }
    assert_eq!((driver.sends_in_flight(), driver.stray_completions()), (0, 0));
}

fn joining(bytes: &[u8]) -> statsring::packet::Packet {
    let mut packet = packet(bytes, 0);
    packet.may_join = true;
    packet
}

#[test]
fn a_train_is_one_send_and_arrives_as_the_packets_it_was_made_of() {
    let Some(bed) = bed(&DriverLimits { sends_max: 40, ..limits() }) else { return };
    let (backend, address) = backend();
    let (mut driver, _sender) = bed.into_driver();
    driver.open_backend(SLOT, address).unwrap();
    let mut log = Log::default();
    let mut buffer = [0; 2_048];
    for round in 0..20u8 {
        // 19 of one length, 3 more than one GSO batch takes; then a shorter one, which ends its GSO batch; then one that is alone.
        let mut texts: Vec<Vec<u8>> = (0..19).map(|number| vec![number; 1_432]).collect();
        texts.push(vec![round; 7]);
        texts.push(vec![round; 1_432]);
        for text in &texts {
            driver.push(joining(text)).unwrap();
        }
        let told = log.sent.len() + texts.len();
        drive(&mut driver, &mut log, "all outcomes", |log| log.sent.len() == told);
        for text in &texts {
            let length = backend.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], text);
        }
    }
    assert!(log.sent.iter().all(|(_, outcome)| *outcome == SendOutcome::Sent));
    assert_eq!(driver.stray_completions(), 0);
}

#[test]
fn a_refused_train_comes_back_whole_and_no_more_are_made() {
    let Some(bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    let (mut driver, _sender) = bed.into_driver();
    driver.open_backend(SLOT, address).unwrap();
    let mut log = Log::default();
    let fd = descriptor_connected_to(address);
    let value: i32 = 1;
    // The kernel refuses GSO batches (EINVAL) on a socket without checksums.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const value).cast(), 4) };
    assert_eq!(set, 0);
    for _ in 0..2 {
        driver.push(joining(b"same length")).unwrap();
    }
    drive(&mut driver, &mut log, "the refusal", |log| log.sent.len() == 2);
    let refused = |outcome: &SendOutcome| *outcome == SendOutcome::GsoRefused(libc::EINVAL);
    assert!(log.sent.iter().all(|(_, outcome)| refused(outcome)), "{:?}", log.sent);
    for _ in 0..2 {
        driver.push(joining(b"same length")).unwrap();
    }
    drive(&mut driver, &mut log, "single sends", |log| log.sent.len() == 4);
    assert!(log.sent[2..].iter().all(|(_, outcome)| *outcome == SendOutcome::Sent), "{:?}", log.sent);
    let mut buffer = [0; 64];
    for _ in 0..2 {
        assert_eq!(backend.recv(&mut buffer).unwrap(), 11);
    }
}

#[test]
fn the_path_of_loopback_takes_the_longest_datagram() {
    let Some(bed) = bed(&limits()) else { return };
    let (_backend, address) = backend();
    let (mut driver, _sender) = bed.into_driver();
    assert_eq!(driver.path_payload_bytes(SLOT), None);
    driver.open_backend(SLOT, address).unwrap();
    assert_eq!(driver.path_payload_bytes(SLOT), Some(65_507));
}
