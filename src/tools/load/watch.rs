//! The main thread while a load runs: progress, the operator's signals, the proxy's cost, the end.
//!
//! In: the sums of the sending and the receiving thread. Out: lines on stderr, and the moment when all is over.
//! Next: `mod.rs` adds up.

use super::line::host_now_us;
use super::process::ProcessMeter;
use super::report::ProcessFigures;
use super::send::{SendLive, Sent};
use crate::console::print_error;
use crate::text::grouped;
use crate::tools::sink::LOOK_MS;
use crate::tools::sink::interrupt::Interrupt;
use crate::tools::sink::receive::SinkLive;
use crate::tools::sink::settle::{Standing, is_over};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

const PROGRESS_US: u64 = 1_000_000;

/// See the module.
pub struct Watch {
    interrupt: Interrupt,
    load: Arc<SendLive>,
    sink: Option<Arc<SinkLive>>,
    meter: Option<ProcessMeter>,
    warm_up_us: u64,
    /// CPU time and datagrams when the warm-up was over.
    base: Option<(u64, u64)>,
    begin_us: u64,
    next_us: u64,
    last_sent: u64,
    last_arrived: u64,
}

fn get(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

impl Watch {
    /// The load begins now; what it costs counts after `warm_up_us`.
    pub fn new(
        interrupt: Interrupt,
        load: Arc<SendLive>,
        sink: Option<Arc<SinkLive>>,
        meter: Option<ProcessMeter>,
        warm_up_us: u64,
    ) -> Watch {
        let begin_us = host_now_us();
        let mut watch = Watch {
            interrupt,
            load,
            sink,
            meter,
            warm_up_us,
            base: None,
            begin_us,
            next_us: begin_us + PROGRESS_US,
            last_sent: 0,
            last_arrived: 0,
        };
        if warm_up_us == 0 {
            watch.base = watch.sample();
        }
        watch
    }

    /// Until everything was sent; the operator may end it early.
    pub fn until_sent(&mut self, sender: &JoinHandle<Sent>, quiet: bool) {
        loop {
            let elapsed_us = host_now_us() - self.begin_us;
            if self.base.is_none() && elapsed_us >= self.warm_up_us {
                self.base = self.sample();
            }
            if sender.is_finished() {
                return;
            }
            if self.interrupt.sleep(LOOK_MS) {
                self.load.stop.store(true, Ordering::Relaxed);
            }
            let now_us = host_now_us();
            if now_us >= self.next_us {
                self.next_us = now_us + PROGRESS_US;
                // For the resident memory's maximum, and the times of threads that end.
                let _ = self.sample();
                if !quiet {
                    self.print_progress(now_us - self.begin_us);
                }
            }
        }
    }

    /// Until everything has arrived or nothing comes any more.
    pub fn until_settled(&mut self, sent: u64, patience_us: u64) {
        let Some(sink) = self.sink.clone() else { return };
        let end_us = host_now_us();
        loop {
            let now_us = host_now_us();
            let standing = Standing {
                sent,
                arrived: get(&sink.unique),
                quiet_us: now_us.saturating_sub(get(&sink.last_arrival_us).max(end_us)),
                waited_us: now_us - end_us,
            };
            // A signal before has ended the sending; what is on its way is still waited for.
            if is_over(&standing, patience_us) {
                return;
            }
            self.interrupt.sleep(LOOK_MS);
        }
    }

    /// What the process has cost since the warm-up; nothing if there is none, or it has ended.
    pub fn cost(&mut self, pid: Option<u32>) -> Option<ProcessFigures> {
        let (cpu_before, datagrams_before) = self.base?;
        let (cpu, datagrams) = self.sample()?;
        let (cpu_ns, datagrams) = (cpu.saturating_sub(cpu_before), datagrams - datagrams_before);
        Some(ProcessFigures {
            pid: pid?,
            cpu_ns,
            datagrams,
            cpu_us_per_datagram: (cpu_ns as f64 / datagrams.max(1) as f64).round() / 1000.0,
            resident_bytes_max: self.meter.as_ref()?.resident_bytes_max(),
        })
    }

    fn sample(&mut self) -> Option<(u64, u64)> {
        let cpu_ns = self.meter.as_mut()?.sample().ok()?;
        Some((cpu_ns, get(&self.load.datagrams)))
    }

    fn print_progress(&mut self, elapsed_us: u64) {
        let sent = get(&self.load.metrics);
        let mut text = format!(
            "{:>4} s  sent {} metrics/s, {} total",
            elapsed_us / 1_000_000,
            grouped(sent - self.last_sent),
            grouped(sent)
        );
        if let Some(sink) = &self.sink {
            let arrived = get(&sink.metrics);
            text += &format!(
                "  arrived {}/s  lost or in transit {}  duplicated {}  misplaced {}  dropped at the sinks {}",
                grouped(arrived - self.last_arrived),
                grouped(sent.saturating_sub(get(&sink.unique))),
                grouped(get(&sink.duplicated)),
                grouped(get(&sink.misplaced)),
                grouped(get(&sink.dropped)),
            );
            self.last_arrived = arrived;
        }
        self.last_sent = sent;
        print_error(&text);
    }
}
