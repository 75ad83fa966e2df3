//! `docs/migrating.md` is followed: every config in it is checked, says what the old config beside it says, and puts names
//! where the old proxy put them.
//!
//! The owners below are those of `tests/placements.rs`, where each tells of which program's own code it is the answer.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 8] =
    ["foo", "foo.bar", "api.requests", "statsd.test.counter", "gorets", "glork", "gaugor", "uniques"];
const FRUIT: [&str; 4] = ["apple", "banana", "orange", "lemon"];

/// A section of the guide.
struct Section {
    title: String,
    text: String,
}

impl Section {
    /// The fenced blocks of a language.
    fn blocks(&self, language: &str) -> Vec<&str> {
        let opening = format!("\n```{language}\n");
        let after = self.text.match_indices(&opening).map(|(at, opening)| &self.text[at + opening.len()..]);
        after.map(|block| block.split("\n```").next().unwrap()).collect()
    }

    /// Its only block of a language.
    fn block(&self, language: &str) -> &str {
        let [block] = self.blocks(language)[..] else { panic!("{}: one block of {language}", self.title) };
        block
    }

    fn config(&self) -> Value {
        serde_json::from_str(self.block("json")).unwrap()
    }

    /// The config's list, as HOST:PORT and weight.
    fn nodes(&self) -> Vec<(String, u64)> {
        let config = self.config();
        let nodes = config["nodes"].as_array().unwrap().iter();
        let named = nodes
            .map(|node| (format!("{}:{}", node["host"].as_str().unwrap(), node["port"]), &node["weight"]));
        named.map(|(name, weight)| (name, weight.as_u64().unwrap_or(1))).collect()
    }
}

fn guide() -> Vec<Section> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md");
    let text = std::fs::read_to_string(path).unwrap();
    let parts = text.split("\n## ").skip(1);
    parts
        .map(|part| {
            let (title, text) = part.split_once('\n').unwrap();
            Section { title: title.to_owned(), text: format!("\n{text}") }
        })
        .collect()
}

fn section(title: &str) -> Section {
    guide().into_iter().find(|section| section.title == title).unwrap_or_else(|| panic!("no section {title}"))
}

/// A config in a folder of the test's own.
fn file(title: &str, config: &str) -> PathBuf {
    let name: String = title.chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guides");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.{}.json", std::process::id()));
    std::fs::write(&path, config).unwrap();
    path
}

