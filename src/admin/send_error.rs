//! Send errors as text: errno, meaning, effect, remedy. Pure.
//!
//! In: a [`SendError`] with its figures, a [`View`]. Out: text. Next: `status.rs`, `backends.rs`, `json.rs`, and the log of `control/`.

use super::escape::escape;
use super::view::View;
use crate::packet::SendError;
use crate::stats::{DropReason, ErrorView};
use crate::text::count;
use std::net::SocketAddr;

/// An error is current until this long after its last occurrence, µs.
pub const ONGOING_US: u64 = 60_000_000;
/// Backends that `status` names in one list.
const LINES_MAX: usize = 10;

/// The errno's name; `other_errno` is that of [`SendError::Other`].
pub fn error_name(error: SendError, other_errno: Option<i32>) -> String {
    let name = match error {
        SendError::Refused => "ECONNREFUSED",
        SendError::NoNeighbor | SendError::HostUnreachable | SendError::Rejected => "EHOSTUNREACH",
        SendError::NetworkUnreachable => "ENETUNREACH",
        SendError::HostDown => "EHOSTDOWN",
        SendError::NetworkDown => "ENETDOWN",
        SendError::NotPermitted => "EPERM",
        SendError::Prohibited => "EACCES",
        SendError::NoBuffers => "ENOBUFS",
        SendError::NoMemory => "ENOMEM",
        SendError::TooLong => "EMSGSIZE",
        SendError::NoSocket | SendError::Other => match other_errno.map(nix::errno::Errno::from_raw) {
            Some(nix::errno::Errno::UnknownErrno) | None => {
                return format!("errno {}", other_errno.unwrap_or(0));
            }
            Some(errno) => return format!("{errno:?}"),
        },
    };
    name.to_owned()
}

/// What it means.
pub const fn error_meaning(error: SendError) -> &'static str {
    match error {
        SendError::Refused => "no process listens on its metrics port",
        SendError::NoNeighbor => "its host, or the router to it, does not answer ARP or neighbor discovery",
        SendError::HostUnreachable => "a router, or a route of this host, reports its host as unreachable",
        SendError::Rejected => "a firewall on the path or at its host rejects packets",
        SendError::NetworkUnreachable => "no route to its network",
        SendError::HostDown => "its host is down",
        SendError::NetworkDown => "the network interface to it is down",
        SendError::NotPermitted => {
            "a firewall rule of this host rejects packets, or its conntrack table is full"
        }
        SendError::Prohibited => "a route of this host or a firewall on the path prohibits it",
        SendError::NoBuffers => "the queue of the network interface is full",
        SendError::NoMemory => "the kernel has no memory for packets",
        SendError::TooLong => "packets exceed the path MTU",
        SendError::NoSocket => "no socket to it can be created",
        SendError::Other => "the kernel or an ICMP error reports this errno",
    }
}

/// The reason under which metrics that could not be sent are dropped.
pub const fn error_drop_reason(error: SendError) -> DropReason {
    match error {
        SendError::Refused => DropReason::SendRefused,
        SendError::NotPermitted | SendError::Prohibited => DropReason::SendDenied,
        SendError::NoBuffers | SendError::NoMemory => DropReason::SendNoBuffers,
        SendError::TooLong => DropReason::SendTooLong,
        SendError::NoSocket | SendError::Other => DropReason::SendFailed,
        _ => DropReason::SendUnreachable,
    }
}

/// What to do about it; `address` is where the backend's metrics go.
pub fn error_remedy(error: SendError, address: Option<SocketAddr>) -> String {
    let route = || match address {
        Some(address) => format!("ip route get {}", address.ip()),
        None => "ip route".to_owned(),
    };
    let text = match error {
        SendError::Refused => "start the server at its port, or correct port in the config",
        SendError::NoNeighbor => "check that its host is running, and ip neigh",
        SendError::HostUnreachable | SendError::NetworkUnreachable | SendError::HostDown => {
            return format!("check {}, and the routers on the path", route());
        }
        SendError::Rejected => "check the firewall of its host, and those on the path",
        SendError::NetworkDown => "check ip link",
        SendError::NotPermitted => "check nft list ruleset, and the kernel log for nf_conntrack: table full",
        SendError::Prohibited => return format!("check {}, and the firewalls on the path", route()),
        SendError::NoBuffers => "check tc -s qdisc, and raise txqueuelen of the interface",
        SendError::NoMemory => "check free memory and net.ipv4.udp_mem",
        SendError::TooLong => "set maxPacketSize to auto, or below the path's MTU less 48 bytes",
        SendError::NoSocket => return format!("check ip address, and {}", route()),
        SendError::Other => "see the errno in errno(3) and send(2)",
    };
    text.to_owned()
}

/// The effect so far: `800 metrics dropped as send_denied`.
pub fn error_effect(view: &ErrorView) -> String {
    let mut effects = Vec::new();
    if view.undelivered > 0 {
        effects.push(format!("{} counted as sent, but not delivered", count(view.undelivered, "packet")));
    }
    let failed = view.metrics_dropped.saturating_sub(view.without_socket);
    for (metrics, reason) in
        [(failed, error_drop_reason(view.error)), (view.without_socket, DropReason::SendFailed)]
    {
        if metrics > 0 {
            effects.push(format!("{} dropped as {}", count(metrics, "metric"), reason.name()));
        }
    }
    if effects.is_empty() { "no metrics dropped".to_owned() } else { effects.join(", ") }
}

