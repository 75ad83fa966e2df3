//! `statsring demo`: the proxy at work in one process, with three built-in backends and built-in traffic.
//!
//! In: `--seconds`. Out: a live table, a summary, an exit code that reflects whether the counters add up. The proxy is the
//! same as always, from a config text on; everything else here is only there to be seen.
//!
//! ```text
//! traffic.rs ──▶ the proxy ──▶ backends.rs            (generator of ../load/, sinks of ../sink/)
//!    show.rs: figures.rs ─▶ table.rs ─▶ screen.rs     outages.rs: backends go and return
//!    account.rs: the summary                          ports.rs, events.rs
//! ```
//!
//! Next: nobody; the process ends with it.

mod account;
mod backends;
mod events;
mod figures;
mod outages;
mod ports;
mod screen;
mod show;
mod table;
mod traffic;

use crate::control::{self, ProxyHandle};
use crate::placement::Placement;
use crate::stats::Counter;
use crate::tools::load::replay::Replay;
use crate::{config, console, exit};
use account::{Account, Verdict};
use argh::FromArgs;
use backends::Backends;
use events::Events;
use figures::Quantiles;
use outages::Outages;
use ports::Ports;
use serde_json::{Value, json};
use show::Context;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use table::Setting;

/// The longest demo, a day.
const SECONDS_MAX: u32 = 86_400;
/// How often other ports are tried.
const ATTEMPTS_MAX: usize = 3;
/// How the names are spread.
const PLACEMENT: Placement = Placement::Jump;
/// Exit codes above this say that a signal ended the proxy at once.
const SIGNALLED: u8 = 128;
/// After a signal the proxy goes on for so long: the traffic ends within it, so that nothing is sent to a closed port.
const SHUTDOWN_DELAY_MS: u64 = 250;
/// Receive buffer of the proxy, unless this host grants less: hundreds of ms of the traffic.
const RECEIVE_BUFFER_BYTES: u64 = 4 << 20;
const RECEIVE_BUFFER_BYTES_MIN: u64 = 4_096;

/// Shows the proxy at work: three built-in backends, built-in traffic, a live table.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(
    subcommand,
    name = "demo",
    help_triggers("-h", "--help"),
    note = "Everything runs on loopback, on ports 8125 (metrics), 8126 (admin port) and\n  \
            8127 to 8132 (backends), or on free ports where these are in use. From time\n  \
            to time a backend reports that it is down, and the others take over its\n  \
            names until it is back. Ctrl-C ends the demo with a summary.",
    error_code(1, "metrics were lost or misplaced")
)]
pub struct Options {
    /// end after N seconds with a summary (1 to 86400)
    #[argh(option, arg_name = "N")]
    pub seconds: Option<u32>,
}

/// Runs the demonstration; the exit code.
pub fn run(options: Options) -> u8 {
    if let Some(seconds) = options.seconds
        && !(1..=SECONDS_MAX).contains(&seconds)
    {
        return console::usage_error(&format!("--seconds {seconds} is not in range (1 to {SECONDS_MAX})"));
    }
    match Demo::prepare(options.seconds) {
        Ok(demo) => demo.run(),
        Err(error) => refused(&error),
    }
}

/// Reports an OS error; the exit code.
fn refused(error: &io::Error) -> u8 {
    console::print_error(&format!("cannot start the demo: {error}"));
    exit::SYSTEM
}

/// Everything but the proxy, ready.
struct Demo {
    events: Arc<Events>,
    backends: Backends,
    lines: Arc<Replay>,
    outages: Outages,
    end: Option<Duration>,
    /// What is to be said about the backends' ports.
    notes: Vec<String>,
}

/// The thread of a show.
type ShowThread = io::Result<JoinHandle<io::Result<(Account, io::Result<()>)>>>;

