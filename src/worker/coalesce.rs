//! When to wake: how long a worker may sleep while traffic flows, so that one wakeup receives many datagrams and yet
//! no more is lost than by waking for each.
//!
//! In: what each wake-up took, in bytes of kernel memory. Out: a sleep in µs. Pure. Next: `step.rs`.
//!
//! While a worker sleeps, the socket's receive buffer is the only buffer. So a sleep never exceeds the time in which the
//! last second's peak rate fills half of it; and after a silence, when no rate is known, sleeps start at the time in
//! which a million datagrams a second would fill a quarter of it, and double.

/// Kernel memory that a small datagram takes in a receive buffer over loopback: 212,992 bytes hold 256 of them. Network drivers
/// charge more, 2,304 bytes for example: see [`Coalescing::measured`]. Joined ones (UDP_GRO) are charged less, so that sleeps are
/// shorter than they need be.
const DATAGRAM_COST_BYTES: u64 = 832;
/// Datagrams that a measurement of their cost needs at least.
const MEASURED_DATAGRAMS_MIN: u64 = 8;
/// Limits of the measured cost relative to the estimate, in thousandths: less than half is implausible, and a receive
/// buffer never holds fewer than a sixteenth.
const COST_PERMILLE: std::ops::RangeInclusive<u64> = 500..=16_000;
/// Datagrams per µs assumed of an unknown sender.
const UNKNOWN_RATE_PER_US: u64 = 1;
/// How long a peak is remembered, in two halves.
const PEAK_HALF_US: u64 = 500_000;
/// Below this a timer costs more than it saves: wake for the next datagram.
const SLEEP_US_MIN: u64 = 100;
/// How long drops keep the sleeps short.
const PRESSURE_US: u64 = 1_000_000;

/// The state for the decision.
#[derive(Clone, Debug)]
pub struct Coalescing {
    room_bytes: u64,
    flush_us: u64,
    /// Peak rates in estimated bytes per ms, of the running and the last half second.
    peaks: [u64; 2],
    /// The highest measured cost relative to the estimate, in thousandths, of the running and the last half second with one.
    cost_permille: [u64; 2],
    half_started_us: u64,
    /// The longest sleep so soon after a silence.
    start_us: u64,
    pressed_until_us: u64,
}

impl Coalescing {
    /// `granted_bytes` is the receive buffer as the kernel granted it, `flush_us` the budget.
    pub fn new(granted_bytes: usize, flush_us: u64) -> Coalescing {
        let room_bytes = granted_bytes as u64;
        Coalescing {
            room_bytes,
            flush_us,
            peaks: [0; 2],
            cost_permille: [0; 2],
            half_started_us: 0,
            start_us: first_sleep_us(room_bytes),
            pressed_until_us: 0,
        }
    }

    /// Changes the budget.
    pub fn set_flush_us(&mut self, flush_us: u64) {
        self.flush_us = flush_us;
    }

    /// A wake-up at `now_us` took `datagrams` with `bytes` of payload, which came within `elapsed_us`.
    pub fn took(&mut self, now_us: u64, elapsed_us: u64, datagrams: u64, bytes: u64) {
        if now_us.saturating_sub(self.half_started_us) >= PEAK_HALF_US {
            let skipped = now_us.saturating_sub(self.half_started_us) >= 2 * PEAK_HALF_US;
            self.peaks = [0, if skipped { 0 } else { self.peaks[0] }];
            if self.cost_permille[0] > 0 {
                self.cost_permille = [0, self.cost_permille[0]];
            }
            self.half_started_us = now_us;
        }
        let rate = estimate(datagrams, bytes).saturating_mul(1_000) / elapsed_us.max(SLEEP_US_MIN);
        self.peaks[0] = self.peaks[0].max(rate);
        self.start_us = self.start_us.saturating_mul(2).min(1 << 30);
    }

    /// The sockets held `queued_bytes` of kernel memory before `datagrams` with `bytes` of payload were taken, which left them
    /// empty. Those that came meanwhile make it an underestimate, so the highest of the last second counts.
    pub fn measured(&mut self, queued_bytes: u64, datagrams: u64, bytes: u64) {
        if datagrams >= MEASURED_DATAGRAMS_MIN {
            let permille = queued_bytes.saturating_mul(1_000) / estimate(datagrams, bytes).max(1);
            let permille = permille.clamp(*COST_PERMILLE.start(), *COST_PERMILLE.end());
            self.cost_permille[0] = self.cost_permille[0].max(permille);
        }
    }

    /// The peak rate in bytes per ms, as the kernel charges them.
    fn peak(&self) -> u64 {
        let peak = self.peaks[0].max(self.peaks[1]);
        match self.cost_permille[0].max(self.cost_permille[1]) {
            0 => peak,
            permille => peak.saturating_mul(permille) / 1_000,
        }
    }

    /// A sleep received nothing: the rate is unknown again.
    pub fn silence(&mut self) {
        self.start_us = first_sleep_us(self.room_bytes);
    }

    /// The kernel dropped datagrams, or buffers ran out: sleep short for a while.
    pub fn pressed(&mut self, now_us: u64) {
        self.pressed_until_us = now_us + PRESSURE_US;
    }

    /// How long a sleep may last that starts at `now_us`; `None` = wake for the next datagram.
    pub fn sleep_us(&self, now_us: u64) -> Option<u64> {
        let peak = self.peak();
        let half_full_us = (self.room_bytes / 2).saturating_mul(1_000).checked_div(peak).unwrap_or(u64::MAX);
        let mut sleep_us = self.flush_us.min(half_full_us).min(self.start_us);
        if now_us < self.pressed_until_us {
            sleep_us /= 4;
        }
        (sleep_us >= SLEEP_US_MIN).then_some(sleep_us)
    }

