//! The config file: what is accepted, its meaning, and error messages.

use proptest::prelude::*;
use serde_json::{Value, json};
use statsring::config::{
    AddressFamily, Check, Config, ConfigError, Gso, Loaded, LogFormat, Node, PinWorkers, load, parse,
};
use statsring::driver::socket::Spread;
use statsring::placement::Hashing;
use statsring::relay::{Malformed, OnNodeDown};
use statsring::worker::NODES_MAX;
use std::path::Path;

fn good(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// All errors with line and column.
fn located(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Invalid { path: None, mistakes }) => mistakes,
        other => panic!("{text}\nwas accepted: {other:?}"),
    }
}

/// All errors without their position.
fn errors(text: &str) -> Vec<String> {
    let place = |error: &str| {
        error.starts_with("line ").then(|| error.split_once(": "))?.map(|(_, rest)| rest.to_owned())
    };
    located(text).iter().map(|error| place(error).unwrap_or_else(|| error.clone())).collect()
}

/// A file with one valid node and one more key.
fn with(key: &str, value: &str) -> String {
    format!(r#"{{"nodes": [{{"host": "192.0.2.1", "port": 1}}], "{key}": {value}}}"#)
}

fn with_nodes(nodes: &str) -> String {
    format!(r#"{{"nodes": [{nodes}]}}"#)
}

fn texts(addresses: &[std::net::SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shortest_file_gets_the_documented_defaults() {
    let Loaded { config, notices, .. } = good(r#"{"nodes": [{"host": "192.0.2.1", "port": 8127}]}"#);
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(texts(&config.listen), ["0.0.0.0:8125", "[::]:8125"]);
    assert_eq!(texts(&config.management), ["127.0.0.1:8126", "[::1]:8126"]);
    assert!(!config.management_allow_changes);
    assert_eq!(config.hashing, Hashing::Jump);
    assert_eq!(config.on_node_down, OnNodeDown::Divert);
    let check = Check { interval_ms: 10_000, timeout_ms: 1_000, fast_ms: 1_000, fall: 3, rise: 2 };
    assert_eq!(config.check, check);
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    assert_eq!((config.workers, config.workers_auto), ((cpus / 2).clamp(1, 4), true));
    assert_eq!((config.pin_workers, config.worker_cpus), (PinWorkers::Off, vec![]));
    assert_eq!(config.spread, Spread::Flow);
    assert_eq!(config.flush_us, 5_000);
    assert_eq!((config.packet_bytes_max, config.datagram_bytes_max), (1_432, 8_192));
    assert_eq!((config.receive_buffer_bytes, config.send_buffer_bytes), (8_388_608, 1_048_576));
    assert_eq!((config.queue_bytes_max, config.cache_entries), (262_144, 16_384));
    assert_eq!(config.reopen_ms, 60_000);
    assert_eq!((config.malformed, config.gso, config.timestamps), (Malformed::Drop, Gso::Auto, false));
    assert_eq!((config.shutdown_delay_ms, config.shutdown_timeout_ms), (0, 5_000));
    assert_eq!(config.handover_timeout_ms, 30_000);
    assert_eq!(config.log_format, LogFormat::Text);
    let node = Node {
        name: "192.0.2.1:8127".into(),
        host: "192.0.2.1".into(),
        port: 8127,
        family: AddressFamily::Any,
        adminport: None,
        weight: 1,
        disabled: false,
        gso: Gso::Auto,
    };
    assert_eq!(config.nodes, [node]);
}

#[test]
fn go_statsd_proxy_files_work_unmodified() {
    let Loaded { config, notices, .. } = good(
        r#"{
            "nodes": [
                {"host": "127.0.0.1", "port": 8127, "adminport": 8128},
                {"host": "127.0.0.1", "port": 8129, "adminport": 8130},
                {"host": "127.0.0.1", "port": 8131, "adminport": 8132}
            ],
            "host": "0.0.0.0", "port": 8125, "managementPort": 8126, "checkInterval": 1000, "cacheSize": 10000
        }"#,
    );
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(texts(&config.listen), ["0.0.0.0:8125"]);
    assert_eq!((config.check.interval_ms, config.check.timeout_ms), (1_000, 1_000));
    assert_eq!(config.nodes[2].adminport, Some(8132));
    assert_eq!(&*config.nodes[2].name, "127.0.0.1:8131");

    let short = r#"{"nodes":[{"host":"127.0.0.1","port":8130,"adminport":8140},
        {"host":"127.0.0.1","port":8131,"adminport":8141}],"host":"0.0.0.0","port":8125,"checkInterval":1000}"#;
    assert_eq!(good(short).config.nodes.len(), 2);
}

#[test]
fn example_config_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("exampleConfig.json");
    let Loaded { config, notices, .. } = load(&path).expect("the example is valid");
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(config.nodes.len(), 3);
}

#[test]
fn errors_are_listed_in_file_order() {
    let found = errors(
        r#"{
            "hots": "0.0.0.0",
            "checkFall": 0,
            "nodes": [
                {"host": "127.0.0.1", "port": 8127},
                {"host": "127.0.0.1", "port": 99999},
                {"host": "127.0.0.1", "port": 8127}
            ],
            "workers": "two"
        }"#,
    );
    assert_eq!(
        found,
        [
            "hots: unknown key; did you mean host?",
            "checkFall: 0 is not in range (1 to 100)",
            "nodes[1].port: 99999 is not a port (1 to 65535)",
            "nodes[2]: 127.0.0.1:8127 is listed twice (first as nodes[0])",
            "workers: expected a number (1 to 64, or \"auto\"), found the string \"two\"",
        ]
    );
}

