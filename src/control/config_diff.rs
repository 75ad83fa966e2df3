//! What a reload would change: a pure comparison of two configs.
//!
//! In: the running config, and the one just read. Out: a refusal that changes nothing, or the changes as text with the
//! share of names that move. Next: `state.rs` applies it.

use crate::config::{Assignment, Config, Format, Node, sample_name};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Names that are placed before and after, to determine the share that moves.
const SAMPLE_NAMES: usize = 10_000;

/// Why a valid file was not applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It changes keys that need a restart.
    #[error("refused: a restart is needed to change {}; nothing was changed", .0.join(", "))]
    FixedKeys(Vec<String>),
    /// More backends, old and new together, than the workers reserved at start.
    #[error(
        "refused: {backends} backends, old and new together, exceed the {room} reserved at \
         start; restart, or reload in steps; nothing was changed"
    )]
    TooManyBackends {
        /// Of both configs, each counted once.
        backends: usize,
        /// Sockets for backends that a worker can hold.
        room: usize,
    },
}

impl Refusal {
    /// The same with the names that a file of this format has for its keys.
    pub fn by_keys_of(self, format: Format) -> Refusal {
        match self {
            Refusal::FixedKeys(keys) => {
                Refusal::FixedKeys(keys.iter().map(|key| format.key(key).to_owned()).collect())
            }
            other => other,
        }
    }
}

/// What a reload changes.
#[derive(Debug, PartialEq)]
pub struct Changes {
    /// One sentence each; empty if nothing changes.
    pub lines: Vec<String>,
    /// Share of names that get another backend, 0 to 1.
    pub names_moved: f64,
}

impl fmt::Display for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return formatter.write_str("reloaded: nothing changed");
        }
        write!(formatter, "reloaded: {:.1} % of names moved", 100.0 * self.names_moved)?;
        for lines in &self.lines {
            write!(formatter, "\n  {lines}")?;
        }
        Ok(())
    }
}

/// Compares the running config with the new one. `room` is the number of backend sockets of a worker.
pub fn compare(old: &Config, new: &Config, room: usize) -> Result<Changes, Refusal> {
    let fixed = old.changed_fixed_keys(new);
    if !fixed.is_empty() {
        return Err(Refusal::FixedKeys(fixed.into_iter().map(str::to_owned).collect()));
    }
    // During a reload a worker holds the sockets of both lists.
    let both: HashSet<&str> = old.nodes.iter().chain(&new.nodes).map(|node| &*node.name).collect();
    if both.len() > room {
        return Err(Refusal::TooManyBackends { backends: both.len(), room });
    }
    let mut lines = node_changes(&old.nodes, &new.nodes);
    let (before, after) = (old.to_json(), new.to_json());
    let keys = old.changed_keys(new).into_iter().filter(|key| *key != "nodes");
    lines.extend(keys.map(|key| format!("{key}: {} -> {}", before[key], after[key])));
    Ok(Changes { lines, names_moved: names_moved(old, new) })
}

fn node_changes(old: &[Node], new: &[Node]) -> Vec<String> {
    let shown = |node: &Node| node.name.escape_default().to_string();
    let before: HashMap<&str, &Node> = old.iter().map(|node| (&*node.name, node)).collect();
    let after: HashSet<&str> = new.iter().map(|node| &*node.name).collect();
    let mut lines = Vec::new();
    for node in old.iter().filter(|node| !after.contains(&*node.name)) {
        lines.push(format!("nodes: {} removed", shown(node)));
    }
    for node in new {
        let name = shown(node);
        let Some(was) = before.get(&*node.name) else {
            lines.push(format!("nodes: {name} added{}", if node.disabled { ", disabled" } else { "" }));
            continue;
        };
        if was.disabled != node.disabled {
            lines.push(format!("nodes: {name} {}", if node.disabled { "disabled" } else { "enabled" }));
        }
        if was.adminport != node.adminport {
            let port = |port: Option<u16>| port.map_or_else(|| "none".to_owned(), |port| port.to_string());
            lines.push(format!(
                "nodes: {name} adminport: {} -> {}",
                port(was.adminport),
                port(node.adminport)
            ));
        }
        if was.weight != node.weight {
            lines.push(format!("nodes: {name} weight: {} -> {}", was.weight, node.weight));
        }
        if was.gso != node.gso {
            lines.push(format!("nodes: {name} gso: {} -> {}", was.gso.name(), node.gso.name()));
        }
    }
    let kept_before = old.iter().filter(|node| after.contains(&*node.name)).map(|node| &node.name);
    let kept_after = new.iter().filter(|node| before.contains_key(&*node.name)).map(|node| &node.name);
    if !kept_before.eq(kept_after) {
        lines.push("nodes: order changed, which is part of the placement".to_owned());
    }
    lines
}

