//! The oracle: what should have happened to each line, computed naively and compared with what the fake kernel recorded.

use crate::run::{Timeline, Verdict};
use statsring::driver::sim::{Accepted, Fault, ReceivedDatagram, Stamped};
use statsring::relay::{GsoMode, Malformed, OnNodeDown, RouteTable};
use statsring::stats::{Counter, Counters, DropReason, LatencyKind};
use statsring::worker::Ended;
use std::collections::HashMap;
use std::sync::Arc;

/// How late a line may leave beyond its budget in a run without faults, µs: the time of a few calls.
const SLACK_US: u64 = 1_000;

/// A line as it was received.
struct Line<'a> {
    text: &'a [u8],
    arrived_us: u64,
    at_us: u64,
    stamped: Option<Stamped>,
    key: Option<&'a [u8]>,
    /// No other line has the same text, so a sent line can be identified as this one.
    is_unique: bool,
}

/// The contents of one datagram, parsed naively.
pub struct ParsedDatagram<'a> {
    pub lines: Vec<&'a [u8]>,
    pub has_truncated_line: bool,
}

pub fn read(datagram: &ReceivedDatagram) -> ParsedDatagram<'_> {
    let received = &datagram.bytes[..datagram.bytes_received];
    let is_cut = datagram.bytes_received < datagram.bytes.len();
    let mut pieces: Vec<&[u8]> = received.split(|byte| *byte == b'\n').collect();
    let last = if is_cut { pieces.pop() } else { None };
    let lines = pieces
        .into_iter()
        .map(|line| if line.ends_with(b"\r") { &line[..line.len() - 1] } else { line })
        .filter(|line| !line.is_empty())
        .collect();
    ParsedDatagram { lines, has_truncated_line: last.is_some_and(|line| !line.is_empty()) }
}

/// The routing key, parsed naively.
fn key(line: &[u8]) -> Option<&[u8]> {
    let find = |from: usize, byte: u8| line.iter().skip(from).position(|b| *b == byte).map(|at| at + from);
    if line.starts_with(b"_sc|") {
        return find(4, b'|').filter(|end| *end > 4).map(|end| &line[4..end]).or_else(|| plain_key(line));
    }
    if line.starts_with(b"_e{3,9}:") && line.get(11) == Some(&b'|') {
        return Some(&line[8..11]);
    }
    plain_key(line)
}

fn plain_key(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    (colon > 0 && line[colon..].contains(&b'|')).then(|| &line[..colon])
}

/// What is known of a worker's run besides its counters.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub is_fault_free: bool,
    /// No path MTU is changed by the scenario.
    pub are_paths_steady: bool,
    pub timeline: &'a Timeline,
}

/// Compares a finished run with the expected results.
pub fn judge(
    case: &Case,
    received: &[ReceivedDatagram],
    accepted: &[Accepted],
    verdict: &Verdict,
) -> Result<(), String> {
    let parsed: Vec<(ParsedDatagram, &ReceivedDatagram)> =
        received.iter().map(|one| (read(one), one)).collect();
    let cut = parsed.iter().filter(|(reading, _)| reading.has_truncated_line).count() as u64;
    let lines = lines(&parsed);
    let judge = Judge { case: *case, lines: &lines, counters: &verdict.counters };
    judge.counts(received, accepted, cut)?;
    let matched = judge.match_packets(accepted)?;
    judge.reasons(verdict, cut)?;
    judge.fragments(accepted, verdict)?;
    judge.timestamps(received)?;
    judge.latency(accepted, verdict)?;
    judge.ages(accepted)?;
    judge.order(accepted, &matched, verdict)
}

/// Checks what a worker sent until it was killed: each line was received, is sent once, and goes to the backend that owns it.
pub fn judge_killed(
    case: &Case,
    received: &[ReceivedDatagram],
    accepted: &[Accepted],
    counters: &Counters,
) -> Result<(), String> {
    let parsed: Vec<(ParsedDatagram, &ReceivedDatagram)> =
        received.iter().map(|one| (read(one), one)).collect();
    let lines = lines(&parsed);
    Judge { case: *case, lines: &lines, counters }.match_packets(accepted).map(drop)
}

