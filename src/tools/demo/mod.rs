//! `statsring demo`: the proxy at work in one process, with three built-in backends and built-in traffic.
//!
//! In: `--seconds`. Out: a live table, a summary, an exit code that says whether the account adds up. The proxy is the
//! same as always, from a config text on; everything else here is only there to be seen.
//!
//! ```text
//! traffic.rs ──▶ the proxy ──▶ backends.rs        names.rs: what is sent, and where it belongs
//!    show.rs: figures.rs ─▶ table.rs ─▶ screen.rs         outages.rs: backends go and return
//!    account.rs: the summary                              ports.rs, events.rs, numbers.rs, thread.rs
//! ```
//!
//! Next: nobody; the process ends with it.

mod account;
mod backends;
mod events;
mod figures;
mod names;
mod numbers;
mod outages;
mod ports;
mod screen;
mod show;
mod table;
mod thread;
mod traffic;

use crate::config::{self, Config};
use crate::{cli, control, exit};
use account::{Account, Verdict};
use argh::FromArgs;
use backends::Backends;
use events::Events;
use figures::{Quantiles, Rates};
use names::Names;
use outages::Outages;
use ports::{BackendSockets, Ports};
use serde_json::{Value, json};
use show::{Ending, Ran, Stage};
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use table::Setting;
use tokio::sync::oneshot;

/// The longest demo, a day.
const SECONDS_MAX: u32 = 86_400;
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
    note = "Everything is on this host's loopback. The usual ports are 8125 (metrics), 8126 (admin port) and 8127 to \
            8132 (backends); where one is taken, a free one is found and shown. From time to time a backend answers \
            that it is down, and its names move to the others until it is back. Ctrl-C ends it with a summary.",
    error_code(1, "the account does not add up")
)]
pub struct Options {
    /// end after so many seconds with a summary (1 to 86400)
    #[argh(option, arg_name = "N")]
    pub seconds: Option<u32>,
}

/// Runs the demonstration; the exit code.
pub fn run(options: Options) -> u8 {
    if let Some(seconds) = options.seconds
        && !(1..=SECONDS_MAX).contains(&seconds)
    {
        return cli::refuse(&format!("--seconds {seconds} is not in range (1 to {SECONDS_MAX})"));
    }
    match Demo::prepare(options.seconds) {
        Ok(demo) => demo.run(),
        Err(error) => refused(&error),
    }
}

/// Tells that the host refused something that the demo needs; the exit code.
fn refused(error: &io::Error) -> u8 {
    cli::complain(&format!("the demo cannot start: {error}"));
    exit::SYSTEM
}

/// Everything but the proxy, ready.
struct Demo {
    config: Config,
    events: Arc<Events>,
    backends: Arc<Backends>,
    names: Arc<Names>,
    setting: Setting,
    outages: Outages,
    ending: Ending,
    notes: Vec<String>,
}

impl Demo {
    fn prepare(seconds: Option<u32>) -> io::Result<Demo> {
        let events = Events::install();
        let ending = Ending::listen()?;
        let ports = ports::choose()?;
        let text = config_text(&ports)?;
        let config = config::parse(&text).map_err(io::Error::other)?.config;
        let names = Arc::new(Names::new(&config));
        let setting = Setting {
            proxy_port: ports.proxy,
            admin_port: ports.admin,
            backends: config.nodes.iter().map(|node| node.name.to_string()).collect(),
            end: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        };
        let backends = Arc::new(Backends::start(ports.backends, &names)?);
        let outages = Outages::new(seconds);
        Ok(Demo { config, events, backends, names, setting, outages, ending, notes: ports.notes })
    }

