//! The reply to each command. Pure: data in, text out.
//!
//! In: a [`View`], or the result of an action. Out: the bytes of a reply, whole lines. Next: `server.rs`, which writes them.

use super::command::{Command, TAPS_MAX};
use super::escape::escape;
use super::session::LINE_BYTES_MAX;
use super::status::up_or_down;
use super::view::View;
use super::{Tapped, backends, latency, memstats, proxy_js, stats, status};
use crate::config::AdminDialect;

/// Longest reply; that of the largest configuration is far shorter.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// The answer to a command that shows the proxy as it is; `None` for every other command.
pub fn shown(command: &Command, view: &View) -> Option<String> {
    Some(match command {
        Command::Stats => stats::render(view),
        Command::Memstats => memstats::render(view),
        Command::Latency => latency::render_summary(&view.latency, view.timestamps),
        Command::LatencyDistribution(kind) => {
            latency::render_distribution(&view.latency, *kind, view.timestamps)
        }
        Command::Backends => backends::render(view),
        Command::Status => status::render(view),
        _ => return None,
    })
}

/// The reply to `health`, in StatsD's format, which health checks look for.
pub fn health(up: bool) -> String {
    format!("health: {}\n", up_or_down(up))
}

/// The answer to `reload`: what it changed, or every error.
pub fn reload(result: Result<String, Vec<String>>) -> String {
    match result {
        Ok(changes) => safe_lines("", &changes),
        Err(errors) => errors.iter().map(|error| safe_lines("error: ", error)).collect(),
    }
}

/// The reply to `backend`: its new state, or why nothing was changed; control characters are already escaped.
pub fn changed(result: Result<String, String>) -> String {
    result.unwrap_or_else(|error| format!("error: {error}")) + "\n"
}

/// The reply to a changing command from another host.
pub fn refused(command: &str) -> String {
    format!(
        "error: {command} is accepted from this host only (from a loopback address, or the address connected to); \
         \"managementAllowChanges\": true in the config accepts it from any host\n"
    )
}

/// The reply to a `tap` above the limit.
pub fn too_many_taps() -> String {
    format!("error: too many taps ({TAPS_MAX}): wait until one ends\n")
}

/// The answer to a command with wrong arguments.
pub fn wrong_arguments(usage: &str) -> String {
    format!("error: {usage}\n")
}

/// The answer to anything else.
pub fn unknown(dialect: AdminDialect) -> String {
    match dialect {
        AdminDialect::Statsring => "unknown command; help lists the commands\n",
        AdminDialect::ProxyJs => proxy_js::UNKNOWN,
    }
    .to_string()
}

/// The answer to a line that is too long.
pub fn line_too_long() -> String {
    format!("error: line longer than {LINE_BYTES_MAX} bytes\n")
}

/// The answer to a TLS handshake.
pub fn tls() -> String {
    "error: TLS is not supported on this port; use plain text or HTTP\n".to_string()
}

/// A line of `tap`: the metric, a tab, its backend.
pub fn tapped(metric: &Tapped) -> String {
    format!("{}\t{}\n", escape(&metric.line), escape(metric.node.as_bytes()))
}

/// The last line of a `tap` that timed out.
pub fn tap_ended(shown: usize, asked: usize, seconds: u64) -> String {
    format!("{shown} of {asked} metrics in {seconds} s\n")
}

/// Text that ends with a newline and respects the reply limit: truncated at the end of a line.
pub fn bounded(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if text.len() > REPLY_BYTES_MAX {
        let line_end = text.as_bytes()[..REPLY_BYTES_MAX].iter().rposition(|byte| *byte == b'\n');
        text.truncate(line_end.map_or(0, |end| end + 1));
        text.push_str(&format!("error: reply truncated at {REPLY_BYTES_MAX} bytes\n"));
    }
    text
}

/// Each line of `text` after `mark`, with control characters escaped.
fn safe_lines(mark: &str, text: &str) -> String {
    text.lines().map(|line| format!("{mark}{}\n", escape(line.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;

    #[test]
    fn what_shows_the_proxy_is_made_of_whole_lines() {
        let view = sample();
        let showing = [
            (Command::Stats, "time running"),
            (Command::Memstats, "bytes allocated"),
            (Command::Latency, "histogram\t"),
            (Command::LatencyDistribution(None), "       Value"),
            (Command::Backends, "name\t"),
            (Command::Status, "uptime: 51"),
        ];
        for (command, beginning) in showing {
            let text = shown(&command, &view).unwrap();
            assert!(text.starts_with(beginning) && text.ends_with('\n'), "{command:?}: {text}");
            assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{command:?}");
        }
        assert_eq!(shown(&Command::Ping, &view), None);
    }

    #[test]
    fn each_error_of_a_reload_is_a_line() {
        assert_eq!(
            reload(Ok("1 node added; 33.3 % of names moved".to_string())),
            "1 node added; 33.3 % of names moved\n"
        );
        let errors = vec!["port: 0 is not a port".to_string(), "nodes: \x07\nnone".to_string()];
        assert_eq!(reload(Err(errors)), "error: port: 0 is not a port\nerror: nodes: \\x07\nerror: none\n");
    }

    #[test]
    fn a_refusal_names_the_key_and_a_tapped_line_is_harmless() {
        assert!(
            refused("reload").starts_with("error: reload ")
                && refused("reload").contains("managementAllowChanges")
        );
        let metric = Tapped { line: b"a\x1b[1m:1|c".to_vec(), node: "h:1".into() };
        assert_eq!(tapped(&metric), "a\\x1b[1m:1|c\th:1\n");
    }

    #[test]
    fn a_reply_is_bounded_and_ends_its_line() {
        assert_eq!(bounded(String::new()), "");
        assert_eq!(bounded("a".to_string()), "a\n");
        assert_eq!(bounded("a\n".to_string()), "a\n");
        let long = bounded("0123456\n".repeat(REPLY_BYTES_MAX / 4));
        assert!(long.len() < REPLY_BYTES_MAX + 100);
        assert!(long.ends_with("\n0123456\nerror: reply truncated at 4194304 bytes\n"));
        assert!(bounded("é".repeat(REPLY_BYTES_MAX)).starts_with("error: reply truncated"));
    }
}
