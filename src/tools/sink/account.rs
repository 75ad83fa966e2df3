//! The account of a load of either kind, and its figures when it has ended.
//!
//! In: datagrams; at the end what was sent, if that is known. Out: [`Arrived`]. Next: `receive.rs` feeds it,
//! `verdict.rs` judges the figures.

use super::figures::{Arrived, LatencyFigures, SinkFigures};
use super::replayed::Replayed;
use super::sequenced::Sequenced;

/// See the module.
#[derive(Debug)]
pub enum Account {
    /// Metrics with numbers.
    Sequenced(Box<Sequenced>),
    /// Lines of a file.
    Replayed(Box<Replayed>),
}

/// The number of metrics sent, as known to the sink.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Unknown: only gaps are detected.
    Unknown,
    /// So many metrics.
    Total(u64),
    /// Each captured text so often.
    Texts(Vec<u64>),
}

/// Sums that are reported while the load runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Metrics that arrived for the first time; captured ones however often.
    pub unique: u64,
    /// Metrics that had arrived before.
    pub duplicated: u64,
    /// Metrics at another sink than the first one of their name.
    pub misplaced: u64,
    /// How many were sent, once the load has reported it.
    pub total: Option<u64>,
}

impl Account {
    /// Takes a datagram into account; how many metrics it had.
    #[inline]
    pub fn take(&mut self, datagram: &[u8], sink: u16, now_us: u64) -> u64 {
        match self {
            Account::Sequenced(account) => account.take(datagram, sink, now_us),
            Account::Replayed(account) => account.take(datagram, sink),
        }
    }

    /// The sums so far.
    pub fn progress(&self) -> Progress {
        match self {
            Account::Sequenced(account) => {
                let tally = account.tally();
                Progress {
                    unique: tally.unique,
                    duplicated: tally.duplicated,
                    misplaced: account.misplaced().0,
                    total: account.total,
                }
            }
            Account::Replayed(account) => Progress {
                unique: account.metrics,
                duplicated: 0,
                misplaced: account.misplaced().0,
                total: account.total,
            },
        }
    }

    /// The figures, with those of the sockets.
    pub fn figures(&self, expected: &Expected, sinks: Vec<SinkFigures>, seconds: f64) -> Arrived {
        let base = Arrived {
            datagrams: sinks.iter().map(|sink| sink.datagrams).sum(),
            metrics: sinks.iter().map(|sink| sink.metrics).sum(),
            bytes: sinks.iter().map(|sink| sink.bytes).sum(),
            dropped_at_sinks: sinks.iter().map(|sink| sink.dropped).sum(),
            seconds,
            sinks,
            ..Arrived::default()
        };
        match self {
            Account::Sequenced(account) => sequenced(account, expected, base),
            Account::Replayed(account) => replayed(account, expected, base),
        }
    }
}

fn sequenced(account: &Sequenced, expected: &Expected, base: Arrived) -> Arrived {
    let tally = account.tally();
    let (misplaced, names_misplaced) = account.misplaced();
    let expected = match expected {
        Expected::Unknown => account.total,
        Expected::Total(total) => Some(*total),
        Expected::Texts(texts) => Some(texts.iter().sum()),
    };
    Arrived {
        run: account.run.as_ref().map(|run| run.text().to_owned()),
        expected,
        unique: tally.unique,
        lost: expected.map_or(tally.gaps, |total| total.saturating_sub(tally.unique)),
        duplicated: tally.duplicated,
        reordered: Some(tally.reordered),
        undecided: tally.undecided,
        misplaced,
        moved: account.moved(),
        names: tally.names,
        names_misplaced,
        foreign: account.foreign,
        names_beyond: account.unroomed,
        latency_us: account.latency().map(LatencyFigures::of),
        ..base
    }
}

fn replayed(account: &Replayed, expected: &Expected, base: Arrived) -> Arrived {
    let sent = match expected {
        Expected::Unknown => account.total.map(|total| account.sent_of_total(total)),
        Expected::Total(total) => Some(account.sent_of_total(*total)),
        Expected::Texts(texts) => Some(texts.clone()),
    };
    let compared = sent.as_ref().map(|sent| account.compare(sent));
    let (misplaced, names_misplaced) = account.misplaced();
    Arrived {
        expected: sent.map(|sent| sent.iter().sum()),
        unique: compared.map_or(account.metrics, |compared| compared.unique),
        lost: compared.map_or(0, |compared| compared.lost),
        duplicated: compared.map_or(0, |compared| compared.duplicated),
        misplaced,
        names: account.names(),
        names_misplaced,
        foreign: account.foreign,
        ..base
    }
}
