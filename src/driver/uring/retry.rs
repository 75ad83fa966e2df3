//! Retries while locked memory is short.

use std::io;
use std::time::{Duration, Instant};

/// How long the kernel may take to give back the memory of rings that are gone.
const PATIENCE: Duration = Duration::from_millis(500);

/// Makes something of the kernel's, again for a while if locked memory is short: that of rings which have just been closed,
/// here or in a process that has ended, comes back in the kernel's own time.
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