/// The share of names whose backend differs when every enabled backend is up: what the file moves, apart from what
/// health moves anyway.
fn names_moved(old: &Config, new: &Config) -> f64 {
    let (before, after) = (Assignment::new(old, |_| false), Assignment::new(new, |_| false));
    let moved = (0..SAMPLE_NAMES).filter(|number| {
        let name = sample_name(*number);
        let owner = |config: &'_ Config, assignment: &Assignment| {
            assignment.index(name.as_bytes()).map(|index| config.nodes[index].name.clone())
        };
        owner(old, &before) != owner(new, &after)
    });
    moved.count() as f64 / SAMPLE_NAMES as f64
}

#[cfg(test)]
pub(in crate::control) mod tests {
    use super::*;

    /// A config with these backends (`host:port`) and otherwise the defaults.
    pub fn config(nodes: &[&str]) -> Config {
        with(nodes, |_| ())
    }

    fn with(nodes: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Config {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|node| node.rsplit_once(':').unwrap())
            .map(|(host, port)| serde_json::json!({"host": host, "port": port.parse::<u16>().unwrap()}))
            .collect();
        let mut json = serde_json::json!({ "nodes": nodes });
        change(&mut json);
        crate::config::parse(&json.to_string()).unwrap().config
    }

    const ROOM: usize = 100;

    #[test]
    fn the_same_file_changes_nothing() {
        let changes = compare(&config(&["a:1", "b:1"]), &config(&["a:1", "b:1"]), ROOM).unwrap();
        assert_eq!(changes.to_string(), "reloaded: nothing changed");
        assert_eq!(changes.names_moved, 0.0);
    }

    #[test]
    fn fixed_keys_are_refused_by_name() {
        let new = with(&["a:1"], |json| {
            json["port"] = 9999.into();
            json["cacheSize"] = 5.into();
            json["checkFall"] = 5.into();
        });
        let refusal = compare(&config(&["a:1"]), &new, ROOM).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "refused: a restart is needed to change port, cacheSize; nothing was changed"
        );
    }

    #[test]
    fn more_backends_than_there_is_room_for_are_refused() {
        let (old, new) = (config(&["a:1", "b:1"]), config(&["b:1", "c:1", "d:1"]));
        assert!(compare(&old, &new, 4).is_ok());
        assert_eq!(compare(&old, &new, 3), Err(Refusal::TooManyBackends { backends: 4, room: 3 }));
    }

    #[test]
    fn changes_are_described_as_text() {
        let new = with(&["c:1", "a:1", "d:1"], |json| {
            json["flushInterval"] = 20.into();
            json["nodes"][1]["disabled"] = true.into();
            json["nodes"][0]["adminport"] = 8126.into();
            json["nodes"][0]["gso"] = "off".into();
        });
        let changes = compare(&config(&["a:1", "b:1", "c:1"]), &new, ROOM).unwrap();
        assert_eq!(
            changes.lines,
            [
                "nodes: b:1 removed",
                "nodes: c:1 adminport: none -> 8126",
                "nodes: c:1 gso: auto -> off",
                "nodes: a:1 disabled",
                "nodes: d:1 added",
                "nodes: order changed, which is part of the placement",
                "flushInterval: 5 -> 20",
            ]
        );
        assert!(changes.names_moved > 0.5, "{changes}");
    }

    #[test]
    fn a_backend_at_the_end_takes_its_share_and_moves_no_other_name() {
        let changes =
            compare(&config(&["a:1", "b:1", "c:1"]), &config(&["a:1", "b:1", "c:1", "d:1"]), ROOM).unwrap();
        assert!((0.22..0.28).contains(&changes.names_moved), "{changes}");
    }

    #[test]
    fn disabling_moves_that_backends_names_only() {
        let new = with(&["a:1", "b:1", "c:1"], |json| json["nodes"][1]["disabled"] = true.into());
        let changes = compare(&config(&["a:1", "b:1", "c:1"]), &new, ROOM).unwrap();
        assert!((0.30..0.37).contains(&changes.names_moved), "{changes}");
        assert!(changes.to_string().starts_with("reloaded: 33."), "{changes}");
    }
}