    /// How much of the granted buffer the peak rate fills within `sleep_us`, in thousandths.
    pub fn filled_permille(&self, sleep_us: u64) -> u16 {
        let peak = self.peak();
        let filled = peak.saturating_mul(sleep_us).checked_div(self.room_bytes).unwrap_or(0);
        u16::try_from(filled).unwrap_or(u16::MAX)
    }
}

/// Kernel memory of so many datagrams over loopback: a small one takes a fixed piece, a large one up to twice its length.
fn estimate(datagrams: u64, bytes: u64) -> u64 {
    datagrams * DATAGRAM_COST_BYTES + 2 * bytes.saturating_sub(datagrams * 128)
}

fn first_sleep_us(room_bytes: u64) -> u64 {
    room_bytes / DATAGRAM_COST_BYTES / 4 / UNKNOWN_RATE_PER_US
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_GRANT: usize = 212_992;
    const LARGE_GRANT: usize = 16 << 20;

    #[test]
    fn with_a_large_buffer_the_budget_alone_counts() {
        let mut coalescing = Coalescing::new(LARGE_GRANT, 5_000);
        assert_eq!(coalescing.sleep_us(0), Some(5_000));
        coalescing.took(5_000, 5_000, 1_000, 40_000);
        assert_eq!(coalescing.sleep_us(5_000), Some(5_000));
    }

    #[test]
    fn a_small_buffer_is_never_more_than_half_filled_by_the_known_rate() {
        let mut coalescing = Coalescing::new(DEFAULT_GRANT, 5_000);
        let mut now_us = 0;
        for _ in 0..20 {
            now_us += 1_000;
            coalescing.took(now_us, 1_000, 100, 4_000);
        }
        // 100,000 datagrams a second: half of 256 come in 1.28 ms.
        let sleep_us = coalescing.sleep_us(now_us).unwrap();
        assert!((1_200..=1_280).contains(&sleep_us), "{sleep_us}");
        let filled = coalescing.filled_permille(sleep_us);
        assert!((450..=500).contains(&filled), "{filled}");
    }

    #[test]
    fn after_a_silence_sleeps_start_short_and_double() {
        let mut coalescing = Coalescing::new(2 * DEFAULT_GRANT, 5_000);
        let mut sleeps = Vec::new();
        for step in 0..8u64 {
            sleeps.push(coalescing.sleep_us(step * 1_000).unwrap_or(0));
            coalescing.took(step * 1_000, 1_000, 1, 40);
        }
        assert!(sleeps[0] <= 130, "{sleeps:?}");
        assert!(sleeps.windows(2).all(|pair| pair[1] <= 2 * pair[0].max(SLEEP_US_MIN)), "{sleeps:?}");
        assert_eq!(sleeps[7], 5_000);
        coalescing.silence();
        assert!(coalescing.sleep_us(9_000).unwrap_or(0) <= 130);
    }

    #[test]
    fn a_peak_is_forgotten_after_a_second_and_a_burst_counts_as_one() {
        let mut coalescing = Coalescing::new(DEFAULT_GRANT, 5_000);
        for step in 1..10 {
            coalescing.took(step * 100, 100, 1, 40);
        }
        coalescing.took(1_000, 200, 200, 8_000);
        assert_eq!(coalescing.sleep_us(1_000), Some(128));
        coalescing.took(600_000, 5_000, 1, 40);
        assert_eq!(coalescing.sleep_us(600_000), Some(128));
        coalescing.took(1_200_000, 5_000, 1, 40);
        assert_eq!(coalescing.sleep_us(1_200_000), Some(5_000));
    }

    #[test]
    fn where_the_kernel_charges_more_sleeps_are_shorter_and_the_highest_cost_of_a_second_counts() {
        let mut coalescing = Coalescing::new(DEFAULT_GRANT, 5_000);
        let mut now_us = 0;
        let mut run = |coalescing: &mut Coalescing, charge: u64, times: u64| {
            for _ in 0..times {
                now_us += 1_000;
                coalescing.took(now_us, 1_000, 100, 4_000);
                coalescing.measured(100 * charge, 100, 4_000);
            }
            coalescing.sleep_us(now_us).unwrap()
        };
        let on_loopback = run(&mut coalescing, 832, 20);
        assert!((1_200..=1_280).contains(&on_loopback), "{on_loopback}");
        let on_a_device = run(&mut coalescing, 2_304, 1);
        assert!((430..=463).contains(&on_a_device), "{on_a_device}");
        assert_eq!(run(&mut coalescing, 832, 400), on_a_device, "a lower one does not count at once");
        assert_eq!(run(&mut coalescing, 832, 1_200), on_loopback);
        // Too few are ignored, and implausible ones are bounded.
        coalescing.measured(u64::MAX, 7, 280);
        assert_eq!(coalescing.sleep_us(2_000_000), Some(on_loopback));
        coalescing.measured(u64::MAX, 8, 320);
        assert_eq!(coalescing.sleep_us(2_000_000), None, "a sixteenth of the sleep is too short for a timer");
    }

    #[test]
    fn drops_shorten_the_sleeps_for_a_second_and_a_budget_of_nothing_means_no_sleep() {
        let mut coalescing = Coalescing::new(LARGE_GRANT, 5_000);
        coalescing.pressed(10);
        assert_eq!(coalescing.sleep_us(20), Some(1_250));
        assert_eq!(coalescing.sleep_us(10 + PRESSURE_US), Some(5_000));
        coalescing.set_flush_us(0);
        assert_eq!(coalescing.sleep_us(2_000_000), None);
    }
}
