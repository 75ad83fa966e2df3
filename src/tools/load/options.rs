//! The options of `statsring load`, and the plan after validation.
//!
//! In: arguments. Out: a [`Plan`], or what is wrong with them. Next: `mod.rs` carries the plan out.

use super::generate::Source;
use super::line::{LineForm, NAMES_MAX, Run};
use super::names::Names;
use super::replay::{REPLAY_DATAGRAM_BYTES, Replay};
use super::send::Extent;
use crate::lookup;
use crate::tools::sink::receive::{RECEIVE_BUFFER_BYTES, parse_addresses};
use crate::tools::sink::verdict::Tolerance;
use crate::tools::sink::{health_addresses, seconds_to_us, tolerance};
use argh::FromArgs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Metrics of a datagram at most.
const METRICS_MAX: u32 = 1000;
const FLOWS_MAX: u32 = 10_000;
/// Entries of the type mix once its weights are written out.
const TYPES_MAX: usize = 1000;
const TYPES: [&str; 5] = ["c", "g", "ms", "s", "h"];

/// Sends numbered metrics to a proxy, and with --sink receives them as its backends and reports what was lost.
#[derive(FromArgs, Clone, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "load",
    help_triggers("-h", "--help"),
    note = "A metric is load.RUN.NAME:VALUE|TYPE. The value is its number among those of\n  \
            its name, followed in the last 8 digits by the time it was sent, in µs. No\n  \
            tags are needed, so that every StatsD proxy forwards it.",
    note = "Captured lines (--replay) are sent unchanged and compared byte for byte;\n  \
            order and latency are not measured.",
    note = "Without --sink, the load ends with markers that state to statsring sink how\n  \
            many metrics were sent.",
    error_code(1, "metrics were lost, duplicated or misplaced, or not all could be sent"),
    error_code(64, "wrong usage"),
    error_code(71, "OS error, for example port already in use")
)]
pub struct Options {
    /// the proxy, HOST:PORT (default 127.0.0.1:8125)
    #[argh(option, arg_name = "HOST:PORT", default = "String::from(\"127.0.0.1:8125\")")]
    pub to: String,

    /// receive as the backends: ports of 127.0.0.1 or ADDRESS:PORT, separated by commas
    #[argh(option, arg_name = "LIST")]
    pub sink: Option<String>,

    /// with --sink: a config that the proxy may use during the load; may be repeated. A metric is misplaced if none of them
    /// places it there (default: the first sink of a name is its place)
    #[argh(option, arg_name = "FILE")]
    pub placed_by: Vec<PathBuf>,

    /// a backend of --placed-by that may be down; may be repeated, for outages of one backend at a time
    #[argh(option, arg_name = "HOST:PORT")]
    pub down: Vec<String>,

    /// answer health checks as the backends' admin ports: TCP ports or ADDRESS:PORT, separated by commas
    #[argh(option, arg_name = "LIST")]
    pub health: Option<String>,

    /// seconds to wait before sending, until the proxy's health checks find the sinks up (default 0)
    #[argh(option, arg_name = "S", default = "0.0")]
    pub delay: f64,

    /// datagrams per second, or max for as many as one core can send (default 10000)
    #[argh(option, arg_name = "N", default = "String::from(\"10000\")")]
    pub rate: String,

    /// metrics in each datagram (default 1)
    #[argh(option, arg_name = "N", default = "1")]
    pub metrics: u32,

    /// number of datagrams sent together, at the same average rate (default 1)
    #[argh(option, arg_name = "N", default = "1")]
    pub burst: u64,

    /// number of distinct names, up to 10 million (default 1000)
    #[argh(option, arg_name = "N", default = "1000")]
    pub names: u32,

    /// how unevenly names are used: exponent of a Zipf distribution; 0 = evenly, in turn (default 0)
    #[argh(option, arg_name = "S", default = "0.0")]
    pub skew: f64,

