//! `statsring sink`: stands in for backends; prints what arrives (`print.rs`), or measures a load. `statsring load --sink`
//! measures in one process.
//!
//! In: where to listen. Out: on stderr a line a second, on stdout the figures and the verdict. Next: `receive.rs`
//! receives, `sequence.rs` distinguishes loss, duplicates and reordering, `verdict.rs` judges.

pub mod account;
pub mod figures;
pub mod health;
pub mod interrupt;
mod options;
pub mod placed;
mod print;
pub mod receive;
pub mod replayed;
pub mod sequence;
pub mod sequenced;
pub mod settle;
pub mod text;
pub mod verdict;

pub use options::{Options, health_addresses, seconds_to_us};

use super::load::line::{NAMES_MAX, host_now_us};
use super::load::replay::Replay;
use crate::console::{print, print_error, usage_error};
use crate::exit;
use crate::text::grouped;
use account::{Account, Expected};
use figures::Arrived;
use interrupt::Interrupt;
use placed::Placed;
use receive::{SinkLive, Sinks, parse_addresses};
use sequenced::Sequenced;
use serde::Serialize;
use settle::{Standing, is_over};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use verdict::{Tolerance, Verdict};

/// How often the main thread looks whether the end has come, ms.
pub const LOOK_MS: u16 = 20;
const PROGRESS_US: u64 = 1_000_000;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    verdict: &'a Verdict,
    arrived: &'a Arrived,
}

/// Receives until the load has ended; the exit code.
pub fn run(options: Options) -> u8 {
    if options.print {
        return print::run(&options);
    }
    let tolerance = match tolerance(options.allow_loss, options.in_order) {
        Ok(tolerance) => tolerance,
        Err(text) => return usage_error(&text),
    };
    let proven = match validate(&options) {
        Ok(proven) => proven,
        Err(text) => return usage_error(&text),
    };
    let arrived = match receive(proven, &options) {
        Ok(arrived) => arrived,
        Err(text) => return os_error(&text),
    };
    let verdict = Verdict::on(&arrived, &tolerance);
    let summary =
        format!("{} metrics arrived, each once and {}", grouped(arrived.unique), text::places(&arrived));
    let text = if options.json {
        as_json(&Report { verdict: &verdict, arrived: &arrived })
    } else {
        text::arrived(&arrived) + &text::verdict(&verdict, &summary)
    };
    finish(&text, &verdict)
}

/// Prints the result; the exit code is the verdict's if it could be printed.
pub fn finish(text: &str, verdict: &Verdict) -> u8 {
    match print(text) {
        exit::OK => verdict.exit_code(),
        code => code,
    }
}

/// A result as JSON, with a newline.
pub fn as_json(report: &impl Serialize) -> String {
    // Structs of numbers, texts and lists are always JSON.
    serde_json::to_string_pretty(report).map_or_else(|error| format!("{error}\n"), |text| text + "\n")
}

/// Reports an OS error; the exit code.
pub fn os_error(text: &str) -> u8 {
    print_error(text);
    exit::SYSTEM
}

/// The validated tolerance.
///
/// # Errors
/// The share is none.
pub fn tolerance(loss_share: f64, in_order: bool) -> Result<Tolerance, String> {
    if !(0.0..=1.0).contains(&loss_share) {
        return Err(format!("--allow-loss {loss_share}: expected a share from 0 to 1, such as 0.001"));
    }
    Ok(Tolerance { loss_share, in_order })
}

/// The placements of `--placed-by` and `--down`.
///
/// # Errors
/// As [`Placed::new`]; or the one without the other.
pub fn placed(
    files: &[PathBuf],
    down: &[String],
    sinks: &[SocketAddr],
    names: usize,
) -> Result<Option<Placed>, String> {
    if files.is_empty() {
        return match down.first() {
            Some(name) => Err(format!("--down {name:?} requires --placed-by")),
            None => Ok(None),
        };
    }
    Placed::new(files, down, sinks, names).map(Some)
}

/// What the options mean.
struct Proven {
    listen: Vec<SocketAddr>,
    health: Vec<SocketAddr>,
    account: Account,
}

