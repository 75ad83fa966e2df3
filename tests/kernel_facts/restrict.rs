//! A ring that is restricted does what a worker needs, and nothing else.

use super::bed::{bed, limits};
use super::raw::complete;
use crate::bare_ring;
use io_uring::{IoUring, opcode, squeue, types};
use statsring::driver::Restrictions;
use statsring::driver::kernel::Kernel;
use statsring::driver::uring::restrict::restrict;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

/// IORING_REGISTER_PROBE of io_uring_register(2): harmless, and not among what a worker needs.
const REGISTER_PROBE: u32 = 8;

/// A ring as the driver makes it, with one registered socket; `None` where io_uring is refused.
fn restricted() -> Option<(IoUring, UdpSocket)> {
    if bare_ring::is_refused() {
        return None;
    }
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_r_disabled();
    let ring = builder.build(8).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    ring.submitter().register_files(&[socket.as_raw_fd()]).unwrap();
    assert_eq!(restrict(&ring.submitter()), Restrictions::InForce);
    Some((ring, socket))
}

/// What the kernel answers to one submission.
fn answer(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: the entries of this file point to what lives until they are answered.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    complete(ring, 1)[0].result()
}

#[test]
fn a_ring_that_is_not_enabled_takes_nothing() {
    let Some((mut ring, _socket)) = restricted() else { return };
    // SAFETY: it points to nothing.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
    assert_eq!(ring.submit().unwrap_err().raw_os_error(), Some(libc::EBADFD));
}

#[test]
fn operations_that_no_worker_needs_are_refused() {
    let Some((mut ring, socket)) = restricted() else { return };
    ring.submitter().register_enable_rings().unwrap();
    let path = c"/etc/hostname";
    let byte = [0u8; 1];
    let fixed = types::Fixed(0);
    let forbidden = [
        opcode::Nop::new().build().flags(squeue::Flags::FIXED_FILE),
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build().flags(squeue::Flags::FIXED_FILE),
        opcode::Connect::new(fixed, std::ptr::null(), 0).build(),
        opcode::Write::new(fixed, byte.as_ptr(), 1).build(),
        opcode::Send::new(fixed, byte.as_ptr(), 1).build(),
        opcode::Read::new(fixed, byte.as_ptr().cast_mut(), 1).build(),
        opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
        opcode::Close::new(types::Fd(socket.as_raw_fd())).build(),
    ];
    for entry in forbidden {
        assert_eq!(answer(&mut ring, &entry), -libc::EACCES, "{entry:?}");
    }
}

#[test]
fn descriptors_that_are_not_registered_are_refused() {
    let Some((mut ring, socket)) = restricted() else { return };
    ring.submitter().register_enable_rings().unwrap();
    let poll = |fixed| opcode::PollAdd::new(types::Fixed(fixed), libc::POLLOUT as u32).build();
    let unregistered = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build();
    assert_eq!(answer(&mut ring, &unregistered), -libc::EACCES);
    // Allowed flags only: a linked submission is none of a worker's.
    assert_eq!(answer(&mut ring, &poll(0).flags(squeue::Flags::IO_LINK)), -libc::EACCES);
    assert_eq!(answer(&mut ring, &poll(7)), -libc::EBADF);
    assert_eq!(answer(&mut ring, &poll(0)), i32::from(libc::POLLOUT));
}

#[test]
fn of_the_register_operations_only_those_of_a_reload_and_of_the_end_are_left() {
    let Some((ring, socket)) = restricted() else { return };
    let submitter = ring.submitter();
    submitter.register_enable_rings().unwrap();
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(submitter.register_eventfd(socket.as_raw_fd())), Some(libc::EACCES));
    assert_eq!(errno(submitter.register_files_sparse(4)), Some(libc::EACCES));
    assert_eq!(errno(submitter.unregister_buf_ring(0)), Some(libc::EACCES));
    assert_eq!(errno(submitter.register_enable_rings()), Some(libc::EACCES));
    assert_eq!(submitter.register_files_update(0, &[-1]).unwrap(), 1);
    submitter.register_sync_cancel(None, types::CancelBuilder::any()).unwrap();
    submitter.unregister_files().unwrap();
}

/// The answer of the kernel to `REGISTER_PROBE` on every ring of this process: those of other threads say EEXIST.
fn probe_of_this_threads_rings() -> Vec<i32> {
    let is_ring = |fd: &RawFd| {
        let target = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        target.is_ok_and(|target| target.to_string_lossy().contains("[io_uring]"))
    };
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let mut answers = Vec::new();
    for fd in numbers.filter(is_ring) {
        // SAFETY: a null probe of no operations: nothing is written, whatever the answer.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_PROBE, std::ptr::null::<u8>(), 0u32)
        };
        let errno = if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() };
        if errno != libc::EEXIST && errno != libc::EBADF {
            answers.push(errno);
        }
    }
    answers
}

#[test]
fn the_drivers_own_ring_is_restricted_and_works() {
    let Some(mut bed) = bed(&limits()) else { return };
    assert_eq!(bed.kernel.info().restrictions, Restrictions::InForce);
    assert!(probe_of_this_threads_rings().contains(&libc::EACCES), "this thread's ring takes any operation");
    // Receive, send, and another socket after the ring was enabled; the other tests of this folder do the rest.
    let (backend, address) = super::bed::backend();
    bed.kernel.open_backend(statsring::packet::SocketSlot(0), address).unwrap();
    bed.send_and_see(b"in");
    assert_eq!(bed.kernel.drain(0, 8).unwrap().datagrams, 1);
    assert_eq!(bed.kernel.datagram(0).payload, b"in");
    assert_eq!(bed.send(b"out"), 0);
    let mut buffer = [0; 8];
    assert_eq!(backend.recv(&mut buffer).unwrap(), 3);
}
