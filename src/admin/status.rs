//! `status`: the state as text, one `name: text` per line, beginning like proxy.js's. Pure.
//!
//! In: a [`View`]. Out: text. Figures are in `stats`. Next: `reply.rs`.

use super::escape::escape;
use super::readiness::Readiness;
use super::send_error;
use super::tuning;
use super::view::{AddressRole, BackendState, View};
use crate::driver::Restrictions;
use crate::logging::LogFigures;
use crate::stats::{Counter, Counters, DropReason};
use crate::text::plural;
use crate::version::VERSION;
use std::net::SocketAddr;

/// The text. Lines with `degraded` or `dropped` appear only if there is something to report.
pub fn render(view: &View) -> String {
    let counters = view.counters();
    let mut lines = vec![
        format!("uptime: {}", view.uptime_s),
        format!("nodes: {}", serving(view)),
        format!("version: {VERSION}"),
        format!("pid: {}", view.pid),
        format!("engine: {}", engine(view)),
        format!("rings: {}", rings(view)),
        format!("placement: {}", view.placement),
        format!("fingerprint: {}", hexadecimal(view.fingerprint.map(|fingerprint| fingerprint.now))),
        format!(
            "fingerprint_config: {}",
            hexadecimal(view.fingerprint.map(|fingerprint| fingerprint.config))
        ),
        format!("workers: {}", view.workers.len()),
        format!("spread: {}", view.spread),
        format!("pinned: {}", pinned(view)),
        format!("listen: {}", addresses(&view.listen)),
        format!("management: {}", addresses(&view.management)),
        format!("health: {}", up_or_down(view.health_up)),
        ready(view.readiness),
        format!("receive_buffer: {}", receive_buffer(view)),
        format!("accounting: {}", account(&counters)),
    ];
    let before_buffers = lines.len().saturating_sub(2);
    lines.splice(before_buffers..before_buffers, tuning::lines(view));
    lines.extend(set_by_operator(view));
    lines.extend(several_addresses(view));
    lines.extend(send_error::last_errors(view));
    lines.extend(dropped(&counters, view));
    lines.extend(truncated(&counters, view));
    lines.extend(kernel_drops(view));
    lines.extend(log(&view.log));
    lines.extend(view.origin.iter().map(|message| format!("sockets: {}", escape(message.as_bytes()))));
    let last_restart = view.last_restart.as_ref().map(|(ago_s, message)| ("last_restart", *ago_s, message));
    let last_reload = view.last_reload.as_ref().map(|last| ("last_reload", last.ago_s, &last.message));
    for (name, ago_s, message) in last_restart.into_iter().chain(last_reload) {
        // Several errors are joined in one line here.
        let message: Vec<String> = message.lines().map(|line| escape(line.as_bytes())).collect();
        lines.push(format!("{name}: {ago_s} s ago: {}", message.join("; ")));
    }
    lines.extend(view.degraded.iter().map(|what| format!("degraded: {}", escape(what.as_bytes()))));
    lines.push(String::new());
    lines.join("\n")
}

/// The text of `/readyz` after a fixed name.
fn ready(readiness: Readiness) -> String {
    let message = readiness.message();
    let reason = message.split_once(": ").map_or(message, |(_, reason)| reason);
    format!("ready: {}, {reason}", if readiness.is_ready() { "yes" } else { "no" })
}

fn hexadecimal(number: Option<u64>) -> String {
    number.map_or_else(|| "starting".to_string(), |number| format!("{number:016x}"))
}

/// Backends whose state was set by the operator.
fn set_by_operator(view: &View) -> impl Iterator<Item = String> {
    let wanted = |state| matches!(state, BackendState::Drain | BackendState::ForcedDown);
    view.backends.iter().filter(move |backend| wanted(backend.state)).map(|backend| {
        format!(
            "backend: {} {}, set by the operator {} s ago, health checks: {}",
            escape(backend.name.as_bytes()),
            backend.state.name(),
            backend.since_s,
            backend.is_healthy.map_or("unknown", up_or_down)
        )
    })
}

