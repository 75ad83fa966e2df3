//! The part of `status` that reports the optimizations in effect. Pure.
//!
//! In: a [`View`]. Out: lines. Next: `status.rs` puts them among its own.

use super::escape::escape;
use super::view::{BackendView, TuningView, View};
use crate::stats::{Counter, Sleep};
use std::collections::BTreeMap;

/// Backends that a line names at most; `backends` has a line for each.
const NAMES_MAX: usize = 5;

/// One line for each optimization.
pub fn lines(view: &View) -> Vec<String> {
    vec![
        format!("gso: {}: {}", view.gso, gso(view)),
        format!("gro: {}", gro(view)),
        format!("packet_size: {}", packet_size(view)),
        format!("cache: {}", cache(&view.tuning)),
        format!("coalescing: {}", coalescing(view)),
        format!("scanner: {}", view.tuning.scanner),
    ]
}

/// How many packets were batched (GSO), and which backends refuse it.
fn gso(view: &View) -> String {
    let sum = |figure: fn(&BackendView) -> u64| view.backends.iter().map(figure).sum::<u64>();
    let (packets, together) = (sum(|backend| backend.datagrams_sent), sum(|backend| backend.datagrams_gso));
    let mut refusing: BTreeMap<i32, Vec<&BackendView>> = BTreeMap::new();
    let mut modes: BTreeMap<&str, Vec<&BackendView>> = BTreeMap::new();
    for backend in &view.backends {
        modes.entry(backend.gso).or_default().push(backend);
        if let Some(errno) = backend.gso_errno {
            refusing.entry(errno).or_default().push(backend);
        }
    }
    let mut text = format!("{together} of {packets} packets batched");
    for (mode, backends) in &modes {
        let of = if modes.len() == 1 { "all".to_string() } else { names(backends) };
        text.push_str(&format!("; {mode} for {of}"));
    }
    for (errno, backends) in refusing {
        let error = std::io::Error::from_raw_os_error(errno);
        text.push_str(&format!("; refused for {}: {error}", names(&backends)));
    }
    text
}

/// How many datagrams were received joined.
fn gro(view: &View) -> String {
    if !view.gro {
        return "off".to_string();
    }
    let counters = view.counters();
    let (joined, datagrams) = (counters.get(Counter::DatagramsGro), counters.get(Counter::DatagramsReceived));
    format!("on: {joined} of {datagrams} datagrams received with others")
}

/// The largest packet of each backend.
fn packet_size(view: &View) -> String {
    let mut sizes: BTreeMap<usize, Vec<&BackendView>> = BTreeMap::new();
    for backend in &view.backends {
        sizes.entry(backend.packet_bytes_max).or_default().push(backend);
    }
    let texts: Vec<String> = match sizes.len() {
        0 => Vec::new(),
        1 => sizes.keys().map(|bytes| size(*bytes)).collect(),
        _ => sizes.iter().map(|(bytes, of)| format!("{} for {}", size(*bytes), names(of))).collect(),
    };
    format!("{}{}", if view.tuning.packet_auto { "auto: " } else { "" }, texts.join(", "))
}

fn size(bytes: usize) -> String {
    if bytes == 0 { "not yet known".to_string() } else { format!("{bytes} bytes") }
}

/// A few names, or their number.
fn names(backends: &[&BackendView]) -> String {
    if backends.len() > NAMES_MAX {
        return format!("{} backends", backends.len());
    }
    let names: Vec<String> = backends.iter().map(|backend| escape(backend.name.as_bytes())).collect();
    names.join(" ")
}

fn cache(tuning: &TuningView) -> String {
    match tuning.cache_entries {
        0 => "off".to_string(),
        entries => format!("up to {} names in {entries} entries per worker", tuning.cache_names),
    }
}

/// How each worker sleeps now; workers in the same state are listed together.
fn coalescing(view: &View) -> String {
    if view.tuning.flush_us == 0 {
        return "off: one wakeup per datagram".to_string();
    }
    let mut alike: Vec<(String, Vec<String>)> = Vec::new();
    for (index, worker) in view.workers.iter().enumerate() {
        let state = sleep(worker.sleep);
        match alike.iter_mut().find(|(other, _)| *other == state) {
            Some((_, workers)) => workers.push(index.to_string()),
            None => alike.push((state, vec![index.to_string()])),
        }
    }
    let texts: Vec<String> = match alike.as_slice() {
        [(state, _)] => vec![state.clone()],
        several => several.iter().map(|(state, who)| format!("worker {}: {state}", who.join(", "))).collect(),
    };
    format!("up to {} ms; {}", view.tuning.flush_us as f64 / 1e3, texts.join("; "))
}

fn sleep(sleep: Sleep) -> String {
    match sleep {
        Sleep::Idle => "now idle".to_string(),
        Sleep::Each => "now one wakeup per datagram".to_string(),
        Sleep::Gather { sleep_us, filled_permille } => format!(
            "now sleeps up to {} ms, in which the peak rate fills {} % of the receive buffer",
            sleep_us as f64 / 1e3,
            f64::from(filled_permille) / 10.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;

    #[test]
    fn each_optimization_has_a_line() {
        let view = sample();
        assert_eq!(
            lines(&view),
            [
                "gso: auto: 20 of 40 packets batched; padded for all",
                "gro: off",
                "packet_size: 1432 bytes",
                "cache: up to 16384 names in 32768 entries per worker",
                "coalescing: up to 5 ms; now idle",
                "scanner: SSE2",
            ]
        );
    }

    #[test]
    fn disabled_and_differing_settings_are_reported() {
        let mut view = sample();
        view.tuning = TuningView { flush_us: 0, cache_entries: 0, packet_auto: true, ..view.tuning };
        view.backends[0].packet_bytes_max = 8192;
        view.backends[2].packet_bytes_max = 0;
        view.backends[1].gso_errno = Some(5);
        view.backends[2].gso = "unpadded";
        view.gro = true;
        view.workers[1].counters.add(Counter::DatagramsGro, 3);
        let text = lines(&view).join("\n");
        for line in [
            "packets batched; padded for a:8125 b:8125; unpadded for c:8125; refused for b:8125: Input/output error",
            "gro: on: 3 of 6 datagrams received with others",
            "packet_size: auto: not yet known for c:8125, 1432 bytes for b:8125, 8192 bytes for a:8125",
            "cache: off",
            "coalescing: off: one wakeup per datagram",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn workers_in_the_same_state_are_listed_together() {
        let mut view = sample();
        let sleep = Sleep::Gather { sleep_us: 1_250, filled_permille: 498 };
        for worker in &mut view.workers {
            worker.sleep = sleep;
        }
        let state = "now sleeps up to 1.25 ms, in which the peak rate fills 49.8 % of the receive buffer";
        assert_eq!(coalescing(&view), format!("up to 5 ms; {state}"));
        view.workers[0].sleep = Sleep::Each;
        assert_eq!(
            coalescing(&view),
            format!("up to 5 ms; worker 0: now one wakeup per datagram; worker 1: {state}")
        );
    }

    #[test]
    fn many_backends_are_counted_not_named() {
        let mut view = sample();
        view.backends = vec![view.backends[0].clone(); NAMES_MAX + 1];
        view.backends[0].packet_bytes_max = 8192;
        let five = ["a:8125"; NAMES_MAX].join(" ");
        assert_eq!(packet_size(&view), format!("1432 bytes for {five}, 8192 bytes for a:8125"));
        view.backends.push(view.backends[1].clone());
        assert_eq!(packet_size(&view), "1432 bytes for 6 backends, 8192 bytes for a:8125");
    }
}
