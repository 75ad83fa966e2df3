//! Configs of StatsD's `proxy.js`: their meaning, notices, and error messages.

use proptest::prelude::*;
use statsring::config::{
    AdminDialect, Assignment, Check, Config, ConfigError, Format, Loaded, Node, load, parse, sample_name,
};
use statsring::placement::Hashing;
use statsring::relay::{Malformed, OnNodeDown};
use std::path::Path;

/// A typical config, with syntax beyond JSON.
const USUAL: &str = "
/* our three servers */
{
  nodes: [
    {host: '127.0.0.1', port: 8127, adminport: 8128},
    {host: '127.0.0.1', port: 8129, adminport: 8130},
    {host: '127.0.0.1', port: 0x1fc3, adminport: 8132}, // the new one
  ],
  server: './servers/udp',
  host: '0.0.0.0',
  port: 8125,
  udp_version: 'udp4',
  mgmt_port: 8126,
  forkCount: 0,
  checkInterval: 1000,
  cacheSize: 10000,
};
";

fn good(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn errors(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Invalid { path: None, mistakes }) => mistakes,
        other => panic!("{text}\nwas accepted: {other:?}"),
    }
}

/// A file with one node and `mgmt_address` on this host, so that neither causes a notice, and more keys.
fn with(keys: &str) -> String {
    format!("{{nodes: [{{host: '192.0.2.1', port: 1, adminport: 2}}], mgmt_address: 'localhost', {keys}}}")
}

