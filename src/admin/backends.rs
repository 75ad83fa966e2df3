//! `backends`: one line for each, tab-separated, with a header. Pure.
//!
//! In: a [`View`]. Out: text. Next: `reply.rs`.

use super::escape::escape;
use super::status::up_or_down;
use super::view::View;
use std::fmt::Write;

/// The columns; `since` in seconds, `share` of all metrics sent, `health` whatever the operator wants, `-` for what cannot
/// be known.
const HEADER: &str = "name\tstate\tsince\tsent\tbytes\tshare\tdropped\trefused\tkernel_drops\tdatagrams\t\
    in_trains\ttrains_refused\tpacket_bytes\thealth\taddress\tsockets_reopened\n";

/// The text.
pub fn render(view: &View) -> String {
    let all: u64 = view.backends.iter().map(|backend| backend.metrics_sent).sum();
    let mut text = String::from(HEADER);
    for backend in &view.backends {
        let share = if all == 0 { 0.0 } else { 100.0 * backend.metrics_sent as f64 / all as f64 };
        let kernel_drops = backend.kernel_drops.map_or_else(|| "-".to_string(), |drops| drops.to_string());
        let address = backend.address().map_or_else(|| "-".to_string(), |address| address.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{share:.1}%\t{}\t{}\t{kernel_drops}\t{}\t{}\t{}\t{}\t{}\t{address}\t{}",
            escape(backend.name.as_bytes()),
            backend.state.name(),
            backend.since_s,
            backend.metrics_sent,
            backend.bytes_sent,
            backend.metrics_dropped,
            backend.refused,
            backend.datagrams_sent,
            backend.datagrams_in_trains,
            backend.trains_refused,
            backend.packet_bytes_max,
            backend.is_healthy.map_or("-", up_or_down),
            backend.sockets_reopened,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::view::BackendState;
    use super::super::view::tests::{backend, sample};
    use super::*;

    #[test]
    fn each_backend_has_its_line() {
        let expected = "name\tstate\tsince\tsent\tbytes\tshare\tdropped\trefused\tkernel_drops\tdatagrams\tin_trains\t\
            trains_refused\tpacket_bytes\thealth\taddress\tsockets_reopened\n\
            a:8125\tup\t40\t300\t6000\t75.0%\t1\t2\t3\t30\t15\t0\t1432\tup\t192.0.2.7:8125\t4\n\
            b:8125\tdown\t40\t100\t2000\t25.0%\t1\t2\t3\t10\t5\t0\t1432\tdown\t192.0.2.7:8125\t4\n\
            c:8125\tunresolved\t40\t0\t0\t0.0%\t1\t2\t-\t0\t0\t0\t1432\t-\t-\t4\n";
        let mut view = sample();
        assert_eq!(render(&view), expected);
        view.backends =
            vec![backend("d:1", BackendState::Drain, 0), backend("e:1", BackendState::ForcedDown, 0)];
        let text = render(&view);
        assert!(text.contains("\nd:1\tdrain\t40\t") && text.contains("\ne:1\tforced_down\t40\t"), "{text}");
        assert!(
            text.lines().skip(1).all(|line| line.ends_with("\tup\t192.0.2.7:8125\t4")),
            "its health is shown beside: {text}"
        );
    }

    #[test]
    fn a_name_cannot_break_the_table_and_nothing_sent_is_no_share() {
        let mut view = sample();
        view.backends = vec![backend("a\tb\n\x1b[0m:1", BackendState::Disabled, 0)];
        let text = render(&view);
        assert!(
            text.ends_with(
                "\na\\x09b\\x0a\\x1b[0m:1\tdisabled\t40\t0\t0\t0.0%\t1\t2\t-\t0\t0\t0\t1432\t-\t192.0.2.7:8125\t4\n"
            ),
            "{text}"
        );
    }
}
