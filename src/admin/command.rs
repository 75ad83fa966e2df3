//! A line → a [`Command`]. Pure.
//!
//! In: one line, without its newline. Out: the command, or its usage. Names are
//! case-sensitive, as in StatsD. Next: `server.rs`, which answers.

use super::admin_state::AdminState;
use super::telnet;
use crate::stats::LatencyKind;

/// The commands with a one-line description each: the module's documentation and the reply to `help`.
pub const HELP: &str = include_str!("help.txt");

/// Most metrics that one `tap` shows.
pub const TAP_METRICS_MAX: usize = 1_000;
/// Taps that may be open at once: each costs the workers time for every metric, and memory for those that wait to be shown.
pub const TAPS_MAX: usize = 8;
/// Metrics that `tap` shows by default.
const TAP_METRICS_DEFAULT: usize = 10;

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An empty line: no reply.
    Nothing,
    /// Liveness of the connection.
    Ping,
    /// Every counter.
    Stats,
    /// Memory.
    Memstats,
    /// A summary of each latency histogram.
    Latency,
    /// One percentile distribution; `None` is the one that `stats` takes its percentiles from.
    LatencyDistribution(Option<LatencyKind>),
    /// The backends' figures.
    Backends,
    /// The proxy's health.
    Health,
    /// Changes the proxy's health: up (true) or down.
    SetHealth(bool),
    /// Sets a backend's administrative state.
    SetBackend {
        /// Its identity, as sent by the client.
        name: Vec<u8>,
        /// The administrative state.
        admin_state: AdminState,
    },
    /// State as text.
    Status,
    /// The effective configuration.
    Config,
    /// A command that `proxy.js` answers in its own format.
    ProxyJs(ProxyJsQuery),
    /// Which backend serves this name.
    Where(Vec<u8>),
    /// Metrics as they pass.
    Tap {
        /// Prefix of their lines; empty for all.
        prefix: Vec<u8>,
        /// How many, 1 to [`TAP_METRICS_MAX`].
        metrics: usize,
    },
    /// Reads the configuration again.
    Reload,
    /// The program's version.
    Version,
    /// The list of commands.
    Help,
    /// Closes the connection.
    Quit,
    /// A known command with invalid arguments; the text is its usage.
    Misused(&'static str),
    /// Anything else.
    Unknown,
}

/// A command of `proxy.js` that statsring answers differently in its own dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyJsQuery {
    /// The list of commands.
    Help,
    /// The config's file.
    Config,
    /// Uptime, and the backends in the ring.
    Status,
}

/// Parses one line. One trailing `\r` and surrounding blanks (space, tab) are ignored. A leading `statsring` is ignored too:
/// in another dialect it selects these commands.
pub fn parse(line: &[u8]) -> Command {
    let line = trim(telnet::skip(line.strip_suffix(b"\r").unwrap_or(line)));
    match split_word(line) {
        (b"statsring", b"") => Command::Help,
        (b"statsring", rest) => command(rest),
        _ => command(line),
    }
}

fn command(line: &[u8]) -> Command {
    let (name, rest) = split_word(line);
    match (name, rest) {
        (b"", _) => Command::Nothing,
        (b"ping", b"") => Command::Ping,
        (b"stats", b"") => Command::Stats,
        (b"memstats", b"") => Command::Memstats,
        (b"latency", b"") => Command::Latency,
        (b"latency", rest) => latency(rest),
        (b"backends", b"") => Command::Backends,
        (b"backend", rest) => backend(rest),
        (b"health", b"") => Command::Health,
        (b"health", b"up") => Command::SetHealth(true),
        (b"health", b"down") => Command::SetHealth(false),
        (b"health", _) => Command::Misused("usage: health [up|down]"),
        (b"status", b"") => Command::Status,
        (b"config", b"") => Command::Config,
        (b"where", b"") => Command::Misused("usage: where NAME"),
        (b"where", name) => Command::Where(name.to_vec()),
        (b"tap", rest) => tap(rest),
        (b"reload", b"") => Command::Reload,
        (b"version", b"") => Command::Version,
        (b"help", b"") => Command::Help,
        (b"quit", b"") => Command::Quit,
        _ => Command::Unknown,
    }
}

fn backend(arguments: &[u8]) -> Command {
    let (name, admin_state) = split_word(arguments);
    match AdminState::parse(admin_state) {
        Some(admin_state) => Command::SetBackend { name: name.to_vec(), admin_state },
        None => Command::Misused("usage: backend HOST:PORT drain|down|up"),
    }
}

fn latency(arguments: &[u8]) -> Command {
    const MISUSED: Command = Command::Misused("usage: latency [hgrm [bound|residence|after_idle|exact]]");
    let (form, kind) = split_word(arguments);
    if form != b"hgrm" {
        return MISUSED;
    }
    if kind.is_empty() {
        return Command::LatencyDistribution(None);
    }
    let named = |known: &LatencyKind| {
        let name = known.name();
        kind == name.as_bytes() || Some(kind) == name.strip_prefix("latency_").map(str::as_bytes)
    };
    match LatencyKind::ALL.into_iter().find(named) {
        Some(kind) => Command::LatencyDistribution(Some(kind)),
        None => MISUSED,
    }
}

fn tap(arguments: &[u8]) -> Command {
    let (first, rest) = split_word(arguments);
    let (second, rest) = split_word(rest);
    let (prefix, metrics) = match (number(first), second) {
        (_, b"") if first.is_empty() => (first, Some(TAP_METRICS_DEFAULT)),
        (Some(metrics), b"") => (&b""[..], Some(metrics)),
        (None, b"") => (first, Some(TAP_METRICS_DEFAULT)),
        (_, second) => (first, number(second)),
    };
    match metrics {
        Some(metrics) if rest.is_empty() && (1..=TAP_METRICS_MAX).contains(&metrics) => {
            Command::Tap { prefix: prefix.to_vec(), metrics }
        }
        _ => Command::Misused("usage: tap [PREFIX] [N], with N from 1 to 1000"),
    }
}

