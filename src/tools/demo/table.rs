//! What the demo shows while it runs: a table for a terminal of 80 by 24, or one line a second. Pure.
//!
//! In: a [`Frame`]. Out: lines. Next: `screen.rs`, which puts them on the terminal.

use super::figures::{Moment, Quantiles, Rates};
use crate::stats::{Counter, Counters, DropReason};
use crate::text::{clock, grouped, micros, percent, quotient, rate};
use std::time::Duration;

/// Columns that a line takes at most: one less than 80, so that no terminal wraps it.
const COLUMNS_MAX: usize = 79;
/// Events that the table has room for.
const EVENTS_SHOWN: usize = 3;
/// Columns of the longest bar, if it had room.
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

impl Event {
    /// As one line.
    pub fn line(&self) -> String {
        format!("{:>7}   {}", clock(self.at), self.words)
    }
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

/// A line of the table, of at most [`COLUMNS_MAX`] columns.
pub type Row = (Tone, String);

/// The table, always of the same height.
pub fn table(frame: &Frame<'_>) -> Vec<Row> {
    let blank = || [(Tone::Plain, String::new())];
    let first = frame.events.len().saturating_sub(EVENTS_SHOWN);
    let events =
        frame.events[first..].iter().map(Event::line).chain((0..EVENTS_SHOWN).map(|_| String::new()));
    let mut rows: Vec<Row> = [title(frame)].into_iter().chain(blank()).collect();
    rows.extend(flow(frame).into_iter().chain(blank()));
    rows.extend(backends(frame).into_iter().chain(blank()));
    rows.extend(health(frame).into_iter().chain(blank()));
    rows.extend(invitation(frame.setting).into_iter().chain(blank()));
    rows.extend(events.take(EVENTS_SHOWN).map(|event| (Tone::Plain, event)));
    rows.into_iter().map(|(tone, text)| (tone, cut(&text, COLUMNS_MAX))).collect()
}

fn title(frame: &Frame<'_>) -> Row {
    let elapsed = clock(frame.now.elapsed);
    let of = frame.setting.end.map_or(String::new(), |end| format!(" of {}", clock(end)));
    let debug = if cfg!(debug_assertions) { " (debug build)" } else { "" };
    let left = format!("  statsring demo{debug}");
    let room = COLUMNS_MAX.saturating_sub(left.len());
    (Tone::Heading, format!("{left}{:>room$}", format!("{elapsed}{of}   Ctrl-C to stop")))
}

fn flow(frame: &Frame<'_>) -> [Row; 3] {
    let (rates, counters) = (frame.rates, &frame.now.counters);
    let row = |tone, [name, metrics, datagrams, packing, total]: [&str; 5]| {
        (tone, format!("  {name:<18}{metrics:>12}{datagrams:>14}{packing:>19}{total:>14}"))
    };
    let figures = |name, metrics, datagrams, total| {
        let total = grouped(counters.get(total));
        row(Tone::Plain, [name, &rate(metrics), &rate(datagrams), &quotient(metrics, datagrams), &total])
    };
    [
        row(Tone::Note, ["proxy", "metrics/s", "datagrams/s", "metrics/datagram", "total"]),
        figures("in", rates.metrics_in, rates.datagrams_in, Counter::MetricsReceived),
        figures("out", rates.metrics_out, rates.datagrams_out, Counter::MetricsSent),
    ]
}

fn backends(frame: &Frame<'_>) -> Vec<Row> {
    let sum: f64 = frame.rates.arrived.iter().sum();
    let row = |tone, [name, metrics, share, state, bar, total]: [&str; 6]| {
        (tone, format!("  {name:<18}{metrics:>12}{share:>9}  {state:<6}  {bar:<14}{total:>14}"))
    };
    let mut rows = vec![row(Tone::Note, ["backend", "metrics/s", "share", "state", "", "total"])];
    for (index, name) in frame.setting.backends.iter().enumerate() {
        let part = frame.rates.arrived.get(index).copied().unwrap_or_default();
        let total = grouped(frame.now.arrived.get(index).copied().unwrap_or_default());
        let (tone, state) = match frame.now.up.get(index) {
            Some(true) => (Tone::Plain, "up"),
            _ => (Tone::Alarm, "down"),
        };
        rows.push(row(tone, [name, &rate(part), &percent(part, sum), state, &bar(part, sum), &total]));
    }
    rows
}

/// A share as a bar; a third is long enough to be seen, two thirds fit.
fn bar(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
    "━".repeat(((share * BAR_COLUMNS).round() as usize).min(14))
}

/// Datagrams that the kernel dropped, at the proxy's sockets or at the backends'.
fn kernel_drops(now: &Moment) -> u64 {
    now.counters.get(Counter::KernelDrops) + now.backend_drops
}

fn health(frame: &Frame<'_>) -> [Row; 3] {
    let counters = &frame.now.counters;
    let (total, kernel, reasons) = (counters.dropped_total(), kernel_drops(frame.now), reasons(counters));
    let dropped = format!(
        "  {:<10}{} by the proxy{}, {} datagrams by the kernel; diverted {}",
        "dropped",
        grouped(total),
        if reasons.is_empty() { reasons } else { format!(" ({reasons})") },
        grouped(kernel),
        grouped(counters.get(Counter::MetricsDiverted)),
    );
    let latency = frame.latency.map_or("-".to_owned(), |latency| latency.to_string());
    let cpu = frame.rates.cpu.map_or("-".to_owned(), |cpu| format!("{cpu} in"));
    [
        (if total + kernel > 0 { Tone::Alarm } else { Tone::Plain }, dropped),
        (Tone::Plain, format!("  {:<10}{latency}", "latency")),
        (Tone::Plain, format!("  {:<10}{cpu}", "proxy CPU")),
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
        (Tone::Note, "  Try it from another terminal:".to_owned()),
        (Tone::Plain, format!("    echo \"foo:1|c\" | nc -u -w1 127.0.0.1 {proxy_port}")),
        (
            Tone::Plain,
            format!("    echo stats  | nc -w1 localhost {admin_port}    and help, backends, tap foo"),
        ),
        (
            Tone::Plain,
            format!("    echo config | nc -w1 localhost {admin_port}    a file for statsring -f FILE"),
        ),
    ]
}

/// What is said first where no terminal can be drawn on.
pub fn opening(setting: &Setting) -> String {
    let Setting { proxy_port, admin_port, backends, .. } = setting;
    let backends = backends.join(", ");
    let first = format!(
        "statsring demo: metrics at 127.0.0.1:{proxy_port}, admin port {admin_port}, backends {backends}\n"
    );
    invitation(setting).into_iter().fold(first, |text, (_, row)| text + &row + "\n")
}

/// The frame where no terminal can be drawn on, on one line.
pub fn line(frame: &Frame<'_>) -> String {
    let Frame { rates, now, .. } = frame;
    let sum: f64 = rates.arrived.iter().sum();
    let share = |(part, up): (&f64, &bool)| percent(*part, sum) + if *up { "" } else { " (down)" };
    let shares: Vec<String> = rates.arrived.iter().zip(&now.up).map(share).collect();
    let latency = frame.latency.map_or("-".to_owned(), |latency| {
        [latency.p50_us, latency.p99_us, latency.max_us].map(micros).join("/")
    });
    format!(
        "{:>7}   in {} metrics/s in {} datagrams, out {} in {}; shares {}; dropped {}, by the kernel {}; \
         latency p50/p99/max ≤ {latency}",
        clock(now.elapsed),
        rate(rates.metrics_in),
        rate(rates.datagrams_in),
        rate(rates.metrics_out),
        rate(rates.datagrams_out),
        shares.join(", "),
        grouped(now.counters.dropped_total()),
        grouped(kernel_drops(now)),
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

    fn shown(now: &Moment, events: &[Event]) -> Vec<Row> {
        let rates = Rates::between(&moment(now.elapsed.as_secs() - 1), now);
        let latency = Some(Quantiles { p50_us: 2_510, p99_us: 5_100, max_us: 1_250_000 });
        let frame = Frame { setting: &setting(), now, rates: &rates, latency, events };
        assert!(line(&frame).contains("shares 30.0 %, 40.0 % (down), 30.0 %"), "{}", line(&frame));
        table(&frame)
    }

    #[test]
    fn the_table_fits_a_small_terminal_whatever_the_figures() {
        let mut late = moment(80_000);
        for reason in DropReason::ALL {
            late.counters.leave(Exit::Dropped(*reason), 12_345_678, 1);
        }
        let event = |s| Event { at: Duration::from_secs(s), words: format!("number {s} {}", "x".repeat(99)) };
        let events: Vec<Event> = (0..9).map(event).collect();
        for (now, events) in [(moment(2), &events[..0]), (moment(9), &events[..2]), (late, &events[..])] {
            let rows = shown(&now, events);
            // A line is left for the cursor.
            assert_eq!(rows.len(), 23, "{rows:#?}");
            assert!(rows.iter().all(|(_, row)| row.chars().count() <= COLUMNS_MAX), "{rows:#?}");
        }
    }

    #[test]
    fn the_table_tells_what_flows_where_and_drops_stand_out() {
        let event = Event { at: Duration::from_secs(3), words: "something".to_owned() };
        let mut now = moment(5);
        now.counters.leave(Exit::Dropped(DropReason::Malformed), 1_234, 1);
        now.counters.add(Counter::KernelDrops, 2);
        now.backend_drops = 3;
        let rows = shown(&now, &[event]);
        for (tone, part) in [
            (Tone::Plain, "in                      20,000         5,000                4.0       100,000"),
            (Tone::Plain, "out                     20,000           600               33.3       100,000"),
            (Tone::Alarm, "127.0.0.1:40002          8,000   40.0 %  down"),
            (Tone::Alarm, "dropped   1,234 by the proxy (malformed 1,234), 5 datagrams by the kernel"),
            (Tone::Plain, "p50 ≤ 2.5 ms  p99 ≤ 5.1 ms  max ≤ 1.2 s"),
            (Tone::Plain, "2.0 % of a core, 4.0 µs per datagram in"),
            (Tone::Plain, "nc -u -w1 127.0.0.1 48125"),
            (Tone::Plain, "    3 s   something"),
        ] {
            assert!(rows.iter().any(|row| row.0 == tone && row.1.contains(part)), "{part}\n{rows:#?}");
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
}