/// An error in one sentence: `EPERM: packets are rejected by ... (800 metrics dropped as send_denied); check ...`.
pub fn error_message(view: &ErrorView, address: Option<SocketAddr>) -> String {
    format!(
        "{}: {} ({}); {}",
        error_name(view.error, view.other_errno),
        error_meaning(view.error),
        error_effect(view),
        error_remedy(view.error, address)
    )
}

/// The current errors of one backend: those of the last minute. `now_us` is of the workers' clock.
pub fn ongoing(errors: &[ErrorView], now_us: u64) -> impl Iterator<Item = &ErrorView> {
    errors.iter().filter(move |error| now_us.saturating_sub(error.last_us) < ONGOING_US)
}

/// The last error of each backend that had one, as lines of `status`.
pub fn last_errors(view: &View) -> Vec<String> {
    let failing = view.backends.iter().filter_map(|backend| Some((backend, backend.errors.first()?)));
    let lines = failing.map(|(backend, error)| {
        let name = escape(backend.name.as_bytes());
        let last = view.moment(error.last_us);
        format!("last_error: backend {name}: {last}: {}", error_message(error, backend.address()))
    });
    capped(lines.collect(), |left| {
        format!("last_error: {left} more backends; the admin command backends lists them")
    })
}

/// The first of these lines, and a summary of the others.
pub fn capped(mut lines: Vec<String>, others: impl FnOnce(usize) -> String) -> Vec<String> {
    let left = lines.len().saturating_sub(LINES_MAX);
    if left > 0 {
        lines.truncate(LINES_MAX);
        lines.push(others(left));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_error_is_reported_with_errno_effect_and_remedy() {
        let view = |error, other_errno, undelivered, metrics_dropped| ErrorView {
            error,
            other_errno,
            reports: 9,
            undelivered,
            metrics_dropped,
            without_socket: 0,
            last_us: 1,
        };
        assert_eq!(
            error_message(&view(SendError::NotPermitted, None, 0, 800), None),
            "EPERM: a firewall rule of this host rejects packets, or its conntrack table is full (800 \
             metrics dropped as send_denied); check nft list ruleset, and the kernel log for nf_conntrack: table full"
        );
        let message = error_message(&view(SendError::NoNeighbor, None, 7, 1), None);
        assert!(
            message.starts_with("EHOSTUNREACH: ")
                && message.contains(
                    "(7 packets counted as sent, but not delivered, 1 metric dropped as send_unreachable)"
                ),
            "{message}"
        );
        let message = error_message(&view(SendError::Other, Some(libc::EPROTO), 0, 0), None);
        assert!(message.starts_with("EPROTO: ") && message.contains("(no metrics dropped)"), "{message}");
        let unsent = ErrorView { without_socket: 3, ..view(SendError::NetworkUnreachable, None, 0, 10) };
        assert_eq!(
            error_effect(&unsent),
            "7 metrics dropped as send_unreachable, 3 metrics dropped as send_failed"
        );
        assert_eq!(error_name(SendError::Other, Some(4_000)), "errno 4000");
    }

    #[test]
    fn every_kind_has_a_cause_and_a_meaning_of_its_own() {
        let causes: HashSet<&str> = SendError::ALL.map(SendError::name).into();
        let meanings: HashSet<&str> = SendError::ALL.map(error_meaning).into();
        assert_eq!((causes.len(), meanings.len()), (SendError::COUNT, SendError::COUNT));
    }

    #[test]
    fn a_remedy_names_the_address_and_status_lists_the_last_errors_of_a_few_backends() {
        let route = error_remedy(SendError::NetworkUnreachable, "10.9.0.1:8125".parse().ok());
        assert_eq!(route, "check ip route get 10.9.0.1, and the routers on the path");
        let error = |error, last_us| ErrorView {
            error,
            other_errno: None,
            reports: 3,
            undelivered: 0,
            metrics_dropped: 0,
            without_socket: 0,
            last_us,
        };
        let mut view = sample();
        view.backends[1].errors =
            vec![error(SendError::TooLong, 59_000_000), error(SendError::Refused, 1_000_000)];
        let lines = last_errors(&view);
        assert_eq!(lines.len(), 1);
        let expected = "last_error: backend b:8125: 1 s ago, at 2033-05-18T03:33:19Z: EMSGSIZE: ";
        assert!(lines[0].starts_with(expected), "{lines:?}");
        let ongoing_at = |now_us| ongoing(&view.backends[1].errors, now_us).count();
        assert_eq!((ongoing_at(60_000_000), ongoing_at(61_000_000), ongoing_at(119_000_000)), (2, 1, 0));
        view.backends = vec![view.backends[1].clone(); 300];
        let lines = last_errors(&view);
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert_eq!(lines[LINES_MAX], "last_error: 290 more backends; the admin command backends lists them");
    }
}
