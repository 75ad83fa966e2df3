//! When the next datagrams are due. Pure: the clock is handed in.
//!
//! In: a rate, the clock. Out: how many to send now, or until when to sleep. Deadlines are absolute, so that late
//! wakeups do not slow the load; datagrams missed in a long stall are made up for up to a bound and skipped beyond it,
//! since a flood after a pause was not requested. Next: `send.rs`.

/// How far behind the load may be and still catch up.
const CATCH_UP_NS_MAX: u64 = 100_000_000;
/// Datagrams between two looks at the clock.
const BATCH: u64 = 32;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// So many datagrams, at once.
    Send(u64),
    /// Nothing before the clock shows this, ns.
    Sleep {
        /// ns of the caller's clock.
        until_ns: u64,
    },
}

/// The pace of one load.
#[derive(Debug)]
pub struct Pace {
    /// Datagrams a second; `None` is as many as can be.
    rate: Option<u64>,
    /// Datagrams that leave together.
    burst: u64,
    start_ns: u64,
    /// Datagrams since `start_ns`, sent or given up.
    passed: u64,
    given_up: u64,
    behind_ns_max: u64,
}

impl Pace {
    /// `rate` and `burst` are at least 1. With a burst of 600 and a rate of 1,000 every 600 ms 600 datagrams leave.
    pub fn new(rate: Option<u64>, burst: u64, now_ns: u64) -> Pace {
        Pace { rate, burst: burst.max(1), start_ns: now_ns, passed: 0, given_up: 0, behind_ns_max: 0 }
    }

    /// What is due at `now_ns`, which then counts as sent.
    pub fn due(&mut self, now_ns: u64) -> Due {
        let Some(rate) = self.rate else {
            self.passed = self.passed.saturating_add(BATCH);
            return Due::Send(BATCH);
        };
        let deadline_ns = self.deadline_ns(rate);
        if now_ns < deadline_ns {
            return Due::Sleep { until_ns: deadline_ns };
        }
        let behind_ns = now_ns - deadline_ns;
        self.behind_ns_max = self.behind_ns_max.max(behind_ns);
        if behind_ns > CATCH_UP_NS_MAX {
            self.give_up(behind_ns - CATCH_UP_NS_MAX, rate);
        }
        let count = self.due_by(now_ns, rate).saturating_sub(self.passed).clamp(1, BATCH);
        self.passed = self.passed.saturating_add(count);
        Due::Send(count)
    }

    /// Datagrams that the load should have sent and has given up.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// How late a datagram was at most, in µs; what was late by more than the bound was given up.
    pub fn behind_us_max(&self) -> u64 {
        self.behind_ns_max / 1_000
    }

    /// When the next datagram is due: with all of its burst.
    fn deadline_ns(&self, rate: u64) -> u64 {
        let first = self.passed / self.burst * self.burst;
        // Upwards: a nanosecond too early it is not yet due by `due_by`.
        let after = (u128::from(first) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
        self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Datagrams due up to and including `now_ns`, in whole bursts.
    fn due_by(&self, now_ns: u64, rate: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.start_ns));
        let due = elapsed * u128::from(rate) / 1_000_000_000;
        (u64::try_from(due).unwrap_or(u64::MAX) / self.burst).saturating_add(1).saturating_mul(self.burst)
    }

    /// Gives up the whole bursts that were due in `excess_ns`.
    fn give_up(&mut self, excess_ns: u64, rate: u64) {
        let lost = u128::from(excess_ns) * u128::from(rate) / 1_000_000_000;
        let lost = u64::try_from(lost).unwrap_or(u64::MAX) / self.burst * self.burst;
        self.given_up = self.given_up.saturating_add(lost);
        self.passed = self.passed.saturating_add(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_datagram_has_its_deadline() {
        let mut pace = Pace::new(Some(1000), 1, 7);
        assert_eq!(pace.due(7), Due::Send(1));
        assert_eq!(pace.due(8), Due::Sleep { until_ns: 1_000_007 });
        assert_eq!(pace.due(3_000_007), Due::Send(3));
        assert_eq!(pace.due(3_000_008), Due::Sleep { until_ns: 4_000_007 });
        assert_eq!((pace.given_up(), pace.behind_us_max()), (0, 2_000));
    }

    #[test]
    fn bursts_leave_together() {
        let mut pace = Pace::new(Some(1000), 50, 0);
        assert_eq!((pace.due(0), pace.due(1)), (Due::Send(32), Due::Send(18)));
        assert_eq!(pace.due(2), Due::Sleep { until_ns: 50_000_000 });
        assert_eq!(pace.due(50_000_000), Due::Send(32));
    }

    #[test]
    fn after_a_long_stall_the_excess_is_given_up() {
        let mut pace = Pace::new(Some(1000), 1, 0);
        assert_eq!(pace.due(0), Due::Send(1));
        let mut sent = 1;
        let now_ns = 2_000_000_000;
        while let Due::Send(count) = pace.due(now_ns) {
            sent += count;
        }
        assert_eq!(sent + pace.given_up(), 2001);
        assert!((100..=102).contains(&(sent - 1)), "{sent}");
    }

    #[test]
    fn a_burst_does_not_leave_within_the_nanosecond_before_it_is_due() {
        // Burst 2,317 of 45 is due at 31,954,487.95 ns.
        let mut pace = Pace::new(Some(3_262_922), 45, 0);
        let mut sent = 0;
        while let Due::Send(count) = pace.due(31_954_487) {
            sent += count;
        }
        assert_eq!(sent, 2_317 * 45);
    }

    #[test]
    fn flat_out_never_sleeps() {
        let mut pace = Pace::new(None, 1, 0);
        assert!((0..100).all(|_| pace.due(0) == Due::Send(BATCH)));
    }

    proptest! {
        #[test]
        fn after_any_sleeps_the_rate_is_kept(
            rate in 1..5_000_000u64,
            burst in 1..3000u64,
            sleeps in proptest::collection::vec(0..90_000_000u64, 1..50),
        ) {
            let (mut pace, mut now_ns, mut sent) = (Pace::new(Some(rate), burst, 0), 0, 0);
            for sleep in sleeps {
                now_ns += sleep;
                while let Due::Send(count) = pace.due(now_ns) {
                    sent += count;
                }
                let due = u128::from(now_ns) * u128::from(rate) / 1_000_000_000;
                prop_assert_eq!(u128::from(sent), (due / u128::from(burst) + 1) * u128::from(burst));
                prop_assert_eq!(pace.given_up(), 0);
            }
        }

        #[test]
        fn no_figures_make_it_fail(rate in 1u64.., burst in 0u64.., times in proptest::collection::vec(any::<u64>(), 1..20)) {
            let mut pace = Pace::new(Some(rate), burst, 0);
            for now_ns in times {
                let _ = pace.due(now_ns);
            }
        }
    }
}
