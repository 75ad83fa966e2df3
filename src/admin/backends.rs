//! `backends`: one line for each, tab-separated, with a header. Pure.
//!
//! In: a [`View`]. Out: text. Next: `reply.rs`.

use super::escape::escape;
use super::send_error::{error_meaning, error_name, error_remedy};
use super::status::up_or_down;
use super::view::{BackendView, View};
use std::fmt::Write;

/// The columns with their meanings; `-` means unknown.
pub const BACKENDS_COLUMNS: [(&str, &str); 23] = [
    ("name", "`HOST:PORT`, as in the config"),
    (
        "state",
        "`up`, `down`, `disabled`, `unresolved` (its name has no address), `own_address` (it is this proxy), `drain` or `forced_down`",
    ),
    ("since", "seconds since the last change of state"),
    ("sent", "metrics that this host's kernel accepted for it"),
    ("bytes", "payload bytes of the packets accepted"),
    ("share", "share of all metrics sent"),
    ("dropped", "metrics for it that were dropped"),
    ("refused", "sends that reported that its port refused an earlier packet (ECONNREFUSED)"),
    ("kernel_drops", "datagrams that the kernel dropped at its socket, if it is on this host"),
    ("datagrams", "packets accepted"),
    ("gso", "packets that were sent together with others in one system call (`gso`)"),
    ("gso_refused", "such system calls that the kernel refused"),
    ("packet_bytes", "largest packet that metrics are packed into"),
    ("health", "result of its health checks, whatever its state; `-` if it is not checked"),
    ("address", "address that its metrics are sent to"),
    ("sockets_reopened", "sockets to it that were replaced by new ones, with another source port"),
    ("unreachable", "sends that failed because its host or network could not be reached"),
    ("undelivered", "packets accepted that an ICMP error reported as undelivered"),
    ("packets_fragmented", "packets accepted that exceed the path's MTU: sent in IP fragments"),
    ("path_bytes", "largest packet that the path permits unfragmented: its MTU without IP and UDP headers"),
    ("last_error", "errno of the last failed send or ICMP error"),
    ("error_age", "seconds since that error"),
    ("error", "meaning of that errno, and what to check"),
];

/// The text.
pub fn render(view: &View) -> String {
    let all: u64 = view.backends.iter().map(|backend| backend.metrics_sent).sum();
    let mut text = BACKENDS_COLUMNS.map(|(name, _)| name).join("\t") + "\n";
    for backend in &view.backends {
        let share = if all == 0 { 0.0 } else { 100.0 * backend.metrics_sent as f64 / all as f64 };
        let kernel_drops = backend.kernel_drops.map_or_else(|| "-".to_string(), |drops| drops.to_string());
        let address = backend.address().map_or_else(|| "-".to_string(), |address| address.to_string());
        let path = backend.path_payload_bytes.map_or_else(|| "-".to_string(), |bytes| bytes.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{share:.1}%\t{}\t{}\t{kernel_drops}\t{}\t{}\t{}\t{}\t{}\t{address}\t{}\t{}\t{}\t{}\t{path}\t{}",
            escape(backend.name.as_bytes()),
            backend.state.name(),
            backend.since_s,
            backend.metrics_sent,
            backend.bytes_sent,
            backend.metrics_dropped,
            backend.refused,
            backend.datagrams_sent,
            backend.datagrams_gso,
            backend.gso_refused,
            backend.packet_bytes_max,
            backend.is_healthy.map_or("-", up_or_down),
            backend.sockets_reopened,
            backend.unreachable,
            backend.undelivered(),
            backend.packets_fragmented,
            last_error(view, backend),
        );
    }
    text
}

/// The columns of the last error: errno, age in seconds, meaning and remedy.
fn last_error(view: &View, backend: &BackendView) -> String {
    let Some(error) = backend.errors.first() else { return "-\t-\t-".to_string() };
    format!(
        "{}\t{}\t{}; {}",
        error_name(error.error, error.other_errno),
        view.now_us.saturating_sub(error.last_us) / 1_000_000,
        error_meaning(error.error),
        error_remedy(error.error, backend.address())
    )
}

#[cfg(test)]
mod tests {
    use super::super::view::BackendState;
    use super::super::view::tests::{backend, sample};
    use super::*;
    use crate::packet::SendError;
    use crate::stats::ErrorView;

    #[test]
    fn each_backend_has_its_line() {
        let expected = "name\tstate\tsince\tsent\tbytes\tshare\tdropped\trefused\tkernel_drops\tdatagrams\tgso\t\
            gso_refused\tpacket_bytes\thealth\taddress\tsockets_reopened\tunreachable\t\
            undelivered\tpackets_fragmented\tpath_bytes\tlast_error\terror_age\terror\n\
            a:8125\tup\t40\t300\t6000\t75.0%\t1\t2\t3\t30\t15\t0\t1432\tup\t192.0.2.7:8125\t4\t0\t0\t0\t1472\t-\t-\t-\n\
            b:8125\tdown\t40\t100\t2000\t25.0%\t1\t2\t3\t10\t5\t0\t1432\tdown\t192.0.2.7:8125\t4\t0\t0\t0\t1472\t-\t-\t-\n\
            c:8125\tunresolved\t40\t0\t0\t0.0%\t1\t2\t-\t0\t0\t0\t1432\t-\t-\t4\t0\t0\t0\t-\t-\t-\t-\n";
        let mut view = sample();
        assert_eq!(render(&view), expected);
        view.backends =
            vec![backend("d:1", BackendState::Drain, 0), backend("e:1", BackendState::ForcedDown, 0)];
        let text = render(&view);
        assert!(text.contains("\nd:1\tdrain\t40\t") && text.contains("\ne:1\tforced_down\t40\t"), "{text}");
        assert!(
            text.lines()
                .skip(1)
                .all(|line| line.ends_with("\tup\t192.0.2.7:8125\t4\t0\t0\t0\t1472\t-\t-\t-")),
            "its health is shown beside: {text}"
        );
    }

    #[test]
    fn the_last_error_has_its_errno_age_meaning_and_remedy() {
        let mut view = sample();
        let error = |error, undelivered, last_us| ErrorView {
            error,
            other_errno: None,
            reports: 9,
            undelivered,
            metrics_dropped: 0,
            without_socket: 0,
            last_us,
        };
        view.backends.truncate(1);
        view.backends[0].unreachable = 5;
        view.backends[0].errors =
            vec![error(SendError::NoNeighbor, 7, 48_000_000), error(SendError::Refused, 1, 1)];
        let expected = "\t5\t8\t0\t1472\tEHOSTUNREACH\t12\tits host, or the router to it, does not answer ARP or neighbor discovery; \
            check that its host is running, and ip neigh\n";
        assert!(render(&view).ends_with(expected), "{}", render(&view));
    }

    #[test]
    fn a_name_cannot_break_the_table_and_nothing_sent_is_no_share() {
        let mut view = sample();
        view.backends = vec![backend("a\tb\n\x1b[0m:1", BackendState::Disabled, 0)];
        let text = render(&view);
        assert!(
            text.ends_with(
                "\na\\x09b\\x0a\\x1b[0m:1\tdisabled\t40\t0\t0\t0.0%\t1\t2\t-\t0\t0\t0\t1432\t-\t192.0.2.7:8125\t4\t0\t0\t0\t1472\t-\t\
                 -\t-\n"
            ),
            "{text}"
        );
    }
}
