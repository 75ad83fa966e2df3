//! What the demo shows while it runs: a table for a terminal of 80 by 24, or one line a second. Pure.
//!
//! In: a [`Frame`]. Out: lines. Next: `screen.rs`, which puts them on the terminal.

use super::figures::{Moment, Quantiles, Rates};
use crate::stats::{Counter, Counters, DropReason};
use crate::text::{clock, grouped, micros, percent, quotient, rate};
use std::time::Duration;

/// Columns that a line takes at most: one less than 80, so that no terminal wraps it.
pub const COLUMNS_MAX: usize = 79;
/// Events that the table has room for.
pub const EVENTS_SHOWN: usize = 3;
/// Columns of the longest bar.
const BAR_COLUMNS: f64 = 22.0;

/// What does not change while the demo runs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The proxy's port for metrics.
    pub proxy_port: u16,
    /// Its admin port.
    pub admin_port: u16,
    /// The backends' identities.
    pub backends: Vec<String>,
    /// When it ends by itself.
    pub end: Option<Duration>,
}

/// The demo at one moment.
pub struct Frame<'a> {
    /// What does not change.
    pub setting: &'a Setting,
    /// Now.
    pub now: &'a Moment,
    /// The last second.
    pub rates: &'a Rates,
    /// The last second's latency.
    pub latency: Option<Quantiles>,
    /// What happened, oldest first.
    pub events: &'a [Event],
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, since the start.
    pub at: Duration,
    /// In words.
    pub words: String,
}

/// A line of the table, and whether it is a heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// At most [`COLUMNS_MAX`] columns.
    pub text: String,
    /// What to make of it.
    pub tone: Tone,
}

/// How a line is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// Stands out.
    Heading,
    /// Stands back.
    Note,
    /// Something is lost or down.
    Alarm,
}

impl Row {
    fn new(tone: Tone, text: String) -> Row {
        Row { text: cut(&text, COLUMNS_MAX), tone }
    }
}

impl Event {
    /// As one line.
    pub fn line(&self) -> String {
        format!("{:>7}   {}", clock(self.at), self.words)
    }
}

/// The table, always of the same height.
pub fn table(scene: &Frame<'_>) -> Vec<Row> {
    let blank = || Row::new(Tone::Plain, String::new());
    let mut rows = vec![title(scene), blank()];
    rows.extend(flow(scene));
    rows.push(blank());
    rows.extend(backends(scene));
    rows.push(blank());
    rows.extend(health(scene));
    rows.push(blank());
    rows.extend(invitation(scene.setting));
    rows.push(blank());
    let first = scene.events.len().saturating_sub(EVENTS_SHOWN);
    rows.extend(scene.events[first..].iter().map(|event| Row::new(Tone::Plain, event.line())));
    rows.extend((scene.events.len() - first..EVENTS_SHOWN).map(|_| blank()));
    rows
}

fn title(scene: &Frame<'_>) -> Row {
    let elapsed = clock(scene.now.elapsed);
    let right = match scene.setting.end {
        Some(end) => format!("{elapsed} of {}   Ctrl-C to stop", clock(end)),
        None => format!("{elapsed}   Ctrl-C to stop"),
    };
    let left = "statsring demo";
    let debug = if cfg!(debug_assertions) { " (debug build)" } else { "" };
    let room = COLUMNS_MAX.saturating_sub(2 + left.len() + debug.len());
    Row::new(Tone::Heading, format!("  {left}{debug}{right:>room$}"))
}

fn flow(scene: &Frame<'_>) -> [Row; 3] {
    let (rates, counters) = (scene.rates, &scene.now.counters);
    let row = |name: &str, metrics, datagrams, total| {
        let packing = quotient(metrics, datagrams);
        let cells = (rate(metrics), rate(datagrams), grouped(counters.get(total)));
        Row::new(
            Tone::Plain,
            format!("  {name:<18}{:>12}{:>14}{packing:>19}{:>14}", cells.0, cells.1, cells.2),
        )
    };
    [
        Row::new(
            Tone::Note,
            format!(
                "  {:<18}{:>12}{:>14}{:>19}{:>14}",
                "proxy", "metrics/s", "datagrams/s", "metrics/datagram", "total"
            ),
        ),
        row("in", rates.metrics_in, rates.datagrams_in, Counter::MetricsReceived),
        row("out", rates.metrics_out, rates.datagrams_out, Counter::MetricsSent),
    ]
}