fn lines<'a>(parsed: &'a [(ParsedDatagram<'a>, &ReceivedDatagram)]) -> Vec<Line<'a>> {
    let mut times: HashMap<&[u8], u64> = HashMap::new();
    for text in parsed.iter().flat_map(|(reading, _)| &reading.lines) {
        *times.entry(text).or_default() += 1;
    }
    parsed
        .iter()
        .flat_map(|(reading, one)| {
            reading.lines.iter().map(|text| Line {
                text,
                arrived_us: one.arrived_us,
                at_us: one.at_us,
                stamped: one.stamped,
                key: key(text),
                is_unique: times[text] == 1,
            })
        })
        .collect()
}

struct Judge<'a> {
    case: Case<'a>,
    lines: &'a [Line<'a>],
    counters: &'a Counters,
}

fn expect(what: &str, got: u64, expected: u64) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}: {got}, expected {expected}")) }
}

impl Judge<'_> {
    fn counts(&self, received: &[ReceivedDatagram], accepted: &[Accepted], cut: u64) -> Result<(), String> {
        let get = |counter| self.counters.get(counter);
        expect("datagrams_received", get(Counter::DatagramsReceived), received.len() as u64)?;
        let joined = received.iter().filter(|one| one.is_joined).count() as u64;
        expect("datagrams_gro", get(Counter::DatagramsGro), joined)?;
        expect("metrics_received", get(Counter::MetricsReceived), self.lines.len() as u64 + cut)?;
        let empty = received.iter().filter(|one| one.bytes.is_empty()).count() as u64;
        expect("datagrams_empty", get(Counter::DatagramsEmpty), empty)?;
        let truncated = received.iter().filter(|one| one.bytes_received < one.bytes.len());
        let (count, bytes) = truncated.fold((0, 0), |(count, bytes), one| {
            (count + 1, bytes + (one.bytes.len() - one.bytes_received) as u64)
        });
        expect("datagrams_truncated", get(Counter::DatagramsTruncated), count)?;
        expect("bytes_truncated", get(Counter::BytesTruncated), bytes)?;
        expect("datagrams_sent", get(Counter::DatagramsSent), accepted.len() as u64)?;
        let bytes = accepted.iter().map(|packet| packet.bytes.len() as u64).sum();
        expect("bytes_sent", get(Counter::BytesSent), bytes)?;
        expect("metrics_pending", get(Counter::MetricsPending), 0)?;
        let sent = accepted.iter().flat_map(|packet| lines_of(&packet.bytes)).count() as u64;
        expect("metrics_sent", get(Counter::MetricsSent), sent)?;
        expect("metrics dropped", self.counters.dropped_total(), self.lines.len() as u64 + cut - sent)
    }

    /// A packet is padded only for a backend that was configured for padding under some table.
    fn padding(&self, packet: &Accepted) -> Result<(), String> {
        let nodes = self.case.timeline.tables().flat_map(|table| table.nodes.iter());
        let mut modes = nodes.filter(|node| node.address == Some(packet.address)).map(|node| node.gso);
        let has_empty = packet.bytes.ends_with(b"\n") || packet.bytes.windows(2).any(|pair| pair == b"\n\n");
        if has_empty && !modes.any(|mode| mode == GsoMode::Padded) {
            return Err(format!(
                "padded for {}: {:?}",
                packet.address,
                String::from_utf8_lossy(&packet.bytes)
            ));
        }
        Ok(())
    }

    /// Finds the received line of every line sent; none may be sent twice, altered, invented, or sent to a backend that never
    /// owned it. Returns the index of each sent line.
    fn match_packets(&self, accepted: &[Accepted]) -> Result<Vec<Vec<usize>>, String> {
        let mut unsent: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (index, line) in self.lines.iter().enumerate().rev() {
            unsent.entry(line.text).or_default().push(index);
        }
        accepted.iter().map(|packet| self.match_packet(packet, &mut unsent)).collect()
    }

    fn match_packet(
        &self,
        packet: &Accepted,
        unsent: &mut HashMap<&[u8], Vec<usize>>,
    ) -> Result<Vec<usize>, String> {
        let shown = || String::from_utf8_lossy(&packet.bytes).into_owned();
        let mut indices = Vec::new();
        self.padding(packet)?;
        for text in lines_of(&packet.bytes) {
            let index = unsent.get_mut(text).and_then(Vec::pop).ok_or_else(|| {
                format!("sent more often than received: {:?}", String::from_utf8_lossy(text))
            })?;
            if self.lines[index].is_unique {
                self.backend(packet, &self.lines[index])?;
            }
            indices.push(index);
        }
        let limit = self.case.timeline.tables().map(|table| table.rules.packet_bytes_max).max().unwrap_or(0);
        if packet.bytes.len() > limit && indices.len() > 1 {
            return Err(format!(
                "packet_bytes {} exceeds the limit {limit}: {:?}",
                packet.bytes.len(),
                shown()
            ));
        }
        let arrivals = indices.iter().map(|index| &self.lines[*index]).filter(|line| line.is_unique);
        let first_us = arrivals.map(|line| line.arrived_us).min().unwrap_or(u64::MAX);
        // A coalescing sleep that was interrupted and then pre-empted until its deadline looks like a complete one.
        let tolerance_us = self.case.timeline.tables().map(|table| table.rules.flush_us).max().unwrap_or(0);
        if !packet.arrival.after_idle && packet.arrival.bound_us > first_us.saturating_add(tolerance_us) {
            let bound_us = packet.arrival.bound_us;
            return Err(format!(
                "lower bound of the arrival is {bound_us}, but it arrived at {first_us}: {:?}",
                shown()
            ));
        }
        self.arrivals(packet, &indices, tolerance_us)?;
        if self.case.is_fault_free {
            let budget_us = self.case.timeline.tables().map(|table| table.rules.flush_us).max().unwrap_or(0);
            for line in indices.iter().map(|index| &self.lines[*index]).filter(|line| line.is_unique) {
                let late_us = packet.at_us.saturating_sub(line.arrived_us);
                if late_us > budget_us + SLACK_US {
                    return Err(format!(
                        "arrived at {}, taken at {}, sent at {}, budget {budget_us} µs: {:?}",
                        line.arrived_us,
                        line.at_us,
                        packet.at_us,
                        shown()
                    ));
                }
            }
        }
        Ok(indices)
    }

    /// Whether the packet records the arrival of each line with a valid timestamp, or of an older neighbour; and of no other
    /// line. None is earlier than the bound.
    fn arrivals(&self, packet: &Accepted, indices: &[usize], tolerance_us: u64) -> Result<(), String> {
        let bound_us = if packet.arrival.after_idle { 0 } else { packet.arrival.bound_us };
        if let Some((at_us, _)) = packet
            .arrivals
            .iter()
            .find(|(at_us, _)| at_us.saturating_add_unsigned(tolerance_us) < bound_us as i64)
        {
            return Err(format!(
                "lower bound of the arrival is {bound_us}, but the recorded arrival is {at_us}"
            ));
        }
        let lines: Vec<&Line> = indices.iter().map(|index| &self.lines[*index]).collect();
        if lines.iter().any(|line| !line.is_unique) {
            return Ok(());
        }
        let stamped = lines.iter().filter(|line| line.stamped == Some(Stamped::Valid));
        let mut arrived = stamped.map(|line| line.arrived_us as i64);
        for (at_us, metrics) in &packet.arrivals {
            let oldest_us = arrived.by_ref().take(*metrics as usize).min();
            if oldest_us != Some(*at_us) {
                return Err(format!(
                    "recorded arrival of {metrics} metrics: {at_us}, expected {oldest_us:?}"
                ));
            }
        }
        match arrived.next() {
            None => Ok(()),
            Some(at_us) => Err(format!("no recorded arrival for a metric that arrived at {at_us}")),
        }
    }

    /// With constant path MTUs, every packet that exceeds its path MTU is counted as fragmented, and no other.
    fn fragments(&self, accepted: &[Accepted], verdict: &Verdict) -> Result<(), String> {
        if !self.case.are_paths_steady || verdict.faults[Fault::PathChanged as usize] > 0 {
            return Ok(());
        }
        let fragmented = accepted.iter().filter(|packet| packet.is_fragmented).count() as u64;
        expect("packets_fragmented", self.counters.get(Counter::PacketsFragmented), fragmented)
    }

    /// Every datagram without a usable timestamp is counted by reason.
    fn timestamps(&self, received: &[ReceivedDatagram]) -> Result<(), String> {
        let stamped = |how| received.iter().filter(|one| one.stamped == Some(how)).count() as u64;
        let get = |counter| self.counters.get(counter);
        expect("timestamps_missing", get(Counter::TimestampsMissing), stamped(Stamped::Missing))?;
        expect("timestamps_invalid", get(Counter::TimestampsInvalid), stamped(Stamped::Invalid))
    }

    /// Whether the packet's backend owned the line, and had that address, under a table that may have been in force.
    fn backend(&self, packet: &Accepted, line: &Line) -> Result<(), String> {
        let tables: Vec<&RouteTable> = self.case.timeline.in_force(line.at_us, packet.at_us).collect();
        let is_named = |name: &str, table: &RouteTable| {
            table.nodes.iter().any(|node| &*node.name == name && node.address == Some(packet.address))
        };
        let is_right = tables.iter().any(|table| {
            owner(table, line).is_some_and(|name| tables.iter().any(|other| is_named(name, other)))
        });
        let text = || String::from_utf8_lossy(line.text).into_owned();
        if is_right {
            Ok(())
        } else {
            Err(format!(
                "{:?}, received at {}, was sent to {} at {}",
                text(),
                line.at_us,
                packet.address,
                packet.at_us
            ))
        }
    }

    /// Every drop reason that was counted has a cause in the scenario; those that are known exactly must match.
    fn reasons(&self, verdict: &Verdict, cut: u64) -> Result<(), String> {
        let keyless = self.lines.iter().filter(|line| line.key.is_none()).count() as u64;
        let drops_malformed = self.case.timeline.first().rules.malformed == Malformed::Drop;
        expect("truncated", self.counters.dropped(DropReason::Truncated), cut)?;
        let malformed = if drops_malformed { keyless } else { 0 };
        expect("malformed", self.counters.dropped(DropReason::Malformed), malformed)?;
        for reason in DropReason::ALL {
            if self.counters.dropped(*reason) > 0 && !self.may_happen(*reason, verdict) {
                return Err(format!("{} counted without a cause", reason.name()));
            }
        }
        if let Ended::CutShort { metrics_dropped } = verdict.ended {
            expect("shutdown", self.counters.dropped(DropReason::Shutdown), metrics_dropped)?;
        }
        Ok(())
    }

    fn may_happen(&self, reason: DropReason, verdict: &Verdict) -> bool {
        let struck = |fault: Fault| verdict.faults[fault as usize] > 0;
        let any_table = |holds: &dyn Fn(&RouteTable) -> bool| self.case.timeline.tables().any(holds);
        match reason {
            DropReason::Malformed | DropReason::Truncated => true,
            DropReason::NoBackend => any_table(&|table| table.live.alive() == 0),
            DropReason::NodeDown => {
                any_table(&|table| table.rules.on_node_down == OnNodeDown::Drop && !table.live.is_full())
            }
            DropReason::QueueFull => {
                // Refused packets wait for the backend to move to another address.
                let may_move = any_table(&|table| table.nodes.iter().any(|node| node.may_move));
                // An ICMP error may come from a firewall, which is treated like a refusal.
                let refusals =
                    [Fault::SendRefused, Fault::SendUnreachable, Fault::SendAnswered, Fault::SourceChanged];
                let is_refused = refusals.into_iter().any(struck);
                struck(Fault::SendBusy) || struck(Fault::SendStopped) || (may_move && is_refused)
            }
            DropReason::SendNoBuffers => struck(Fault::SendNoBuffers),
            DropReason::SendTooLong => struck(Fault::SendTooLong),
            DropReason::SendUnreachable => {
                struck(Fault::SendUnreachable)
                    || struck(Fault::SendAnswered)
                    || (struck(Fault::SourceChanged) && !outlives_change(verdict))
            }
            DropReason::SendRefused => struck(Fault::SendRefused),
            DropReason::SendDenied => struck(Fault::SendDenied),
            DropReason::SendFailed => {
                struck(Fault::SendInvalid) || struck(Fault::SendInputOutput) || struck(Fault::OpenFailed)
            }
            DropReason::NodeRemoved => {
                any_table(&|table| !Arc::ptr_eq(&table.nodes, &self.case.timeline.first().nodes))
            }
            DropReason::Shutdown => matches!(verdict.ended, Ended::CutShort { .. }),
        }
    }

    /// With a reopen interval, no packet is sent by an older socket in a run without faults.
    fn ages(&self, accepted: &[Accepted]) -> Result<(), String> {
        let intervals = || self.case.timeline.tables().map(|table| table.rules.reopen_us);
        if !self.case.is_fault_free || intervals().any(|interval_us| interval_us == 0) {
            return Ok(());
        }
        // Jitter adds up to a tenth.
        let age_us_max = intervals().max().unwrap_or(0) * 11 / 10 + SLACK_US;
        match accepted.iter().find(|packet| packet.at_us - packet.opened_us > age_us_max) {
            None => Ok(()),
            Some(packet) => Err(format!(
                "sent to {} at {} by a socket made at {}: older than {age_us_max} µs",
                packet.address, packet.at_us, packet.opened_us
            )),
        }
    }

    /// The histograms hold every metric sent, the exact one those with a known arrival; in a run without faults, nothing exceeds
    /// the budget.
    fn latency(&self, accepted: &[Accepted], verdict: &Verdict) -> Result<(), String> {
        let Some(latency) = &verdict.latency else { return Ok(()) };
        let sent = self.counters.get(Counter::MetricsSent);
        let [residence, bound, after_idle, exact] = LatencyKind::ALL.map(|kind| latency.get(kind));
        expect("residences recorded", residence.len(), sent)?;
        expect("bounds recorded", bound.len() + after_idle.len(), sent)?;
        let arrivals = accepted.iter().flat_map(|packet| &packet.arrivals);
        let known: u64 = arrivals.map(|(_, metrics)| u64::from(*metrics)).sum();
        expect("exact latencies recorded", exact.len(), known)?;
        if !self.case.is_fault_free {
            return Ok(());
        }
        let budget_us = self.case.timeline.tables().map(|table| table.rules.flush_us).max().unwrap_or(0);
        let histograms =
            [("residence", residence), ("bound", bound), ("after idle", after_idle), ("exact", exact)];
        for (what, histogram) in histograms {
            let longest_us = histogram.max();
            // Two significant digits: up to 1 % more than was recorded.
            if longest_us > (budget_us + SLACK_US) * 101 / 100 {
                return Err(format!("latency: {what} {longest_us} µs exceeds the budget {budget_us}"));
            }
        }
        Ok(())
    }

    /// If no packet had to be resent, each backend gets its lines in order of arrival.
    fn order(&self, accepted: &[Accepted], matched: &[Vec<usize>], verdict: &Verdict) -> Result<(), String> {
        let repeating = [
            Fault::SendBusy,
            Fault::SendStopped,
            Fault::SendRefused,
            Fault::SendUnreachable,
            Fault::SendAnswered,
            // A GSO batch with one of these errors is split and resent.
            Fault::GsoRefused,
            Fault::GsoTooBig,
            Fault::SendInvalid,
            Fault::SendInputOutput,
            Fault::SendTooLong,
        ];
        if repeating.iter().any(|fault| verdict.faults[*fault as usize] > 0) {
            return Ok(());
        }
        let mut last: HashMap<std::net::SocketAddr, usize> = HashMap::new();
        for (packet, indices) in accepted.iter().zip(matched) {
            for index in indices.iter().filter(|index| self.lines[**index].is_unique) {
                if let Some(before) = last.insert(packet.address, *index)
                    && before > *index
                {
                    let text = String::from_utf8_lossy(self.lines[*index].text);
                    return Err(format!("{text:?} reordered on the way to {}", packet.address));
                }
            }
        }
        Ok(())
    }
}