fn validate(options: &Options) -> Result<Proven, String> {
    if options.file.is_some() {
        return Err("-f requires --print; to judge a load by a config use --placed-by".to_owned());
    }
    let list = options
        .listen
        .as_deref()
        .ok_or("missing --listen (to measure a load) or --print (to print what arrives)")?;
    let listen = parse_addresses(list).map_err(|error| format!("--listen: {error}"))?;
    seconds_to_us("--idle", options.idle)?;
    options.seconds.map(|seconds| seconds_to_us("--seconds", seconds)).transpose()?;
    if options.names == 0 || options.names > NAMES_MAX {
        return Err(format!("--names {}: expected 1 to {NAMES_MAX}", options.names));
    }
    let account = match &options.replay {
        Some(path) => Account::Replayed(Box::new(replayed::Replayed::new(Arc::new(Replay::load(path)?)))),
        None => {
            let placed = placed(&options.placed_by, &options.down, &listen, options.names)?;
            Account::Sequenced(Box::new(Sequenced::new(options.names, None, placed)))
        }
    };
    if options.replay.is_some() && !options.placed_by.is_empty() {
        return Err("--placed-by cannot be combined with --replay".to_owned());
    }
    Ok(Proven { listen, health: health_addresses(options.health.as_deref())?, account })
}

fn receive(proven: Proven, options: &Options) -> Result<Arrived, String> {
    let cannot = |error: io::Error| format!("cannot run the sink: {error}");
    let mut interrupt = Interrupt::new().map_err(cannot)?;
    let sinks = Sinks::bind(&proven.listen, options.receive_buffer)?;
    health::spawn(health::bind(&proven.health)?).map_err(cannot)?;
    for address in sinks.addresses() {
        // Also with --quiet: with port 0 nothing else shows the port.
        print_error(&format!("listening on {address}"));
    }
    let live = Arc::new(SinkLive::default());
    let thread = sinks.spawn(proven.account, Arc::clone(&live)).map_err(cannot)?;
    wait(&mut interrupt, &live, options);
    live.stop.store(true, Ordering::Release);
    let received = thread.join().map_err(|_| "the receiving thread panicked".to_owned())?;
    Ok(received.figures(&options.expect.map_or(Expected::Unknown, Expected::Total)))
}

/// Until the load is over, or the operator has seen enough.
fn wait(interrupt: &mut Interrupt, live: &SinkLive, options: &Options) {
    let begin_us = host_now_us();
    let end_us = options.seconds.map(|seconds| begin_us + (seconds * 1e6) as u64);
    let idle_us = (options.idle * 1e6) as u64;
    let (mut marked_us, mut next_us, mut last) = (None, begin_us + PROGRESS_US, 0);
    loop {
        let asked = interrupt.sleep(LOOK_MS);
        let now_us = host_now_us();
        if asked || end_us.is_some_and(|end_us| now_us >= end_us) {
            return;
        }
        let sent = options.expect.or(live.total());
        let last_us = live.last_arrival_us.load(Ordering::Relaxed);
        let quiet_us = now_us.saturating_sub(last_us);
        let unique = live.unique.load(Ordering::Relaxed);
        if marked_us.is_none() && live.total().is_some() {
            marked_us = Some(now_us);
        }
        let standing = Standing {
            sent: sent.unwrap_or(u64::MAX),
            arrived: unique,
            quiet_us,
            waited_us: marked_us.map_or(0, |marked_us| now_us - marked_us),
        };
        if last_us > 0 && is_over(&standing, idle_us) {
            return;
        }
        if now_us >= next_us && !options.quiet {
            progress(now_us - begin_us, live, &mut last);
            next_us = now_us + PROGRESS_US;
        }
    }
}

fn progress(elapsed_us: u64, live: &SinkLive, last: &mut u64) {
    let get = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
    let metrics = get(&live.metrics);
    print_error(&format!(
        "{:>4} s  arrived {} metrics/s, {} total  duplicated {}  misplaced {}  dropped at the sinks {}",
        elapsed_us / 1_000_000,
        grouped(metrics - *last),
        grouped(metrics),
        grouped(get(&live.duplicated)),
        grouped(get(&live.misplaced)),
        grouped(get(&live.dropped)),
    ));
    *last = metrics;
}
