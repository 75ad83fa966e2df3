//! Follows the README and the book: every config is accepted, every command line is valid, offline commands print the
//! documented output, and the migration guides place names like the old proxy.
//!
//! `tests/network.rs` covers commands for a running proxy. The owners below are those of `tests/placements.rs`, which states
//! their sources.

#[allow(dead_code, reason = "shared by three tests, none of which uses all of it")]
mod book;

use book::{Page, folder, page, pages, words, write_files};
use serde_json::Value;
use statsring::admin::{self, Command as AdminCommand};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAMES: [&str; 8] =
    ["foo", "foo.bar", "api.requests", "statsd.test.counter", "gorets", "glork", "gaugor", "uniques"];
const FRUIT: [&str; 4] = ["apple", "banana", "orange", "lemon"];
/// Languages of config blocks.
const CONFIGS: [&str; 2] = ["json", "js"];

fn run(arguments: &[String], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_statsring")).args(arguments).current_dir(folder).output().unwrap()
}

/// The arguments of a statsring command line.
fn our_arguments(command: &str) -> Option<Vec<String>> {
    let mut words = words(command);
    words.retain(|word| word != "sudo");
    let name = words.first()?;
    (name == "statsring" || name == "target/release/statsring").then(|| words.split_off(1))
}

/// The text of the single config of a page.
fn config_of(page: &Page) -> String {
    page.block("json").text
}

/// The backends of the config, as HOST:PORT and weight.
fn nodes_of(page: &Page) -> Vec<(String, u64)> {
    let config: Value = serde_json::from_str(&config_of(page)).unwrap();
    let nodes = config["nodes"].as_array().unwrap().iter();
    let named =
        nodes.map(|node| (format!("{}:{}", node["host"].as_str().unwrap(), node["port"]), &node["weight"]));
    named.map(|(name, weight)| (name, weight.as_u64().unwrap_or(1))).collect()
}

/// Writes a config to a temporary folder.
fn file(name: &str, config: &str) -> PathBuf {
    let path = folder(&format!("guides.{name}")).join("statsring.json");
    std::fs::write(&path, config).unwrap();
    path
}

/// `where` prints the owners of the old proxy, as shown on the page.
fn names_stay(page: &Page, names: &[&str], owners: &[usize], backends: &[&str]) {
    let shown = page.block("console").entered();
    assert_eq!(shown.len(), 1, "{}", page.path);
    assert_eq!(shown[0].command, format!("statsring where -f statsring.json {}", names.join(" ")));
    let expected: String =
        names.iter().zip(owners).map(|(name, owner)| format!("{name}\t{}\n", backends[*owner])).collect();
    // The actual output is checked by offline_commands_print_the_documented_output.
    assert_eq!(shown[0].output, expected, "{}", page.path);
}

