//! The account of a replayed load: how often each captured text arrived, and at which sink its name did.
//!
//! In: a datagram that arrived at a sink. Out: sums, compared with how often each text was sent. The same text twice
//! cannot be distinguished from its copies: one lost and one duplicated cancel out. Next: `account.rs`.

use crate::tools::load::line::{Read, Run, read};
use crate::tools::load::replay::Replay;
use crate::wire::{lines, routing_key};
use std::collections::HashSet;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Replayed {
    replay: Arc<Replay>,
    arrived: Vec<u64>,
    /// For each name its sink plus one, the first that it was seen at unless it was given, and whether it was seen at another.
    places: Vec<(u16, bool)>,
    /// Captured metrics that arrived, however often.
    pub(super) metrics: u64,
    misplaced: u64,
    names_misplaced: u64,
    /// Lines that are none of the file's.
    pub(super) foreign: u64,
    /// How many metrics were sent, if the load has reported it.
    pub(super) total: Option<u64>,
}

/// What came of the texts that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Metrics that arrived, each counted as often as it was sent at most.
    pub unique: u64,
    /// Metrics that did not.
    pub lost: u64,
    /// Metrics that arrived beside those sent.
    pub duplicated: u64,
}

impl Replayed {
    /// Nothing has arrived.
    pub fn new(replay: Arc<Replay>) -> Replayed {
        Replayed {
            arrived: vec![0; replay.text_count()],
            places: vec![(0, false); replay.name_count()],
            replay,
            metrics: 0,
            misplaced: 0,
            names_misplaced: 0,
            foreign: 0,
            total: None,
        }
    }

    /// Takes `home` for the sink where a name belongs, instead of the first that it is seen at.
    pub fn placed(mut self, home: impl Fn(&[u8]) -> Option<usize>) -> Replayed {
        for text in 0..self.replay.text_count() as u32 {
            let home = routing_key(self.replay.text(text)).and_then(&home);
            self.places[self.replay.name_of(text)].0 = home.map_or(0, |sink| sink as u16 + 1);
        }
        self
    }

    /// Takes a datagram into account; how many metrics it had, captured ones or not.
    pub fn take(&mut self, datagram: &[u8], sink: u16) -> u64 {
        let mut metrics = 0;
        for line in lines(datagram) {
            metrics += 1;
            if let Some(text) = self.replay.find(line) {
                self.metrics += 1;
                self.arrived[text as usize] += 1;
                self.note_sink(self.replay.name_of(text), sink);
                continue;
            }
            let marker = Run::of_line(line).map(|run| read(&run.prefix(), line));
            if let Some(Read::End { total }) = marker {
                self.total = Some(total);
                metrics -= 1;
            } else {
                self.foreign += 1;
            }
        }
        metrics
    }

    fn note_sink(&mut self, name: usize, sink: u16) {
        let (first, moved) = &mut self.places[name];
        if *first == 0 {
            *first = sink + 1;
        } else if *first != sink + 1 {
            self.misplaced += 1;
            self.names_misplaced += u64::from(!*moved);
            *moved = true;
        }
    }

    /// Compares with how often each text was sent.
    pub fn compare(&self, sent: &[u64]) -> Compared {
        let mut compared = Compared::default();
        for (arrived, sent) in self.arrived.iter().zip(sent) {
            compared.unique += arrived.min(sent);
            compared.lost += sent.saturating_sub(*arrived);
            compared.duplicated += arrived.saturating_sub(*sent);
        }
        compared
    }

    /// How often each text was sent if `total` lines were.
    pub fn sent_of_total(&self, total: u64) -> Vec<u64> {
        self.replay.sent_of_total(total)
    }

    /// Metrics at another sink than that of their name; and how many names that were.
    pub fn misplaced(&self) -> (u64, u64) {
        (self.misplaced, self.names_misplaced)
    }

    /// Names seen.
    pub fn names(&self) -> u64 {
        let seen = (0u32..).zip(&self.arrived).filter(|(_, arrived)| **arrived > 0);
        seen.map(|(text, _)| self.replay.name_of(text)).collect::<HashSet<_>>().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::load::line::end_marker;

    #[test]
    fn texts_are_counted_and_names_have_one_place() {
        let replay = Arc::new(Replay::parse(b"a:1|c\na:2|c\nb:1|ms|@0.1\n".to_vec()));
        let mut sink = Replayed::new(replay);
        assert_eq!(sink.take(b"a:1|c\nb:1|ms|@0.1\nb:1|ms", 0), 3);
        assert_eq!(sink.take(b"a:2|c\na:1|c", 1), 2);
        let marker = end_marker(&Run::new(Some("r")).unwrap(), 0, 4);
        assert_eq!(sink.take(&marker, 1), 0);
        assert_eq!(sink.total, Some(4));
        assert_eq!((sink.metrics, sink.foreign, sink.names()), (4, 1, 2));
        assert_eq!(sink.misplaced(), (2, 1));
        // Of four lines sent in order the first text went twice: all is there.
        let sent = sink.sent_of_total(4);
        assert_eq!(sink.compare(&sent), Compared { unique: 4, lost: 0, duplicated: 0 });
        assert_eq!(sink.compare(&[1, 3, 1]), Compared { unique: 3, lost: 2, duplicated: 1 });
    }

    #[test]
    fn a_name_may_be_given_its_place() {
        let replay = Arc::new(Replay::parse(b"a:1|c\na:2|c\nb:1|c\n".to_vec()));
        let mut sink = Replayed::new(replay).placed(|name| (name == b"a").then_some(1));
        sink.take(b"a:1|c\nb:1|c", 0);
        sink.take(b"a:2|c", 1);
        assert_eq!((sink.misplaced(), sink.names()), ((1, 1), 2));
    }
}
