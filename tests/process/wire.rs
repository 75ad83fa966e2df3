//! What becomes of the bytes on the wire: datagrams longer than `maxDatagramSize`, and ends of lines.

use super::*;

/// Metrics of 16 bytes with their newline, numbered from `first`, up to `bytes`.
fn lines_of_16_bytes(prefix: char, bytes: usize) -> String {
    (0..bytes / 16).map(|number| format!("{prefix}.{number:09}:1|c\n")).collect()
}

/// How many of the lines that begin with `prefix` the backend has.
fn received(backend: &Backend, prefix: &str) -> usize {
    backend.lines().keys().filter(|line| line.starts_with(prefix)).count()
}

#[test]
fn a_line_that_ends_exactly_at_the_cut_is_whole() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({"maxDatagramSize": 1023})));
    // The newline of the 64th line is the 1,024th byte.
    let long = lines_of_16_bytes('l', 2_048);
    assert_eq!(long.as_bytes()[1_023], b'\n');
    proxy.send([&long]);
    // Nothing of this one is missing but its last newline.
    proxy.send([lines_of_16_bytes('w', 1_024)]);
    wait_until("all whole lines are relayed", || received(&backend, "l.") + received(&backend, "w.") == 128);
    let stats = proxy.stats();
    assert_eq!(stats["datagrams_truncated"], 1);
    assert_eq!(stats["bytes_truncated"], 1_024);
    assert_eq!(stats["metrics_dropped_truncated"], 0, "none of the 64 that were not read is known");
    assert_eq!(stats["metrics_received"], 128);
    let line = proxy.status("truncated");
    let expected = "1 datagram longer than maxDatagramSize (1023), 1024 bytes not read, an unknown number of metrics lost";
    assert!(line.starts_with(expected), "{line}");
}

#[test]
fn a_metric_of_which_the_cut_leaves_one_byte_is_counted() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({"maxDatagramSize": 1024})));
    // The newline of the 64th line is the 1,024th byte; one byte more is known of what follows.
    let long = lines_of_16_bytes('l', 2_048);
    proxy.send([&long]);
    wait_until("the whole lines are relayed", || received(&backend, "l.") == 64);
    let stats = proxy.stats();
    assert_eq!(stats["datagrams_truncated"], 1);
    assert_eq!(stats["metrics_dropped_truncated"], 1);
    assert_eq!(stats["bytes_truncated"], 1_023);
    let line = proxy.status("truncated");
    assert!(line.contains("at least 1 metric lost"), "{line}");
    assert!(proxy.status("dropped_truncated").starts_with("at least 1 metric"));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
    let log = proxy.log();
    assert!(log.contains("dropped 1 (truncated at least 1)"), "{log}");
    assert!(log.contains("truncated 1 (1023 bytes not read)"), "{log}");
}

#[test]
fn a_carriage_return_at_the_end_of_a_line_is_not_relayed_and_every_other_byte_is() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({})));
    proxy.send(["a:1|c\r\nb:2|c|#tag:\rx\r\n", "c:3|c\r", "d:4|c\r\r\n", "e:\0|c\t\n"]);
    let expected = ["a:1|c", "b:2|c|#tag:\rx", "c:3|c", "d:4|c\r", "e:\0|c\t"];
    wait_until("all lines are there", || backend.total() == 5);
    for line in expected {
        assert!(backend.lines().contains_key(line), "{line:?} of {:?}", backend.lines());
    }
}