    /// pad names with zeroes to this length
    #[argh(option, arg_name = "BYTES", default = "0")]
    pub name_length: usize,

    /// types of metrics: c, g, ms, s, h, separated by commas, optionally with weights, such as c=8,ms=2 (default c)
    #[argh(option, arg_name = "LIST", default = "String::from(\"c\")")]
    pub types: String,

    /// tags for every metric, in DogStatsD's format, such as env:prod,host:a
    #[argh(option, arg_name = "TAGS")]
    pub tags: Option<String>,

    /// number of sending sockets; each name always uses the same one (default 1)
    #[argh(option, arg_name = "N", default = "1")]
    pub flows: u32,

    /// duration in seconds (default 10)
    #[argh(option, arg_name = "S", default = "10.0")]
    pub seconds: f64,

    /// end after N datagrams
    #[argh(option, arg_name = "N")]
    pub datagrams: Option<u64>,

    /// send the lines of this file instead, repeatedly
    #[argh(option, arg_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// name of this run, part of the metrics' names, a to z and digits; the same name gives the same placement
    #[argh(option, arg_name = "RUN")]
    pub run: Option<String>,

    /// admin port of the proxy, HOST:PORT: its counters show where metrics were lost
    #[argh(option, arg_name = "HOST:PORT")]
    pub admin: Option<String>,

    /// process of the proxy on this host, to report its CPU time and memory
    #[argh(option, arg_name = "PID")]
    pub pid: Option<u32>,

    /// seconds at the start that are excluded from the CPU time (default 0)
    #[argh(option, arg_name = "S", default = "0.0")]
    pub warm_up: f64,

    /// share of the metrics that may be lost (default 0)
    #[argh(option, arg_name = "SHARE", default = "0.0")]
    pub allow_loss: f64,

    /// treat reordered metrics of a name as an error
    #[argh(switch)]
    pub in_order: bool,

    /// seconds without arrivals after which the rest is considered lost (default 2)
    #[argh(option, arg_name = "S", default = "2.0")]
    pub settle: f64,

    /// receive buffer to request for each sink, bytes (default 33554432)
    #[argh(option, arg_name = "BYTES", default = "RECEIVE_BUFFER_BYTES")]
    pub receive_buffer: usize,

    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,

    /// do not report progress on standard error
    #[argh(switch)]
    pub quiet: bool,
}

/// A validated load.
#[derive(Debug)]
pub struct Plan {
    /// The proxy.
    pub to: SocketAddr,
    /// Sinks of this process; empty if it only sends.
    pub sinks: Vec<SocketAddr>,
    /// Where health checks are answered.
    pub health: Vec<SocketAddr>,
    /// Pause before the first datagram, µs.
    pub delay_us: u64,
    /// Datagrams a second; `None` for as many as can be.
    pub rate: Option<u64>,
    /// Datagrams that leave together.
    pub burst: u64,
    /// Sending sockets.
    pub flows: usize,
    /// Names.
    pub names: usize,
    /// When to end.
    pub extent: Extent,
    /// The run's identity.
    pub run: Run,
    /// Captured lines, if they are sent.
    pub replay: Option<Arc<Replay>>,
    /// The proxy's admin port.
    pub admin: Option<SocketAddr>,
    /// What is tolerated.
    pub tolerance: Tolerance,
    /// Silence after which nothing more is expected, µs.
    pub settle_us: u64,
    /// Start that does not count for CPU time, µs.
    pub warm_up_us: u64,
}

