//! `statsring load`: sends a load to a proxy and, with `--sink`, verifies what arrived after it.
//!
//! In: options. Out: on stderr a line a second, on stdout the figures and the verdict. Next: `options.rs` proves what is
//! asked, `send.rs` sends, `../sink/` receives, `reconcile.rs` finds where a loss was, `report.rs` tells it.

pub mod admin;
pub mod generate;
pub mod line;
pub mod names;
pub mod options;
pub mod pace;
pub mod process;
pub mod reconcile;
pub mod replay;
pub mod report;
pub mod send;
mod watch;

pub use options::Options;

use super::sink::account::{Account, Expected};
use super::sink::figures::Arrived;
use super::sink::health;
use super::sink::interrupt::Interrupt;
use super::sink::receive::{Received, SinkLive, Sinks};
use super::sink::replayed::Replayed;
use super::sink::sequenced::Sequenced;
use super::sink::verdict::Verdict;
use super::sink::{LOOK_MS, as_json, finish, os_error, placed};
use crate::console::usage_error;
use crate::stats::host::{self, HostUdp};
use admin::ProxyStats;
use generate::Source;
use line::host_now_us;
use options::Plan;
use process::ProcessMeter;
use report::{ProcessFigures, Report, SentFigures};
use send::{SendLive, Sent, connect, send, send_markers};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use watch::Watch;

/// Runs a load; the exit code.
pub fn run(options: Options) -> u8 {
    let (plan, source) = match Plan::new(&options) {
        Ok(proven) => proven,
        Err(text) => return usage_error(&text),
    };
    match carry_out(&plan, source, &options) {
        Ok(report) => {
            let text = if options.json { as_json(&report) } else { report.text() };
            finish(&text, &report.verdict)
        }
        Err(text) => os_error(&text),
    }
}

/// The sinks of this process.
struct OwnSinks {
    thread: JoinHandle<Received>,
    live: Arc<SinkLive>,
}

/// What is read before and after.
struct Outside {
    udp: Option<HostUdp>,
    target_drops: Option<u64>,
    stats: Option<ProxyStats>,
}

impl Outside {
    fn read(plan_to: SocketAddr, admin: Option<SocketAddr>) -> Result<Outside, String> {
        let is_here = host::is_on_this_host(plan_to.ip()).unwrap_or(false);
        let stats = admin.map(|address| {
            ProxyStats::ask(address).map_err(|error| format!("the proxy's admin port {address}: {error}"))
        });
        Ok(Outside {
            udp: host::udp_errors(),
            target_drops: is_here.then(|| host::drops_at(&host::udp_sockets(), plan_to)).flatten(),
            stats: stats.transpose()?,
        })
    }
}

fn carry_out(plan: &Plan, mut source: Source, options: &Options) -> Result<Report, String> {
    let system = |what: &str, error: io::Error| format!("{what}: {error}");
    let mut interrupt = Interrupt::new().map_err(|error| system("cannot handle signals", error))?;
    let meter = options
        .pid
        .map(|pid| ProcessMeter::new(pid).map_err(|error| system(&format!("--pid {pid}"), error)))
        .transpose()?;
    let flows = connect(plan.to, plan.flows)
        .map_err(|error| system(&format!("cannot send to {} from {} sockets", plan.to, plan.flows), error))?;
    let sinks = start_sinks(plan, options)?;
    health::spawn(health::bind(&plan.health)?)
        .map_err(|error| system("cannot start the thread for --health", error))?;
    let live = Arc::new(SendLive::default());
    live.stop.store(pause(&mut interrupt, plan.delay_us), Ordering::Relaxed);
    let before = Outside::read(plan.to, plan.admin)?;
    let sink_live = sinks.as_ref().map(|sinks| Arc::clone(&sinks.live));
    let mut watch = Watch::new(interrupt, Arc::clone(&live), sink_live, meter, plan.warm_up_us);
    let sender = {
        let run = plan.run.clone();
        let (rate, burst, extent) = (plan.rate, plan.burst, plan.extent);
        let with_markers = sinks.is_none();
        thread::Builder::new()
            .name("load".into())
            .spawn(move || {
                let mut sent = send(&flows, &mut source, rate, burst, extent, &live);
                if with_markers {
                    send_markers(&flows[0], &run, &mut sent);
                }
                sent
            })
            .map_err(|error| system("cannot start the sending thread", error))?
    };
    watch.until_sent(&sender, options.quiet);
    let sent = sender.join().map_err(|_| "the sending thread panicked".to_owned())?;
    watch.until_settled(sent.metrics, plan.settle_us);
    let cost = watch.cost(options.pid);
    let arrived = sinks.map(|sinks| stop_sinks(sinks, plan, &sent)).transpose()?;
    let after = Outside::read(plan.to, plan.admin)?;
    Ok(report(plan, &sent, arrived, (&before, &after), cost))
}