/// Digits as a number; saturates at the largest usize, which no command accepts.
fn number(word: &[u8]) -> Option<usize> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |byte: &u8| usize::from(byte - b'0');
    Some(word.iter().fold(0usize, |sum, byte| sum.saturating_mul(10).saturating_add(digit(byte))))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without leading blanks.
pub(super) fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(byte)).count();
    &text[blanks..]
}

fn trim(text: &[u8]) -> &[u8] {
    let text = trim_start(text);
    let blanks = text.iter().rev().take_while(|byte| is_blank(byte)).count();
    &text[..text.len() - blanks]
}

/// The first word, and the rest without leading blanks.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(is_blank).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, trim_start(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_command_is_known() {
        let known: [(&[u8], Command); 22] = [
            (b"statsring", Command::Help),
            (b"statsring  status\r", Command::Status),
            (b"statsring statsring", Command::Unknown),
            (b"ping", Command::Ping),
            (b"stats\r", Command::Stats),
            (b"\xff\xfd\x03\xff\xfb\x18 stats\r", Command::Stats),
            (b"  memstats \t", Command::Memstats),
            (b"latency", Command::Latency),
            (b"latency hgrm", Command::LatencyDistribution(None)),
            (b"latency  hgrm residence", Command::LatencyDistribution(Some(LatencyKind::Residence))),
            (b"latency hgrm exact", Command::LatencyDistribution(Some(LatencyKind::Exact))),
            (b"latency hgrm latency_after_idle", Command::LatencyDistribution(Some(LatencyKind::AfterIdle))),
            (b"backends", Command::Backends),
            (b"health", Command::Health),
            (b"health up", Command::SetHealth(true)),
            (b"health\tdown\r", Command::SetHealth(false)),
            (b"status", Command::Status),
            (b"config", Command::Config),
            (b"reload", Command::Reload),
            (b"version", Command::Version),
            (b"help", Command::Help),
            (b"quit", Command::Quit),
        ];
        for (line, command) in known {
            assert_eq!(parse(line), command, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn backend_takes_a_name_and_a_state() {
        let set = |admin_state| Command::SetBackend { name: b"[::1]:8125".to_vec(), admin_state };
        assert_eq!(parse(b"backend [::1]:8125 drain"), set(AdminState::Drain));
        assert_eq!(parse(b" backend\t[::1]:8125  up\r"), set(AdminState::Up));
        assert_eq!(parse(b"backend [::1]:8125 down"), set(AdminState::Down));
        for line in ["backend", "backend a:1", "backend drain", "backend a:1 Drain", "backend a:1 drain now"]
        {
            assert!(matches!(parse(line.as_bytes()), Command::Misused(_)), "{line}");
        }
    }

    #[test]
    fn an_empty_line_is_nothing_and_the_rest_is_unknown() {
        for line in [&b""[..], b"\r", b"  \t ", b" \r"] {
            assert_eq!(parse(line), Command::Nothing);
        }
        for line in [&b"PING"[..], b"Stats", b"ping x", b"quit now", b"\xff\x00", b"healthup", b"ping\r\r"] {
            assert_eq!(parse(line), Command::Unknown, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn wrong_arguments_are_answered_with_the_usage() {
        let lines: [&[u8]; 10] = [
            b"health sideways",
            b"health UP",
            b"latency p99",
            b"latency hgrm soon",
            b"where",
            b"tap a b",
            b"tap a 5 6",
            b"tap 0",
            b"tap 1001",
            b"tap a 99999999999999999999999999",
        ];
        for line in lines {
            let command = parse(line);
            assert!(matches!(command, Command::Misused(_)), "{}: {command:?}", line.escape_ascii());
        }
    }

    #[test]
    fn where_takes_the_rest_of_the_line() {
        assert_eq!(parse(b"where a b  c\xff "), Command::Where(b"a b  c\xff".to_vec()));
    }

    #[test]
    fn tap_takes_a_prefix_and_a_number() {
        let tap = |prefix: &[u8], metrics| Command::Tap { prefix: prefix.to_vec(), metrics };
        assert_eq!(parse(b"tap"), tap(b"", 10));
        assert_eq!(parse(b"tap 5"), tap(b"", 5));
        assert_eq!(parse(b"tap api."), tap(b"api.", 10));
        assert_eq!(parse(b"tap api. 1000"), tap(b"api.", 1000));
        assert_eq!(parse(b"tap 5 7"), tap(b"5", 7));
        assert_eq!(parse(b"tap 5x"), tap(b"5x", 10));
    }

    #[test]
    fn help_lists_every_command_and_no_other() {
        let mut listed: Vec<&str> = HELP.lines().filter_map(|line| line.split_whitespace().next()).collect();
        listed.dedup();
        for name in &listed {
            assert_ne!(parse(name.as_bytes()), Command::Unknown, "help lists {name}");
        }
        let all = "ping stats memstats latency backends backend health status config where tap reload version help statsring quit";
        assert_eq!(listed, all.split(' ').collect::<Vec<_>>());
        assert!(HELP.lines().all(|line| line.len() <= 120));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Command::Tap { metrics, .. } = parse(&line) {
                prop_assert!((1..=TAP_METRICS_MAX).contains(&metrics));
            }
        }
    }
}
