//! Makes system calls fail in a process to be started, like a container's seccomp profile.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One instruction of a filter.
fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Installs this filter in the process and its children.
fn install<const N: usize>(command: &mut Command, mut program: [libc::sock_filter; N]) {
    let install = move || {
        let described = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program outlives the calls, which copy it.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const described)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls and does not allocate.
    unsafe { command.pre_exec(install) };
}

/// Makes the system calls from `first` to `last` fail with `errno`.
pub fn refuse(command: &mut Command, first: libc::c_long, last: libc::c_long, errno: i32) {
    // The system call number is at offset 0 of seccomp_data.
    let program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 2, first as u32),
        step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, last as u32),
        step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    install(command, program);
}

/// Makes one operation of io_uring_register(2) fail with `errno`.
pub fn refuse_register(command: &mut Command, operation: u32, errno: i32) {
    refuse_argument(command, libc::SYS_io_uring_register, (1, operation), errno);
}

/// Makes a system call fail with `errno` if the argument of this index has this value.
pub fn refuse_argument(command: &mut Command, call: libc::c_long, (index, value): (u32, u32), errno: i32) {
    let (load, equal) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    // The system call number is at offset 0 of seccomp_data, the lower half of its first argument at 16.
    let program = [
        step(load, 0, 0, 0),
        step(equal, 0, 3, call as u32),
        step(load, 0, 0, 16 + 8 * index),
        step(equal, 0, 1, value),
        step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    install(command, program);
}