impl Demo {
    fn prepare(seconds: Option<u32>) -> io::Result<Demo> {
        let events = Events::install();
        let lines = Arc::new(traffic::lines());
        let (backends, notes) = Backends::start(lines.clone(), PLACEMENT)?;
        let end = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Demo { events, backends, lines, outages: Outages::new(end), end, notes })
    }

    fn run(mut self) -> u8 {
        for attempt in 1.. {
            match self.attempt() {
                Ok((Some((proxy, thread)), code)) => return self.conclude(&proxy, thread, code),
                // Another process was quicker to take the port that was free a moment ago: then another one is.
                Ok((None, exit::SYSTEM)) if attempt < ATTEMPTS_MAX => drop(self.events.take()),
                Ok((None, code)) => {
                    self.events.release();
                    return code;
                }
                Err(error) => return refused(&error),
            }
        }
        exit::SYSTEM
    }

    /// Runs proxy and show once, on ports that are free now. No show, if the proxy did not get ready.
    fn attempt(&mut self) -> io::Result<(Option<(ProxyHandle, ShowThread)>, u8)> {
        let ports = ports::choose()?;
        let notes = self.notes.drain(..).chain(ports.notes());
        let text: String = notes.map(|note| format!("statsring demo: {note}\n")).collect();
        if console::print(&text) != exit::OK {
            return Ok((None, exit::OK));
        }
        let config =
            config::parse(&config_text(&self.backends.nodes, &ports)).map_err(io::Error::other)?.config;
        let setting = Setting {
            proxy_port: ports.proxy,
            admin_port: ports.admin,
            backends: config.nodes.iter().map(|node| node.name.to_string()).collect(),
            end: self.end,
        };
        let mut show = None;
        self.events.hold();
        let options = control::Options { config_path: None, listing: String::new(), debug: false };
        let code = control::run_with(config, options, |proxy| {
            let context = Context {
                proxy: proxy.clone(),
                arrivals: self.backends.live.clone(),
                up: self.backends.up.clone(),
                lines: self.lines.clone(),
                events: self.events.clone(),
                setting,
                outages: self.outages,
            };
            let thread = Builder::new().name("demo-show".to_owned()).spawn(move || context.run());
            if thread.is_err() {
                proxy.stop();
            }
            show = Some((proxy, thread));
        });
        Ok((show, code))
    }

    /// After the proxy's end: prints the summary; the exit code.
    fn conclude(self, proxy: &ProxyHandle, show: ShowThread, proxy_code: u8) -> u8 {
        let (mut account, written) = match show.map(JoinHandle::join) {
            Ok(Ok(Ok(ended))) => ended,
            Ok(Ok(Err(error))) | Err(error) => return refused(&error),
            // A panic there has ended the process already.
            Ok(Err(_)) => return exit::INTERNAL,
        };
        if written.is_err() {
            return console::written(written);
        }
        if proxy_code > SIGNALLED {
            // A second signal: exit without a final summary.
            return proxy_code;
        }
        account.counters = proxy.counters();
        account.latency = Quantiles::of(&proxy.latency());
        account.arrived = self.backends.stop(account.counters.get(Counter::MetricsSent), &account.sent.texts);
        let printed = console::print(&account.text());
        match account.verdict() {
            _ if proxy_code != exit::OK => proxy_code,
            Verdict::Wrong(_) => exit::FAILED,
            Verdict::Complete | Verdict::Counted(_) => printed,
        }
    }
}

/// The demo's config, as a file would have it.
fn config_text(nodes: &[Value], ports: &Ports) -> String {
    let config = json!({
        "host": ports.host,
        "port": ports.proxy,
        "managementHost": ports.host,
        "managementPort": ports.admin,
        "nodes": nodes,
        "hashing": PLACEMENT.hashing().name(),
        "checkInterval": 1_000,
        "checkFast": 200,
        "workers": 1,
        "receiveBuffer": receive_buffer_bytes(),
        "shutdownDelay": SHUTDOWN_DELAY_MS,
    });
    config.to_string()
}

/// As much as this host grants without a warning that would be of no use here.
fn receive_buffer_bytes() -> u64 {
    let limit = fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(RECEIVE_BUFFER_BYTES);
    RECEIVE_BUFFER_BYTES.min(limit).max(RECEIVE_BUFFER_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_config_is_a_normal_one() {
        let nodes = Backends::start(Arc::new(traffic::lines()), PLACEMENT).unwrap().0.nodes;
        let ports = ports::choose().unwrap();
        let loaded = config::parse(&config_text(&nodes, &ports)).unwrap();
        assert_eq!(loaded.notices, Vec::<String>::new());
        let config = loaded.config;
        assert_eq!((config.nodes.len(), config.workers, config.check.fast_ms), (3, 1, 200));
        assert!(config.listen.iter().chain(&config.management).all(|address| address.ip().is_loopback()));
        assert_eq!(config.listen[0].port(), ports.proxy);
        // It is what the admin port's `config` gives away for a file.
        assert_eq!(config::parse(&config.to_json().to_string()).unwrap().config, config);
    }
}
