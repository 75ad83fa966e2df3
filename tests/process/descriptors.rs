//! A running process that has no descriptor free.
//!
//! In: its number. Out: its limit on open files, lowered to what it has open, and put back.

use std::time::Duration;

/// Takes every free descriptor from a process: its limit becomes the smallest number that is not in use. The limit before.
pub fn take_all(pid: i32) -> u64 {
    let first_free = || {
        let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let in_use: Vec<u64> =
            all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        (0..).find(|number| !in_use.contains(number)).unwrap()
    };
    // Those that are in use for a moment only are not meant.
    let sample = |_| {
        std::thread::sleep(Duration::from_millis(2));
        first_free()
    };
    set(pid, (0..200).map(sample).min().unwrap())
}

/// Puts a process's limit back to what it was.
pub fn give_back(pid: i32, limit: u64) {
    set(pid, limit);
}

fn set(pid: i32, limit: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let call = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        // SAFETY: both pointers are null or lead to a limit that lives as long as the call.
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, old) }
    };
    assert_eq!(call(std::ptr::null(), &mut before), 0);
    let after = libc::rlimit { rlim_cur: limit, ..before };
    assert_eq!(call(&after, std::ptr::null_mut()), 0);
    before.rlim_cur
}
