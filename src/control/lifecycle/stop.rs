//! The end of the process: a stop that loses nothing, one that is cut short, one after a failure.
//!
//! In: actions that `phase.rs` asks a running [`Process`] for. Out: the final counters in the log, and the exit code.

use crate::control::lifecycle::handover::message::Inherited;
use crate::control::lifecycle::phase::{Cause, Event, Phase};
use crate::control::lifecycle::process::Process;
use crate::exit;
use crate::stats::{Counter, Counters, DropReason};
use crate::worker::Ended;
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::Instant;

/// How long the workers may take beyond the time they were given, to cancel operations in the kernel and to report it.
pub(in crate::control) const OVERTIME: Duration = Duration::from_secs(4);
/// How long they may take after a start that failed.
const ABANDON: Duration = Duration::from_secs(1);
/// A shell's exit code for a process that a signal ended is this and the signal's number.
const SIGNALLED: u8 = 128;

impl Process {
    /// Says that a stop begins: `health` is down for who sends metrics here.
    pub(in crate::control) fn begin_stop(&mut self, signal: Option<u8>) {
        let why = match signal {
            Some(number) => name(number)
                .map_or_else(|| format!("received signal {number}"), |name| format!("received {name}")),
            None => "stop requested".to_owned(),
        };
        tracing::info!(signal = signal.and_then(name), "{why}; draining");
        self.control.set_stopping();
        self.control.notifier.stopping();
    }

    /// Says that a worker failed, and that the process ends. What the other workers hold is still relayed.
    pub(in crate::control) fn fail(&mut self, worker: usize) {
        self.failure_code = self.end_of(worker).log();
        self.control.set_stopping();
        self.control.notifier.stopping();
    }

    /// Goes on as before for `shutdownDelay`.
    pub(in crate::control) fn delay(&mut self) {
        let delay = Duration::from_millis(self.control.config().shutdown_delay_ms);
        if delay.is_zero() {
            return self.pending.push_back(Event::TimeOver);
        }
        tracing::info!("health reports down; metrics are forwarded for another {} ms", delay.as_millis());
        self.set_time_limit(delay);
    }

    /// Fences, relays what is queued, flushes.
    pub(in crate::control) fn drain(&mut self, overtime: Duration) {
        let timeout = Duration::from_millis(self.control.config().shutdown_timeout_ms);
        self.control.drain(timeout);
        self.set_time_limit(timeout + overtime);
    }

    /// The phase is over after this time.
    pub(in crate::control) fn set_time_limit(&mut self, time: Duration) {
        self.deadline = Some((Instant::now() + time, time));
    }

    /// Ends because another process has taken over: what this one has received is relayed, and its counters are logged.
    pub(in crate::control) async fn leave(&mut self, taken: &Inherited) {
        if let Some(admin_listeners) = self.admin_listeners.take() {
            admin_listeners.leave(&taken.admin).await;
        }
        let pid = self.leave_to(taken);
        tracing::info!("process {pid} has taken over; process {} exits", std::process::id());
        self.control.set_stopping();
        // From here on the other process notifies the service manager.
        self.control.ready.set(false);
        self.drain(OVERTIME);
    }

    /// Ends a start that failed. Sockets that an old process has too are left to it, and what was received from them is
    /// relayed.
    pub(in crate::control) fn abandon(&mut self, cause: Cause) {
        let failure = cause.failure(|worker| self.end_of(worker));
        self.report_to_old(&failure.message);
        if failure.code == exit::OK {
            tracing::info!("{}", failure.message);
        } else {
            self.failure_code = failure.log();
        }
        // What clients have sent to sockets that others had before is no less worth than at any other end; nor is it where
        // this one was asked to stop.
        self.drain(ABANDON);
    }

    /// Reports how a worker ended, if that is an error.
    pub(in crate::control) fn log_worker_end(&self, worker: usize) {
        if let Some(Some(Err(error))) = self.ended.get(worker) {
            tracing::error!(worker, "worker {worker}: {error}");
        }
    }

    /// A signal to stop while the process ends already: at once, whatever is left.
    pub(in crate::control) fn exit_now(&mut self, phase: Phase, signal: u8) {
        tracing::warn!(signal = name(signal), "received signal {signal} while ending; exiting immediately");
        account(self);
        let code = SIGNALLED + signal;
        self.exit_code = if phase.is_draining() { self.or_failure(code) } else { code };
    }

    /// The time is over, and workers are left.
    pub(in crate::control) fn exit_timed_out(&mut self) {
        let time = self.deadline.map_or(Duration::ZERO, |(_, time)| time);
        tracing::error!("the workers did not end within {} ms", time.as_millis());
        account(self);
        self.exit_code = self.or_failure(exit::CUT_SHORT);
    }