/// Which of its addresses a backend with several of them uses.
fn several_addresses(view: &View) -> impl Iterator<Item = String> {
    view.backends.iter().filter(|backend| backend.addresses.len() > 1).map(|backend| {
        let list = |role: AddressRole| {
            let with = backend.addresses.iter().filter(|(_, of)| *of == role);
            with.map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ")
        };
        let mut text = match backend.address() {
            Some(address) => format!("metrics sent to {address}"),
            None => "no address for metrics".to_string(),
        };
        text.extend(backend.answering.map(|address| format!(", checks answered by {address}")));
        if !list(AddressRole::Refuses).is_empty() {
            text.push_str("; refused at all addresses");
        }
        for (role, what) in [
            (AddressRole::Refused, "refused"),
            (AddressRole::Spare, "further"),
            (AddressRole::OtherFamily, "excluded by addressFamily"),
            (AddressRole::Own, "own address"),
        ] {
            let addresses = list(role);
            if !addresses.is_empty() {
                text.push_str(&format!("; {what}: {addresses}"));
            }
        }
        format!("backend: {} {text}", escape(backend.name.as_bytes()))
    })
}

/// As in `health` and `status`.
pub fn up_or_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn serving(view: &View) -> String {
    let up = view.backends.iter().filter(|backend| backend.state == BackendState::Up);
    let names: Vec<String> = up.map(|backend| escape(backend.name.as_bytes())).collect();
    if names.is_empty() { "none up".to_string() } else { names.join(" ") }
}

/// The engines of all workers, each named once.
pub fn engine(view: &View) -> String {
    let mut engines: Vec<&str> = view.driver_info().map(|driver_info| driver_info.engine).collect();
    engines.sort_unstable();
    engines.dedup();
    if engines.is_empty() { "starting".to_string() } else { engines.join(" ") }
}

/// Whether the workers' rings are restricted.
fn rings(view: &View) -> String {
    let refused = view.driver_info().find_map(|driver_info| match driver_info.restrictions {
        Restrictions::Refused(errno) => Some(errno),
        Restrictions::None | Restrictions::InForce => None,
    });
    let in_force = view.driver_info().any(|driver_info| driver_info.restrictions == Restrictions::InForce);
    match refused {
        Some(errno) => format!("not restricted: {}", std::io::Error::from_raw_os_error(errno)),
        None if in_force => "restricted to receive, send, read and cancel on registered files".to_string(),
        None => "n/a".to_string(),
    }
}

/// Which worker is pinned to which CPU.
fn pinned(view: &View) -> String {
    let workers = view.workers.iter().enumerate();
    let texts: Vec<String> = workers
        .filter_map(|(index, worker)| Some(format!("worker {index} on CPU {}", worker.pinned_to?)))
        .collect();
    if texts.is_empty() { "no".to_string() } else { texts.join(", ") }
}

fn addresses(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.join(" ")
}

/// The smallest buffer granted to a socket. The kernel doubles the requested size to cover its own overhead.
fn receive_buffer(view: &View) -> String {
    let asked = view.receive_buffer_asked_bytes;
    match view.driver_info().map(|driver_info| driver_info.receive_buffer_bytes).min() {
        None => format!("{asked} bytes requested, not yet granted"),
        Some(granted) if granted < asked.saturating_mul(2) => {
            format!("{granted} bytes granted of {} (2 × {asked} requested)", asked.saturating_mul(2))
        }
        Some(granted) => format!("{granted} bytes granted (2 × {asked} requested)"),
    }
}

