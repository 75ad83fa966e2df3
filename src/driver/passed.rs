//! Descriptors passed by another process: over a unix socket (SCM_RIGHTS), or by a service manager at the start.
//!
//! In: descriptors as numbers. Out: descriptors that are owned. Next: `control/lifecycle/handover/`, `control/lifecycle/activation.rs`.
//!
//! Invariant of this file: (P) a number becomes an `OwnedFd` once, and only if the kernel has just made it for this
//! process, or if it was open before this process could open anything.

#![allow(unsafe_code)]

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most descriptors in one message (SCM_MAX_FD of the kernel).
pub const DESCRIPTORS_MAX: usize = 253;
/// The first one that a service manager passes (SD_LISTEN_FDS_START).
const FIRST_AT_START: RawFd = 3;

/// Sends a few bytes with descriptors; this process keeps its copies.
///
/// # Errors
/// The peer has closed; more than [`DESCRIPTORS_MAX`]; the bytes were not sent in one piece.
pub fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[impl AsFd]) -> io::Result<()> {
    let numbers: Vec<RawFd> = descriptors.iter().map(|owned| owned.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives up to `bytes.len()` bytes and the descriptors passed with them, closed on exec. Returns the number of bytes; 0 at
/// the end.
///
/// # Errors
/// Those of the socket; more descriptors than [`DESCRIPTORS_MAX`].
pub fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut owned = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: (P): the kernel has just made these for this process, and they are used here only.
            owned.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    Ok((message.bytes, owned))
}

/// Takes the `count` descriptors that a service manager passed at the start of this process, closed on exec from now on.
/// They start at 3. Call it before this process opens anything that stays open.
///
/// # Errors
/// One of them is not open; they were taken already.
pub fn take_at_start(count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::other("the passed descriptors were already taken"));
    }
    let numbers = (FIRST_AT_START..).take(count.min(DESCRIPTORS_MAX));
    numbers
        .map(|number| {
            // SAFETY: no pointers; fcntl looks at a number, whatever it is.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
                let error = io::Error::last_os_error();
                return Err(io::Error::new(error.kind(), format!("descriptor {number}: {error}")));
            }
            // SAFETY: (P): it is open, this process has opened nothing that stays open, and no second call gets here.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_that_went_over_is_the_same_socket() {
        let (here, there) = UnixStream::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        send(&here, b"here it is", &[&socket]).unwrap();
        drop(socket);
        let mut bytes = [0; 64];
        let (length, mut descriptors) = receive(&there, &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"here it is");
        let socket = UdpSocket::from(descriptors.remove(0));
        assert!(descriptors.is_empty());
        assert_eq!(socket.local_addr().unwrap(), address);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap();
        assert_eq!(socket.recv(&mut bytes).unwrap(), 1);
    }

    #[test]
    fn bytes_alone_go_too_and_the_end_is_told() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, b"no descriptors", &[] as &[OwnedFd]).unwrap();
        drop(here);
        let mut bytes = [0; 2];
        let (length, descriptors) = receive(&there, &mut bytes).unwrap();
        assert_eq!((&bytes[..length], descriptors.len()), (b"no".as_slice(), 0));
        let mut rest = String::new();
        (&there).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, " descriptors");
        assert_eq!(receive(&there, &mut bytes).unwrap().0, 0);
    }
}
