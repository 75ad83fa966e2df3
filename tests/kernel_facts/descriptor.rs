//! A socket that the driver made, found by where it leads.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};

/// The descriptor in this process of the socket that is connected to `address`.
pub fn descriptor_connected_to(address: SocketAddr) -> RawFd {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let is_it = |fd: &RawFd| {
        // SAFETY: borrowed for one call; a number that is no longer open, or is something else, answers with an error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
        let peer = socket2::SockRef::from(&borrowed).peer_addr();
        peer.is_ok_and(|peer| peer.as_socket() == Some(address))
    };
    numbers.find(is_it).expect("a socket connected there")
}
