//! The options of `statsring sink`.

use super::receive::{RECEIVE_BUFFER_BYTES, parse_addresses};
use argh::FromArgs;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Stands in for the backends of a proxy: prints the metrics that arrive, or measures a load (lost, duplicated, reordered and
/// misplaced metrics, latency).
#[derive(FromArgs, Clone, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "sink",
    help_triggers("-h", "--help"),
    note = "A load ends with markers that state how many metrics were sent. If the\n  \
            backends are on several hosts, each sink sees only its share: give that with\n  \
            --expect, or add up the results.",
    note = "Latency is measured only if the load runs on the same host, by its monotonic\n  \
            clock.",
    error_code(1, "metrics were lost, duplicated or misplaced")
)]
pub struct Options {
    /// print each metric that arrives, after the backend that received it, until Ctrl-C; listens as the backends of
    /// exampleConfig.json unless -f or --listen says otherwise
    #[argh(switch)]
    pub print: bool,

    /// with --print: listen as the backends of this config
    #[argh(option, short = 'f', arg_name = "FILE")]
    pub file: Option<PathBuf>,

    /// where to listen: ports of 127.0.0.1 or ADDRESS:PORT, separated by commas; 0 takes a free port
    #[argh(option, arg_name = "LIST")]
    pub listen: Option<String>,

    /// answer health checks as the admin port of a StatsD server: TCP ports of 127.0.0.1 or ADDRESS:PORT, separated by
    /// commas
    #[argh(option, arg_name = "LIST")]
    pub health: Option<String>,

    /// number of metrics sent, if no marker states it
    #[argh(option, arg_name = "N")]
    pub expect: Option<u64>,

    /// number of names that the load may use (default 1000000)
    #[argh(option, arg_name = "N", default = "1_000_000")]
    pub names: usize,

    /// file of the captured lines that the load replays
    #[argh(option, arg_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// a config that the proxy may use during the load; may be repeated. A metric is misplaced if none of them places it
    /// there (default: the first sink of a name is its place)
    #[argh(option, arg_name = "FILE")]
    pub placed_by: Vec<PathBuf>,

    /// a backend of --placed-by that may be down; may be repeated, for outages of one backend at a time
    #[argh(option, arg_name = "HOST:PORT")]
    pub down: Vec<String>,

    /// end after S seconds
    #[argh(option, arg_name = "S")]
    pub seconds: Option<f64>,

    /// end after S seconds without arrivals, counted from the first metric (default 5)
    #[argh(option, arg_name = "S", default = "5.0")]
    pub idle: f64,

    /// share of the metrics that may be lost (default 0)
    #[argh(option, arg_name = "SHARE", default = "0.0")]
    pub allow_loss: f64,

    /// treat reordered metrics of a name as an error
    #[argh(switch)]
    pub in_order: bool,

    /// receive buffer to request, bytes (default 33554432)
    #[argh(option, arg_name = "BYTES", default = "RECEIVE_BUFFER_BYTES")]
    pub receive_buffer: usize,

    /// print the result as JSON
    #[argh(switch)]
    pub json: bool,

    /// do not report progress on standard error
    #[argh(switch)]
    pub quiet: bool,
}

/// The addresses of `--health`.
///
/// # Errors
/// A part is not an address.
pub fn health_addresses(list: Option<&str>) -> Result<Vec<SocketAddr>, String> {
    let addresses = list.map(|list| parse_addresses(list).map_err(|error| format!("--health: {error}")));
    Ok(addresses.transpose()?.unwrap_or_default())
}

/// µs of a number of seconds.
///
/// # Errors
/// It is negative, no number, or more than about 30 years.
pub fn seconds_to_us(option: &str, seconds: f64) -> Result<u64, String> {
    if !(0.0..=1e9).contains(&seconds) {
        return Err(format!("{option} {seconds}: expected a number of seconds"));
    }
    Ok((seconds * 1e6) as u64)
}
