//! The end of the process: a stop that loses nothing, one that is cut short, one after a failure.
//!
//! In: a running [`Process`], and why it is to end. Out: the final account in the log, and the exit code. Next: nobody.

use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::message::Inherited;
use crate::control::lifecycle::process::{Event, Process};
use crate::exit;
use crate::stats::{Counter, Counters, DropReason};
use crate::worker::Ended;
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long the workers may take beyond the time they were given, to cancel what the kernel holds and to say so.
const OVERTIME: Duration = Duration::from_secs(4);
/// How long they may take after a start that failed.
const ABANDON: Duration = Duration::from_secs(1);
/// A shell's exit code for a process that a signal ended is this and the signal's number.
const SIGNALLED: u8 = 128;

/// Stops as asked: down for the health checks of who sends metrics here, then the drain; the exit code.
pub async fn stop(process: &mut Process, signal: Option<u8>) -> u8 {
    let why = match signal {
        Some(number) => name(number)
            .map_or_else(|| format!("received signal {number}"), |name| format!("received {name}")),
        None => "stop requested".to_owned(),
    };
    let (delay, timeout) = {
        let config = process.control.config();
        (Duration::from_millis(config.shutdown_delay_ms), Duration::from_millis(config.shutdown_timeout_ms))
    };
    tracing::info!(signal = signal.and_then(name), "{why}; draining");
    process.control.stopping.set(true);
    process.control.notifier.stopping();
    if let Some(signal) = process.end_restart().await {
        return cut_off(process, signal);
    }
    if !delay.is_zero() {
        tracing::info!("health reports down; metrics are forwarded for another {} ms", delay.as_millis());
        if let Err(end) = go_on(process, Instant::now() + delay).await {
            return end;
        }
    }
    drain(process, timeout).await
}

/// Ends because a part failed. What the other workers hold is still relayed; the exit code.
pub async fn fail(process: &mut Process, failure: Failure) -> u8 {
    let code = failure.tell();
    process.control.stopping.set(true);
    process.control.notifier.stopping();
    if let Some(signal) = process.end_restart().await {
        return cut_off(process, signal);
    }
    let timeout = Duration::from_millis(process.control.config().shutdown_timeout_ms);
    drain(process, timeout).await;
    code
}

/// Ends because another process has taken over: what this one has received is relayed, and its account told; the exit code.
pub async fn leave(process: &mut Process, taken: &Inherited) -> u8 {
    let timeout = Duration::from_millis(process.control.config().shutdown_timeout_ms);
    let pid = process.leave_to(taken);
    tracing::info!("process {pid} has taken over; process {} exits", std::process::id());
    process.control.stopping.set(true);
    // What the service manager is told from now on, the other process tells.
    process.control.ready.set(false);
    drain(process, timeout).await
}

/// Ends a start that failed; the exit code. Sockets that an old process has too are left to it, and what was received from
/// them is relayed.
pub async fn abandon(mut process: Process, failure: Failure) -> u8 {
    process.refuse_old(&failure.words);
    let code = if failure.code == exit::OK {
        tracing::info!("{}", failure.words);
        failure.code
    } else {
        failure.tell()
    };
    // What clients have sent to sockets that others had before is no less worth than at any other end; nor is it where this
    // one was asked to stop.
    let timeout = Duration::from_millis(process.control.config().shutdown_timeout_ms);
    process.control.drain(timeout);
    let ended = match workers_ended(&mut process, Instant::now() + timeout + ABANDON).await {
        Ok(()) => conclude(&process),
        Err(_) => {
            account(&process);
            exit::CUT_SHORT
        }
    };
    if code == exit::OK { ended } else { code }
}

/// Goes on as before until `deadline`; an error is the exit code of an earlier end.
async fn go_on(process: &mut Process, deadline: Instant) -> Result<(), u8> {
    loop {
        match timeout_at(deadline, process.event()).await {
            Err(_) => return Ok(()),
            Ok(Event::Stop(Some(signal))) => return Err(cut_off(process, signal)),
            Ok(Event::Ended { worker }) => {
                let failure = process.end_of(worker);
                return Err(Box::pin(fail(process, failure)).await);
            }
            Ok(event) => process.decline(&event),
        }
    }
}

/// Fences, relays what is queued, flushes; the exit code.
async fn drain(process: &mut Process, timeout: Duration) -> u8 {
    process.control.drain(timeout);
    let deadline = Instant::now() + timeout + OVERTIME;
    match workers_ended(process, deadline).await {
        Ok(()) => conclude(process),
        Err(Some(signal)) => cut_off(process, signal),
        Err(None) => {
            tracing::error!("the workers did not end within {} ms", (timeout + OVERTIME).as_millis());
            account(process);
            exit::CUT_SHORT
        }
    }
}

/// Waits until every worker has ended and its thread is gone. An error is a second signal, or `None` at the deadline.
async fn workers_ended(process: &mut Process, deadline: Instant) -> Result<(), Option<u8>> {
    while process.ended.iter().any(Option::is_none) {
        match timeout_at(deadline, process.event()).await {
            Err(_) => return Err(None),
            Ok(Event::Stop(Some(signal))) => return Err(Some(signal)),
            Ok(Event::Ended { worker }) => {
                if let Some(Some(Err(error))) = process.ended.get(worker) {
                    tracing::error!(worker, "worker {worker}: {error}");
                }
            }
            Ok(event) => process.decline(&event),
        }
    }
    // They have said their last words: this takes no time.
    for thread in process.threads.drain(..) {
        let _ = thread.join();
    }
    Ok(())
}

/// A second signal: at once, whatever is left.
fn cut_off(process: &Process, signal: u8) -> u8 {
    tracing::warn!(signal = name(signal), "received signal {signal} again; exiting immediately");
    account(process);
    SIGNALLED + signal
}

/// The exit code of how the workers ended: the gravest counts.
fn conclude(process: &Process) -> u8 {
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
        words(&counters)
    );
}

/// The name of a signal, as `SIGTERM`.
fn name(signal: u8) -> Option<&'static str> {
    Signal::try_from(i32::from(signal)).ok().map(Signal::as_str)
}

/// The whole account on one line.
fn words(counters: &Counters) -> String {
    let reasons: Vec<String> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name(), counters.dropped(*reason)))
        .filter(|(_, dropped)| *dropped > 0)
        .map(|(name, dropped)| {
            // What lay beyond the cut of a long datagram was never seen.
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
         kernel before {}{truncated}",
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
        let tail = "pending 0; datagrams received 5, sent 4, dropped by the kernel before 9";
        assert_eq!(words(&counters), format!("metrics received 10, sent 7, dropped 0, {tail}"));
        counters.leave(Exit::Dropped(DropReason::Malformed), 2, 1);
        counters.leave(Exit::Dropped(DropReason::Shutdown), 1, 1);
        assert_eq!(
            words(&counters),
            format!("metrics received 10, sent 7, dropped 3 (malformed 2, shutdown 1), {tail}")
        );
        counters.leave(Exit::Dropped(DropReason::Truncated), 1, 1);
        counters.add(Counter::DatagramsTruncated, 2);
        counters.add(Counter::BytesTruncated, 300);
        assert_eq!(
            words(&counters),
            format!(
                "metrics received 10, sent 7, dropped 4 (malformed 2, truncated at least 1, shutdown 1), {tail}, truncated \
                 2 (300 bytes not read)"
            )
        );
    }
}
