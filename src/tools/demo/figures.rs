//! The demo's figures at a moment, and what two moments say about the time between them.
//!
//! In: the proxy's counters, the backends' counts, the worker's CPU. Out: [`Moment`]s and [`Rates`]. Next: `table.rs`.

use super::backends::{Arrived, Backends};
use crate::control::ProxyHandle;
use crate::stats::{Counter, Counters, Latency, LatencyKind};
use hdrhistogram::Histogram;
use std::fs;
use std::time::Duration;

/// Everything that is compared between two moments.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Since the start of the traffic.
    pub elapsed: Duration,
    /// The proxy's counters.
    pub counters: Counters,
    /// What arrived at each backend.
    pub arrived: Vec<Arrived>,
    /// Whether the proxy takes each backend for up.
    pub up: Vec<bool>,
    /// Packets that the kernel dropped at the backends' sockets.
    pub backend_drops: u64,
    /// CPU time of the workers; `None` if this kernel does not show it.
    pub cpu: Option<Duration>,
}

impl Moment {
    /// Reads all of it.
    pub fn read(elapsed: Duration, proxy: &ProxyHandle, backends: &Backends) -> Moment {
        let routes = proxy.routes();
        Moment {
            elapsed,
            counters: proxy.counters(),
            arrived: backends.list.iter().map(|backend| backend.arrived()).collect(),
            up: (0..backends.list.len()).map(|index| routes.live.contains(index)).collect(),
            backend_drops: backends.kernel_drops(),
            cpu: workers_cpu(),
        }
    }
}

/// Rates between two moments, per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Metrics that the proxy received.
    pub metrics_in: f64,
    /// Datagrams that they came in.
    pub datagrams_in: f64,
    /// Metrics that the proxy sent.
    pub metrics_out: f64,
    /// Datagrams that they went in.
    pub datagrams_out: f64,
    /// Metrics that arrived at each backend.
    pub arrived: Vec<f64>,
    /// The workers' CPU.
    pub cpu: Option<Cpu>,
}

/// The CPU that the workers used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// As a part of one core, 1 = all of it.
    pub cores: f64,
    /// Divided by the datagrams received, in µs.
    pub us_per_datagram: f64,
}

impl Rates {
    /// Between two moments.
    pub fn between(before: &Moment, after: &Moment) -> Rates {
        let elapsed = after.elapsed.saturating_sub(before.elapsed);
        let per_second =
            |count: u64| if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() };
        let grown = |counter| after.counters.get(counter).saturating_sub(before.counters.get(counter));
        let arrived = after.arrived.iter().zip(&before.arrived);
        let cpu = after.cpu.zip(before.cpu).map(|(after, before)| after.saturating_sub(before));
        Rates {
            metrics_in: per_second(grown(Counter::MetricsReceived)),
            datagrams_in: per_second(grown(Counter::DatagramsReceived)),
            metrics_out: per_second(grown(Counter::MetricsSent)),
            datagrams_out: per_second(grown(Counter::DatagramsSent)),
            arrived: arrived
                .map(|(after, before)| per_second(after.total().saturating_sub(before.total())))
                .collect(),
            cpu: cpu.and_then(|cpu| Cpu::of(cpu, elapsed, grown(Counter::DatagramsReceived))),
        }
    }
}

impl Cpu {
    /// `None` if nothing can be said of so little.
    fn of(cpu: Duration, elapsed: Duration, datagrams: u64) -> Option<Cpu> {
        (!elapsed.is_zero() && datagrams > 0).then(|| Cpu {
            cores: cpu.as_secs_f64() / elapsed.as_secs_f64(),
            us_per_datagram: cpu.as_secs_f64() * 1e6 / datagrams as f64,
        })
    }
}

/// From a metric's arrival to its sending, µs; upper bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50_us: u64,
    /// 99 % of the metrics took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Quantiles {
    /// Of the metrics measured; `None` without any.
    pub fn of(latency: &Latency) -> Option<Quantiles> {
        let mut all: Histogram<u64> = latency.get(LatencyKind::Bound).clone();
        // Cannot fail: all have the same bounds.
        let _ = all.add(latency.get(LatencyKind::AfterIdle));
        (!all.is_empty()).then(|| Quantiles {
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            max_us: all.max(),
        })
    }
}

