//! What a sink has measured, as people and programs get it.
//!
//! In: sums and a histogram. Out: fields of the JSON, and lines of text. Next: `verdict.rs`, `text.rs`.

use hdrhistogram::Histogram;
use serde::Serialize;

/// What arrived of one load.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Arrived {
    /// The load's run; nothing for captured lines.
    pub run: Option<String>,
    /// From the first to the last arrival.
    pub seconds: f64,
    /// Datagrams, of whatever load.
    pub datagrams: u64,
    /// Metrics, of whatever load.
    pub metrics: u64,
    /// Payload.
    pub bytes: u64,
    /// Metrics that were sent; nothing if that is not known.
    pub expected: Option<u64>,
    /// Metrics that arrived for the first time.
    pub unique: u64,
    /// Metrics that did not arrive; if it is not known how many were sent, those that are missing below the highest
    /// number of their name.
    pub lost: u64,
    /// Metrics that had arrived before.
    pub duplicated: u64,
    /// Metrics that came after a later one of their name; nothing for captured lines.
    pub reordered: Option<u64>,
    /// Metrics so late that they cannot be told from duplicates; if one was lost before, it may be that one.
    pub undecided: u64,
    /// Metrics at another sink than the one where their name was read first. After a stall the sinks are read one after
    /// the other, so the number may differ from run to run; `names_misplaced` does not. With `--placed-by`: metrics at a
    /// sink where none of the configs places their name.
    pub misplaced: u64,
    /// With `--placed-by`: metrics at another sink than the first of their name, where one of the configs places it.
    pub moved: Option<u64>,
    /// Names seen.
    pub names: u64,
    /// Names seen at two sinks; with `--placed-by`, at a sink where none of the configs places them.
    pub names_misplaced: u64,
    /// Lines that are no metrics of this load.
    pub foreign: u64,
    /// Metrics of names beyond the number that the sink can track.
    pub names_beyond: u64,
    /// Datagrams that the kernel dropped at the sinks' own sockets: not the proxy's loss.
    pub dropped_at_sinks: u64,
    /// From the send to the sink's read; nothing for captured lines and for a load on another host.
    pub latency_us: Option<LatencyFigures>,
    /// Each sink.
    pub sinks: Vec<SinkFigures>,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkFigures {
    /// Where it listens.
    pub address: String,
    /// Datagrams that it read.
    pub datagrams: u64,
    /// Their metrics.
    pub metrics: u64,
    /// Their payload.
    pub bytes: u64,
    /// Datagrams that the kernel dropped because its buffer was full.
    pub dropped: u64,
    /// Its receive buffer as the kernel granted it.
    pub receive_buffer_bytes: usize,
}

/// A histogram in short, µs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Metrics.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half of them took no longer.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl LatencyFigures {
    /// Of a histogram of µs.
    pub fn of(histogram: &Histogram<u64>) -> LatencyFigures {
        LatencyFigures {
            count: histogram.len(),
            mean: (histogram.mean() * 10.0).round() / 10.0,
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}
