//! The demo's figures at a moment, and what two moments say about the time between them.
//!
//! In: the proxy's counters, what has arrived, the workers' CPU. Out: [`Moment`]s and [`Rates`]. Next: `table.rs`.

use crate::control::ProxyHandle;
use crate::stats::{Counter, Counters, Latency};
use crate::text::{micros, percent};
use crate::tools::sink::receive::SinkLive;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Everything that is compared between two moments.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Since the start of the traffic.
    pub elapsed: Duration,
    /// The proxy's counters.
    pub counters: Counters,
    /// Metrics that arrived at each backend.
    pub arrived: Vec<u64>,
    /// Whether the proxy takes each backend for up.
    pub up: Vec<bool>,
    /// Packets that the kernel dropped at the backends' sockets.
    pub backend_drops: u64,
    /// CPU time of the workers; `None` if this kernel does not show it.
    pub cpu: Option<Duration>,
}

impl Moment {
    /// Reads all of it.
    pub fn read(elapsed: Duration, proxy: &ProxyHandle, backends: &SinkLive) -> Moment {
        let routes = proxy.routes();
        let cpu_us: Option<u64> = proxy.workers().iter().map(|worker| worker.cpu_us()).sum();
        Moment {
            elapsed,
            counters: proxy.counters(),
            arrived: backends.by_sink.iter().map(|metrics| metrics.load(Ordering::Relaxed)).collect(),
            up: (0..backends.by_sink.len()).map(|index| routes.live.contains(index)).collect(),
            backend_drops: backends.dropped.load(Ordering::Relaxed),
            cpu: cpu_us.map(Duration::from_micros),
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
        let datagrams = grown(Counter::DatagramsReceived);
        Rates {
            metrics_in: per_second(grown(Counter::MetricsReceived)),
            datagrams_in: per_second(datagrams),
            metrics_out: per_second(grown(Counter::MetricsSent)),
            datagrams_out: per_second(grown(Counter::DatagramsSent)),
            arrived: arrived.map(|(after, before)| per_second(after.saturating_sub(*before))).collect(),
            // Nothing can be said of so little.
            cpu: cpu.filter(|_| !elapsed.is_zero() && datagrams > 0).map(|cpu| Cpu {
                cores: cpu.as_secs_f64() / elapsed.as_secs_f64(),
                us_per_datagram: cpu.as_secs_f64() * 1e6 / datagrams as f64,
            }),
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a core, {:.1} µs per datagram", percent(self.cores, 1.0), self.us_per_datagram)
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
        let all = latency.arrival_to_sent();
        (!all.is_empty()).then(|| Quantiles {
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            max_us: all.max(),
        })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(micros);
        write!(f, "p50 ≤ {p50}  p99 ≤ {p99}  max ≤ {max}  from arrival to sending")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stats::LatencyKind;

    /// A moment `seconds` into a steady run.
    pub(in super::super) fn moment(seconds: u64) -> Moment {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 20_000 * seconds);
        counters.add(Counter::MetricsSent, 20_000 * seconds);
        counters.add(Counter::DatagramsReceived, 5_000 * seconds);
        counters.add(Counter::DatagramsSent, 600 * seconds);
        Moment {
            elapsed: Duration::from_secs(seconds),
            counters,
            arrived: [6_000, 8_000, 6_000].map(|metrics| metrics * seconds).to_vec(),
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
}
