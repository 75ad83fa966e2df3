//! The result of a load, as people and programs get it.
//!
//! In: what was sent, what arrived, the proxy's and the host's figures. Out: JSON fields and text. Next: stdout.

use super::reconcile::Stage;
use super::send::Sent;
use crate::stats::host::HostUdp;
use crate::text::grouped;
use crate::tools::sink::figures::Arrived;
use crate::tools::sink::text::{self, rate};
use crate::tools::sink::verdict::Verdict;
use serde::Serialize;
use std::fmt::Write;

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Good or bad, and why.
    pub verdict: Verdict,
    /// Whether arrivals were measured: without sinks the verdict is on the sending alone.
    pub measured: bool,
    /// What was sent.
    pub sent: SentFigures,
    /// What arrived; nothing without sinks.
    pub arrived: Option<Arrived>,
    /// Datagrams that the kernel dropped at the proxy's sockets; nothing if the proxy is on another host.
    pub dropped_before_proxy: Option<u64>,
    /// This host's UDP errors while the load ran, of all sockets.
    pub host_rcvbuf_errors: Option<u64>,
    /// The same for sending.
    pub host_sndbuf_errors: Option<u64>,
    /// Where losses were; empty without an admin port.
    pub stages: Vec<Stage>,
    /// What the proxy's process cost; nothing without its id.
    pub process: Option<ProcessFigures>,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SentFigures {
    /// The run's identity, as in the metrics' names.
    pub run: String,
    /// Where to.
    pub to: String,
    /// From the first to the last datagram.
    pub seconds: f64,
    /// Datagrams a second.
    pub datagrams_per_second: u64,
    /// Datagrams a second that were asked for; nothing for as many as can be.
    pub rate: Option<u64>,
    /// Sending sockets.
    pub flows: usize,
    /// Names, or different captured ones.
    pub names: usize,
    /// Lines of the captured file that are no metrics, and were left out.
    pub lines_skipped: u64,
    /// The counts; those that failed count as neither sent nor lost.
    #[serde(flatten)]
    pub counts: Sent,
}

/// What a process cost.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessFigures {
    /// Its id.
    pub pid: u32,
    /// CPU time of all its threads, kernel and user, after the warm-up.
    pub cpu_ns: u64,
    /// Datagrams sent in that time.
    pub datagrams: u64,
    /// CPU time for each.
    pub cpu_us_per_datagram: f64,
    /// The most resident memory that was seen, looking once a second.
    pub resident_bytes_max: u64,
}

impl Report {
    /// A verdict on all of it: what arrived, if there are sinks, and what could not be sent.
    pub fn judge(verdict: Option<Verdict>, sent: &Sent, dropped_before_proxy: Option<u64>) -> Verdict {
        let mut verdict = verdict.unwrap_or(Verdict { passed: true, ..Verdict::default() });
        if sent.datagrams == 0 && verdict.passed {
            verdict.blame("nothing was sent".into());
        }
        if sent.failed_datagrams > 0 {
            let error = sent.last_error.as_deref().unwrap_or("no reason given");
            verdict.blame(format!("{} datagrams could not be sent: {error}", grouped(sent.failed_datagrams)));
        }
        if let Some(dropped) = dropped_before_proxy.filter(|dropped| *dropped > 0) {
            verdict.notes.push(format!(
                "{} datagrams were dropped by the kernel at the proxy's socket, before the proxy could read them: give \
                 the proxy a larger receive buffer, or more CPU",
                grouped(dropped)
            ));
        }
        if sent.refused > 0 {
            verdict.notes.push(format!(
                "{} sends reported that an earlier datagram was refused: check that the proxy listens there",
                grouped(sent.refused)
            ));
        }
        if sent.given_up > 0 {
            verdict.notes.push(format!(
                "this host is too slow for the rate: {} datagrams were not attempted",
                grouped(sent.given_up)
            ));
        }
        verdict
    }

    /// Takes over the host's figures, as they have grown.
    pub fn host_growth(before: Option<HostUdp>, after: Option<HostUdp>) -> (Option<u64>, Option<u64>) {
        let growth = |figure: fn(&HostUdp) -> u64| {
            Some(figure(&after.as_ref().copied()?).saturating_sub(figure(&before.as_ref().copied()?)))
        };
        (growth(|host| host.rcvbuf_errors), growth(|host| host.sndbuf_errors))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = self.sent_lines();
        if let Some(arrived) = &self.arrived {
            text.push_str(&text::arrived(arrived));
        }
        text.push_str(&self.loss_lines());
        if let Some(process) = &self.process {
            let _ = writeln!(
                text,
                "process     {}: {:.2} µs CPU per datagram, {:.1} MiB resident",
                process.pid,
                process.cpu_us_per_datagram,
                process.resident_bytes_max as f64 / f64::from(1 << 20)
            );
        }
        text + &text::verdict(&self.verdict, &self.summary())
    }