impl Plan {
    /// Validates the options; the plan, and the datagrams for the sending thread.
    ///
    /// # Errors
    /// The first error in them, for the operator.
    pub fn new(options: &Options) -> Result<(Plan, Source), String> {
        let run = Run::new(options.run.as_deref())?;
        let replay = options.replay.as_deref().map(Replay::load).transpose()?.map(Arc::new);
        in_range("--metrics", options.metrics, 1, METRICS_MAX)?;
        in_range("--burst", options.burst, 1, u64::from(u32::MAX))?;
        in_range("--names", options.names, 1, NAMES_MAX as u32)?;
        in_range("--flows", options.flows, 1, FLOWS_MAX)?;
        in_range("--datagrams", options.datagrams.unwrap_or(1), 1, u64::MAX)?;
        let seconds_us = seconds_to_us("--seconds", options.seconds)?;
        let warm_up_us = seconds_to_us("--warm-up", options.warm_up)?;
        if warm_up_us > 0 && warm_up_us >= seconds_us {
            return Err(format!(
                "--warm-up {}: expected less than --seconds {}",
                options.warm_up, options.seconds
            ));
        }
        let has_placed = !(options.placed_by.is_empty() && options.down.is_empty());
        if has_placed && (replay.is_some() || options.sink.is_none()) {
            return Err("--placed-by and --down require --sink and exclude --replay".to_owned());
        }
        let source = match &replay {
            Some(replay) => Source::replayed(Arc::clone(replay), options.metrics),
            None => sequenced(options, &run)?,
        };
        let plan = Plan {
            to: resolve("--to", &options.to)?,
            sinks: match &options.sink {
                Some(list) => parse_addresses(list).map_err(|error| format!("--sink: {error}"))?,
                None => Vec::new(),
            },
            health: health_addresses(options.health.as_deref())?,
            delay_us: seconds_to_us("--delay", options.delay)?,
            rate: rate(&options.rate)?,
            burst: options.burst,
            flows: options.flows as usize,
            names: options.names as usize,
            extent: Extent {
                time: Duration::from_micros(seconds_us),
                datagrams: options.datagrams.unwrap_or(u64::MAX),
            },
            run,
            replay,
            admin: options.admin.as_deref().map(|admin| resolve("--admin", admin)).transpose()?,
            tolerance: tolerance(options.allow_loss, options.in_order)?,
            settle_us: seconds_to_us("--settle", options.settle)?,
            warm_up_us,
        };
        Ok((plan, source))
    }
}

fn sequenced(options: &Options, run: &Run) -> Result<Source, String> {
    let types = types(&options.types)?;
    let is_wrong = |tags: &String| tags.is_empty() || tags.bytes().any(|byte| byte < b' ' || byte == b'|');
    if let Some(tags) = options.tags.as_ref().filter(|tags| is_wrong(tags)) {
        return Err(format!(
            "--tags {tags:?}: expected tags such as env:prod,host:a, without | and line ends"
        ));
    }
    let form = LineForm::new(run, options.name_length, &types, options.tags.as_deref());
    let bytes = (form.line_bytes_max(options.names as usize) + 1).saturating_mul(options.metrics as usize);
    if bytes > REPLAY_DATAGRAM_BYTES {
        return Err(format!(
            "a datagram could be {bytes} bytes long; proxies commonly accept {REPLAY_DATAGRAM_BYTES}: reduce \
             --metrics, --name-length or --tags"
        ));
    }
    let names = Names::new(options.names, options.flows, options.skew)?;
    Ok(Source::sequenced(form, names, options.names as usize, options.metrics))
}

fn in_range<N: PartialOrd + std::fmt::Display>(
    option: &str,
    value: N,
    low: N,
    high: N,
) -> Result<(), String> {
    if value < low || value > high {
        return Err(format!("{option} {value}: expected {low} to {high}"));
    }
    Ok(())
}

fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "max" {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(rate @ 1..=1_000_000_000) => Ok(Some(rate)),
        _ => Err(format!("--rate {text:?}: expected datagrams per second, or max")),
    }
}

fn resolve(option: &str, text: &str) -> Result<SocketAddr, String> {
    let found = lookup::endpoint(text).map_err(|error| format!("{option} {text:?}: {error}"))?;
    let addresses = lookup::in_order_for_metrics(found);
    addresses.first().copied().ok_or_else(|| format!("{option} {text:?} has no address"))
}

