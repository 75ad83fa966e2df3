//! Locates losses: compares the metrics sent, the proxy's own figures and the arrivals step by step. Pure.
//!
//! In: the load's account, the proxy's `stats` before and after, the sinks' account. Out: [`Stage`]s.
//! Next: `report.rs` shows them.

use super::admin::ProxyStats;
use super::send::Sent;
use crate::tools::sink::figures::Arrived;
use serde::Serialize;

const TO_PROXY: &str = "load to proxy";
const INSIDE: &str = "in the proxy";
const TO_SINKS: &str = "proxy to sinks";

/// One step on a metric's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// From where to where.
    pub name: &'static str,
    /// What is counted: datagrams or metrics.
    pub unit: &'static str,
    /// How many went in.
    pub entered: u64,
    /// How many came out.
    pub left: u64,
    /// Those whose loss is counted, by reason.
    pub explained: Vec<Explained>,
    /// What is still missing; negative if more came out than went in, from other senders or by duplication.
    pub missing: i128,
}

/// A known loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Its counter's name.
    pub reason: String,
    /// How many.
    pub count: u64,
}

impl Stage {
    fn new(
        name: &'static str,
        unit: &'static str,
        entered: u64,
        left: u64,
        explained: Vec<Explained>,
    ) -> Stage {
        let known: u64 = explained.iter().map(|explained| explained.count).sum();
        let missing = i128::from(entered) - i128::from(left) - i128::from(known);
        Stage { name, unit, entered, left, explained, missing }
    }

    /// Whether everything that went in came out.
    pub fn is_whole(&self) -> bool {
        self.missing == 0 && self.explained.is_empty()
    }
}

/// Compares step by step; a step without figures from the proxy is skipped.
pub fn stages(sent: &Sent, before: &ProxyStats, after: &ProxyStats, arrived: Option<&Arrived>) -> Vec<Stage> {
    let growth = |name: &str| after.growth(before, name);
    let mut stages = Vec::new();
    if let Some(received) = growth("datagrams_received") {
        let drops = explained(&[("kernel_drops", growth("kernel_drops"))]);
        stages.push(Stage::new(TO_PROXY, "datagrams", sent.all_datagrams(), received, drops));
    }
    // go-statsd-proxy's name for the metrics that it received.
    let received = growth("metrics_received").or_else(|| growth("packets_received"));
    if let Some(received) = received {
        let inside = inside_dropped(stages.last(), sent.all_metrics(), received);
        stages.push(Stage::new(TO_PROXY, "metrics", sent.all_metrics(), received, inside));
    }
    let proxied = growth("metrics_sent");
    if let (Some(received), Some(proxied)) = (received, proxied) {
        let mut reasons: Vec<(&str, Option<u64>)> =
            after.names("metrics_dropped_").into_iter().map(|name| (name, growth(name))).collect();
        // Pending is a gauge, not a sum: its current value counts.
        reasons.push(("metrics_pending", after.get("metrics_pending")));
        stages.push(Stage::new(INSIDE, "metrics", received, proxied, explained(&reasons)));
    }
    let Some(arrived) = arrived else { return stages };
    if let Some(proxied) = growth("datagrams_sent") {
        let drops = explained(&[("dropped_at_sinks", Some(arrived.dropped_at_sinks))]);
        stages.push(Stage::new(TO_SINKS, "datagrams", proxied, arrived.datagrams, drops));
    }
    if let Some(proxied) = proxied {
        let inside =
            inside_dropped(stages.last().filter(|stage| stage.name == TO_SINKS), proxied, arrived.metrics);
        stages.push(Stage::new(TO_SINKS, "metrics", proxied, arrived.metrics, inside));
    }
    stages
}

/// The metrics that are missing at a step whose missing datagrams are all accounted for were inside these.
fn inside_dropped(datagrams: Option<&Stage>, entered: u64, left: u64) -> Vec<Explained> {
    let is_explained = datagrams.is_some_and(|stage| stage.missing == 0 && !stage.explained.is_empty());
    explained(&[("inside_dropped_datagrams", entered.checked_sub(left).filter(|_| is_explained))])
}

fn explained(reasons: &[(&str, Option<u64>)]) -> Vec<Explained> {
    reasons
        .iter()
        .filter_map(|(reason, count)| {
            let count = count.filter(|count| *count > 0)?;
            Some(Explained { reason: (*reason).to_owned(), count })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Sent {
        Sent { datagrams: 100, metrics: 1000, ..Sent::default() }
    }

    #[test]
    fn each_loss_is_found_where_it_was() {
        let before = ProxyStats::parse(
            "datagrams_received: 5\nmetrics_received: 50\nkernel_drops: 1\nmetrics_sent: 40\ndatagrams_sent: 4\n\
             metrics_dropped_queue_full: 10\nmetrics_pending: 3\n",
        );
        let after = ProxyStats::parse(
            "datagrams_received: 103\nmetrics_received: 1030\nkernel_drops: 3\nmetrics_sent: 1000\ndatagrams_sent: 24\n\
             metrics_dropped_queue_full: 25\nmetrics_dropped_malformed: 0\nmetrics_pending: 5\n",
        );
        let arrived = Arrived { datagrams: 17, metrics: 900, dropped_at_sinks: 2, ..Arrived::default() };
        let found: Vec<(&str, &str, u64, u64, i128, String)> =
            stages(&sent(), &before, &after, Some(&arrived))
                .into_iter()
                .map(|stage| {
                    let known: Vec<String> = stage
                        .explained
                        .iter()
                        .map(|known| format!("{} {}", known.reason, known.count))
                        .collect();
                    (stage.name, stage.unit, stage.entered, stage.left, stage.missing, known.join(", "))
                })
                .collect();
        let text = String::from;
        assert_eq!(
            found,
            [
                ("load to proxy", "datagrams", 100, 98, 0, text("kernel_drops 2")),
                ("load to proxy", "metrics", 1000, 980, 0, text("inside_dropped_datagrams 20")),
                (
                    "in the proxy",
                    "metrics",
                    980,
                    960,
                    0,
                    text("metrics_dropped_queue_full 15, metrics_pending 5")
                ),
                ("proxy to sinks", "datagrams", 20, 17, 1, text("dropped_at_sinks 2")),
                ("proxy to sinks", "metrics", 960, 900, 60, text("")),
            ]
        );
    }

    #[test]
    fn a_proxy_with_few_counters_has_few_stages() {
        let before = ProxyStats::parse("packets_received: 0.000000\n");
        let after = ProxyStats::parse("packets_received: 1000.000000\n");
        let found = stages(&sent(), &before, &after, Some(&Arrived::default()));
        assert_eq!(found.len(), 1);
        assert!(found[0].is_whole(), "{found:?}");
        assert!(stages(&sent(), &ProxyStats::default(), &ProxyStats::default(), None).is_empty());
    }
}