fn statsring(arguments: &[&str], config: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_statsring"))
        .args(arguments.iter().map(|word| if *word == "FILE" { config.to_str().unwrap() } else { word }))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `where` answers is what the old proxy did, and what the guide shows.
fn names_stay(title: &str, names: &[&str], owners: &[usize], backends: &[&str]) {
    let section = section(title);
    let path = file(title, section.block("json"));
    let answer = statsring(&[&["where", "-f", "FILE"], names].concat(), &path);
    let wanted: String =
        names.iter().zip(owners).map(|(name, owner)| format!("{name}\t{}\n", backends[*owner])).collect();
    assert_eq!(answer, wanted, "{title}");
    let command = format!("$ statsring where -f statsring.json {}\n", names.join(" "));
    assert_eq!(format!("{}\n", section.block("text")), command + &wanted, "{title}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn every_config_is_checked() {
    let mut checked = 0;
    for section in guide() {
        for config in section.blocks("json") {
            let path = file(&format!("checked{}{checked}", section.title), config);
            let shown: Value = serde_json::from_str(&statsring(&["--check", "-f", "FILE"], &path)).unwrap();
            let written: Value = serde_json::from_str(config).unwrap();
            assert_eq!(shown["port"], written["port"], "{}", section.title);
            std::fs::remove_file(path).unwrap();
            checked += 1;
        }
    }
    assert_eq!(checked, 5);
}

#[test]
fn each_section_is_listed_at_the_top() {
    let titles: Vec<String> = guide().into_iter().map(|section| section.title).collect();
    assert_eq!(titles.len(), 6, "{titles:?}");
    let text = include_str!("../docs/migrating.md");
    for title in titles.iter().skip(1) {
        let anchor: String =
            title.chars().filter(|c| c.is_ascii_alphanumeric() || " -".contains(*c)).collect();
        let link = format!("- [{title}](#{})", anchor.to_lowercase().replace(' ', "-"));
        assert!(text.contains(&link), "{link}");
    }
}

/// Source: `exampleProxyConfig.js` of go-statsd-proxy has these keys and no others.
#[test]
fn go_statsd_proxys_own_file_is_taken_without_a_word() {
    let path = file("go", section("go-statsd-proxy").block("json"));
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
    let title = "hit9/statsd-proxy";
    let section = section(title);
    let old = section.block("cfg");
    let value = |key: &str| old.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let config = section.config();
    assert_eq!(config["port"].to_string(), value("port"));
    assert_eq!(config["flushInterval"].to_string(), value("flush_interval"));
    let nodes = old.lines().filter_map(|line| line.strip_prefix("node "));
    let nodes = nodes.map(|node| node.rsplit_once(':').unwrap());
    let nodes: Vec<_> = nodes.map(|(name, weight)| (name.to_owned(), weight.parse().unwrap())).collect();
    assert_eq!(nodes, section.nodes());
    let backends = ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"];
    names_stay(title, &NAMES, &[0, 2, 2, 0, 2, 2, 1, 1], &backends);
}

#[test]
fn uber() {
    let title = "statsrelay by uber";
    let section = section(title);
    let old = section.block("yaml");
    let shards = old.lines().filter(|line| line.starts_with("    ")).enumerate();
    let shards = shards.map(|(index, line)| {
        let entry = line.trim().strip_prefix(&format!("{index}: ")).unwrap();
        (entry.strip_suffix(":udp").unwrap().to_owned(), 1)
    });
    assert_eq!(shards.collect::<Vec<_>>(), section.nodes());
    let config = section.config();
    let bind = format!("bind: {}:{}", config["host"].as_str().unwrap(), config["port"]);
    assert!(old.contains(&bind), "{bind}");
    names_stay(title, &NAMES, &[0, 1, 1, 0, 0, 0, 1, 1], &["10.0.0.1:9000", "10.0.0.2:9000"]);
}

#[test]
fn lyft() {
    let title = "statsrelay by lyft";
    let section = section(title);
    let old: Value = serde_json::from_str(section.block("json-lyft")).unwrap();
    let shards = old["statsd"]["backends"]["simple"]["shard_map"].as_array().unwrap().iter();
    let shards: Vec<_> = shards.map(|shard| (shard.as_str().unwrap().to_owned(), 1)).collect();
    assert_eq!(shards, section.nodes());
    let config = section.config();
    let bind = format!("{}:{}", config["host"].as_str().unwrap(), config["port"]);
    assert_eq!(old["statsd"]["servers"]["default"]["bind"], bind);
    let backends = ["10.0.0.1:8125", "10.0.0.2:8125", "10.0.0.3:8125", "10.0.0.4:8125"];
    names_stay(title, &FRUIT, &[2, 3, 0, 1], &backends);
}

#[test]
fn jjneely() {
    let title = "statsrelay by jjneely";
    let section = section(title);
    let words: Vec<&str> = section.block("sh").split_whitespace().collect();
    let option = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    let config = section.config();
    assert_eq!(config["port"].to_string(), option("--port"));
    assert_eq!(config["host"], option("--bind"));
    let nodes = words.iter().filter(|word| word.contains(':')).map(|word| ((*word).to_owned(), 1));
    assert_eq!(nodes.collect::<Vec<_>>(), section.nodes());
    let backends = ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"];
    names_stay(title, &NAMES, &[1, 1, 1, 1, 1, 0, 2, 0], &backends);
}

/// The README leads to each section.
#[test]
fn the_readme_links_the_guide() {
    assert!(include_str!("../README.md").contains("](docs/migrating.md)"));
}