/// Each type according to its weight.
fn types(list: &str) -> Result<Vec<&'static str>, String> {
    let mut types = Vec::new();
    for part in list.split(',') {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let known = TYPES.iter().find(|known| **known == name);
        let weight = weight.parse::<usize>().ok().filter(|weight| *weight <= TYPES_MAX);
        let (Some(known), Some(weight)) = (known, weight) else {
            return Err(format!(
                "--types {part:?}: expected types c, g, ms, s, h with weights, such as c=8,ms=2"
            ));
        };
        types.extend(std::iter::repeat_n(*known, weight));
        if types.len() > TYPES_MAX {
            return Err(format!("--types {list:?}: the weights add up to more than {TYPES_MAX}"));
        }
    }
    if types.is_empty() {
        return Err(format!("--types {list:?}: every weight is 0"));
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let options = Options::from_args(&["load"], arguments).map_err(|exit| exit.output)?;
        Plan::new(&options).map(|(plan, _)| plan)
    }

    #[test]
    fn the_defaults_are_a_plan() {
        let plan = plan(&[]).unwrap();
        assert_eq!((plan.to.to_string().as_str(), plan.rate), ("127.0.0.1:8125", Some(10_000)));
        assert_eq!((plan.flows, plan.names, plan.sinks.len()), (1, 1000, 0));
        assert_eq!(plan.extent.time, Duration::from_secs(10));
    }

    #[test]
    fn all_options_are_understood() {
        let plan = plan(&[
            "--to",
            "[::1]:9",
            "--sink",
            "1,2",
            "--rate",
            "max",
            "--metrics",
            "30",
            "--names",
            "10000000",
            "--skew",
            "1.1",
            "--types",
            "c=8,ms=2,s=0",
            "--tags",
            "env:prod",
            "--flows",
            "4",
            "--seconds",
            "0.5",
            "--datagrams",
            "7",
            "--allow-loss",
            "0.01",
            "--in-order",
            "--warm-up",
            "0.1",
        ])
        .unwrap();
        assert_eq!((plan.rate, plan.flows, plan.extent.datagrams, plan.sinks.len()), (None, 4, 7, 2));
        assert_eq!((plan.tolerance.loss_share, plan.tolerance.in_order), (0.01, true));
        assert_eq!((plan.warm_up_us, plan.settle_us), (100_000, 2_000_000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, part) in [
            (["--rate", "0"], "--rate \"0\""),
            (["--rate", "fast"], "--rate \"fast\""),
            (["--metrics", "0"], "--metrics 0: expected 1 to 1000"),
            (["--metrics", "1000"], "bytes long"),
            (["--names", "10000001"], "--names"),
            (["--flows", "1001"], "--flows 1001"),
            (["--skew", "-1"], "--skew"),
            (["--types", "c=8,x"], "--types \"x\""),
            (["--types", "c=0"], "every weight is 0"),
            (["--types", "c=999,g=999"], "add up"),
            (["--tags", "a|b"], "--tags"),
            (["--to", "nowhere"], "--to"),
            (["--sink", "x"], "--sink"),
            (["--placed-by", "x"], "--placed-by and --down require --sink"),
            (["--down", "a:1"], "--placed-by and --down require --sink"),
            (["--delay", "-1"], "--delay"),
            (["--health", "x"], "--health"),
            (["--admin", "1"], "--admin"),
            (["--run", "A"], "--run"),
            (["--allow-loss", "2"], "--allow-loss"),
            (["--seconds", "-1"], "--seconds"),
            (["--settle", "inf"], "--settle"),
            (["--warm-up", "10"], "--warm-up 10: expected less than"),
            (["--burst", "0"], "--burst"),
            (["--datagrams", "0"], "--datagrams"),
            (["--replay", "/nowhere/x"], "/nowhere/x"),
        ] {
            let error = plan(&arguments).unwrap_err();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}
