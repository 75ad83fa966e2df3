//! Ending: what closing a descriptor does not do, and how polls are ended so that registered files are released at once.

use super::bed::sender_to;
use super::raw::{self, Raw, complete};
use io_uring::{opcode, types};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

#[test]
fn closing_a_descriptor_does_not_end_what_is_armed_on_it() {
    let Some(mut raw) = Raw::new(4, 512, 0, 0) else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    raw.recv(listener.as_raw_fd(), libc::MSG_TRUNC, 1);
    drop(listener);
    let sender = sender_to(address);
    sender.send(b"still heard").unwrap();
    let completion = &raw.complete(1)[0];
    assert_eq!(raw.received(completion), b"still heard");
}

#[test]
fn a_synchronous_cancel_ends_every_poll_and_registered_files_are_released() {
    let Some(mut ring) = raw::ring(true) else { return };
    let sockets: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let numbers: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    ring.submitter().register_files(&numbers).unwrap();
    for index in 0..2 {
        let poll = opcode::PollAdd::new(types::Fixed(index), libc::POLLIN as u32).build().user_data(7);
        // SAFETY: it points to nothing.
        unsafe { ring.submission().push(&poll) }.unwrap();
    }
    assert_eq!(ring.submit().unwrap(), 2);
    drop(sockets);
    let timeout = types::Timespec::from(Duration::from_secs(5));
    ring.submitter().register_sync_cancel(Some(timeout), types::CancelBuilder::any()).unwrap();
    let ended = complete(&mut ring, 2);
    assert!(ended.iter().all(|entry| entry.result() == -libc::ECANCELED), "{ended:?}");
    ring.submitter().unregister_files().unwrap();
    for address in addresses {
        UdpSocket::bind(address).expect("the port is free though the ring lives");
    }
    let again = ring.submitter().register_sync_cancel(Some(timeout), types::CancelBuilder::any());
    again.expect("with nothing armed it has nothing to do");
}
