//! The datagrams of a load: sequenced metrics, or captured lines.
//!
//! In: a flow and the clock. Out: one datagram's bytes, without allocating. Next: `send.rs`.

use super::line::{LineForm, SEQUENCE_END};
use super::names::Names;
use super::replay::{REPLAY_DATAGRAM_BYTES, Replay};
use std::sync::Arc;

/// Where datagrams come from.
#[derive(Debug)]
pub enum Source {
    /// Metrics with numbers.
    Sequenced(Sequenced),
    /// Lines of a file.
    Replayed(Replayed),
}

/// See [`Source`].
#[derive(Debug)]
pub struct Sequenced {
    form: LineForm,
    names: Names,
    /// The next number of each name.
    next: Vec<u64>,
    /// Metrics of a datagram.
    metrics: u32,
}

/// See [`Source`].
#[derive(Debug)]
pub struct Replayed {
    replay: Arc<Replay>,
    /// The line that is next.
    position: usize,
    /// How often each text was sent.
    sent: Vec<u64>,
    /// The texts of the latest datagram.
    latest: Vec<u32>,
    /// Metrics of a datagram, if they fit.
    metrics: u32,
}

impl Source {
    /// Sequenced metrics of `count` names, `metrics` in each datagram.
    pub fn sequenced(form: LineForm, names: Names, count: usize, metrics: u32) -> Source {
        Source::Sequenced(Sequenced { form, names, next: vec![0; count], metrics })
    }

    /// The lines of a file, which has at least one, again and again, up to `metrics` in each datagram.
    pub fn replayed(replay: Arc<Replay>, metrics: u32) -> Source {
        let sent = vec![0; replay.text_count()];
        Source::Replayed(Replayed { replay, position: 0, sent, latest: Vec::new(), metrics })
    }

    /// Fills `out` with the next datagram of a flow; how many metrics it has, 0 if there are no more numbers.
    #[inline]
    pub fn fill(&mut self, flow: usize, now_us: u64, out: &mut Vec<u8>) -> u32 {
        out.clear();
        match self {
            Source::Sequenced(source) => source.fill(flow, now_us, out),
            Source::Replayed(source) => source.fill(out),
        }
    }

    /// The latest datagram could not be sent. Sequenced metrics keep their numbers: they are a gap.
    pub fn unsent(&mut self) {
        if let Source::Replayed(source) = self {
            for text in source.latest.drain(..) {
                source.sent[text as usize] -= 1;
            }
        }
    }

    /// How often each captured text was sent; nothing for sequenced metrics.
    pub fn texts_sent(&self) -> &[u64] {
        match self {
            Source::Sequenced(_) => &[],
            Source::Replayed(source) => &source.sent,
        }
    }
}

impl Sequenced {
    #[inline]
    fn fill(&mut self, flow: usize, now_us: u64, out: &mut Vec<u8>) -> u32 {
        for _ in 0..self.metrics {
            let name = self.names.next(flow);
            let next = &mut self.next[name as usize];
            if *next >= SEQUENCE_END {
                return 0;
            }
            self.form.write(out, name, *next, now_us);
            out.push(b'\n');
            *next += 1;
        }
        out.pop();
        self.metrics
    }
}

impl Replayed {
    #[inline]
    fn fill(&mut self, out: &mut Vec<u8>) -> u32 {
        self.latest.clear();
        for _ in 0..self.metrics {
            let text = self.replay.text_at(self.position);
            let bytes = self.replay.text(text);
            // One line always fits: longer ones were not taken from the file.
            if !self.latest.is_empty() && out.len() + bytes.len() > REPLAY_DATAGRAM_BYTES {
                break;
            }
            out.extend_from_slice(bytes);
            out.push(b'\n');
            self.sent[text as usize] += 1;
            self.latest.push(text);
            self.position = if self.position + 1 == self.replay.line_count() { 0 } else { self.position + 1 };
        }
        out.pop();
        self.latest.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Read, Run, read};
    use super::*;

    #[test]
    fn sequenced_metrics_count_up_for_each_name() {
        let run = Run::new(Some("g")).unwrap();
        let names = Names::new(3, 1, 0.0).unwrap();
        let mut source = Source::sequenced(LineForm::new(&run, 0, &["c"], None), names, 3, 4);
        let mut out = Vec::new();
        let mut seen = Vec::new();
        for now_us in [5, 6] {
            assert_eq!(source.fill(0, now_us, &mut out), 4);
            for line in out.split(|byte| *byte == b'\n') {
                match read(&run.prefix(), line) {
                    Read::Metric { index, sequence, stamp_us } => seen.push((index, sequence, stamp_us)),
                    other => panic!("{other:?}"),
                }
            }
        }
        let expected = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| (n % 3, n as u64 / 3, if n < 4 { 5 } else { 6 }));
        assert_eq!(seen, expected);
    }

    #[test]
    fn captured_lines_come_in_order_again_and_again() {
        let replay = Arc::new(Replay::parse(b"a:1|c\nb:2|ms\na:1|c\n".to_vec()));
        let mut source = Source::replayed(replay, 2);
        let mut out = Vec::new();
        let datagrams: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                assert_eq!(source.fill(0, 0, &mut out), 2);
                out.clone()
            })
            .collect();
        assert_eq!(
            datagrams,
            [b"a:1|c\nb:2|ms".to_vec(), b"a:1|c\na:1|c".to_vec(), b"b:2|ms\na:1|c".to_vec()]
        );
        assert_eq!(source.texts_sent(), [4, 2]);
        source.unsent();
        assert_eq!(source.texts_sent(), [3, 1]);
        source.unsent();
        assert_eq!(source.texts_sent(), [3, 1]);
    }

    #[test]
    fn a_datagram_of_captured_lines_is_not_longer_than_proxies_take() {
        let long = format!("a:{}|c\n", "1".repeat(5000));
        let mut source = Source::replayed(Arc::new(Replay::parse(long.into_bytes())), 10);
        let mut out = Vec::new();
        assert_eq!(source.fill(0, 0, &mut out), 1);
        assert_eq!(out.len(), 5004);
    }
}
