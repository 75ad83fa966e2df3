//! Runs blocking work off the control thread, each job on its own short-lived thread.
//!
//! In: a closure (a name lookup, reading a file). Out: its result, awaited. Next: `resolve.rs`, `reload.rs`.
//!
//! Not tokio's blocking pool: its threads live on for seconds, and a runtime's end waits for them.

use crate::failpoint::panic_on;
use nix::sys::signal::SigSet;
use std::io;
use tokio::sync::oneshot;

/// Stack of a thread whose work is not known to need less: Rust's default.
pub const STACK_BYTES: usize = 2 << 20;

/// Runs `work` on a thread called `name` (at most 15 bytes) with a stack of `stack_bytes`. Fails if no thread can be made, or
/// if `work` panics.
pub async fn run_blocking<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(move || {
        // Signals are the control thread's.
        let _ = SigSet::all().thread_block();
        // The receiver may be gone; then the result is discarded.
        let result = work();
        panic_on("helper");
        let _ = answer.send(result);
    })?;
    answered.await.map_err(|_| io::Error::other(format!("the thread `{name}` ended without a result")))
}

#[cfg(test)]
pub(in crate::control) mod tests {
    use super::*;

    /// Runs a future that needs no ring and no timer.
    pub fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn the_answer_comes_from_another_thread() {
        let here = std::thread::current().id();
        let there = run(run_blocking("elsewhere", STACK_BYTES, || std::thread::current().id())).unwrap();
        assert_ne!(here, there);
    }

    #[test]
    fn a_panic_there_is_an_error_here() {
        let error =
            run(run_blocking("stumbles", STACK_BYTES, || -> () { std::panic::resume_unwind(Box::new(())) }))
                .unwrap_err();
        assert_eq!(error.to_string(), "the thread `stumbles` ended without a result");
    }
}
