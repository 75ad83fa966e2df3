//! Sends: finished when the submit returns, silent when they succeed, and what an earlier datagram's refusal does.

use super::bed::{
    Log, backend, bed, descriptor_connected_to, deserted, drive, has_error, limits, number, packet,
    wait_until,
};
use super::raw;
use io_uring::{opcode, squeue, types};
use nix::sys::socket::{SockaddrIn, getsockname};
use socket2::{Domain, Protocol, Socket, Type};
use statsring::driver::icmp_errors::IcmpErrors;
use statsring::driver::kernel::Kernel;
use statsring::driver::{errno, socket};
use statsring::packet::{SendOutcome, SocketSlot};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

const SLOT: SocketSlot = SocketSlot(0);

#[test]
fn a_send_is_finished_when_the_submit_returns_so_its_bytes_may_be_overwritten_at_once() {
    let Some(mut bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    bed.kernel.open_backend(SLOT, address).unwrap();
    let text =
        |round: usize, number: usize| format!("round {round:02}, packet {number:02}, {}", "x".repeat(700));
    for round in 0..20 {
        let mut packets: Vec<_> = (0..64).map(|number| packet(text(round, number).as_bytes(), 0)).collect();
        let mut results = Vec::new();
        bed.kernel.submit(&packets, &[1; 64], &mut results);
        assert_eq!(results, [0; 64]);
        for packet in &mut packets {
            let length = packet.len();
            packet.clear();
            assert!(packet.append(&vec![b'-'; length]));
        }
        let mut buffer = [0; 1_024];
        for number in 0..64 {
            let length = backend.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), text(round, number));
        }
    }
}

#[test]
fn each_message_of_a_submission_has_its_own_result_and_the_others_go() {
    let Some(mut bed) = bed(&limits()) else { return };
    let (backend, address) = backend();
    bed.kernel.open_backend(SLOT, address).unwrap();
    let packets = [
        packet(b"first", 0),
        packet(&[b'x'; 65_508], 0),
        packet(b"to a closed slot", 5),
        packet(b"to no slot", 5_000),
        packet(b"last", 0),
    ];
    let mut results = vec![7];
    bed.kernel.submit(&packets, &[1; 5], &mut results);
    assert_eq!(results, [7, 0, libc::EMSGSIZE, libc::EBADF, libc::EBADF, 0]);
    let mut buffer = [0; 16];
    for text in ["first", "last"] {
        let length = backend.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], text.as_bytes());
    }
    // What makes no sense is not sent, and nothing is written beyond what there is.
    results.clear();
    bed.kernel.submit(&packets[..1], &[2], &mut results);
    bed.kernel.submit(&[], &[0], &mut results);
    assert!(results.is_empty(), "{results:?}");
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
    let mut refuse_then_bind = || {
        let address = deserted();
        bed.kernel.open_backend(SLOT, address).unwrap();
        let fd = descriptor_connected_to(address);
        assert_eq!(bed.send(b"lost"), 0, "the first knows nothing yet");
        wait_until("the refusal is back", || has_error(fd));
        UdpSocket::bind(address).ok()
    };
    // Another program may take the port meanwhile.
    let backend = (0..20).find_map(|_| refuse_then_bind()).expect("a port that stays free");
    assert_eq!(bed.send(b"not sent"), libc::ECONNREFUSED);
    assert_eq!(bed.send(b"goes"), 0);
    assert_eq!(bed.send(b"too"), 0);
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
    bed.kernel.open_backend(SLOT, address).unwrap();
    let fd = descriptor_connected_to(address);
    for _ in 0..10 {
        bed.send(b"x");
        wait_until("the refusal is back", || has_error(fd));
    }
    assert!(has_error(fd), "the errors that sends reported are still in the queue");
    assert_eq!(bed.kernel.take_errors(SLOT).unwrap().first, libc::ECONNREFUSED);
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
    bed.kernel.open_backend(SLOT, address).unwrap();
    let fd = descriptor_connected_to(address);
    let own: SockaddrIn = getsockname(fd).unwrap();
    let answer = protocol_unreachable(own.port(), address.port());
    icmp.send_to(&answer, &SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    wait_until("the answer has come", || has_error(fd));
    let mut answers = IcmpErrors::default();
    answers.opened(SLOT);
    let mut send = |bytes: &[u8]| {
        let outcome = errno::send_outcome(-bed.send(bytes));
        answers.next_batch();
        answers.explain(SLOT, outcome, bed.kernel.take_errors(SLOT).unwrap_or_default())
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
fn the_driver_reports_every_second_send_to_a_deserted_port_as_refused() {
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
}
