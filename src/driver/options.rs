//! Socket options and calls that the safe crates lack.
//!
//! In: descriptors of sockets that the caller owns. Out: numbers. Next: `socket.rs`, `endpoints.rs`.
//!
//! Invariant of this file: (O) every pointer handed to the kernel points to a local of the length handed with it, and so
//! does every pointer within such a local, or to a slice that is borrowed for the call.

#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

/// Indices of SO_MEMINFO's numbers (linux/sock_diag.h): the memory of packets that were sent and that the kernel still has,
/// and the drop count.
const MEMINFO_WMEM_ALLOC: usize = 2;
const MEMINFO_RMEM_ALLOC: usize = 0;
const MEMINFO_DROPS: usize = 8;
const MEMINFO_WORDS: usize = 9;
/// From asm-generic/socket.h; the safe crates have them for Android only.
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;

fn set<T>(socket: &impl AsRawFd, level: i32, option: i32, value: T) -> io::Result<()> {
    // SAFETY: (O); the kernel only reads the value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
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

/// Has the kernel tell with each datagram of this socket when it arrived, or not: a control message, SCM_TIMESTAMPNS.
pub fn stamp_arrivals(socket: &impl AsRawFd, is_on: bool) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, i32::from(is_on))
}

/// Has the kernel give each datagram to one of the first `sockets` (more than 0) of this socket's SO_REUSEPORT group at
/// random, whoever sent it.
pub fn spread_by_datagram(socket: &impl AsRawFd, sockets: u32) -> io::Result<()> {
    steer(socket, libc::SKF_AD_RANDOM, sockets, &[])
}

/// Has the kernel give each datagram to the socket of this socket's SO_REUSEPORT group whose index is that of the CPU on
/// which it arrives in `cpus`; one that arrives on another CPU, to that CPU's number modulo `sockets` (more than 0). Indices
/// are in the order in which the sockets were bound.
pub fn spread_by_cpu(socket: &impl AsRawFd, sockets: u32, cpus: &[usize]) -> io::Result<()> {
    steer(socket, libc::SKF_AD_CPU, sockets, cpus)
}

/// Attaches a program of classic BPF: load a number, return its index in `own`, else the number modulo `sockets`. The kernel
/// falls back to the sender if there is no socket of that index yet.
fn steer(socket: &impl AsRawFd, number: i32, sockets: u32, own: &[usize]) -> io::Result<()> {
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let number = (libc::SKF_AD_OFF + number) as u32;
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number)];
    for (index, own) in (0..sockets).zip(own) {
        let own = u32::try_from(*own).map_err(io::Error::other)?;
        // Where the remainder agrees no instruction is needed.
        if own % sockets != index {
            program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, own));
            program.push(step(libc::BPF_RET | libc::BPF_K, 0, index));
        }
    }
    program.push(step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, sockets));
    program.push(step(libc::BPF_RET | libc::BPF_A, 0, 0));
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let described = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, described)
}

/// Has the kernel choose among this socket's SO_REUSEPORT group by sender again; an error if it did already.
pub fn spread_by_flow(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0i32)
}