#[test]
fn every_error_has_line_and_column() {
    let text = "{\n  \"nodes\": [\n    {\"host\": \"192.0.2.1\"},\n    {\"host\": \"192.0.2.2\", \"port\": 0}\n  ],\n  \"prot\": 1\n}";
    let starts = [
        "line 3, column 5: nodes[0].port: missing",
        "line 4, column 27: nodes[1].port: 0",
        "line 6, column 3: ",
    ];
    let found = located(text);
    assert!(found.iter().zip(starts).all(|(error, start)| error.starts_with(start)), "{found:#?}");
    assert_eq!(found.len(), starts.len());
}

#[test]
fn errors_are_displayed_one_per_line() {
    let error = parse(r#"{"port": 0, "malformed": "ignore", "nodes": []}"#).unwrap_err();
    assert_eq!(error.exit_code(), 64);
    assert_eq!(
        error.to_string(),
        "the config has 3 errors:\n  \
         line 1, column 2: port: 0 is not a port (1 to 65535)\n  \
         line 1, column 13: malformed: expected \"drop\" or \"forward\", found \"ignore\"\n  \
         line 1, column 36: nodes: expected 1 to 2000 backends, found 0"
    );
}

#[test]
fn type_errors_state_expected_and_found() {
    for (key, value, expected) in [
        ("port", r#""8125""#, "port: expected a number (1 to 65535), found the string \"8125\""),
        ("port", "true", "port: expected a number (1 to 65535), found the boolean true"),
        ("port", "8125.5", "port: expected a whole number (1 to 65535), found 8125.5"),
        ("port", "-1", "port: -1 is not a port (1 to 65535)"),
        ("port", "1e30", "port: 1e+30 is not a port (1 to 65535)"),
        ("host", "127", "host: expected a string, found the number 127"),
        ("gro", "\"on\"", "gro: expected true or false, found the string \"on\""),
        ("timestamps", "1", "timestamps: expected true or false, found the number 1"),
        ("malformed", "[1]", "malformed: expected \"drop\" or \"forward\", found the list […]"),
        ("spread", r#""random""#, "spread: expected \"flow\", \"datagram\" or \"cpu\", found \"random\""),
        (
            "pinWorkers",
            "2",
            "pinWorkers: expected true, false or a list of CPUs such as [2, 3], found the number 2",
        ),
        ("pinWorkers", "[-1]", "pinWorkers[0]: -1 is not a CPU (0 to 1023)"),
        (
            "gso",
            "true",
            "gso: expected \"auto\", \"padded\", \"unpadded\" or \"off\", found the boolean true",
        ),
        ("flushInterval", "-0.5", "flushInterval: -0.5 is not in range (0 to 1000 ms, fractions allowed)"),
        (
            "flushInterval",
            "{}",
            "flushInterval: expected a number (0 to 1000 ms, fractions allowed), found the object {…}",
        ),
        ("maxPacketSize", "65508", "maxPacketSize: 65508 is not in range (64 to 65507 bytes, or \"auto\")"),
        ("checkInterval", "9", "checkInterval: 9 is not in range (10 to 86400000 ms)"),
    ] {
        assert_eq!(errors(&with(key, value)), [expected]);
    }
    assert_eq!(
        errors(r#"{"nodes": {"host": "a"}}"#),
        ["nodes: expected a list of backends, [{\"host\": …, \"port\": …}, …], found the object {…}"]
    );
    assert_eq!(
        errors(&with_nodes(r#""a:1""#)),
        ["nodes[0]: expected an object, {\"host\": …, \"port\": …}, found the string \"a:1\""]
    );
    assert_eq!(
        errors("[]"),
        ["expected an object, {\"nodes\": [{\"host\": …, \"port\": …}]}, found an array"]
    );
}

#[test]
fn unknown_keys_suggest_the_nearest_key() {
    for (key, expected) in [
        ("managmentPort", "managmentPort: unknown key; did you mean managementPort?"),
        ("flush_interval", "flush_interval: unknown key; did you mean flushInterval?"),
        ("managment_port", "managment_port: unknown key; did you mean managementPort?"),
        ("a\\nb\\u001b", "\"a\\nb\\u{1b}\": unknown key; statsring(8) lists all keys"),
    ] {
        let found = errors(&with(key, "1"));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with(expected), "{}", found[0]);
    }
    assert_eq!(
        errors(&with_nodes(r#"{"host": "a", "port": 1, "adminprot": 2, "colour": 3}"#)),
        [
            "nodes[0].adminprot: unknown key; did you mean adminport?",
            "nodes[0].colour: unknown key (known: host, port, adminport, weight, disabled, gso)",
        ]
    );
}

#[test]
fn other_letter_case_is_accepted_with_a_notice() {
    let Loaded { config, notices, .. } = good(
        r#"{"Port": 9125, "CHECKINTERVAL": 500, "Nodes": [
            {"Host": "192.0.2.1", "port": 1, "adminPort": 2}, {"host": "192.0.2.2", "port": 1, "adminPort": 2}
        ]}"#,
    );
    assert_eq!((config.listen[0].port(), config.check.interval_ms), (9125, 500));
    assert_eq!(config.nodes[1].adminport, Some(2));
    assert_eq!(
        notices,
        [
            "Port is read as port; write port",
            "CHECKINTERVAL is read as checkInterval; write checkInterval",
            "Nodes is read as nodes; write nodes",
            "nodes[].Host is read as host; write host",
            "nodes[].adminPort is read as adminport; write adminport (2 times)",
        ]
    );
}

#[test]
fn duplicate_keys_are_errors() {
    assert_eq!(
        errors(&with_nodes(r#"{"host": "a", "port": 1, "port": 2, "Host": "b"}"#)),
        ["nodes[0].port: given twice; remove one", "nodes[0].Host: given twice (first as host); remove one"]
    );
    assert_eq!(
        errors(r#"{"Port": 1, "port": 1, "nodes": [{"host": "a", "port": 1}]}"#),
        ["port: given twice (first as Port); remove one"]
    );
}

#[test]
fn null_is_absent() {
    let node = r#"{"host": "192.0.2.1", "port": 1, "adminport": null}"#;
    let config = good(&format!(r#"{{"nodes": [{node}], "host": null, "workers": null}}"#)).config;
    assert_eq!(config, good(r#"{"nodes": [{"host": "192.0.2.1", "port": 1}]}"#).config);
    assert_eq!(
        errors(r#"{"nodes": null}"#),
        ["nodes: missing; list at least one backend, [{\"host\": …, \"port\": …}]"]
    );
    assert_eq!(
        errors(&with_nodes(r#"{"host": null}"#)),
        [
            "nodes[0].host: missing; expected a hostname or IP address",
            "nodes[0].port: missing; expected a port (1 to 65535)",
        ]
    );
}

#[test]
fn syntax_errors_have_a_position() {
    let found = located("{\n  \"port\": 8125,\n  // the port\n}");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("line 3, column 3: "), "{}", found[0]);
    assert!(errors("")[0].starts_with("the file is empty; statsring reads JSON"));
    assert!(errors("nodes:\n  - host: a\n")[0].starts_with("this looks like YAML; "));
    assert!(errors("{} {}")[0].contains("unexpected text after the object"));
}

#[test]
fn duplicate_backends_are_detected_in_any_spelling() {
    assert_eq!(
        errors(&with_nodes(
            r#"{"host": "::1", "port": 1}, {"host": "[0:0::1]", "port": 1}, {"host": "::1", "port": 2},
               {"host": "StatsD.example", "port": 1}, {"host": "statsd.example.", "port": 1}"#
        )),
        [
            "nodes[1]: [0:0::1]:1 is listed twice (first as nodes[0], [::1]:1)",
            "nodes[4]: statsd.example.:1 is listed twice (first as nodes[3], StatsD.example:1)",
        ]
    );
}

#[test]
fn a_backend_that_is_the_proxy_itself_is_refused() {
    let node = r#"{"host": "localhost", "port": 8125}"#;
    assert_eq!(
        errors(&with_nodes(node)),
        ["nodes[0]: localhost:8125 is this proxy's own address: metrics would loop"]
    );
    // With an invalid port the check is skipped.
    assert_eq!(errors(&format!(r#"{{"port": 0, "nodes": [{node}]}}"#)).len(), 1);
}

#[test]
fn interdependent_keys_are_checked() {
    let nodes = r#""nodes": [{"host": "192.0.2.1", "port": 1}]"#;
    assert_eq!(
        errors(&format!(
            r#"{{{nodes}, "checkInterval": 500, "checkTimeout": 501, "checkFast": 600,
                "maxPacketSize": 9000, "queue": 8999, "reopenInterval": 999}}"#
        )),
        [
            "checkTimeout: 501 ms exceeds checkInterval (500 ms)",
            "checkFast: 600 ms exceeds checkInterval (500 ms)",
            "queue: 8999 is less than maxPacketSize (9000 bytes): no packet could be queued",
            "reopenInterval: 999 is too short: expected 0 (never) or at least 1000 ms",
        ]
    );
    // Dependencies on invalid values are not checked.
    assert_eq!(errors(&format!(r#"{{{nodes}, "checkInterval": 0, "checkTimeout": 60000}}"#)).len(), 1);
    assert_eq!(errors(&format!(r#"{{{nodes}, "maxPacketSize": 0, "queue": 64}}"#)).len(), 1);
}

#[test]
fn unknown_hashings_suggest_the_nearest() {
    for hashing in Hashing::ALL {
        let config = good(&with("hashing", &format!("{:?}", hashing.name()))).config;
        assert_eq!(config.hashing, hashing);
        // Like the proxy that uses this hashing.
        let own = [Hashing::Jump, Hashing::Hashring3, Hashing::Hashring1].contains(&hashing);
        assert_eq!(config.on_node_down == OnNodeDown::Divert, own, "{}", hashing.name());
    }
    let divert =
        good(r#"{"hashing": "ketama", "onNodeDown": "divert", "nodes": [{"host": "192.0.2.1", "port": 1}]}"#);
    assert_eq!(divert.config.on_node_down, OnNodeDown::Divert);
    for (given, nearest) in [
        ("hashring3", "hashring-3"),
        ("Ketama", "ketama"),
        ("murmur", "murmur3"),
        ("jump-fnv1", "jump-fnv1a"),
    ] {
        assert_eq!(
            errors(&with("hashing", &format!("{given:?}"))),
            [format!("hashing: unknown hashing {given:?}; did you mean {nearest:?}?")]
        );
    }
    assert_eq!(
        errors(&with("hashing", r#""md5""#)),
        [
            "hashing: unknown hashing \"md5\" (known: jump, hashring-3, hashring-1, ketama, murmur3, jump-fnv1a)"
        ]
    );
    assert_eq!(errors(&with("hashing", "3")).len(), 1);
}

#[test]
fn weights_are_accepted_only_by_hashings_that_use_them() {
    let file = |hashing: &str, first: &str, second: &str| {
        format!(
            r#"{{"hashing": "{hashing}", "nodes": [{{"host": "192.0.2.1", "port": 1, "weight": {first}}},
                {{"host": "192.0.2.2", "port": 1{second}}}]}}"#
        )
    };
    let config = good(&file("ketama", "1000", "")).config;
    assert_eq!(config.nodes.iter().map(|node| node.weight).collect::<Vec<_>>(), [1_000, 1]);
    assert_eq!(config.to_json()["nodes"][0]["weight"], 1_000);
    assert_eq!(
        errors(&file("ketama", "0", r#", "weight": 1001"#)),
        [
            "nodes[0].weight: 0 is not a weight (1 to 1000)",
            "nodes[1].weight: 1001 is not a weight (1 to 1000)",
        ]
    );
    for hashing in ["jump", "hashring-3", "hashring-1", "murmur3", "jump-fnv1a"] {
        assert_eq!(
            errors(&file(hashing, "2", "")),
            [format!(
                "nodes[0].weight: the hashing {hashing} does not support weights, only ketama does; omit it"
            )]
        );
        assert_eq!(
            good(&with("hashing", &format!("{hashing:?}"))).config.to_json()["nodes"][0].get("weight"),
            None
        );
    }
    // With an invalid hashing the check is skipped.
    assert_eq!(errors(&file("astrology", "2", "")).len(), 1);
    let heavy: Vec<String> =
        (0..21).map(|i| format!(r#"{{"host": "n{i}.example", "port": 1, "weight": 1000}}"#)).collect();
    assert_eq!(
        errors(&format!(r#"{{"hashing": "ketama", "nodes": [{}]}}"#, heavy.join(","))),
        ["nodes: the weights add up to 21000, which is more than 20000"]
    );
}

#[test]
fn a_shard_map_names_backends_several_times() {
    let file = |hashing: &str, rest: &str| {
        let (a, b) = (r#"{"host": "192.0.2.1", "port": 1"#, r#"{"host": "192.0.2.2", "port": 1"#);
        format!(
            r#"{{"hashing": "{hashing}", "nodes": [{a}, "adminport": 2}}, {b}}}, {a}}}, {a}{rest}}}, {b}}}]}}"#
        )
    };
    let config = good(&file("murmur3", "")).config;
    assert_eq!(config.nodes.len(), 2);
    assert_eq!(config.shards, [0, 1, 0, 0, 1]);
    assert_eq!(config.nodes[0].adminport, Some(2));
    let shown = config.to_json();
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(5));
    assert_eq!(good(&shown.to_string()).config, config);
    assert_eq!(good(&file("jump-fnv1a", "")).config.shards, config.shards);
    assert_eq!(
        errors(&file("murmur3", r#", "adminport": 3"#)),
        [
            "nodes[3]: 192.0.2.1:1 differs from nodes[0], which is the same backend; give its host and port alone"
        ]
    );
    assert_eq!(
        errors(&file("jump", "")),
        [2, 3, 4].map(|index| {
            let first = index / 4;
            format!("nodes[{index}]: 192.0.2.{}:1 is listed twice (first as nodes[{first}])", first + 1)
        })
    );
    let list = |hashing: &str, count: usize| {
        let nodes = vec![r#"{"host": "192.0.2.1", "port": 1}"#; count];
        format!(r#"{{"hashing": "{hashing}", "nodes": [{}]}}"#, nodes.join(","))
    };
    assert_eq!(good(&list("murmur3", 65_536)).config.shards.len(), 65_536);
    let too_many = "expected 1 to 2000 backends, found";
    assert_eq!(errors(&list("murmur3", 65_537)), [format!("nodes: {too_many} 65537")]);
    assert_eq!(errors(&list("jump", 2_001)), [format!("nodes: {too_many} 2001")]);
}

#[test]
fn data_path_keys_produce_no_notices() {
    let quiet = r#"{"gso": "auto", "gro": false, "timestamps": false, "cacheSize": 10000, "maxPacketSize": 1432,
        "nodes": [{"host": "192.0.2.1", "port": 1, "gso": "auto"}]}"#;
    assert_eq!(good(quiet).notices, Vec::<String>::new());
    let asking = r#"{"gso": "off", "gro": true, "timestamps": true, "cacheSize": 0, "maxPacketSize": "auto",
        "nodes": [{"host": "192.0.2.1", "port": 1, "gso": "off"}, {"host": "192.0.2.2", "port": 1}]}"#;
    let Loaded { config, notices, .. } = good(asking);
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!((config.packet_auto, config.packet_bytes_max, config.cache_entries), (true, 8_192, 0));
    assert_eq!((config.gso, config.nodes[1].gso), (Gso::Off, Gso::Off));
    assert_eq!((config.gro, config.timestamps), (true, true));
    assert_eq!(good(&with("cacheSize", "1025")).config.cache_entries, 2_048);
}

#[test]
fn disabled_backends_keep_their_position() {
    let Loaded { config, notices, .. } = good(&with_nodes(
        r#"{"host": "a.example", "port": 1, "disabled": true}, {"host": "b.example", "port": 1}"#,
    ));
    assert_eq!(config.nodes.iter().map(|node| node.disabled).collect::<Vec<_>>(), [true, false]);
    assert!(notices.is_empty());
    let none_left = good(&with_nodes(r#"{"host": "a.example", "port": 1, "disabled": true}"#));
    assert_eq!(none_left.notices, ["nodes: every backend is disabled; all metrics will be dropped"]);
}

#[test]
fn the_list_of_backends_is_bounded() {
    let list = |count: usize| {
        let nodes: Vec<String> =
            (0..count).map(|i| format!(r#"{{"host": "n{i}.example", "port": 1}}"#)).collect();
        with_nodes(&nodes.join(","))
    };
    assert_eq!(good(&list(NODES_MAX)).config.nodes.len(), NODES_MAX);
    assert_eq!(errors(&list(NODES_MAX + 1)), ["nodes: expected 1 to 2000 backends, found 2001"]);
}

#[test]
fn fractions_of_milliseconds_become_microseconds() {
    for (ms, us) in [("0", 0), ("0.25", 250), ("2.5", 2_500), ("5.0", 5_000), ("1e3", 1_000_000)] {
        assert_eq!(good(&with("flushInterval", ms)).config.flush_us, us, "{ms}");
    }
}

#[test]
fn unreadable_files_have_another_exit_code() {
    let folder = std::env::temp_dir().join(format!("statsring-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = folder.join("missing.json");
    let error = load(&missing).unwrap_err();
    assert_eq!(error.exit_code(), 66);
    assert!(error.to_string().contains("missing.json: No such file"), "{error}");
    assert_eq!(load(&folder).unwrap_err().exit_code(), 66, "a directory is not a file");

    let binary = folder.join("binary.json");
    std::fs::write(&binary, b"{\n\"host\": \"\xff\"}").unwrap();
    let error = load(&binary).unwrap_err();
    assert_eq!(error.exit_code(), 64);
    assert!(error.to_string().ends_with("has 1 error:\n  line 2: invalid UTF-8"), "{error}");
    assert!(load(Path::new("/dev/zero")).unwrap_err().to_string().contains("longer than"));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The CPUs allowed for this process.
fn allowed_cpus() -> Vec<usize> {
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..nix::sched::CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap()).collect()
}

#[test]
fn workers_are_pinned_to_allowed_cpus_only() {
    let allowed = allowed_cpus();
    let (first, last) = (allowed[0], allowed[allowed.len() - 1]);
    let pinned = |workers: usize, pin: Value| {
        parse(
            &json!({"nodes": [{"host": "192.0.2.1", "port": 1}], "workers": workers, "pinWorkers": pin})
                .to_string(),
        )
    };
    let config = pinned(allowed.len().min(64), json!(true)).unwrap().config;
    assert_eq!(config.worker_cpus, allowed[..allowed.len().min(64)]);
    assert_eq!((&config.pin_workers, &config.to_json()["pinWorkers"]), (&PinWorkers::Auto, &json!(true)));
    let config = pinned(1, json!([last])).unwrap().config;
    assert_eq!((&config.worker_cpus, &config.to_json()["pinWorkers"]), (&vec![last], &json!([last])));
    let error = pinned(2, json!([first, first])).unwrap_err().to_string();
    assert!(error.contains(&format!("pinWorkers: CPU {first} is listed twice")), "{error}");
    if let Some(missing) = (0..1_024).find(|cpu| !allowed.contains(cpu)) {
        let error = pinned(1, json!([missing])).unwrap_err().to_string();
        assert!(error.contains(&format!("pinWorkers: this process may not use CPU {missing} (")), "{error}");
    }
    // An invalid number of workers is reported once, at its own key.
    let both = json!({"nodes": [{"host": "192.0.2.1", "port": 1}], "workers": 0, "pinWorkers": [first]});
    assert_eq!(errors(&both.to_string()), ["workers: 0 is not in range (1 to 64, or \"auto\")"]);
    let running = good(&with("pinWorkers", "false")).config;
    let spread = good(&with("spread", r#""datagram""#)).config;
    assert_eq!(running.changed_fixed_keys(&config), ["workers", "pinWorkers"]);
    assert_eq!(running.changed_fixed_keys(&spread), ["spread"]);
    let by_cpu = good(&with("spread", r#""cpu""#)).config;
    assert_eq!((by_cpu.spread, spread.changed_fixed_keys(&by_cpu)), (Spread::Cpu, vec!["spread"]));
}

#[test]
fn spread_with_one_worker_gets_a_notice() {
    let file = |workers: usize, spread: &str| {
        json!({"nodes": [{"host": "192.0.2.1", "port": 1}], "workers": workers, "spread": spread}).to_string()
    };
    for spread in ["datagram", "cpu"] {
        assert_eq!(
            good(&file(1, spread)).notices,
            ["spread: no effect with one worker, which receives every datagram"]
        );
    }
    assert_eq!(good(&file(2, "datagram")).notices, Vec::<String>::new());
}

#[test]
fn spread_by_cpu_states_where_datagrams_go_without_a_pinned_worker() {
    let notices = |workers: usize, pin: Value| {
        let file = json!({"nodes": [{"host": "192.0.2.1", "port": 1}], "workers": workers, "pinWorkers": pin,
                          "spread": "cpu"});
        let loaded = good(&file.to_string());
        assert_eq!(loaded.config.to_json()["spread"], "cpu");
        loaded.notices
    };
    let [unpinned] = &notices(2, json!(false))[..] else { panic!("expected one notice") };
    assert!(unpinned.starts_with("spread: cpu without pinWorkers: "), "{unpinned}");
    let allowed = allowed_cpus();
    let workers = allowed.len().min(64);
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    if workers > 1 && online.trim() == format!("0-{}", workers - 1) {
        assert_eq!(notices(workers, json!(true)), Vec::<String>::new());
    }
    if workers > 2 {
        let [partly] = &notices(2, json!(allowed[..2]))[..] else { panic!("expected one notice") };
        assert!(partly.starts_with("spread: no worker is pinned to CPU "), "{partly}");
    }
}

#[test]
fn reload_reports_keys_that_need_a_restart() {
    let running = good(&with("host", r#""127.0.0.1""#)).config;
    let same = good(&with("host", r#""::ffff:127.0.0.1""#)).config;
    assert_eq!(running.changed_keys(&same), Vec::<&str>::new());
    let new = good(
        r#"{"host": "127.0.0.1", "port": 9125, "nodes": [{"host": "192.0.2.2", "port": 1}], "workers": 3,
            "flushInterval": 1, "checkRise": 9, "logFormat": "json", "onNodeDown": "drop"}"#,
    )
    .config;
    assert_eq!(
        running.changed_keys(&new),
        ["port", "nodes", "onNodeDown", "checkRise", "workers", "flushInterval", "logFormat"]
    );
    assert_eq!(running.changed_fixed_keys(&new), ["port", "workers", "logFormat"]);
    assert_eq!(running.changed_fixed_keys(&running), Vec::<&str>::new());
}

/// All keys of the config, for the properties below.
const KEYS: [&str; 38] = [
    "host",
    "port",
    "freebind",
    "managementHost",
    "managementPort",
    "managementNames",
    "managementAllowChanges",
    "managementDialect",
    "nodes",
    "addressFamily",
    "hashing",
    "onNodeDown",
    "readyWithoutBackends",
    "checkInterval",
    "checkTimeout",
    "checkFast",
    "checkFall",
    "checkRise",
    "engine",
    "workers",
    "pinWorkers",
    "spread",
    "flushInterval",
    "maxPacketSize",
    "maxDatagramSize",
    "receiveBuffer",
    "sendBuffer",
    "queue",
    "reopenInterval",
    "cacheSize",
    "malformed",
    "gso",
    "gro",
    "timestamps",
    "shutdownDelay",
    "shutdownTimeout",
    "handoverTimeout",
    "logFormat",
];

fn any_host() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just("*"),
        Just("localhost"),
        Just("127.0.0.1"),
        Just("::1"),
        Just("[::]"),
        Just(""),
        Just("10.1.2.3"),
    ]
    .prop_map(|host| json!(host))
}

fn any_node() -> impl Strategy<Value = Value> {
    let host = prop_oneof!["[a-z][a-z0-9-]{0,8}\\.example", "192\\.0\\.2\\.[1-9]", "2001:db8::[1-9a-f]{1,3}"];
    (host, 1..=u16::MAX, proptest::option::of(1..=u16::MAX), any::<bool>(), any::<bool>()).prop_map(
        |(host, port, adminport, disabled, off)| {
            json!({"host": host, "port": port, "adminport": adminport, "disabled": disabled,
                   "gso": if off { "off" } else { "auto" }})
        },
    )
}

/// A valid value for a key.
fn any_value(key: &'static str) -> BoxedStrategy<Value> {
    let ms = |min: u64, max: u64| (min..=max).prop_map(|ms| json!(ms)).boxed();
    match key {
        "host" | "managementHost" => any_host().boxed(),
        "port" | "managementPort" => ms(1, 65_535),
        "managementNames" => {
            prop::collection::vec(prop_oneof!["[a-z][a-z0-9._-]{0,12}", Just("*".to_owned())], 0..4)
                .prop_map(|names| json!(names))
                .boxed()
        }
        "managementAllowChanges" | "gro" | "timestamps" | "freebind" | "readyWithoutBackends" => {
            any::<bool>().prop_map(|flag| json!(flag)).boxed()
        }
        "nodes" => proptest::collection::vec(any_node(), 1..8)
            .prop_filter("no duplicate backends", |nodes| {
                let keys: std::collections::HashSet<String> =
                    nodes.iter().map(|node| format!("{} {}", node["host"], node["port"])).collect();
                keys.len() == nodes.len()
            })
            .prop_map(|nodes| json!(nodes))
            .boxed(),
        "hashing" => proptest::sample::select(Hashing::ALL.map(Hashing::name).to_vec())
            .prop_map(|name| json!(name))
            .boxed(),
        "addressFamily" => prop::sample::select(vec![json!("any"), json!("ipv4"), json!("ipv6")]).boxed(),
        "onNodeDown" => prop_oneof![Just(json!("divert")), Just(json!("drop"))].boxed(),
        "checkInterval" => ms(5_000, 86_400_000),
        "checkTimeout" | "checkFast" => ms(10, 5_000),
        "checkFall" | "checkRise" => ms(1, 100),
        "engine" => prop::sample::select(vec![json!("auto"), json!("io_uring"), json!("portable")]).boxed(),
        "workers" => prop_oneof![ms(1, 64), Just(json!("auto"))].boxed(),
        // The meaning of true and lists depends on this host's CPUs and on the number of workers.
        "pinWorkers" => Just(json!(false)).boxed(),
        "spread" => prop::sample::select(vec![json!("flow"), json!("datagram"), json!("cpu")]).boxed(),
        "flushInterval" => (0..=1_000_000u32).prop_map(|us| json!(f64::from(us) / 1_000.0)).boxed(),
        "maxPacketSize" => prop_oneof![ms(64, 65_507), Just(json!("auto"))].boxed(),
        "maxDatagramSize" => ms(64, 65_507),
        "receiveBuffer" | "sendBuffer" => ms(4_096, 1_073_741_823),
        "queue" => ms(65_507, 4 << 20),
        "reopenInterval" => prop_oneof![Just(json!(0)), ms(1_000, 86_400_000)].boxed(),
        "cacheSize" => ms(0, 1 << 24),
        "malformed" => prop_oneof![Just(json!("drop")), Just(json!("forward"))].boxed(),
        "managementDialect" => prop_oneof![Just(json!("statsring")), Just(json!("proxy.js"))].boxed(),
        "gso" => proptest::sample::select(vec!["auto", "padded", "unpadded", "off"])
            .prop_map(|word| json!(word))
            .boxed(),
        "shutdownDelay" => ms(0, 3_600_000),
        "shutdownTimeout" => ms(1, 3_600_000),
        "handoverTimeout" => ms(1, 3_600_000),
        "logFormat" => prop_oneof![Just(json!("text")), Just(json!("json"))].boxed(),
        other => panic!("no values for {other}"),
    }
}

/// A valid file: nodes, and any other keys.
fn any_file() -> impl Strategy<Value = serde_json::Map<String, Value>> {
    let values: Vec<_> =
        KEYS.into_iter().map(|key| (Just(key), any_value(key), any::<bool>()).boxed()).collect();
    values.prop_map(|entries| {
        let present = entries.into_iter().filter(|(key, _, present)| *present || *key == "nodes");
        present.map(|(key, value, _)| (key.to_owned(), value)).collect()
    })
}

/// Any small JSON value.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z*:.\\[\\]\\x00-\\x1f\u{202e}é]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("(host|port|adminport|[a-z\\n]{0,6})", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A list of backends without weights.
fn without_weights(nodes: &Value) -> Value {
    let mut nodes = nodes.clone();
    for node in nodes.as_array_mut().unwrap() {
        let weight = node.as_object_mut().unwrap().shift_remove("weight");
        assert!(weight.is_none_or(|weight| weight == 1));
    }
    nodes
}

proptest! {
    #[test]
    fn effective_config_parses_to_itself(file in any_file()) {
        let first = good(&Value::Object(file).to_string()).config;
        let shown = first.to_json();
        let keys: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        prop_assert_eq!(keys, KEYS);
        let second = good(&format!("{shown:#}")).config;
        prop_assert_eq!(&first, &second);
        prop_assert!(first.changed_keys(&second).is_empty());
    }

    #[test]
    fn every_value_takes_effect(file in any_file()) {
        let shown = good(&Value::Object(file.clone()).to_string()).config.to_json();
        for (key, value) in &file {
            let same = match (key.as_str(), value) {
                ("maxPacketSize", Value::String(_)) => shown[key] == "auto",
                ("cacheSize", entries) => shown[key].as_u64() >= entries.as_u64(),
                ("nodes", nodes) => without_weights(&shown[key]) == *nodes,
                ("host" | "managementHost", _) => continue,
                ("flushInterval", ms) => shown[key].as_f64() == ms.as_f64(),
                _ => shown[key] == *value,
            };
            prop_assert!(same, "{}: expected {}, found {}", key, value, shown[key]);
        }
    }

    #[test]
    fn each_injected_error_is_reported_and_nothing_else(
        file in any_file(),
        wrong in proptest::sample::subsequence(&KEYS[..], 0..12),
    ) {
        let mut file = file;
        for key in &wrong {
            // No key accepts an object.
            file.insert((*key).to_owned(), json!({"injected": true}));
        }
        match parse(&Value::Object(file).to_string()) {
            Ok(_) => prop_assert!(wrong.is_empty()),
            Err(ConfigError::Invalid { mistakes, .. }) => {
                let mut reported: Vec<&str> = mistakes.iter().filter_map(|text| text.split(": ").nth(1)).collect();
                let mut expected = wrong.clone();
                reported.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(reported, expected, "{:?}", mistakes);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_json_is_parsed_without_panic_or_control_characters(
        mut file in any_file(),
        key in proptest::sample::select(&KEYS[..]),
        value in any_json(),
        other in "[a-zA-Z\\x00-\\x1f]{0,10}",
    ) {
        // Names as listening hosts would cause DNS queries.
        prop_assume!(!key.ends_with("ost") || !value.is_string());
        file.insert(key.to_owned(), value);
        file.insert(other, Value::Null);
        if let Err(error) = parse(&Value::Object(file).to_string()) {
            let text = error.to_string();
            prop_assert!(text.lines().count() > 1);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{:?}", text);
        }
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "[\\[\\]{}\":,0-9a-z \\n\\\\.-]{0,60}") {
        let _ = parse(&text);
    }
}

#[test]
fn management_names_must_be_hostnames() {
    let config = good(&with("managementNames", r#"["proxy.example", "*"]"#)).config;
    assert_eq!(config.management_names, ["proxy.example", "*"]);
    for (value, mistake) in [
        ("\"*\"", "managementNames: expected a list of hostnames"),
        ("[8126]", "managementNames[0]: expected a hostname without port"),
        ("[\"a\", \"proxy.example:8126\"]", "managementNames[1]: expected a hostname without port"),
        ("[\"\"]", "managementNames[0]: expected a hostname"),
    ] {
        let error = parse(&with("managementNames", value)).unwrap_err().to_string();
        assert!(error.contains(mistake), "{error}");
    }
}

#[test]
fn relay_rules_follow_the_config() {
    let config: Config = good(&with("flushInterval", "1.5")).config;
    let rules = config.rules();
    assert_eq!((rules.flush_us, rules.packet_bytes_max, rules.queue_bytes_max), (1_500, 1_432, 262_144));
}
