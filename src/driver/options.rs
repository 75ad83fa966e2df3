//! Socket options and calls that the safe crates lack.
//!
//! In: descriptors of sockets that the caller owns. Out: numbers. Next: `socket.rs`, `uring/kernel.rs`.
//!
//! Invariant of this file: (O) every pointer handed to the kernel points to a local of the length handed with it.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Index of the drop count in SO_MEMINFO's numbers (linux/sock_diag.h).
const MEMINFO_DROPS: usize = 8;
const MEMINFO_WORDS: usize = 9;

fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: (O).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for a receive buffer of `bytes`, beyond the host's limit if allowed.
pub fn ask_receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    ask_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)
}

/// Asks for a send buffer of `bytes`, beyond the host's limit if allowed.
pub fn ask_send_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    ask_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)
}

fn ask_buffer(socket: &impl AsRawFd, force: i32, plain: i32, bytes: usize) -> io::Result<()> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    set(socket, libc::SOL_SOCKET, force, value).or_else(|_| set(socket, libc::SOL_SOCKET, plain, value))
}

/// Has the kernel report ICMP answers and drops of queueing disciplines; without it a send answers success for them.
pub fn report_errors(socket: &impl AsRawFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

/// Datagrams that the kernel dropped at this socket, modulo 2^32.
pub fn drops(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut words = [0u32; MEMINFO_WORDS];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: (O); the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut words).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(words[MEMINFO_DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// Whether any of these sockets has something to read, without waiting.
pub fn is_any_readable(mut sockets: impl Iterator<Item = RawFd>) -> bool {
    sockets.any(|fd| {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: (O); it is one pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0 && poll.revents & libc::POLLIN != 0
    })
}

/// Takes one entry out of a socket's error queue; false if it was empty.
pub fn take_error(socket: &impl AsRawFd) -> bool {
    let mut payload = [0u8; 64];
    let mut control = [0u64; 64];
    let mut iov = libc::iovec { iov_base: (&raw mut payload).cast(), iov_len: payload.len() };
    // SAFETY: a msghdr of zeroes is valid: no name, no areas.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: (O); message, iov, payload and control outlive the call.
    let result = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    result >= 0
}