/// Whether no metric is lost when the host's address changes: each socket is replaced as soon as a send on it fails, and the
/// packet is resent. Not so if the address changes again within a second, a new socket cannot be made, or the old socket has
/// packets that are unsent or without a result, or that were resent before.
fn outlives_change(verdict: &Verdict) -> bool {
    let others = [
        Fault::OpenFailed,
        Fault::SendBusy,
        Fault::SendStopped,
        Fault::SendRefused,
        Fault::SendInvalid,
        Fault::EnterBusy,
        Fault::EnterAgain,
        Fault::EnterError,
    ];
    verdict.faults[Fault::SourceChanged as usize] == 1
        && others.iter().all(|fault| verdict.faults[*fault as usize] == 0)
}

/// The name of the backend that owns a line under a table; `None` if the line is dropped.
fn owner<'a>(table: &'a RouteTable, line: &Line) -> Option<&'a str> {
    let key = match (line.key, table.rules.malformed) {
        (Some(key), _) => key,
        (None, Malformed::Forward) => line.text,
        (None, Malformed::Drop) => return None,
    };
    let index = table.placement.owner(key, &table.live)?;
    let home = table.placement.home(key, table.nodes.len())?;
    let is_diverted = table.rules.on_node_down == OnNodeDown::Divert || table.diverted.contains(home);
    let is_served = home == index || is_diverted;
    is_served.then(|| &*table.nodes[index].name)
}

/// The lines of a packet, without the newlines that pad it for a GSO batch.
fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}
