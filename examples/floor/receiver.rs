//! A UDP listener that is drained by recvmmsg(2), in the cheapest way found: few warm buffers, no name, no control data.
//!
//! In: an address, the receive buffer to ask for. Out: each datagram's bytes. Next: `rhythm.rs`, which says when to drain.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::{null_mut, read_unaligned};
use std::time::Duration;

/// Datagrams that one call may bring: few enough that the buffers of small ones stay in the cache.
const DATAGRAMS: usize = 64;
/// The longest datagram that is taken whole, as statsring's `maxDatagramSize`.
const DATAGRAM_BYTES_MAX: usize = 8_192;
/// From buffer to buffer: one cache line more than a power of two, or the first lines of all would share a cache set.
const STRIDE_BYTES: usize = DATAGRAM_BYTES_MAX + 64;
/// How often a call that waits for a datagram returns without one, so that a signal just before it is noticed.
const WAIT: Duration = Duration::from_secs(1);
/// SK_MEMINFO_DROPS and SK_MEMINFO_VARS of linux/sock_diag.h.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_VARS: usize = 9;

/// The listener and its buffers.
pub struct Receiver {
    socket: UdpSocket,
    messages: Box<[libc::mmsghdr]>,
    /// `messages` points to them; they point to `memory`.
    _vectors: Box<[libc::iovec]>,
    memory: Box<[u8]>,
}

impl Receiver {
    /// Binds `address` and asks for a receive buffer of `asked_bytes`, past the host's limit if that is allowed.
    pub fn bind(address: SocketAddr, asked_bytes: usize) -> io::Result<Receiver> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(WAIT))?;
        let asked = libc::c_int::try_from(asked_bytes).unwrap_or(libc::c_int::MAX);
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, asked)
            .or_else(|_| set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, asked))?;
        let mut memory = vec![0; DATAGRAMS * STRIDE_BYTES].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = memory
            .chunks_exact_mut(STRIDE_BYTES)
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_BYTES_MAX })
            .collect();
        let message_of = |vector: &mut libc::iovec| {
            // SAFETY: zeroes are a valid mmsghdr: no name, no control data, no buffers.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let messages = vectors.iter_mut().map(message_of).collect();
        Ok(Receiver { socket, messages, _vectors: vectors, memory })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The receive buffer as granted, in bytes of kernel memory.
    pub fn granted_bytes(&self) -> io::Result<usize> {
        let granted: libc::c_int = self.option(libc::SO_RCVBUF)?;
        Ok(usize::try_from(granted).unwrap_or(0))
    }

    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub fn drops(&self) -> io::Result<u32> {
        Ok(self.option::<[u32; MEMINFO_VARS]>(libc::SO_MEMINFO)?[MEMINFO_DROPS])
    }

    /// Gives `each` every datagram that is queued, and returns how many. With `waits` it waits for the first one, for up to a
    /// second or until a signal.
    pub fn drain(&mut self, waits: bool, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut flags = if waits { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let mut drained = 0;
        loop {
            // SAFETY: as many headers as told; each points to one vector of this struct, and that to as many bytes of
            // `memory` as it says. Nobody else uses them during the call.
            let received = unsafe {
                let messages = self.messages.as_mut_ptr();
                libc::recvmmsg(self.socket.as_raw_fd(), messages, DATAGRAMS as _, flags, null_mut())
            };
            let Ok(received) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                let is_empty = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                return if is_empty { Ok(drained) } else { Err(error) };
            };
            let buffers = self.memory.chunks_exact(STRIDE_BYTES);
            for (message, buffer) in self.messages.iter().zip(buffers).take(received) {
                each(&buffer[..message.msg_len as usize]);
            }
            drained += received;
            if received < DATAGRAMS {
                return Ok(drained);
            }
            flags = libc::MSG_DONTWAIT;
        }
    }

    /// A socket option at SOL_SOCKET of a plain integer type.
    fn option<T: Copy>(&self, name: libc::c_int) -> io::Result<T> {
        let mut value = [0_u8; 64];
        let mut length = size_of::<T>().min(value.len()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, and `value` has as many.
        let answer = unsafe {
            let fd = self.socket.as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: T is made of integers and not larger than `value`.
        Ok(unsafe { read_unaligned(value.as_ptr().cast()) })
    }
}

/// Sets a socket option that is an integer.
pub fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one integer, which outlives the call.
    let answer = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