fn account(counters: &Counters) -> String {
    let missing = match counters.imbalance() {
        0 => return "balanced".to_string(),
        missing @ 1.. => format!("{missing} metrics unaccounted for"),
        invented => format!("{} metrics too many", -invented),
    };
    format!(
        "{missing}: received {}, sent {}, dropped {}, pending {}",
        counters.get(Counter::MetricsReceived),
        counters.get(Counter::MetricsSent),
        counters.dropped_total(),
        counters.get(Counter::MetricsPending),
    )
}

fn dropped(counters: &Counters, view: &View) -> impl Iterator<Item = String> {
    DropReason::ALL.iter().filter_map(move |reason| {
        let last = view.moment(counters.last_drop_us(*reason)?);
        let metrics = metrics(counters.dropped(*reason));
        let at_least = if *reason == DropReason::Truncated { "at least " } else { "" };
        Some(format!("dropped_{}: {at_least}{metrics}, the last {last}", reason.name()))
    })
}

/// Datagrams that were too long, and the remedy. Metrics that were not read are not counted anywhere.
fn truncated(counters: &Counters, view: &View) -> Option<String> {
    let datagrams = counters.get(Counter::DatagramsTruncated);
    let lost = match counters.dropped(DropReason::Truncated) {
        0 => "an unknown number of metrics".to_string(),
        count => format!("at least {}", metrics(count)),
    };
    (datagrams > 0).then(|| {
        format!(
            "truncated: {datagrams} {} longer than maxDatagramSize ({}), {} bytes not read, {lost} lost; \
             raise maxDatagramSize",
            plural(datagrams, "datagram"),
            view.datagram_bytes_max,
            counters.get(Counter::BytesTruncated),
        )
    })
}

fn metrics(count: u64) -> String {
    format!("{count} {}", plural(count, "metric"))
}

/// Lost log lines.
fn log(log: &LogFigures) -> Option<String> {
    let ago = log.dropped_ago?;
    let lines = format!("{} {}", log.lines_dropped, plural(log.lines_dropped, "line"));
    Some(format!("log: {} dropped, the last {} s ago", lines, ago.as_secs()))
}