/// Sleeps; whether a signal has ended that, and so the load.
fn pause(interrupt: &mut Interrupt, delay_us: u64) -> bool {
    let end_us = host_now_us() + delay_us;
    while host_now_us() < end_us {
        if interrupt.sleep(LOOK_MS) {
            return true;
        }
    }
    false
}

fn start_sinks(plan: &Plan, options: &Options) -> Result<Option<OwnSinks>, String> {
    if plan.sinks.is_empty() {
        return Ok(None);
    }
    let placed = placed(&options.placed_by, &options.down, &plan.sinks, plan.names)?;
    let sinks = Sinks::bind(&plan.sinks, options.receive_buffer)?;
    let account = match &plan.replay {
        Some(replay) => Account::Replayed(Box::new(Replayed::new(Arc::clone(replay)))),
        None => Account::Sequenced(Box::new(Sequenced::new(plan.names, Some(plan.run.clone()), placed))),
    };
    let live = Arc::new(SinkLive::default());
    let thread = sinks
        .spawn(account, Arc::clone(&live))
        .map_err(|error| format!("cannot start the receiving thread: {error}"))?;
    Ok(Some(OwnSinks { thread, live }))
}

fn stop_sinks(sinks: OwnSinks, plan: &Plan, sent: &Sent) -> Result<Arrived, String> {
    sinks.live.stop.store(true, Ordering::Release);
    let received = sinks.thread.join().map_err(|_| "the receiving thread panicked".to_owned())?;
    let expected = match &plan.replay {
        Some(_) => Expected::Texts(sent.texts.clone()),
        None => Expected::Total(sent.metrics),
    };
    Ok(received.figures(&expected))
}

fn report(
    plan: &Plan,
    sent: &Sent,
    arrived: Option<Arrived>,
    (before, after): (&Outside, &Outside),
    process: Option<ProcessFigures>,
) -> Report {
    let verdict = arrived.as_ref().map(|arrived| Verdict::on(arrived, &plan.tolerance));
    let stages = match (&before.stats, &after.stats) {
        (Some(before), Some(after)) => reconcile::stages(sent, before, after, arrived.as_ref()),
        _ => Vec::new(),
    };
    let (host_rcvbuf_errors, host_sndbuf_errors) = Report::host_growth(before.udp, after.udp);
    let target_drops = before.target_drops.zip(after.target_drops);
    let dropped_before_proxy = target_drops.map(|(before, after)| after.saturating_sub(before));
    Report {
        verdict: Report::judge(verdict, sent, dropped_before_proxy),
        measured: arrived.is_some(),
        sent: sent_figures(plan, sent),
        arrived,
        dropped_before_proxy,
        host_rcvbuf_errors,
        host_sndbuf_errors,
        stages,
        process,
    }
}

fn sent_figures(plan: &Plan, sent: &Sent) -> SentFigures {
    let seconds = sent.took_us as f64 / 1e6;
    SentFigures {
        run: plan.run.text().to_owned(),
        to: plan.to.to_string(),
        seconds,
        datagrams_per_second: super::sink::text::rate(sent.datagrams, seconds),
        rate: plan.rate,
        flows: plan.flows,
        names: plan.replay.as_ref().map_or(plan.names, |replay| replay.name_count()),
        lines_skipped: plan.replay.as_ref().map_or(0, |replay| replay.skipped()),
        counts: sent.clone(),
    }
}
