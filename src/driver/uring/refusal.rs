//! Why io_uring is refused here, with the remedy, for the operator; and retries while only locked memory is short.
//!
//! In: the error of creating the ring, and properties of the host. Out: a message. Next: `kernel.rs`.

use crate::driver::DriverError;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// The host's properties that determine the cause of a refusal.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `kernel.io_uring_disabled`, if there is such a key.
    pub io_uring_disabled: Option<u32>,
    /// The kernel's release.
    pub kernel: String,
    /// RLIMIT_MEMLOCK of this process, bytes; `None` = unlimited or unknown.
    pub memlock_bytes: Option<u64>,
}

impl Host {
    /// Reads it.
    pub fn read() -> Host {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let memlock = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK);
        Host {
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string(),
            memlock_bytes: memlock
                .ok()
                .map(|(soft, _)| soft)
                .filter(|soft| *soft != nix::libc::RLIM_INFINITY),
        }
    }
}

/// The error for the operator. `operation` is what was refused, `rings_bytes` the locked memory that all rings need.
pub fn refusal(operation: &'static str, source: io::Error, rings_bytes: usize, host: &Host) -> DriverError {
    let errno = source.raw_os_error().unwrap_or(0);
    let cause = match (errno, host.io_uring_disabled) {
        (libc::EPERM, Some(2)) => {
            "the sysctl kernel.io_uring_disabled is 2: no process may use io_uring. Set it to 0 (`sysctl kernel.io_uring_disabled=0`)"
                .to_string()
        }
        (libc::EPERM, Some(1)) => {
            "the sysctl kernel.io_uring_disabled is 1: only CAP_SYS_ADMIN and the group in kernel.io_uring_group may use io_uring. \
             Add this user to that group, or set kernel.io_uring_disabled to 0"
                .to_string()
        }
        (libc::EPERM | libc::EACCES, _) => {
            "a seccomp profile forbids it, like the default profiles of Docker, containerd and Kubernetes. Run the \
             container with docker/seccomp.json (`docker run --security-opt seccomp=docker/seccomp.json`)"
                .to_string()
        }
        (libc::ENOSYS, _) => format!(
            "kernel {} has no io_uring, or a seccomp profile hides it. Use Linux 6.1 or later (6.6 recommended); in a \
             container use docker/seccomp.json",
            host.kernel
        ),
        (libc::EINVAL, _) => format!(
            "kernel {} lacks a required feature. Use Linux 6.1 or later (6.6 recommended)",
            host.kernel
        ),
        (libc::ENOMEM, _) => format!(
            "the rings need {rings_bytes} bytes of locked memory, and the limit, which applies to \
             all processes of this user, is {}. Raise it \
             (`LimitMEMLOCK=` of the service, `--ulimit memlock=` of the container, `ulimit -l`), or lower `workers`",
            host.memlock_bytes.map_or("unknown".into(), |bytes| format!("{bytes} bytes"))
        ),
        _ => "unknown cause".to_string(),
    };
    DriverError::Refused(format!("io_uring is refused ({operation}: {source}): {cause}"))
}

/// How long the kernel may take to release the memory of closed rings.
const PATIENCE: Duration = Duration::from_millis(500);

/// Creates a kernel object, and retries for a while if locked memory is short: the kernel releases that of closed rings, of
/// this process or of one that has exited, asynchronously.
pub fn retry_on_enomem<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match make() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                std::thread::sleep(PATIENCE / 50);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: i32, disabled: Option<u32>) -> String {
        let host = Host { io_uring_disabled: disabled, kernel: "5.10.0".into(), memlock_bytes: Some(65_536) };
        refusal("io_uring_setup", io::Error::from_raw_os_error(errno), 123_456, &host).to_string()
    }

    #[test]
    fn each_cause_has_its_cure() {
        assert!(message(libc::EPERM, Some(2)).contains("kernel.io_uring_disabled=0"));
        assert!(message(libc::EPERM, Some(1)).contains("io_uring_group"));
        assert!(message(libc::EPERM, Some(0)).contains("docker/seccomp.json"));
        assert!(message(libc::EPERM, None).contains("docker/seccomp.json"));
        assert!(message(libc::ENOSYS, None).contains("5.10.0"));
        assert!(message(libc::EINVAL, Some(0)).contains("6.1"));
        let memlock = message(libc::ENOMEM, Some(0));
        assert!(memlock.contains("123456") && memlock.contains("65536"), "{memlock}");
        assert!(message(libc::EMFILE, Some(0)).contains("unknown cause"));
    }

    #[test]
    fn what_is_short_of_memory_is_tried_again_and_nothing_else() {
        let mut tries = 0;
        let made = retry_on_enomem(|| {
            tries += 1;
            if tries < 3 { Err(io::Error::from_raw_os_error(libc::ENOMEM)) } else { Ok(tries) }
        });
        assert_eq!(made.unwrap(), 3);
        let mut tries = 0;
        let refused: io::Result<()> = retry_on_enomem(|| {
            tries += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!((refused.unwrap_err().raw_os_error(), tries), (Some(libc::EPERM), 1));
    }
}
