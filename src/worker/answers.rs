//! When to poll for ICMP errors that no send has reported.
//!
//! A send reports errors that arrived before it; after the last send nothing would: a host that does not answer ARP is reported three
//! seconds after the packet for it. So a worker polls its sockets once a second while it sends, and a few times more.
//!
//! In: the times of sends. Out: the time of the next poll. Next: `step.rs`.

/// Poll interval; a poll is one system call for all sockets.
const LOOK_US: u64 = 1_000_000;
/// ICMP errors that arrive later than this after the last send are reported at the next one. Neighbor discovery gives up after
/// three seconds, unless the host is configured otherwise.
const LATEST_US: u64 = 5_000_000;

/// The poll schedule of one worker. Times are µs of the driver's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerLooks {
    /// Polling continues until then.
    until_us: u64,
    due_us: Option<u64>,
}

impl AnswerLooks {
    /// Something is being sent.
    pub fn sent(&mut self, now_us: u64) {
        self.until_us = now_us + LATEST_US;
        self.due_us.get_or_insert(now_us + LOOK_US);
    }

    /// When to poll next; `None` if nothing was sent for long.
    pub fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Whether to poll now; if so, schedules the next poll.
    pub fn take_due(&mut self, now_us: u64) -> bool {
        let is_due = self.due_us.is_some_and(|due_us| due_us <= now_us);
        if is_due {
            let next_us = now_us + LOOK_US;
            self.due_us = (next_us <= self.until_us).then_some(next_us);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_once_a_second_while_it_sends_then_until_no_answer_can_come() {
        let mut looks = AnswerLooks::default();
        assert!(!looks.take_due(50) && looks.due_us().is_none());
        let mut at = Vec::new();
        for now_us in (0..20_000_000).step_by(100_000) {
            if now_us < 3_000_000 {
                looks.sent(now_us);
            }
            if looks.take_due(now_us) {
                at.push(now_us / 1_000_000);
            }
        }
        // The last send was at 2.9 s.
        assert_eq!(at, [1, 2, 3, 4, 5, 6, 7]);
        assert!(looks.due_us().is_none());
        looks.sent(30_000_000);
        assert_eq!(looks.due_us(), Some(31_000_000));
    }
}