    /// Every worker has ended.
    pub(in crate::control) fn exit(&mut self) {
        // They have sent their last report: this takes no time.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.exit_code = self.or_failure(exit_code(self));
    }

    /// The exit code of the failure that ended the process, or else this one.
    fn or_failure(&self, code: u8) -> u8 {
        if self.failure_code == exit::OK { code } else { self.failure_code }
    }
}

/// The exit code of how the workers ended: the gravest counts.
fn exit_code(process: &Process) -> u8 {
    account(process);
    let (mut cut_short, mut failed, mut panicked) = (false, false, false);
    for (worker, end) in process.ended.iter().enumerate() {
        match end {
            Some(Ok(Ended::Drained)) => {}
            Some(Ok(Ended::CutShort { metrics_dropped })) => {
                tracing::warn!(
                    worker,
                    metrics_dropped,
                    "worker {worker}: shutdownTimeout exceeded; {metrics_dropped} metrics were dropped and counted as shutdown"
                );
                cut_short = true;
            }
            Some(Ok(Ended::Panicked)) => panicked = true,
            Some(Err(_)) | None => failed = true,
        }
    }
    match () {
        _ if panicked => exit::INTERNAL,
        _ if failed => exit::SYSTEM,
        _ if cut_short => exit::CUT_SHORT,
        _ => exit::OK,
    }
}

fn account(process: &Process) {
    let counters = process.control.counters();
    tracing::info!(
        metrics_received = counters.get(Counter::MetricsReceived),
        metrics_sent = counters.get(Counter::MetricsSent),
        metrics_dropped = counters.dropped_total(),
        metrics_pending = counters.get(Counter::MetricsPending),
        datagrams_received = counters.get(Counter::DatagramsReceived),
        datagrams_sent = counters.get(Counter::DatagramsSent),
        kernel_drops = counters.get(Counter::KernelDrops),
        "final counters: {}",
        final_counters(&counters)
    );
}

/// The name of a signal, as `SIGTERM`.
fn name(signal: u8) -> Option<&'static str> {
    Signal::try_from(i32::from(signal)).ok().map(Signal::as_str)
}

/// The whole account on one line.
fn final_counters(counters: &Counters) -> String {
    let reasons: Vec<String> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name(), counters.dropped(*reason)))
        .filter(|(_, dropped)| *dropped > 0)
        .map(|(name, dropped)| {
            // The rest of a truncated datagram was never read.
            let at_least = if name == DropReason::Truncated.name() { "at least " } else { "" };
            format!("{name} {at_least}{dropped}")
        })
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let truncated = match counters.get(Counter::DatagramsTruncated) {
        0 => String::new(),
        datagrams => {
            format!(", truncated {datagrams} ({} bytes not read)", counters.get(Counter::BytesTruncated))
        }
    };
    format!(
        "metrics received {}, sent {}, dropped {}{reasons}, pending {}; datagrams received {}, sent {}, dropped by the \
         kernel {}{truncated}",
        counters.get(Counter::MetricsReceived),
        counters.get(Counter::MetricsSent),
        counters.dropped_total(),
        counters.get(Counter::MetricsPending),
        counters.get(Counter::DatagramsReceived),
        counters.get(Counter::DatagramsSent),
        counters.get(Counter::KernelDrops),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Exit;

    #[test]
    fn the_account_names_every_reason_that_occurred() {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 10);
        counters.add(Counter::MetricsSent, 7);
        counters.add(Counter::DatagramsReceived, 5);
        counters.add(Counter::DatagramsSent, 4);
        counters.add(Counter::KernelDrops, 9);
        let tail = "pending 0; datagrams received 5, sent 4, dropped by the kernel 9";
        assert_eq!(final_counters(&counters), format!("metrics received 10, sent 7, dropped 0, {tail}"));
        counters.leave(Exit::Dropped(DropReason::Malformed), 2, 1);
        counters.leave(Exit::Dropped(DropReason::Shutdown), 1, 1);
        assert_eq!(
            final_counters(&counters),
            format!("metrics received 10, sent 7, dropped 3 (malformed 2, shutdown 1), {tail}")
        );
        counters.leave(Exit::Dropped(DropReason::Truncated), 1, 1);
        counters.add(Counter::DatagramsTruncated, 2);
        counters.add(Counter::BytesTruncated, 300);
        assert_eq!(
            final_counters(&counters),
            format!(
                "metrics received 10, sent 7, dropped 4 (malformed 2, truncated at least 1, shutdown 1), {tail}, truncated \
                 2 (300 bytes not read)"
            )
        );
    }
}