    fn summary(&self) -> String {
        match &self.arrived {
            Some(arrived) if arrived.lost == 0 => {
                format!(
                    "all {} metrics arrived, each once and {}",
                    grouped(arrived.unique),
                    text::places(arrived)
                )
            }
            Some(arrived) => {
                format!(
                    "{} metrics arrived, each once and {}",
                    grouped(arrived.unique),
                    text::places(arrived)
                )
            }
            None => {
                format!(
                    "all {} metrics were sent; what arrived was not measured",
                    grouped(self.sent.counts.metrics)
                )
            }
        }
    }

    fn sent_lines(&self) -> String {
        let sent = &self.sent;
        let mut text = String::new();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "sent        {} metrics in {} datagrams to {}, {:.3} s: {} metrics/s, {} datagrams/s; run {}",
            grouped(sent.counts.metrics),
            grouped(sent.counts.datagrams),
            sent.to,
            sent.seconds,
            grouped(rate(sent.counts.metrics, sent.seconds)),
            grouped(sent.datagrams_per_second),
            sent.run,
        );
        if sent.lines_skipped > 0 {
            let skipped = grouped(sent.lines_skipped);
            let _ =
                writeln!(text, "            {skipped} lines of the file are not metrics and were skipped");
        }
        text
    }

    fn loss_lines(&self) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let known: String = stage
                .explained
                .iter()
                .map(|known| format!(", {} {}", known.reason, grouped(known.count)))
                .collect();
            let missing = match stage.missing {
                0 if stage.is_whole() => "complete".to_owned(),
                0 => "all accounted for".to_owned(),
                missing if missing < 0 => format!("{} more, from other senders", grouped(magnitude(missing))),
                missing => format!("{} missing", grouped(magnitude(missing))),
            };
            let (entered, left) = (grouped(stage.entered), grouped(stage.left));
            let _ = writeln!(
                text,
                "{:<16}{:<11}{entered:>14} to {left:>14}{known}: {missing}",
                stage.name, stage.unit
            );
        }
        text
    }
}

fn magnitude(number: i128) -> u64 {
    u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::reconcile::Explained;
    use super::*;

    #[test]
    fn a_load_that_could_not_be_sent_is_bad() {
        let passed = || Some(Verdict { passed: true, ..Verdict::default() });
        let sent = Sent { datagrams: 1, ..Sent::default() };
        assert!(Report::judge(passed(), &sent, None).passed && Report::judge(None, &sent, Some(0)).passed);
        assert!(!Report::judge(None, &Sent::default(), None).passed);
        let failed = Sent { failed_datagrams: 2, last_error: Some("no".into()), ..sent.clone() };
        assert_eq!(Report::judge(passed(), &failed, None).reasons, ["2 datagrams could not be sent: no"]);
        let noted = Report::judge(passed(), &Sent { refused: 1, given_up: 1, ..sent }, Some(7));
        assert_eq!((noted.passed, noted.notes.len()), (true, 3));
    }

    #[test]
    fn the_text_shows_every_stage() {
        let stage = |left, missing, explained| Stage {
            name: "in the proxy",
            unit: "metrics",
            entered: 100,
            left,
            explained,
            missing,
        };
        let known = vec![Explained { reason: "metrics_dropped_queue_full".into(), count: 7 }];
        let report = Report {
            verdict: Verdict { passed: true, ..Verdict::default() },
            measured: false,
            sent: SentFigures { counts: Sent { metrics: 1000, ..Sent::default() }, ..SentFigures::default() },
            arrived: None,
            dropped_before_proxy: Some(3),
            host_rcvbuf_errors: None,
            host_sndbuf_errors: None,
            stages: vec![
                stage(100, 0, vec![]),
                stage(93, 0, known),
                stage(90, 10, vec![]),
                stage(101, -1, vec![]),
            ],
            process: None,
        };
        let text = report.text();
        for part in [
            "complete",
            "metrics_dropped_queue_full 7: all accounted for",
            "10 missing",
            "1 more, from other senders",
            "PASS: all 1,000 metrics were sent; what arrived was not measured",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