fn texts(addresses: &[std::net::SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn typical_file_has_the_meaning_of_proxy_js() {
    let Loaded { config, format, summary, notices, .. } = good(USUAL);
    assert_eq!(format, Format::ProxyJs);
    assert_eq!(
        summary,
        "config format: proxy.js (it has server, udp_version, mgmt_port, forkCount); placement: hashring-3 (as in \
         StatsD 0.8 and later)"
    );
    assert_eq!(config.hashing, Hashing::Hashring3);
    assert_eq!((config.malformed, config.on_node_down), (Malformed::Forward, OnNodeDown::Divert));
    let check = Check { interval_ms: 1_000, timeout_ms: 1_000, fast_ms: 1_000, fall: 1, rise: 1 };
    assert_eq!(config.check, check);
    assert_eq!(texts(&config.listen), ["0.0.0.0:8125"]);
    assert_eq!(texts(&config.management), ["0.0.0.0:8126", "[::]:8126"]);
    assert_eq!((config.workers, config.workers_auto), (1, false));
    assert_eq!((config.management_dialect, config.management_allow_changes), (AdminDialect::ProxyJs, false));
    let names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"]);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("health down") && notices[0].contains("this host only"), "{}", notices[0]);
    assert!(notices[1].starts_with("ignored: udp_version (as in proxy.js), host ("), "{}", notices[1]);
}

#[test]
fn defaults_match_proxy_js() {
    let config = good("{nodes: [{host: 'a.example', port: 1}], forkCount: 1}").config;
    assert_eq!(texts(&config.listen), ["0.0.0.0:8125"]);
    assert_eq!(texts(&config.management), ["0.0.0.0:8126", "[::]:8126"]);
    assert_eq!((config.check.interval_ms, config.check.timeout_ms), (10_000, 10_000));
    // Values that are falsy in JavaScript count as absent.
    let nothing = "port: 0, address: '', mgmt_port: 0, mgmt_address: '', checkInterval: 0, cacheSize: 0, server: '', \
                   forkCount: false, log: null";
    let again = good(&format!("{{nodes: [{{host: 'a.example', port: 1}}], {nothing}}}")).config;
    assert_eq!(again, config);
}

#[test]
fn keys_have_the_meaning_of_proxy_js() {
    let config = |keys: &str| good(&with(keys)).config;
    assert_eq!(texts(&config("address: '127.0.0.2', port: 9").listen), ["127.0.0.2:9"]);
    // In Node, :: accepts both families.
    assert_eq!(texts(&config("address_ipv6: true").listen), ["0.0.0.0:8125", "[::]:8125"]);
    assert_eq!(texts(&config("address_ipv6: true, address: '::'").listen), ["0.0.0.0:8125", "[::]:8125"]);
    assert_eq!(texts(&config("address_ipv6: true, address: '::1'").listen), ["[::1]:8125"]);
    let open = good("{nodes: [{host: 'a.example', port: 1}], mgmt_address: '::', mgmt_port: 9}").config;
    assert_eq!(texts(&open.management), ["0.0.0.0:9", "[::]:9"]);
    assert_eq!(config("forkCount: 4").workers, 4);
    assert!(config("forkCount: 'auto'").workers_auto);
    assert_eq!(config("cacheSize: 5000").cache_entries, 8_192);
    // Node accepts strings for ports and counts.
    let config = config("port: '9125', mgmt_port: '9126', forkCount: '2', checkInterval: '2500'");
    assert_eq!((config.listen[0].port(), config.management[0].port()), (9_125, 9_126));
    assert_eq!((config.workers, config.check.interval_ms), (2, 2_500));
    for server in ["./servers/udp", "./servers/udp.js", "/opt/statsd/servers/udp"] {
        assert_eq!(good(&with(&format!("server: '{server}'"))).notices, Vec::<String>::new());
    }
}

#[test]
fn keys_without_effect_get_one_notice() {
    let Loaded { notices, .. } = good(&with(
        "log: {backend: 'syslog'}, healthStatus: 'down', automaticConfigReload: true, title: 'x', debug: true, \
         udp_version: 'udp6', host: '::1'",
    ));
    assert_eq!(notices.len(), 1, "{notices:?}");
    for part in [
        "udp_version (as in proxy.js)",
        "healthStatus (as in proxy.js)",
        "host (as in proxy.js since StatsD 0.8",
        "log (logs go to stderr; see logFormat)",
        "automaticConfigReload (proxy.js never applied a changed file to its ring; to reload, use SIGHUP",
        "title (unknown, also to proxy.js)",
        "debug (unknown, also to proxy.js)",
    ] {
        assert!(notices[0].contains(part), "{part} is missing in {}", notices[0]);
    }
    // Statsring behaves like this anyway.
    assert_eq!(good(&with("automaticConfigReload: false")).notices, Vec::<String>::new());
}

#[test]
fn format_is_detected_from_the_keys() {
    let json =
        r#"{"nodes": [{"host": "192.0.2.1", "port": 1}], "port": 8125, "checkInterval": 500, "cacheSize": 9"#;
    let own = good(&format!("{json}}}"));
    assert_eq!((own.format, own.config.hashing), (Format::Statsring, Hashing::Jump));
    assert_eq!(own.summary, "config format: statsring (no proxy.js keys); placement: jump (default)");
    for key in [
        r#""mgmt_port": 1"#,
        r#""mgmt_address": "localhost""#,
        r#""address": "127.0.0.1""#,
        r#""address_ipv6": false"#,
        r#""udp_version": "udp4""#,
        r#""forkCount": 0"#,
        r#""server": "./servers/udp""#,
        r#""log": {}"#,
        r#""healthStatus": "up""#,
        r#""automaticConfigReload": false"#,
    ] {
        let loaded = good(&format!("{json}, {key}}}"));
        assert_eq!((loaded.format, loaded.config.hashing), (Format::ProxyJs, Hashing::Hashring3), "{key}");
    }
    // A comment is not a key, and statsring's own configs are JSON.
    assert!(
        errors(&format!("// mgmt_port: 8126\n{json}, \"workers\": 1}}"))[0].starts_with("line 1, column 1: ")
    );
}

#[test]
fn ambiguous_file_is_refused_with_both_interpretations() {
    let found = errors("{nodes: [{host: 'a', port: 1}], port: 8125}");
    assert_eq!(found.len(), 1);
    for part in ["line 1, column 2: ", "expected a key in double quotes", "mgmt_port: 8126"] {
        assert!(found[0].contains(part), "{part} is missing in {}", found[0]);
    }
    let mixed = with("\n flushInterval: 1, mgmt_port: 1");
    let found = errors(&mixed);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("line 2, column 2: flushInterval: is a statsring key"), "{}", found[0]);
    for part in ["mgmt_address is a proxy.js key", "\"hashing\" to \"hashring-3\"", "or \"jump\""] {
        assert!(found[0].contains(part), "{part} is missing in {}", found[0]);
    }
    let node = "{mgmt_port: 1, nodes: [{host: 'a', port: 1}, {host: 'b', port: 1, disabled: true}]}";
    assert!(
        errors(node)[0].starts_with("line 1, column 67: nodes[1].disabled: is a statsring key"),
        "{}",
        errors(node)[0]
    );
}

#[test]
fn hashing_key_allows_keys_of_both_formats() {
    let mixed = "hashing: 'hashring-1', flushInterval: 1, managementAllowChanges: true, checkFall: 3, malformed: 'drop'";
    let Loaded { config, format, summary, notices, .. } = good(&with(mixed));
    assert_eq!(format, Format::ProxyJs);
    assert!(summary.ends_with("placement: hashring-1 (set by hashing)"), "{summary}");
    assert_eq!((config.hashing, config.flush_us), (Hashing::Hashring1, 1_000));
    assert_eq!((config.check.fall, config.check.rise), (3, 1));
    assert_eq!((config.malformed, config.management_dialect), (Malformed::Drop, AdminDialect::ProxyJs));
    assert!(config.management_allow_changes);
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(
        errors(&with("hashing: 'jump', workers: 2,\nforkCount: 2, managementPort: 1, mgmt_port: 1")),
        [
            "line 2, column 1: forkCount: is equivalent to workers, which is given too; remove one",
            "line 2, column 34: mgmt_port: is equivalent to managementPort, which is given too; remove one",
        ]
    );
}

#[test]
fn errors_have_line_column_and_key() {
    let found = errors(
        "{\n  nodes: [\n    {host: '127.0.0.1', port: 99999},\n    {host: 'a b', port: 1, adminprot: 2},\n    {port: '08125'},\n  ],\n  \
         mgmt_port: 'x',\n  mgmt_prot: 1,\n  checkInterval: 5,\n  address: '10.1',\n  server: './servers/tcp',\n  forkCount: 65\n}",
    );
    assert_eq!(
        found,
        [
            "line 3, column 25: nodes[0].port: 99999 is not a port (1 to 65535)",
            "line 4, column 6: nodes[1].host: \"a b\" is not a hostname or IP address",
            "line 4, column 28: nodes[1].adminprot: unknown key; did you mean adminport?",
            "line 5, column 6: nodes[2].port: expected a number (1 to 65535), found the string \"08125\"",
            "line 5, column 5: nodes[2].host: missing; expected a hostname or IP address",
            "line 7, column 3: mgmt_port: expected a number (1 to 65535), found the string \"x\"",
            "line 8, column 3: mgmt_prot: unknown key; did you mean mgmt_port?",
            "line 9, column 3: checkInterval: 5 is not in range (10 to 86400000 ms)",
            "line 10, column 3: address: \"10.1\" is not an IPv4 address (four numbers from 0 to 255)",
            "line 11, column 3: server: \"./servers/tcp\" receives metrics over TCP, which is not supported: send UDP from the \
             clients, and omit server",
            "line 12, column 3: forkCount: 65 is not in range (0 to 64, or \"auto\")",
        ]
    );
    let own_server = errors(&with("server: './ours'"));
    assert!(own_server[0].contains("custom server (code), which is not supported"), "{}", own_server[0]);
    assert!(errors("{mgmt_port: 1}")[0].starts_with("line 1, column 1: nodes: missing"));
}

#[test]
fn code_is_refused_even_in_json() {
    for (text, part) in [
        (
            r#"{"nodes": require('./nodes')}"#,
            "line 1, column 11: nodes: expected a value, found code \"require('./nodes')\"",
        ),
        (
            "{\n  mgmt_port: process.env.PORT || 8126\n}",
            "line 2, column 14: mgmt_port: expected a value, found code",
        ),
        ("module.exports = {mgmt_port: 1}", "remove everything before the {"),
    ] {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
    }
}

#[test]
fn duplicates_are_tolerated_like_in_proxy_js() {
    let Loaded { config, notices, .. } = good(&with("port: 1, port: 9000"));
    assert_eq!(config.listen[0].port(), 9_000);
    assert_eq!(notices, ["port: given twice; the last value applies, as in proxy.js"]);
    let twice =
        "{mgmt_address: 'localhost', nodes: [{host: 'a.example', port: 1}, {host: 'a.example', port: 1}]}";
    let Loaded { config, notices, .. } = good(twice);
    assert_eq!(config.nodes.len(), 1);
    assert_eq!(notices, ["nodes[1]: a.example:1 is listed twice and used once, as in proxy.js"]);
    let other = twice.replacen("port: 1", "port: 1, adminport: 7", 1);
    assert!(errors(&other)[0].contains("is listed twice (first as nodes[0])"));
}

#[test]
fn ipv6_literals_are_valid_backends() {
    let config =
        good("{mgmt_port: 1, nodes: [{host: '::1', port: 7}, {host: '[2001:db8::1]', port: 8}]}").config;
    let names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["[::1]:7", "[2001:db8::1]:8"]);
}

