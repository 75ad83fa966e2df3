//! The schedule of simulated outages, which show names being diverted and returning. Pure.
//!
//! In: how long the demo runs, and the time since its start. Out: the backend that is to be down. Next: `show.rs`.

use std::time::Duration;

/// Backends that take turns.
const BACKENDS: u64 = 3;
/// When the first one goes, unless the demo is short.
const FIRST: Duration = Duration::from_secs(8);
/// How long it stays away.
const LENGTH: Duration = Duration::from_secs(5);
/// From one to the next.
const PERIOD: Duration = Duration::from_secs(30);
/// What the proxy needs to take a backend back, and a moment to see it; an outage that would not leave so much is left
/// out.
const RETURN: Duration = Duration::from_secs(2);
/// Shorter than this, the proxy would hardly have seen the outage when it ends.
const LENGTH_MIN: Duration = Duration::from_secs(2);

/// The outages of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outages {
    first: Duration,
    length: Duration,
    end: Option<Duration>,
}

impl Outages {
    /// For a demo of this length, or without end.
    pub fn new(end: Option<Duration>) -> Outages {
        let third = end.map_or(Duration::MAX, |end| end / 3);
        Outages { first: FIRST.min(third), length: LENGTH.min(third), end }
    }

    /// Which backend, from 0, is down at `elapsed` after the start. Backend 1 is the first, then they take turns.
    pub fn down(&self, elapsed: Duration) -> Option<usize> {
        let since_first = elapsed.checked_sub(self.first)?;
        let round = since_first.as_secs() / PERIOD.as_secs();
        let start = self.first + PERIOD * u32::try_from(round).ok()?;
        let over = start + self.length;
        let is_in_time = self.end.is_none_or(|end| over + RETURN <= end);
        let is_now = elapsed < over && self.length >= LENGTH_MIN && is_in_time;
        is_now.then_some(((1 + round) % BACKENDS) as usize)
    }

    /// How long each lasts.
    pub fn length(&self) -> Duration {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outages(seconds: Option<u64>) -> Outages {
        Outages::new(seconds.map(Duration::from_secs))
    }

    /// The outages of a run as (from, to, backend): seconds, seen every quarter.
    fn of(seconds: Option<u64>, watched_s: u64) -> Vec<(f64, f64, usize)> {
        let mut found: Vec<(f64, f64, usize)> = Vec::new();
        for at in (0..watched_s * 4).map(|quarter| Duration::from_millis(quarter * 250)) {
            let Some(backend) = outages(seconds).down(at) else { continue };
            let (from, to) = (at.as_secs_f64(), at.as_secs_f64() + 0.25);
            match found.last_mut() {
                Some(last) if (last.1, last.2) == (from, backend) => last.1 = to,
                _ => found.push((from, to, backend)),
            }
        }
        found
    }

    #[test]
    fn without_end_the_backends_take_turns() {
        assert_eq!(of(None, 110), [(8.0, 13.0, 1), (38.0, 43.0, 2), (68.0, 73.0, 0), (98.0, 103.0, 1)]);
    }

    #[test]
    fn every_outage_is_over_in_time_and_a_short_demo_has_none() {
        assert_eq!(of(Some(2), 2), []);
        assert_eq!(of(Some(5), 5), []);
        assert_eq!(of(Some(6), 6), [(2.0, 4.0, 1)]);
        assert_eq!(of(Some(15), 15), [(5.0, 10.0, 1)]);
        assert_eq!(of(Some(44), 44), [(8.0, 13.0, 1)]);
        assert_eq!(of(Some(45), 45), [(8.0, 13.0, 1), (38.0, 43.0, 2)]);
        // The longest demo that can be asked for.
        assert_eq!(outages(Some(86_400)).down(Duration::from_secs(86_399)), None);
    }
}