/// CPU time of this process's worker threads, with that of kernel threads that work for their rings.
fn workers_cpu() -> Option<Duration> {
    let mut workers = Vec::new();
    let mut others = Vec::new();
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let path = task.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let on_cpu = fs::read_to_string(path.join("schedstat")).ok().and_then(|text| on_cpu_ns(&text));
        let (Some(id), Some(on_cpu)) = (task.file_name().into_string().ok(), on_cpu) else { continue };
        if name.starts_with("worker-") { &mut workers } else { &mut others }.push((id, name, on_cpu));
    }
    let helps = |name: &str| workers.iter().any(|(id, ..)| name.trim() == format!("iou-wrk-{id}"));
    let own: u64 = workers.iter().map(|(_, _, ns)| ns).sum();
    let helpers: u64 = others.iter().filter(|(_, name, _)| helps(name)).map(|(_, _, ns)| ns).sum();
    (!workers.is_empty()).then(|| Duration::from_nanos(own + helpers))
}

/// The first number of a task's `schedstat`: ns on a CPU.
fn on_cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A moment `seconds` into a steady run.
    pub(in super::super) fn moment(seconds: u64) -> Moment {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 20_000 * seconds);
        counters.add(Counter::MetricsSent, 20_000 * seconds);
        counters.add(Counter::DatagramsReceived, 5_000 * seconds);
        counters.add(Counter::DatagramsSent, 600 * seconds);
        let arrived = |metrics| Arrived { metrics: metrics * seconds, ..Arrived::default() };
        Moment {
            elapsed: Duration::from_secs(seconds),
            counters,
            arrived: vec![arrived(6_000), arrived(8_000), arrived(6_000)],
            up: vec![true, false, true],
            backend_drops: 0,
            cpu: Some(Duration::from_millis(20 * seconds)),
        }
    }

    #[test]
    fn rates_are_what_came_in_between() {
        let rates = Rates::between(&moment(3), &moment(5));
        assert_eq!((rates.metrics_in, rates.datagrams_in), (20_000.0, 5_000.0));
        assert_eq!((rates.metrics_out, rates.datagrams_out), (20_000.0, 600.0));
        assert_eq!(rates.arrived, [6_000.0, 8_000.0, 6_000.0]);
        let cpu = rates.cpu.unwrap();
        assert!((cpu.cores - 0.02).abs() < 1e-9 && (cpu.us_per_datagram - 4.0).abs() < 1e-9, "{cpu:?}");
    }

    #[test]
    fn no_time_and_no_cpu_figure_are_no_fault() {
        let mut after = moment(3);
        assert_eq!(Rates::between(&after.clone(), &after).metrics_in, 0.0);
        after.cpu = None;
        assert_eq!(Rates::between(&moment(2), &after).cpu, None);
    }

    #[test]
    fn latency_is_of_all_metrics() {
        let mut latency = Latency::new();
        assert_eq!(Quantiles::of(&latency), None);
        latency.record(LatencyKind::Bound, 100, 98);
        latency.record(LatencyKind::AfterIdle, 120, 2);
        assert_eq!(Quantiles::of(&latency), Some(Quantiles { p50_us: 100, p99_us: 120, max_us: 120 }));
    }

    #[test]
    fn a_busy_worker_is_seen() {
        assert_eq!(on_cpu_ns("123 456 7\n"), Some(123));
        assert_eq!(on_cpu_ns(""), None);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("worker-9".to_owned());
        let thread = thread.spawn(move || {
            let mut sum = 0u64;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                sum = std::hint::black_box(sum + 1);
            }
        });
        let thread = thread.unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let has_schedstat = fs::read_to_string("/proc/self/schedstat").is_ok();
        while workers_cpu().is_none_or(|cpu| cpu.is_zero()) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
            if !has_schedstat {
                break;
            }
        }
        assert_eq!(workers_cpu().is_some_and(|cpu| !cpu.is_zero()), has_schedstat);
        drop(stop);
        thread.join().unwrap();
    }
}
