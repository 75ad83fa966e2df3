//! Wire format: datagrams longer than `maxDatagramSize`, and line endings.

use super::*;

/// Metrics of 16 bytes including newline, up to `bytes`.
fn lines_of_16_bytes(prefix: char, bytes: usize) -> String {
    (0..bytes / 16).map(|number| format!("{prefix}.{number:09}:1|c\n")).collect()
}

/// Number of received lines that begin with `prefix`.
fn received(backend: &Backend, prefix: &str) -> usize {
    backend.lines().keys().filter(|line| line.starts_with(prefix)).count()
}

#[test]
fn line_ending_at_the_truncation_is_relayed() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({"maxDatagramSize": 1023})));
    // The newline of the 64th line is the 1,024th byte.
    let long = lines_of_16_bytes('l', 2_048);
    assert_eq!(long.as_bytes()[1_023], b'\n');
    proxy.send([&long]);
    // Only the last newline of this one is missing.
    proxy.send([lines_of_16_bytes('w', 1_024)]);
    wait_until("all whole lines are relayed", || received(&backend, "l.") + received(&backend, "w.") == 128);
    let stats = proxy.stats();
    assert_eq!(stats["datagrams_truncated"], 1);
    assert_eq!(stats["bytes_truncated"], 1_024);
    assert_eq!(stats["metrics_dropped_truncated"], 0, "none of the 64 truncated metrics is known");
    assert_eq!(stats["metrics_received"], 128);
    let line = proxy.status("truncated");
    let expected = "1 datagram longer than maxDatagramSize (1023), 1024 bytes not read, an unknown number of metrics lost";
    assert!(line.starts_with(expected), "{line}");
}

#[test]
fn metric_truncated_to_one_byte_is_counted() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({"maxDatagramSize": 1024})));
    // The newline of the 64th line is the 1,024th byte; one byte of the next line is received.
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
fn only_trailing_carriage_returns_are_removed() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(config(&[&backend], json!({})));
    proxy.send(["a:1|c\r\nb:2|c|#tag:\rx\r\n", "c:3|c\r", "d:4|c\r\r\n", "e:\0|c\t\n"]);
    let expected = ["a:1|c", "b:2|c|#tag:\rx", "c:3|c", "d:4|c\r", "e:\0|c\t"];
    wait_until("all lines have arrived", || backend.total() == 5);
    for line in expected {
        assert!(backend.lines().contains_key(line), "{line:?} is missing in {:?}", backend.lines());
    }
}

/// Datagrams of metrics of many lengths, for several packets to one backend.
fn datagrams_of_many_lengths() -> Vec<String> {
    let line = |number: usize| format!("n.{}{number}:{number}|c\n", "x".repeat(number * 7 % 40));
    (0..60).map(|first| (0..20).map(|number| line(20 * first + number)).collect()).collect()
}

/// Sends those through a proxy with a plain socket as backend; returns the received packets, and how many of them were sent
/// in GSO batches.
fn packets_with(mut node: serde_json::Value, extra: serde_json::Value) -> (Vec<Vec<u8>>, u64) {
    let backend = UdpSocket::bind("127.0.0.1:0").unwrap();
    backend.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    (node["host"], node["port"]) = ("127.0.0.1".into(), backend.local_addr().unwrap().port().into());
    let mut config = config(&[], json!({"flushInterval": 100}));
    config["nodes"] = json!([node]);
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let mut proxy = Proxy::start(config);
    let sent = datagrams_of_many_lengths();
    let expected: usize = sent.iter().map(|datagram| datagram.lines().count()).sum();
    // Several at once, so that one batch has several packets.
    sent.chunks(30).for_each(|burst| proxy.send_burst(burst));
    let (mut packets, mut lines) = (Vec::new(), 0);
    let mut buffer = [0; 65_536];
    wait_until("every metric has arrived", || {
        if let Ok(bytes) = backend.recv(&mut buffer) {
            let packet = buffer[..bytes].to_vec();
            lines += packet.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            packets.push(packet);
        }
        lines == expected
    });
    (packets, proxy.stat("datagrams_gso"))
}

/// Whether a packet contains an empty line.
fn is_padded(packet: &[u8]) -> bool {
    packet.ends_with(b"\n") || packet.windows(2).any(|pair| pair == b"\n\n")
}

#[test]
fn backends_without_adminport_get_unpadded_gso_batches() {
    let (packets, batched) = packets_with(json!({}), json!({}));
    assert!(
        !packets.iter().any(|packet| is_padded(packet)),
        "{:?}",
        packets.iter().find(|packet| is_padded(packet))
    );
    assert!(batched >= 10, "{batched} of {} were batched", packets.len());
    let (packets, batched) = packets_with(json!({}), json!({"gso": "off"}));
    assert!(!packets.iter().any(|packet| is_padded(packet)) && batched == 0);
}

#[test]
fn backends_with_adminport_get_padded_gso_batches() {
    let admin = Backend::start();
    let (packets, batched) = packets_with(json!({"adminport": admin.adminport}), json!({}));
    assert!(packets.iter().any(|packet| is_padded(packet)), "StatsD skips empty lines");
    assert!(batched * 2 > packets.len() as u64, "{batched} of {}", packets.len());
    let (packets, _) = packets_with(json!({"adminport": admin.adminport, "gso": "unpadded"}), json!({}));
    assert!(!packets.iter().any(|packet| is_padded(packet)));
    let (packets, _) = packets_with(json!({}), json!({"gso": "padded"}));
    assert!(packets.iter().any(|packet| is_padded(packet)));
}
