//! Exact latencies from kernel timestamps: every metric has one, they are shown with the others, and the socket option follows
//! the config at a restart.

use super::*;
use std::time::Instant;

/// A row of `latency`: count, then mean, p50, p90, p99, p99.9 and max in µs.
fn row(proxy: &Proxy, name: &str) -> Option<Vec<f64>> {
    let answer = proxy.ask("latency");
    let row = answer.lines().find_map(|line| line.strip_prefix(&format!("{name}\t")))?;
    Some(row.split('\t').map(|cell| cell.parse().unwrap()).collect())
}

/// Sends, and waits until `metrics` metrics have been forwarded in total.
fn relay(proxy: &mut Proxy, numbers: std::ops::Range<usize>, metrics: u64) {
    proxy.send(datagrams(numbers));
    wait_until("every metric has been sent", || proxy.stats()["metrics_sent"] == metrics);
}

#[test]
fn timestamps_measure_the_exact_latency_of_every_metric() {
    let backends = three();
    let config = config(&refs(&backends), json!({"timestamps": true, "flushInterval": 50}));
    let mut proxy = Proxy::start(config);
    let start = Instant::now();
    relay(&mut proxy, 0..1, 3);
    let first = row(&proxy, "latency_exact").unwrap();
    // A metric after an idle period waits for the whole flushInterval; two significant digits.
    assert!(first[0] == 3.0 && first[6] >= 49_000.0, "{first:?}");
    relay(&mut proxy, 1..400, 1_200);
    let elapsed_us = start.elapsed().as_micros() as f64;
    let (exact, residence) =
        (row(&proxy, "latency_exact").unwrap(), row(&proxy, "latency_residence").unwrap());
    let stats = proxy.stats();
    assert_balanced(&stats);
    assert_eq!((stats["timestamps_missing"], stats["timestamps_invalid"]), (0, 0));
    assert_eq!((exact[0], residence[0]), (1_200.0, 1_200.0), "every metric once");
    // The longest residence is part of the longest latency, and nothing arrived before the test began.
    assert!(exact[6] * 1.02 >= residence[6], "{exact:?} {residence:?}");
    assert!(exact[6] <= elapsed_us * 1.02, "{exact:?} in {elapsed_us} µs");
    assert!(stats["latency_exact_max_us"] as f64 == exact[6] && stats["latency_exact_p50_us"] > 0);
    assert!(proxy.ask("latency hgrm exact").contains("Total count    =         1200]"));
    assert_eq!(total(&backends), 1_200);
}

#[test]
fn timestamps_option_changes_at_restart() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    relay(&mut proxy, 0..50, 150);
    assert_eq!(row(&proxy, "latency_exact"), None);
    assert!(proxy.ask("latency hgrm exact").starts_with("error: exact latency is not measured"));
    proxy.config.json["timestamps"] = json!(true);
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change timestamps"), "{answer}");

    // The sockets are the same ones, still without the option.
    proxy.restart();
    relay(&mut proxy, 50..100, 150);
    let exact = row(&proxy, "latency_exact").unwrap();
    let unknown = proxy.stats()["timestamps_missing"] + proxy.stats()["timestamps_invalid"];
    assert_eq!((exact[0], unknown), (150.0, 0));

    proxy.config.json["timestamps"] = json!(false);
    proxy.config.write();
    proxy.restart();
    relay(&mut proxy, 100..150, 150);
    assert_eq!(row(&proxy, "latency_exact"), None);
    assert_eq!(proxy.stats()["timestamps_missing"], 0, "timestamps are not requested");
    wait_until("every metric has arrived", || total(&backends) == 450);
}