fn backends(scene: &Frame<'_>) -> Vec<Row> {
    let sum: f64 = scene.rates.arrived.iter().sum();
    let heading = format!(
        "  {:<18}{:>12}{:>9}  {:<6}  {:<14}{:>14}",
        "backend", "metrics/s", "share", "state", "", "total"
    );
    let mut rows = vec![Row::new(Tone::Note, heading)];
    for (index, name) in scene.setting.backends.iter().enumerate() {
        let part = scene.rates.arrived.get(index).copied().unwrap_or_default();
        let up = scene.now.up.get(index).copied().unwrap_or_default();
        let total = scene.now.arrived.get(index).map_or(0, |arrived| arrived.total());
        let bar = bar(part, sum);
        let text = format!(
            "  {name:<18}{:>12}{:>9}  {:<6}  {bar:<14}{:>14}",
            rate(part),
            percent(part, sum),
            if up { "up" } else { "down" },
            grouped(total),
        );
        rows.push(Row::new(if up { Tone::Plain } else { Tone::Alarm }, text));
    }
    rows
}

/// A share as a bar; a third is long enough to be seen, two thirds fit.
fn bar(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
    "━".repeat(((share * BAR_COLUMNS).round() as usize).min(14))
}

fn health(scene: &Frame<'_>) -> [Row; 3] {
    let counters = &scene.now.counters;
    let kernel = counters.get(Counter::KernelDrops) + scene.now.backend_drops;
    let lost = counters.dropped_total() + kernel > 0;
    let reasons = reasons(counters);
    let dropped = format!(
        "  {:<10}{} by the proxy{}, {} datagrams by the kernel; diverted {}",
        "dropped",
        grouped(counters.dropped_total()),
        if reasons.is_empty() { String::new() } else { format!(" ({reasons})") },
        grouped(kernel),
        grouped(counters.get(Counter::MetricsDiverted)),
    );
    let latency = scene.latency.map_or("-".to_owned(), |latency| {
        format!(
            "p50 ≤ {}  p99 ≤ {}  max ≤ {}  from arrival to sending",
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.max_us)
        )
    });
    let cpu = scene.rates.cpu.map_or("-".to_owned(), |cpu| {
        format!("{} of a core, {:.1} µs per datagram in", percent(cpu.cores, 1.0), cpu.us_per_datagram)
    });
    [
        Row::new(if lost { Tone::Alarm } else { Tone::Plain }, dropped),
        Row::new(Tone::Plain, format!("  {:<10}{latency}", "latency")),
        Row::new(Tone::Plain, format!("  {:<10}{cpu}", "proxy CPU")),
    ]
}

/// The drops that occurred, by reason.
pub fn reasons(counters: &Counters) -> String {
    let occurred = DropReason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0);
    let words = occurred.map(|reason| format!("{} {}", reason.name(), grouped(counters.dropped(*reason))));
    words.collect::<Vec<_>>().join(", ")
}

fn invitation(setting: &Setting) -> [Row; 4] {
    let Setting { proxy_port, admin_port, .. } = setting;
    [
        Row::new(Tone::Note, "  Try it from another terminal:".to_owned()),
        Row::new(Tone::Plain, format!("    echo \"foo:1|c\" | nc -u -w1 127.0.0.1 {proxy_port}")),
        Row::new(
            Tone::Plain,
            format!("    echo stats  | nc -w1 localhost {admin_port}    and help, backends, tap foo"),
        ),
        Row::new(
            Tone::Plain,
            format!("    echo config | nc -w1 localhost {admin_port}    a file for statsring -f FILE"),
        ),
    ]
}

/// What is said first where no terminal can be drawn on.
pub fn opening(setting: &Setting) -> String {
    let mut text = format!(
        "statsring demo: metrics at 127.0.0.1:{}, admin port {}, backends {}\n",
        setting.proxy_port,
        setting.admin_port,
        setting.backends.join(", ")
    );
    for row in invitation(setting) {
        text.push_str(&row.text);
        text.push('\n');
    }
    text
}

