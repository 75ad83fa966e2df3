//! Takes all free descriptors from a running process.
//!
//! In: its PID. Out: its limit on open files, lowered to the number of open files, and restored.

use std::time::Duration;

/// Lowers the limit of a process to the smallest unused descriptor. Returns the previous limit.
pub fn take_all(pid: i32) -> u64 {
    let first_free = || {
        let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let in_use: Vec<u64> =
            all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        (0..).find(|number| !in_use.contains(number)).unwrap()
    };
    // Ignores descriptors that are open only briefly.
    let sample = |_| {
        std::thread::sleep(Duration::from_millis(2));
        first_free()
    };
    set(pid, (0..200).map(sample).min().unwrap())
}

/// Restores a process's limit.
pub fn give_back(pid: i32, limit: u64) {
    set(pid, limit);
}

fn set(pid: i32, limit: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let call = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        // SAFETY: both pointers are null or point to a limit that outlives the call.
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, old) }
    };
    assert_eq!(call(std::ptr::null(), &mut before), 0);
    let after = libc::rlimit { rlim_cur: limit, ..before };
    assert_eq!(call(&after, std::ptr::null_mut()), 0);
    before.rlim_cur
}
