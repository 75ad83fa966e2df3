//! The account of a sequenced load: every line of a datagram read, counted, and its latency recorded.
//!
//! In: a datagram that arrived at a sink, the clock. Out: sums and a histogram. Next: `account.rs`.

use super::placed::Placed;
use super::sequence::{SequenceTable, SequenceTally};
use crate::tools::load::line::{Read, Run, STAMP_RANGE_US, read};
use crate::wire::lines;
use hdrhistogram::Histogram;

/// A latency above this is of a clock that jumped or of a stamp from another load, and is not recorded.
const LATENCY_US_MAX: u64 = 90_000_000;

/// See the module.
#[derive(Debug)]
pub struct Sequenced {
    /// The load that is measured; the first that is seen, if none was named.
    pub(super) run: Option<Run>,
    prefix: Vec<u8>,
    same_clock: bool,
    table: SequenceTable,
    placed: Option<Placed>,
    latency: Histogram<u64>,
    /// How many metrics the load says that it has sent.
    pub(super) total: Option<u64>,
    /// Lines that are no metrics of this load.
    pub(super) foreign: u64,
    /// Metrics of names beyond those that there is room for.
    pub(super) unroomed: u64,
}

impl Sequenced {
    /// For a load of up to `names` names. Without a run, that of the first sequenced metric is taken; without placements, a
    /// name's first sink is its place.
    pub fn new(names: usize, run: Option<Run>, placed: Option<Placed>) -> Sequenced {
        let mut account = Sequenced {
            run: None,
            prefix: Vec::new(),
            same_clock: false,
            table: SequenceTable::new(names),
            placed,
            latency: histogram(),
            total: None,
            foreign: 0,
            unroomed: 0,
        };
        if let Some(run) = run {
            account.adopt(run);
        }
        account
    }

    fn adopt(&mut self, run: Run) {
        self.prefix = run.prefix();
        self.same_clock = run.is_of_this_host();
        self.run = Some(run);
    }

    /// Takes a datagram into account; how many metrics it had, of whatever load.
    #[inline]
    pub fn take(&mut self, datagram: &[u8], sink: u16, now_us: u64) -> u64 {
        let mut metrics = 0;
        for line in lines(datagram) {
            metrics += 1;
            if self.run.is_none() {
                match Run::of_line(line) {
                    Some(run) => self.adopt(run),
                    None => {
                        self.foreign += 1;
                        continue;
                    }
                }
            }
            match read(&self.prefix, line) {
                Read::Metric { index, sequence, stamp_us } => {
                    match self.table.record(index, sequence, sink) {
                        Some(_) => {
                            self.record_latency(stamp_us, now_us);
                            self.note_place(index, line, sink);
                        }
                        None => self.unroomed += 1,
                    }
                }
                Read::End { total } => {
                    self.total = Some(total);
                    metrics -= 1;
                }
                Read::Foreign => self.foreign += 1,
            }
        }
        metrics
    }

    #[inline]
    fn record_latency(&mut self, stamp_us: u64, now_us: u64) {
        if !self.same_clock {
            return;
        }
        let latency_us = (now_us % STAMP_RANGE_US + STAMP_RANGE_US - stamp_us) % STAMP_RANGE_US;
        if latency_us <= LATENCY_US_MAX {
            self.latency.saturating_record(latency_us.max(1));
        }
    }

    #[inline]
    fn note_place(&mut self, index: usize, line: &[u8], sink: u16) {
        if let Some(placed) = &mut self.placed {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            placed.note(index, name, sink);
        }
    }

    /// Metrics and names at a sink where they do not belong.
    pub fn misplaced(&self) -> (u64, u64) {
        let tally = self.table.tally();
        self.placed.as_ref().map_or((tally.misplaced, tally.names_misplaced), Placed::misplaced)
    }

    /// Metrics that are at another sink than their name was seen at first, and are not misplaced; `None` without
    /// placements.
    pub fn moved(&self) -> Option<u64> {
        let placed = self.placed.as_ref()?;
        Some(self.table.tally().misplaced.saturating_sub(placed.misplaced().0))
    }

    /// The sums so far.
    pub fn tally(&self) -> SequenceTally {
        self.table.tally()
    }

    /// From the send to the sink's read, in µs; `None` if the load ran on another host, whose clock is another.
    pub fn latency(&self) -> Option<&Histogram<u64>> {
        self.same_clock.then_some(&self.latency)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("these bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::load::line::{LineForm, end_marker};

    fn line(run: &Run, index: u32, sequence: u64, stamp_us: u64) -> Vec<u8> {
        let mut out = Vec::new();
        LineForm::new(run, 0, &["c"], None).write(&mut out, index, sequence, stamp_us);
        out
    }

    #[test]
    fn a_datagrams_lines_are_distinguished() {
        let run = Run::new(Some("a")).unwrap();
        let other = Run::new(Some("b")).unwrap();
        let mut sink = Sequenced::new(10, Some(run.clone()), None);
        let datagram = [
            line(&run, 3, 0, 0),
            line(&other, 3, 1, 0),
            line(&run, 3, 0, 0),
            b"\r".to_vec(),
            b"foo:1|c".to_vec(),
            line(&run, 10, 0, 0),
            end_marker(&run, 5, 99),
        ];
        assert_eq!(sink.take(&datagram.join(&b'\n'), 0, 1), 5);
        let tally = sink.tally();
        assert_eq!((tally.unique, tally.duplicated), (1, 1));
        assert_eq!((sink.foreign, sink.unroomed, sink.total), (2, 1, Some(99)));
    }

    #[test]
    fn the_first_run_that_is_seen_is_measured() {
        let (run, other) = (Run::new(Some("a")).unwrap(), Run::new(Some("b")).unwrap());
        let mut sink = Sequenced::new(10, None, None);
        assert_eq!(sink.take(b"foo:1|c", 0, 1), 1);
        assert_eq!(sink.run, None);
        sink.take(&line(&run, 1, 0, 0), 0, 1);
        sink.take(&line(&other, 1, 0, 0), 0, 1);
        assert_eq!((sink.run.as_ref(), sink.tally().unique, sink.foreign), (Some(&run), 1, 2));
    }

    #[test]
    fn latency_survives_the_stamps_wrap_and_ignores_other_hosts_clocks() {
        let run = Run::new(Some("a")).unwrap();
        let mut sink = Sequenced::new(10, Some(run.clone()), None);
        let now_us = 7 * STAMP_RANGE_US + 20;
        sink.take(&line(&run, 0, 0, now_us - 50), 0, now_us);
        // A stamp from the future is not recorded.
        sink.take(&line(&run, 0, 1, now_us + 5), 0, now_us);
        let latency = sink.latency().unwrap();
        assert_eq!((latency.len(), latency.max()), (1, 50));
        let mut sink = Sequenced::new(10, None, None);
        assert_eq!(sink.take(b"load.00000.1:5|c", 0, 9), 1);
        assert_eq!(sink.tally().unique, 1);
        assert!(sink.latency().is_none());
    }
}