    fn run(self) -> u8 {
        let notes: String = self.notes.iter().map(|note| format!("statsring demo: {note}\n")).collect();
        let code = cli::print(&notes);
        if code != exit::OK {
            return code;
        }
        let Demo { config, events, backends, names, setting, outages, ending, .. } = self;
        let (name_count, (proxy_runs, proxy_ended)) = (names.len(), oneshot::channel::<()>());
        // Taken when the proxy is ready; if it never is, the runtime inside must end here and not inside the proxy's.
        let mut props = Some((names, setting, ending, proxy_ended));
        let mut show = None;
        let code = control::run_with(config, control::Options { config_path: None, debug: false }, |proxy| {
            let Some((names, setting, ending, proxy_ended)) = props.take() else { return };
            events.hold();
            let (backends, events) = (backends.clone(), events.clone());
            let stage = Stage {
                proxy: proxy.clone(),
                backends,
                names,
                events,
                setting,
                outages,
                ending,
                proxy_ended,
            };
            let thread = thread::spawn("demo-show", move || stage.run());
            if thread.is_err() {
                proxy.stop();
            }
            show = Some((proxy, thread));
        });
        drop(proxy_runs);
        let Some((proxy, thread)) = show else { return code };
        let ran = match thread.map(JoinHandle::join) {
            Ok(Ok(Ok(ran))) => ran,
            Ok(Ok(Err(error))) | Err(error) => return refused(&error),
            // A panic there has ended the process already.
            Ok(Err(_)) => return exit::INTERNAL,
        };
        if ran.written.is_err() {
            return cli::written(ran.written);
        }
        let account = settle(ran, &proxy, &backends, name_count, outages);
        conclude(&account, code)
    }
}

/// Waits until the backends have what the proxy sent, and takes the account.
fn settle(
    ran: Ran,
    proxy: &control::ProxyHandle,
    backends: &Backends,
    names: usize,
    outages: Outages,
) -> Account {
    let counters = proxy.counters();
    backends.wait_for(counters.get(crate::stats::Counter::MetricsSent));
    let (first, last) = &ran.moments;
    let arrived = backends.list.iter().map(|backend| (backend.address.to_string(), backend.arrived()));
    Account {
        elapsed: ran.elapsed,
        sent: ran.sent,
        counters,
        backends: arrived.collect(),
        backend_drops: backends.kernel_drops(),
        names,
        outages: (ran.outages, outages.length()),
        latency: Quantiles::of(&ran.latency),
        cpu: Rates::between(first, last).cpu,
        events: ran.events,
    }
}

/// Prints the summary; the exit code: the proxy's own if it did not end well.
fn conclude(account: &Account, proxy_code: u8) -> u8 {
    let printed = cli::print(&account.text());
    match account.verdict() {
        _ if proxy_code != exit::OK => proxy_code,
        Verdict::Wrong(_) => exit::BAD_VERDICT,
        Verdict::Complete | Verdict::Counted { .. } => printed,
    }
}

/// The demo's config, as a file would have it.
fn config_text(ports: &Ports) -> io::Result<String> {
    let nodes: io::Result<Vec<Value>> = ports
        .backends
        .iter()
        .map(|BackendSockets { metrics, health }| {
            let (metrics, health) = (metrics.local_addr()?, health.local_addr()?);
            Ok(json!({"host": metrics.ip(), "port": metrics.port(), "adminport": health.port()}))
        })
        .collect();
    let config = json!({
        "host": ports.host,
        "port": ports.proxy,
        "managementHost": ports.host,
        "managementPort": ports.admin,
        "nodes": nodes?,
        "checkInterval": 1_000,
        "checkFast": 200,
        "workers": 1,
        "receiveBuffer": receive_buffer_bytes(),
        "shutdownDelay": SHUTDOWN_DELAY_MS,
    });
    Ok(config.to_string())
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
        let ports = ports::choose().unwrap();
        let loaded = config::parse(&config_text(&ports).unwrap()).unwrap();
        assert_eq!(loaded.notices, Vec::<String>::new());
        let config = loaded.config;
        assert_eq!((config.nodes.len(), config.workers, config.check.fast_ms), (3, 1, 200));
        assert!(config.listen.iter().chain(&config.management).all(|address| address.ip().is_loopback()));
        assert_eq!(config.listen[0].port(), ports.proxy);
        // It is what the admin port's `config` gives away for a file.
        assert_eq!(config::parse(&config.to_json().to_string()).unwrap().config, config);
    }
}