/// Datagrams dropped by the kernel, and where.
fn kernel_drops(view: &View) -> Option<String> {
    let last_us = view.workers.iter().filter_map(|worker| worker.socket_dropped_us).max()?;
    let mut places = Vec::new();
    for (index, worker) in view.workers.iter().enumerate() {
        for (socket, drops) in worker.socket_drops.iter().enumerate().filter(|(_, drops)| **drops > 0) {
            let address = view.listen.get(socket).map_or_else(|| socket.to_string(), SocketAddr::to_string);
            places.push(format!("{drops} at worker {index}, {address}"));
        }
    }
    let sum: u64 = view.workers.iter().flat_map(|worker| &worker.socket_drops).sum();
    Some(format!(
        "kernel_drops: {sum} {} ({}), the last {}",
        plural(sum, "datagram"),
        places.join(", "),
        view.moment(last_us)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::view::LastReload;
    use super::super::view::tests::sample;
    use super::*;

    #[test]
    fn a_healthy_proxy_has_the_regular_lines_only() {
        let view = sample();
        let expected = format!(
            "uptime: 51\n\
            nodes: a:8125\n\
            version: {VERSION}\n\
            pid: 0\n\
            engine: io_uring\n\
            rings: restricted to receive, send, read and cancel on registered files\n\
            placement: jump\n\
            fingerprint: fedcba9876543210\n\
            fingerprint_config: 00000000000012ab\n\
            workers: 2\n\
            spread: flow\n\
            pinned: no\n\
            listen: 0.0.0.0:8125 [::]:8125\n\
            management: 127.0.0.1:8126\n\
            health: up\n\
            ready: yes, all workers are receiving\n\
            gso: auto: 20 of 40 packets batched; padded for all\n\
            gro: off\n\
            packet_size: 1432 bytes\n\
            cache: up to 16384 names in 32768 entries per worker\n\
            coalescing: up to 5 ms; now idle\n\
            scanner: SSE2\n\
            receive_buffer: 425984 bytes granted of 16777216 (2 × 8388608 requested)\n\
            accounting: balanced\n\
            dropped_malformed: 4 metrics, the last 40 s ago, at 2033-05-18T03:32:40Z\n"
        );
        assert_eq!(render(&view), expected);
    }

    #[test]
    fn degradations_and_drops_are_reported() {
        let mut view = sample();
        view.health_up = false;
        view.readiness = Readiness::HealthDown;
        view.workers[0].counters.add(Counter::MetricsReceived, 3);
        view.workers[0].counters.add(Counter::DatagramsTruncated, 1);
        view.workers[0].counters.add(Counter::BytesTruncated, 300);
        view.workers[1].pinned_to = Some(3);
        if let Some(driver_info) = &mut view.workers[1].driver_info {
            driver_info.restrictions = Restrictions::Refused(22);
        }
        view.workers[1].socket_drops = vec![0, 12];
        view.workers[1].socket_dropped_us = Some(57_000_000);
        view.log.lines_dropped = 9;
        view.log.dropped_ago = Some(std::time::Duration::from_millis(4_900));
        view.backends[1].state = BackendState::Drain;
        view.backends[2].state = BackendState::ForcedDown;
        let text = render(&view);
        for line in [
            "\nbackend: b:8125 drain, set by the operator 40 s ago, health checks: down\n",
            "\nbackend: c:8125 forced_down, set by the operator 40 s ago, health checks: unknown\n",
            "\ntruncated: 1 datagram longer than maxDatagramSize (8192), 300 bytes not read, an unknown number of metrics \
             lost; raise maxDatagramSize\n",
            "\nlog: 9 lines dropped, the last 4 s ago\n",
            "\nkernel_drops: 12 datagrams (12 at worker 1, [::]:8125), the last 3 s ago, at 2033-05-18T03:33:17Z\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        view.backends[0].addresses = [
            ("[::1]:8125", AddressRole::Refused),
            ("127.0.0.1:8125", AddressRole::InUse),
            ("127.0.1.1:8125", AddressRole::Own),
        ]
        .map(|(address, role)| (address.parse().unwrap(), role))
        .to_vec();
        view.backends[0].answering = "[::1]:8126".parse().ok();
        let line = "\nbackend: a:8125 metrics sent to 127.0.0.1:8125, checks answered by [::1]:8126; refused: [::1]:8125; \
            own address: 127.0.1.1:8125\n";
        assert!(render(&view).contains(line), "{line}{}", render(&view));
        view.degraded.push("receive buffer: raise net.core.rmem_max".to_string());
        view.origin = Some("inherited from process 12".to_string());
        view.last_restart = Some((3, "refused: stopping".to_string()));
        view.last_reload = Some(LastReload {
            ago_s: 7,
            message: "nodes[1].port: 99999 is not a port\nbad\x1bkey\n".to_string(),
            succeeded: false,
        });
        for backend in &mut view.backends {
            backend.state = BackendState::Down;
        }
        let text = render(&view);
        for line in [
            "health: down\n",
            "ready: no, health was set to down; ",
            "nodes: none up\n",
            "pinned: worker 1 on CPU 3\n",
            "rings: not restricted: Invalid argument (os error 22)\n",
            "accounting: 3 metrics unaccounted for: received 33, sent 24, dropped 4, pending 2\n",
            "sockets: inherited from process 12\n",
            "last_restart: 3 s ago: refused: stopping\n",
            "last_reload: 7 s ago: nodes[1].port: 99999 is not a port; bad\\x1bkey\n",
            "degraded: receive buffer: raise net.core.rmem_max\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        view.workers[0].counters.add(Counter::MetricsSent, 5);
        assert!(render(&view).contains("accounting: 2 metrics too many: "));
        view.workers.clear();
        let text = render(&view);
        assert!(
            text.contains("engine: starting\n")
                && text.contains("8388608 bytes requested, not yet granted\n")
        );
    }
}
