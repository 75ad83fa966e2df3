//! Restricts a worker's ring, once enabled, to the operations that it needs, permanently: the kernel enforces it
//! (IORING_REGISTER_RESTRICTIONS).
//!
//! A seccomp filter does not see the operations of a ring. So a ring is created disabled, gets its buffers and files, drops
//! everything that a worker does not need, and is enabled: whatever goes wrong in this process later, its rings can
//! open no file, connect nowhere, and touch no descriptor but the registered ones. In: a disabled ring. Out: whether the
//! kernel restricted it. Next: `kernel.rs`, which enables it.

use crate::driver::Restrictions;
use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{Submitter, opcode};
use std::io;

/// Register operations of io_uring_register(2) that stay allowed: the sockets of a reload, and the end.
const IORING_UNREGISTER_FILES: u8 = 3;
const IORING_REGISTER_FILES_UPDATE: u8 = 6;
const IORING_REGISTER_SYNC_CANCEL: u8 = 24;

/// The operations: receive (multishot too) with and without control messages, send, poll.
const OPERATIONS: [u8; 4] =
    [opcode::RecvMulti::CODE, opcode::RecvMsgMulti::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE];

/// Restricts a ring that is still disabled; the kernel enforces it from the moment the ring is enabled.
///
/// Every submission must use a registered file (FIXED_FILE). A kernel that refuses
/// leaves the ring as it was.
pub fn restrict(submitter: &Submitter<'_>) -> Restrictions {
    let allowed = Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    let mut restrictions: Vec<Restriction> = OPERATIONS.map(Restriction::sqe_op).into();
    restrictions.push(Restriction::sqe_flags_allowed(allowed.bits()));
    restrictions.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
    restrictions.push(Restriction::register_op(IORING_UNREGISTER_FILES));
    restrictions.push(Restriction::register_op(IORING_REGISTER_FILES_UPDATE));
    restrictions.push(Restriction::register_op(IORING_REGISTER_SYNC_CANCEL));
    match submitter.register_restrictions(&mut restrictions) {
        Ok(()) => Restrictions::InForce,
        Err(error) => Restrictions::Refused(errno_of(&error)),
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
