//! The pages: path → page → answer. Pure.
//!
//! In: a path; a [`View`] or what little a page needs. Out: a [`Response`]. Next: `connection.rs` asks the proxy for what
//! a page shows.

use super::response::{Response, Status};
use crate::admin::{Readiness, View, json, prometheus};

/// Characters of a refused host that the answer shows.
const HOST_SHOWN_MAX: usize = 100;

/// The pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The list of the others.
    Index,
    /// Every figure, for Prometheus.
    Metrics,
    /// Liveness of the process.
    Alive,
    /// Whether the proxy is ready for metrics.
    Ready,
    /// Everything that the text commands report.
    Stats,
}

/// Every path with its meaning.
pub const HTTP_PATHS: [(&str, &str); 5] = [
    ("/metrics", "Prometheus metrics (text format 0.0.4)"),
    ("/healthz", "200 while every worker makes progress, otherwise 503 with the worker that does not"),
    ("/readyz", "200 if the proxy is ready for metrics, otherwise 503 with the reason"),
    ("/stats.json", "everything that the text commands report, as JSON"),
    ("/", "this list"),
];

impl Page {
    /// The page at a path.
    pub fn at(path: &str) -> Option<Page> {
        Some(match path {
            "/" => Page::Index,
            "/metrics" => Page::Metrics,
            "/healthz" => Page::Alive,
            "/readyz" => Page::Ready,
            "/stats.json" => Page::Stats,
            _ => return None,
        })
    }
}

/// The list of pages.
pub fn index() -> Response {
    let line = |(path, meaning): (&str, &str)| format!("{path:<12} {meaning}\n");
    let body = format!(
        "statsring's admin port. HTTP is read-only:\n\n{}\n\
         Text commands, one per line, are answered on the same port: echo help | nc HOST PORT\n",
        HTTP_PATHS.map(line).concat()
    );
    Response { body, ..Response::text(Status::Ok, "") }
}

/// Liveness. A process whose worker or control thread fails exits; a stuck one is detected by polling it.
pub fn alive(stuck: Option<String>) -> Response {
    match stuck {
        None => Response::text(Status::Ok, "ok"),
        Some(message) => Response::text(Status::Unavailable, format!("stuck: {message}")),
    }
}

/// Readiness.
pub fn ready(readiness: Readiness) -> Response {
    let status = if readiness.is_ready() { Status::Ok } else { Status::Unavailable };
    Response::text(status, readiness.message())
}

/// Every figure.
pub fn metrics(view: &View) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Response { content_type, body: prometheus::render(view), ..Response::text(Status::Ok, "") }
}

/// Everything, with the effective configuration.
pub fn stats(view: &View, config_json: &str) -> Response {
    let (content_type, body) = ("application/json", json::render(view, config_json));
    Response { content_type, body, ..Response::text(Status::Ok, "") }
}

/// Not found.
pub fn unknown() -> Response {
    Response::text(Status::NotFound, "no such page; see / for a list")
}

/// The request names another host.
pub fn foreign_host(host: &str) -> Response {
    let shown: String = host.chars().take(HOST_SHOWN_MAX).collect();
    Response::text(
        Status::Forbidden,
        format!(
            "host \"{}\" refused: expected an address, localhost or a name of this host; add the name to managementNames in \
             the config (\"*\" accepts every name), or use the address. Other names are refused because a web page can \
             point its own name here (DNS rebinding)",
            shown.escape_default()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_lists_every_page_and_no_other() {
        let body = index().body;
        for (path, meaning) in HTTP_PATHS {
            assert!(Page::at(path).is_some(), "{path}");
            assert!(body.lines().any(|line| line.starts_with(path) && line.ends_with(meaning)), "{body}");
        }
        assert_eq!(Page::at("/"), Some(Page::Index));
        for path in ["", "*", "/metrics/", "//metrics", "/METRICS", "/health down", "/reload"] {
            assert_eq!(Page::at(path), None, "{path}");
        }
    }

    #[test]
    fn ready_is_200_and_every_reason_against_it_503() {
        assert_eq!(ready(Readiness::Ready).status, Status::Ok);
        for reason in [Readiness::Starting, Readiness::Stopping, Readiness::HealthDown] {
            let response = ready(reason);
            assert_eq!(response.status, Status::Unavailable);
            assert!(
                response.body.starts_with("not ready: ") && response.body.ends_with('\n'),
                "{}",
                response.body
            );
        }
    }
}