#[test]
fn every_config_is_accepted() {
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| CONFIGS.contains(&&*block.language)) {
            let folder = folder(&format!("config.{checked}"));
            std::fs::write(folder.join("config"), &block.text).unwrap();
            let output = run(&["--check".into(), "-f".into(), "config".into()], &folder);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{}: {message}", page.at(block.line));
            assert!(!message.contains("better write"), "{}: {message}", page.at(block.line));
            std::fs::remove_dir_all(folder).unwrap();
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn statsring_commands_in_the_docs_are_accepted() {
    let mut parsed = 0;
    for page in pages() {
        for block in page.blocks() {
            for entered in block.entered() {
                let Some(arguments) = our_arguments(&entered.command) else { continue };
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let accepted = statsring::cli::check_usage(&arguments);
                assert_eq!(accepted, Ok(()), "{}: {}", page.at(block.line), entered.command);
                parsed += 1;
            }
        }
    }
    assert!(parsed > 20, "{parsed}");
}

/// The admin commands sent by a line.
fn admin_commands(line: &str) -> Vec<String> {
    let words = words(line);
    let is_sent = line.contains("| nc ") && line.contains(" 8126");
    let sends = words.first().is_some_and(|word| word == "echo" || word == "printf");
    if !is_sent || !sends {
        return Vec::new();
    }
    words[1].split("\\n").filter(|command| !command.is_empty()).map(str::to_owned).collect()
}

#[test]
fn every_admin_command_is_known() {
    let mut parsed = 0;
    for page in pages() {
        let lines = page.blocks().into_iter().flat_map(|block| block.entered());
        let commands = lines.flat_map(|entered| admin_commands(&entered.command));
        let inline = page.inline_code().into_iter().flat_map(|(code, _)| admin_commands(&code));
        for command in commands.chain(inline) {
            let is_known =
                !matches!(admin::parse(command.as_bytes()), AdminCommand::Unknown | AdminCommand::Misused(_));
            assert!(is_known, "{}: {command}", page.path);
            parsed += 1;
        }
    }
    assert!(parsed > 20, "{parsed}");
}

#[test]
fn requested_http_paths_exist() {
    for page in pages() {
        for entered in page.blocks().iter().flat_map(book::Block::entered) {
            if let Some((_, path)) = entered.command.split_once("localhost:8126/") {
                let path = format!("/{}", path.split([' ', '"', '\'']).next().unwrap());
                assert!(admin::HTTP_PATHS.iter().any(|(known, _)| *known == path), "{}: {path}", page.path);
            }
        }
    }
}

/// Whether the output matches that of the page, in which `…` stands for the rest.
fn is_shown(printed: &str, shown: &str) -> bool {
    match shown.split_once('…') {
        Some((beginning, _)) => printed.starts_with(beginning),
        None => printed == shown,
    }
}

#[test]
fn offline_commands_print_the_documented_output() {
    let mut compared = 0;
    for (number, page) in pages().iter().enumerate() {
        let folder = folder(&format!("console.{number}"));
        write_files(page, &folder);
        for block in page.blocks_of("console") {
            for entered in block.entered() {
                let Some(arguments) = our_arguments(&entered.command) else { continue };
                let output = run(&arguments, &folder);
                let printed = String::from_utf8(output.stdout).unwrap();
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{}: {}: {message}", page.at(block.line), entered.command);
                assert!(
                    is_shown(&printed, &entered.output),
                    "{}: {}\nprints:\n{printed}",
                    page.at(block.line),
                    entered.command
                );
                compared += 1;
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
    assert!(compared >= 8, "{compared}");
}

#[test]
fn every_proxy_js_key_is_documented() {
    let page = page("docs/src/migrating/proxy-js.md");
    for key in statsring::config::PROXY_JS_KEYS {
        assert!(page.inline_code().iter().any(|(code, _)| code == key), "{key}");
    }
}

/// Source: the keys of `exampleProxyConfig.js` of go-statsd-proxy.
#[test]
fn go_statsd_proxy_example_produces_no_notices() {
    let path = file("go", &config_of(&page("docs/src/migrating/go-statsd-proxy.md")));
    let output =
        Command::new(env!("CARGO_BIN_EXE_statsring")).args(["--check", "-f"]).arg(&path).output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["hashing"], "jump");
    assert_eq!(shown["checkInterval"], 1000);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("unknown") && !said.contains("notice"), "{said}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn hit9() {
    let page = page("docs/src/migrating/hit9-statsd-proxy.md");
    let old = page.block("cfg").text;
    let value = |key: &str| old.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let config: Value = serde_json::from_str(&config_of(&page)).unwrap();
    assert_eq!(config["port"].to_string(), value("port"));
    assert_eq!(config["flushInterval"].to_string(), value("flush_interval"));
    let nodes = old.lines().filter_map(|line| line.strip_prefix("node "));
    let nodes = nodes.map(|node| node.rsplit_once(':').unwrap());
    let nodes: Vec<_> = nodes.map(|(name, weight)| (name.to_owned(), weight.parse().unwrap())).collect();
    assert_eq!(nodes, nodes_of(&page));
    let backends = ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"];
    names_stay(&page, &NAMES, &[0, 2, 2, 0, 2, 2, 1, 1], &backends);
}

#[test]
fn uber() {
    let page = page("docs/src/migrating/statsrelay-uber.md");
    let old = page.block("yaml").text;
    let shards = old.lines().filter(|line| line.starts_with("    ")).enumerate();
    let shards = shards.map(|(index, line)| {
        let entry = line.trim().strip_prefix(&format!("{index}: ")).unwrap();
        (entry.strip_suffix(":udp").unwrap().to_owned(), 1)
    });
    assert_eq!(shards.collect::<Vec<_>>(), nodes_of(&page));
    let config: Value = serde_json::from_str(&config_of(&page)).unwrap();
    let bind = format!("bind: {}:{}", config["host"].as_str().unwrap(), config["port"]);
    assert!(old.contains(&bind), "{bind}");
    names_stay(&page, &NAMES, &[0, 1, 1, 0, 0, 0, 1, 1], &["10.0.0.1:9000", "10.0.0.2:9000"]);
}

#[test]
fn lyft() {
    let page = page("docs/src/migrating/statsrelay-lyft.md");
    let old: Value = serde_json::from_str(&page.block("json-lyft").text).unwrap();
    let shards = old["statsd"]["backends"]["simple"]["shard_map"].as_array().unwrap().iter();
    let shards: Vec<_> = shards.map(|shard| (shard.as_str().unwrap().to_owned(), 1)).collect();
    assert_eq!(shards, nodes_of(&page));
    let config: Value = serde_json::from_str(&config_of(&page)).unwrap();
    let bind = format!("{}:{}", config["host"].as_str().unwrap(), config["port"]);
    assert_eq!(old["statsd"]["servers"]["default"]["bind"], bind);
    let backends = ["10.0.0.1:8125", "10.0.0.2:8125", "10.0.0.3:8125", "10.0.0.4:8125"];
    names_stay(&page, &FRUIT, &[2, 3, 0, 1], &backends);
}

#[test]
fn jjneely() {
    let page = page("docs/src/migrating/statsrelay-jjneely.md");
    let old = page.block("sh").text;
    let words: Vec<&str> = old.split_whitespace().collect();
    let option = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    let config: Value = serde_json::from_str(&config_of(&page)).unwrap();
    assert_eq!(config["port"].to_string(), option("--port"));
    assert_eq!(config["host"], option("--bind"));
    let nodes = words.iter().filter(|word| word.contains(':')).map(|word| ((*word).to_owned(), 1));
    assert_eq!(nodes.collect::<Vec<_>>(), nodes_of(&page));
    let backends = ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"];
    names_stay(&page, &NAMES, &[1, 1, 1, 1, 1, 0, 2, 0], &backends);
}
