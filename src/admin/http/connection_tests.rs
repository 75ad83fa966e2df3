//! HTTP connections over an in-memory connection, on a paused clock.

use super::super::request::HEAD_BYTES_MAX;
use super::*;
use crate::admin::server::tests::{Proxy, Wire, is_about, serve_while};
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;

/// Answers apart: status, head, body.
fn answers(mut text: &str, is_head: bool) -> Vec<(u16, String, String)> {
    let mut answers = Vec::new();
    while !text.is_empty() {
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let length = head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let length: usize = if is_head { 0 } else { length.parse().unwrap() };
        answers.push((status, head.to_owned(), rest[..length].to_owned()));
        text = &rest[length..];
    }
    answers
}

/// What one client is answered, and how long its connection lasted.
async fn exchange(proxy: &Proxy, request: &str) -> (Vec<(u16, String, String)>, Duration) {
    let wire = Wire::new();
    let mut replies = String::new();
    let lasted = serve_while(proxy, true, &wire, async {
        wire.send(request.as_bytes());
        replies = wire.replies_within(10).await;
        wire.half_close();
    })
    .await;
    (answers(&replies, request.starts_with("HEAD ")), lasted)
}

async fn get(proxy: &Proxy, path: &str) -> (u16, String, String) {
    let (answers, lasted) =
        exchange(proxy, &format!("GET {path} HTTP/1.1\r\nHost: localhost:8126\r\n\r\n")).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(is_about(lasted, 10), "the connection was not kept, or not ended with the client: {lasted:?}");
    answers.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_page_is_answered() {
    let proxy = Proxy::default();
    let (status, head, body) = get(&proxy, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(body.starts_with("# HELP statsring_build_info ") && body.ends_with('\n'), "{body}");
    let (status, head, body) = get(&proxy, "/stats.json?pretty").await;
    assert!(status == 200 && head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&json["uptime_s"], &json["config"]["port"]), (&51.into(), &8125.into()));
    assert_eq!(get(&proxy, "/healthz").await.2, "ok\n");
    proxy.stuck.set(true);
    let (status, _, body) = get(&proxy, "/healthz").await;
    assert_eq!((status, body.as_str()), (503, "stuck: worker 0 has made no progress for 9 s\n"));
    assert!(get(&proxy, "/").await.2.contains("\n/metrics "));
    assert_eq!(get(&proxy, "/nothing").await.0, 404);
    assert_eq!(get(&proxy, "/readyz").await.0, 200);
    proxy.down.set(true);
    let (status, _, body) = get(&proxy, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("health was set to down"), "{body}");
    assert_eq!(
        (proxy.counters.get(AdminCounter::HttpRequests), proxy.counters.get(AdminCounter::HttpErrors)),
        (7, 1)
    );
    assert_eq!(proxy.counters.get(AdminCounter::Commands), 0);
}

#[tokio::test(start_paused = true)]
async fn head_is_answered_as_get_without_the_body() {
    let proxy = Proxy::default();
    let request = |method: &str| format!("{method} /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let (get, _) = exchange(&proxy, &request("GET")).await;
    let (head, _) = exchange(&proxy, &request("HEAD")).await;
    let without_date =
        |head: &str| head.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_date(&head[0].1), without_date(&get[0].1));
    assert_eq!((get[0].2.as_str(), head[0].2.as_str()), ("ok\n", ""));
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_request_gets_no_body() {
    let proxy = Proxy::default();
    let long = "x".repeat(HEAD_BYTES_MAX);
    for (request, status) in [
        ("HEAD / HTTP/1.1\r\n\r\n", 400),
        ("HEAD / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        ("HEAD / HTTP/2.0\r\n\r\n", 505),
        ("HEAD / HTTP/1.1\r\nwrong\r\n\r\n", 400),
        (&format!("HEAD /{long} HTTP/1.1\r\n\r\n"), 431),
        ("HEAD /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ] {
        let (answers, _) = exchange(&proxy, request).await;
        assert_eq!((answers.len(), answers[0].0), (1, status), "{answers:?}");
    }
    let wire = Wire::new();
    serve_while(&proxy, true, &wire, async {
        wire.send(b"HEAD / HTTP/1.1\r\n");
        let replies = wire.replies_within(30_001).await;
        assert!(replies.starts_with("HTTP/1.1 408 ") && replies.ends_with("\r\n\r\n"), "{replies}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order_until_the_last() {
    let proxy = Proxy::default();
    let text = "GET /healthz HTTP/1.1\r\nHost: [::1]:1\r\n\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n\
        GET / HTTP/1.1\r\nHost: PROXY.example\r\nConnection: close\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (answers, _) = exchange(&proxy, text).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.0).collect();
    assert!(answers[2].1.ends_with("\r\nConnection: close"), "{answers:?}");
    // proxy.example is an own name here, "proxy.example" is compared as it is: another spelling is another name.
    assert_eq!(statuses, [200, 403, 403]);
    let (answers, _) = exchange(&proxy, "GET /readyz HTTP/1.0\n\nGET /readyz HTTP/1.0\n\n").await;
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [200]);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_host_is_refused_with_a_message() {
    let proxy = Proxy::default();
    for host in ["evil.example", "evil.example:8126", "localhost.evil.example", ""] {
        let (answers, _) =
            exchange(&proxy, &format!("GET /stats.json HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answers[0].0, 403, "{host}");
        assert!(answers[0].2.contains(&format!("host \"{host}\" refused")), "{}", answers[0].2);
        assert!(answers[0].2.contains("managementNames"), "{}", answers[0].2);
    }
    let (answers, _) = exchange(&proxy, "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answers[0].0, 403);
    let (answers, _) = exchange(&proxy, "GET /healthz HTTP/1.1\r\nHost: proxy.example:80\r\n\r\n").await;
    assert_eq!(answers[0].0, 200);
}

#[tokio::test(start_paused = true)]
async fn options_has_the_status_of_get_and_no_body() {
    let proxy = Proxy::default();
    let status = async |proxy: &Proxy, text: &str| {
        let (answers, _) = exchange(proxy, text).await;
        assert!(answers[0].1.contains("\r\nAllow: GET, HEAD, OPTIONS"), "{answers:?}");
        assert_eq!(answers[0].2, "");
        answers[0].0
    };
    // HAProxy's `option httpchk` without more.
    assert_eq!(status(&proxy, "OPTIONS / HTTP/1.0\r\n\r\n").await, 200);
    assert_eq!(status(&proxy, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").await, 200);
    assert_eq!(status(&proxy, "OPTIONS /nothing HTTP/1.0\r\n\r\n").await, 404);
    assert_eq!(status(&proxy, "OPTIONS /readyz HTTP/1.0\r\n\r\n").await, 200);
    proxy.down.set(true);
    assert_eq!(status(&proxy, "OPTIONS /readyz HTTP/1.0\r\n\r\n").await, 503);
    assert_eq!(status(&proxy, "OPTIONS / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await, 403);
}

#[tokio::test(start_paused = true)]
async fn a_command_inside_an_http_request_is_never_run() {
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost:8126\r\nContent-Length: 20\r\n\r\nhealth down\nreload\n",
        "HEALTH / HTTP/1.1\r\nHost: localhost\r\n\r\nhealth down\nreload\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nhealth down\nreload\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\nhealth down\nreload\n",
        "GET / HTTP/1.0\n\nhealth down\nreload\n",
        "GET /\nhealth down\nreload\n",
        "health down HTTP/1.1\r\n\r\nhealth down\nreload\n",
    ] {
        let proxy = Proxy::default();
        let wire = Wire::new();
        let lasted = serve_while(&proxy, true, &wire, async {
            wire.send(request.as_bytes());
            let replies = wire.replies_within(1).await;
            assert!(replies.starts_with("HTTP/1.1 "), "{replies}");
            wire.send(b"health down\n");
            assert!(!wire.replies_within(100).await.contains("health"), "{request}");
        });
        assert!(lasted.await < Duration::from_secs(1), "{request}");
        assert_eq!((proxy.down.get(), proxy.reloads.get()), (false, 0), "{request}");
        assert_eq!(proxy.counters.get(AdminCounter::Commands), 0, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_refused_and_read_no_further() {
    let proxy = Proxy::default();
    let wire = Wire::new();
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"GET / HTTP/1.1\r\nX: ");
        wire.send(&vec![b'x'; 4 * HEAD_BYTES_MAX]);
        let replies = wire.replies_within(1).await;
        assert!(replies.starts_with("HTTP/1.1 431 "), "{replies}");
    });
    assert!(is_about(lasted.await, 200));
}

#[tokio::test(start_paused = true)]
async fn slow_and_idle_clients_are_disconnected() {
    // One byte a second does not prolong it.
    let proxy = Proxy::default();
    let wire = Wire::new();
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"GET / HTTP/1.1\r\n");
        for _ in 0..29 {
            sleep(Duration::from_secs(1)).await;
            wire.send(b"x");
        }
        let replies = wire.replies_within(1_500).await;
        assert!(replies.starts_with("HTTP/1.1 408 "), "{replies}");
    });
    assert!(is_about(lasted.await, 30_200));
    assert_eq!(proxy.counters.get(AdminCounter::IdleClosed), 1);
    // A connection that is kept has as long as any other.
    let wire = Wire::new();
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(wire.replies_within(29_000).await.ends_with("\r\n\r\nok\n"));
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(wire.replies_within(31_000).await.ends_with("\r\n\r\nok\n"));
    });
    lasted.await;
    // One that does not read.
    let wire = Wire::new();
    wire.client_reads.set(false);
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    });
    assert!(is_about(lasted.await, 10_000));
    assert_eq!(proxy.counters.get(AdminCounter::WritesTimedOut), 1);
}