/// The longest payload that a connected UDP socket's path takes in one piece: the path's MTU, as far as the kernel knows
/// it, without the headers of IP and UDP, and no more than a datagram can carry.
pub fn path_payload_bytes(socket: &impl AsRawFd, is_ipv6: bool) -> io::Result<usize> {
    const DATAGRAM_BYTES_LIMIT: usize = 65_507;
    let (level, option, headers) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU, 40 + 8)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU, 20 + 8)
    };
    let mut mtu: i32 = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: (O).
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut length)
    };
    match usize::try_from(mtu).ok().and_then(|mtu| mtu.checked_sub(headers)) {
        Some(payload) if result == 0 => Ok(payload.min(DATAGRAM_BYTES_LIMIT)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is queued at this socket, in bytes of the receive buffer as the kernel charges them, and the datagrams that it dropped
/// there, modulo 2^32 (SO_MEMINFO, `sk_get_meminfo` of the kernel).
pub fn receive_memory(socket: &impl AsRawFd) -> io::Result<(u32, u32)> {
    let words = memory_info(socket)?;
    Ok((words[MEMINFO_RMEM_ALLOC], words[MEMINFO_DROPS]))
}

/// Memory of the packets that were sent by this socket and that no device has sent yet.
pub fn unsent_bytes(socket: &impl AsRawFd) -> io::Result<u32> {
    Ok(memory_info(socket)?[MEMINFO_WMEM_ALLOC])
}

fn memory_info(socket: &impl AsRawFd) -> io::Result<[u32; MEMINFO_WORDS]> {
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
    if result == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// Whether any of these sockets has something to read, without waiting.
pub fn is_any_readable(mut sockets: impl Iterator<Item = RawFd>) -> bool {
    sockets.any(|fd| {
        let mut poll = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        poll_now(&mut poll) > 0 && poll[0].revents & libc::POLLIN != 0
    })
}

/// Polls descriptors without waiting; how many have something, 0 also if that cannot be known.
pub fn poll_now(polls: &mut [libc::pollfd]) -> usize {
    // SAFETY: (O), for a slice instead of a local: the kernel reads and writes so many pollfds, which are borrowed for the
    // call.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) };
    usize::try_from(ready).unwrap_or(0)
}

/// ICMP answers of firewalls, as origin, type and code: RFC 1812 5.2.7.1 and RFC 4443 3.1.
const PROHIBITED: [(u8, u8, u8); 5] = [
    (libc::SO_EE_ORIGIN_ICMP, 3, 9),
    (libc::SO_EE_ORIGIN_ICMP, 3, 10),
    (libc::SO_EE_ORIGIN_ICMP, 3, 13),
    (libc::SO_EE_ORIGIN_ICMP6, 1, 1),
    (libc::SO_EE_ORIGIN_ICMP6, 1, 5),
];

/// An entry of a socket's error queue as the kernel wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakenError {
    /// Its errno; 0 if it cannot be told.
    pub errno: i32,
    /// It is an ICMP answer.
    pub is_answer: bool,
    /// It says that a firewall rejects such packets (ICMP "administratively prohibited").
    pub is_prohibited: bool,
    /// Who sent that answer.
    pub reporter: Option<IpAddr>,
}

/// Takes one entry out of a socket's error queue; `None` if the queue was empty.
pub fn take_error(socket: &impl AsRawFd) -> Option<TakenError> {
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
    if result < 0 {
        return None;
    }
    // SAFETY: (O): the kernel has set the control area's length, which is within `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let is_error = |header: &&libc::cmsghdr| {
        let sort = (header.cmsg_level, header.cmsg_type);
        matches!(sort, (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR))
            && header.cmsg_len >= size_of::<libc::cmsghdr>() + size_of::<libc::sock_extended_err>()
    };
    let Some(header) = header.filter(is_error) else { return Some(TakenError::default()) };
    // SAFETY: (O); such a message carries a sock_extended_err, whose length was just looked at, at any alignment.
    let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
    // SAFETY: (O): so many bytes of the message lie within `control`, as the kernel has set its length.
    let data = unsafe {
        let data_bytes = header.cmsg_len - size_of::<libc::cmsghdr>();
        std::slice::from_raw_parts(libc::CMSG_DATA(header).cast_const(), data_bytes)
    };
    let sort = (error.ee_origin, error.ee_type, error.ee_code);
    Some(TakenError {
        errno: i32::try_from(error.ee_errno).unwrap_or(0),
        is_answer: matches!(error.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6),
        is_prohibited: PROHIBITED.contains(&sort),
        reporter: data.get(size_of::<libc::sock_extended_err>()..).and_then(ip_of),
    })
}

/// The address in a sockaddr of IP (SO_EE_OFFENDER).
fn ip_of(sockaddr: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(*sockaddr.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => sockaddr.get(4..)?.first_chunk().map(|bytes: &[u8; 4]| IpAddr::from(*bytes)),
        libc::AF_INET6 => sockaddr.get(8..)?.first_chunk().map(|bytes: &[u8; 16]| IpAddr::from(*bytes)),
        _ => None,
    }
}