/// The scene where no terminal can be drawn on, on one line.
pub fn line(scene: &Frame<'_>) -> String {
    let rates = scene.rates;
    let sum: f64 = rates.arrived.iter().sum();
    let shares: Vec<String> = rates
        .arrived
        .iter()
        .zip(&scene.now.up)
        .map(|(part, up)| if *up { percent(*part, sum) } else { format!("{} (down)", percent(*part, sum)) })
        .collect();
    let kernel = scene.now.counters.get(Counter::KernelDrops) + scene.now.backend_drops;
    let latency = scene.latency.map_or("-".to_owned(), |latency| {
        format!("{}/{}/{}", micros(latency.p50_us), micros(latency.p99_us), micros(latency.max_us))
    });
    format!(
        "{:>7}   in {} metrics/s in {} datagrams, out {} in {}; shares {}; dropped {}, by the kernel {}; \
         latency p50/p99/max ≤ {latency}",
        clock(scene.now.elapsed),
        rate(rates.metrics_in),
        rate(rates.datagrams_in),
        rate(rates.metrics_out),
        rate(rates.datagrams_out),
        shares.join(", "),
        grouped(scene.now.counters.dropped_total()),
        grouped(kernel),
    )
}

/// At most so many columns, every character taken as one wide.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.trim_end().to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::moment;
    use super::*;
    use crate::stats::Exit;

    fn setting() -> Setting {
        Setting {
            proxy_port: 48_125,
            admin_port: 48_126,
            backends: [1, 2, 3].map(|number| format!("127.0.0.1:4000{number}")).to_vec(),
            end: Some(Duration::from_secs(86_400)),
        }
    }

    fn shown(now: &Moment, events: &[Event]) -> Vec<String> {
        let rates = Rates::between(&moment(now.elapsed.as_secs() - 1), now);
        let latency = Some(Quantiles { p50_us: 2_510, p99_us: 5_100, max_us: 1_250_000 });
        let setting = setting();
        let scene = Frame { setting: &setting, now, rates: &rates, latency, events };
        assert!(line(&scene).contains("shares 30.0 %, 40.0 % (down), 30.0 %"), "{}", line(&scene));
        table(&scene).into_iter().map(|row| row.text).collect()
    }

    #[test]
    fn the_table_fits_a_small_terminal_whatever_the_figures() {
        let mut late = moment(80_000);
        for reason in DropReason::ALL {
            late.counters.leave(Exit::Dropped(*reason), 12_345_678, 1);
        }
        let events: Vec<Event> = (0..9u64)
            .map(|number| Event {
                at: Duration::from_secs(number),
                words: format!("number {number} {}", "x".repeat(99)),
            })
            .collect();
        for (now, events) in [(moment(2), &events[..0]), (moment(9), &events[..2]), (late, &events[..])] {
            let rows = shown(&now, events);
            // A line is left for the cursor.
            assert_eq!(rows.len(), 23, "{rows:#?}");
            for row in &rows {
                assert!(row.chars().count() <= COLUMNS_MAX, "{row}");
            }
        }
    }

    #[test]
    fn the_table_tells_what_flows_where() {
        let event = Event { at: Duration::from_secs(3), words: "something".to_owned() };
        let rows = shown(&moment(5), &[event]).join("\n");
        for part in [
            "in                      20,000         5,000                4.0       100,000",
            "out                     20,000           600               33.3       100,000",
            "127.0.0.1:40002          8,000   40.0 %  down",
            "dropped   0 by the proxy, 0 datagrams by the kernel; diverted 0",
            "p50 ≤ 2.5 ms  p99 ≤ 5.1 ms  max ≤ 1.2 s",
            "2.0 % of a core, 4.0 µs per datagram in",
            "nc -u -w1 127.0.0.1 48125",
            "echo stats  | nc -w1 localhost 48126",
            "    3 s   something",
        ] {
            assert!(rows.contains(part), "{part}\n{rows}");
        }
    }

    #[test]
    fn the_opening_names_every_port() {
        let text = opening(&setting());
        assert!(text.starts_with(
            "statsring demo: metrics at 127.0.0.1:48125, admin port 48126, backends 127.0.0.1:40001, 127.0.0.1:40002, "
        ));
        assert!(text.contains("\n    echo stats  | nc -w1 localhost 48126"), "{text}");
    }

    #[test]
    fn drops_are_told_by_reason_and_stand_out() {
        let mut now = moment(5);
        now.counters.leave(Exit::Dropped(DropReason::Malformed), 1_234, 1);
        now.counters.add(Counter::KernelDrops, 2);
        now.backend_drops = 3;
        let setting = setting();
        let rates = Rates::default();
        let rows = table(&Frame { setting: &setting, now: &now, rates: &rates, latency: None, events: &[] });
        let row = rows.iter().find(|row| row.text.contains("dropped")).unwrap();
        assert_eq!(row.tone, Tone::Alarm);
        assert!(
            row.text.contains("1,234 by the proxy (malformed 1,234), 5 datagrams by the kernel"),
            "{}",
            row.text
        );
    }
}