/// The owners by the real proxy.js, by port: those of the golden vectors.
#[test]
fn names_are_placed_like_in_proxy_js() {
    let config = good(USUAL).config;
    let assignment = Assignment::new(&config, |_: &Node| false);
    for (name, port) in [
        ("foo", 8127),
        ("foo.bar", 8129),
        ("api.requests", 8131),
        ("statsd.test.counter", 8129),
        ("gorets", 8127),
        ("glork", 8129),
        ("gaugor", 8129),
        ("uniques", 8131),
    ] {
        let index = assignment.index(name.as_bytes()).unwrap();
        assert_eq!(config.nodes[index].port, port, "{name}");
    }
}

#[test]
fn example_config_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exampleProxyConfig.js");
    let Loaded { config, format, notices, .. } = load(&path).expect("the example is valid");
    assert_eq!((config.nodes.len(), format, notices), (3, Format::ProxyJs, vec![]));
}

fn same_owners(one: &Config, other: &Config) -> bool {
    let (one, other) = (Assignment::new(one, |_| false), Assignment::new(other, |_| false));
    (0..200).all(|number| {
        let name = sample_name(number);
        one.index(name.as_bytes()) == other.index(name.as_bytes())
    })
}

/// Keys of a valid file, each with a value.
fn any_keys() -> impl Strategy<Value = Vec<String>> {
    let host = || proptest::sample::select(vec!["127.0.0.1", "::1", "0.0.0.0", "::", "localhost", ""]);
    let keys: Vec<BoxedStrategy<String>> = vec![
        (1..=u16::MAX).prop_map(|port| format!("mgmt_port: {port}")).boxed(),
        host().prop_map(|host| format!("mgmt_address: '{host}'")).boxed(),
        host().prop_map(|host| format!("address: \"{host}\"")).boxed(),
        any::<bool>().prop_map(|flag| format!("address_ipv6: {flag}")).boxed(),
        (0..=64u8).prop_map(|forks| format!("forkCount: {forks}")).boxed(),
        (10..=100_000u32).prop_map(|ms| format!("checkInterval: {ms:#x}")).boxed(),
        (0..=100_000u32).prop_map(|names| format!("'cacheSize': {names}")).boxed(),
        (1..=u16::MAX).prop_map(|port| format!("port: '{port}'")).boxed(),
        Just("log: {backend: 'stdout', level: [1, {}]}".to_owned()).boxed(),
        Just("automaticConfigReload: true".to_owned()).boxed(),
        Just("hashing: 'ketama', shutdownDelay: 7".to_owned()).boxed(),
    ];
    let keys: Vec<_> = keys.into_iter().map(proptest::option::of).collect();
    keys.prop_map(|keys| keys.into_iter().flatten().collect())
}

proptest! {
    #[test]
    fn equivalent_json_has_the_same_meaning(
        keys in any_keys(),
        ports in proptest::collection::hash_set(1..=u16::MAX, 1..6),
    ) {
        let nodes: Vec<String> = ports.iter().map(|port| format!("{{host: '192.0.2.9', port: {port},}}")).collect();
        let text = format!("{{ udp_version: 'udp4', nodes: [{}], // …\n{} }}", nodes.join(", "), keys.join(",\n"));
        let first = good(&text);
        let second = good(&first.config.to_json().to_string());
        prop_assert_eq!((first.format, second.format), (Format::ProxyJs, Format::Statsring));
        prop_assert_eq!(&first.config, &second.config);
        prop_assert!(same_owners(&first.config, &second.config));
    }

    #[test]
    fn any_text_is_parsed_without_panic(
        head in proptest::sample::select(vec!["{mgmt_port: 1, ", "({address: '", "{nodes: [{", "", "\u{feff}{ // é\n"]),
        text in "[\\[\\]{}()\"':,;0-9a-z \\n\\r\\\\./*+`éx-]{0,60}",
    ) {
        if let Err(error) = parse(&format!("{head}{text}")) {
            let shown = error.to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{:?}", shown);
        }
    }
}
