//! `statsring plan`: the names that a new config moves, before anything is changed.
//!
//! In: two configs, and names from a file or made up. Out: how many names go from each backend to each, as tables or JSON.
//! For the operator's decision.

use super::names::{NamesError, read_names};
use crate::config::{self, Assignment, Config, sample_name};
use crate::console::{print, print_error, usage_error};
use crate::exit;
use crate::text::grouped;
use argh::FromArgs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// Names that are made up unless a file has some.
const SAMPLE_NAMES: usize = 100_000;
/// Stands for a name that no backend gets.
const NOBODY: &str = "-";

/// Compares two configs: how many names move from each backend to each, if all enabled backends are up.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(
    subcommand,
    name = "plan",
    help_triggers("-h", "--help"),
    note = "Nothing is changed, and no running proxy is queried. Names are used exactly\n  \
            as given: write foo, not foo:1|c.",
    note = "Without --names, 100,000 generated names are placed. Backends are identified\n  \
            by HOST:PORT; - means none."
)]
pub struct Options {
    /// the config in use
    #[argh(positional, arg_name = "OLD")]
    pub old: PathBuf,

    /// the new config
    #[argh(positional, arg_name = "NEW")]
    pub new: PathBuf,

    /// use the names of this file, one per line; - is standard input
    #[argh(option, arg_name = "FILE")]
    pub names: Option<PathBuf>,

    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// Prints the plan; the exit code.
pub fn run(options: &Options) -> u8 {
    // Both are read first, so that the errors of both are reported.
    let (old, new) = match (load(&options.old), load(&options.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let mut plan = Plan::new(&old, &new);
    match &options.names {
        None => (0..SAMPLE_NAMES).for_each(|number| plan.add(sample_name(number).as_bytes())),
        Some(path) => match read_file(path, |name| plan.add(name)) {
            Ok(()) if plan.names == 0 => return usage_error(&format!("no names in {}", path.display())),
            Ok(()) => {}
            Err(error) => return error.report(&path.display().to_string(), exit::NO_CONFIG),
        },
    }
    let source = if options.names.is_some() { "given" } else { "made-up" };
    print(&if options.json { format!("{:#}\n", plan.to_json(source)) } else { plan.to_text(source) })
}

/// The config of a file; otherwise reports the error and returns the exit code.
fn load(path: &Path) -> Result<Config, u8> {
    match config::load(path) {
        Ok(loaded) => {
            for notice in &loaded.notices {
                print_error(&format!("{}: {notice}", path.display()));
            }
            Ok(loaded.config)
        }
        Err(error) => {
            print_error(&error.to_string());
            Err(error.exit_code())
        }
    }
}

/// Names on their way from the backends of one config to those of another.
struct Plan<'c> {
    old: (&'c Config, Assignment),
    new: (&'c Config, Assignment),
    names: u64,
    /// By the backends before and after: how many names.
    ways: BTreeMap<(&'c str, &'c str), u64>,
    /// Every backend of both configs, in their order, those of the new one first; last, if need be, "none".
    backends: Vec<&'c str>,
}

impl<'c> Plan<'c> {
    fn new(old: &'c Config, new: &'c Config) -> Plan<'c> {
        let mut backends: Vec<&str> = new.nodes.iter().map(|node| &*node.name).collect();
        let known: HashSet<&str> = backends.iter().copied().collect();
        backends.extend(old.nodes.iter().map(|node| &*node.name).filter(|name| !known.contains(name)));
        Plan {
            old: (old, Assignment::new(old, |_| false)),
            new: (new, Assignment::new(new, |_| false)),
            names: 0,
            ways: BTreeMap::new(),
            backends,
        }
    }

    fn add(&mut self, name: &[u8]) {
        let backend = |(config, assignment): &(&'c Config, Assignment)| {
            assignment.index(name).map_or(NOBODY, |index| &*config.nodes[index].name)
        };
        self.names += 1;
        *self.ways.entry((backend(&self.old), backend(&self.new))).or_default() += 1;
    }

    fn moves(&self) -> impl Iterator<Item = (&'c str, &'c str, u64)> {
        self.ways.iter().filter(|((from, to), _)| from != to).map(|((from, to), names)| (*from, *to, *names))
    }

    fn moved(&self) -> u64 {
        self.moves().map(|(_, _, names)| names).sum()
    }

    fn share(&self, names: u64) -> f64 {
        names as f64 / self.names.max(1) as f64
    }

    /// Backend, names before, names after.
    fn backends(&self) -> Vec<(&'c str, u64, u64)> {
        let (mut before, mut after) = (HashMap::new(), HashMap::new());
        for ((from, to), names) in &self.ways {
            *before.entry(*from).or_insert(0) += names;
            *after.entry(*to).or_insert(0) += names;
        }
        let of = |sums: &HashMap<&str, u64>, name: &str| sums.get(name).copied().unwrap_or(0);
        let line = |name: &'c str| (name, of(&before, name), of(&after, name));
        let nobody = Some(line(NOBODY)).filter(|(_, before, after)| before + after > 0);
        self.backends.iter().map(|name| line(name)).chain(nobody).collect()
    }

    fn to_json(&self, source: &str) -> Value {
        let name = |name: &str| if name == NOBODY { Value::Null } else { json!(name) };
        json!({
            "names": self.names,
            "source": source,
            "moved": self.moved(),
            "moved_share": self.share(self.moved()),
            "backends": self.backends().into_iter().map(|(backend, before, after)| {
                json!({"backend": name(backend), "names_before": before, "names_after": after})
            }).collect::<Vec<_>>(),
            "moves": self.moves().map(|(from, to, names)| {
                json!({"from": name(from), "to": name(to), "names": names, "share": self.share(names)})
            }).collect::<Vec<_>>(),
        })
    }

    fn to_text(&self, source: &str) -> String {
        let percent = |names| format!("{:.1} %", 100.0 * self.share(names));
        let moved = self.moved();
        let mut text = format!(
            "{} of {} {source} names move: {}\n",
            grouped(moved),
            grouped(self.names),
            percent(moved)
        );
        let width =
            self.backends.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("backend".len());
        let _ = writeln!(text, "\n{:<width$}  {:>12}  {:>12}", "backend", "names before", "names after");
        for (backend, before, after) in self.backends() {
            let _ = writeln!(text, "{backend:<width$}  {:>12}  {:>12}", grouped(before), grouped(after));
        }
        if moved > 0 {
            let _ = writeln!(text, "\n{:<width$}  {:<width$}  {:>12}  {:>8}", "from", "to", "names", "share");
        }
        let mut moves: Vec<_> = self.moves().collect();
        moves.sort_by_key(|(_, _, names)| std::cmp::Reverse(*names));
        for (from, to, names) in moves {
            let _ =
                writeln!(text, "{from:<width$}  {to:<width$}  {:>12}  {:>8}", grouped(names), percent(names));
        }
        text
    }
}

/// Gives each name of a file to `take`; `-` is standard input.
fn read_file(path: &Path, mut take: impl FnMut(&[u8])) -> Result<(), NamesError> {
    let mut take = |name: &[u8], _: bool| {
        take(name);
        Ok(())
    };
    if path == Path::new("-") {
        return read_names(BufReader::new(io::stdin().lock()), &mut take);
    }
    read_names(BufReader::new(File::open(path).map_err(NamesError::Unreadable)?), &mut take)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(nodes: &[u16], rest: &str) -> Config {
        let nodes: Vec<String> =
            nodes.iter().map(|port| format!(r#"{{"host": "n.example", "port": {port}}}"#)).collect();
        config::parse(&format!(r#"{{"nodes": [{}]{rest}}}"#, nodes.join(","))).expect("a good config").config
    }

    fn plan<'c>(old: &'c Config, new: &'c Config) -> Plan<'c> {
        let mut plan = Plan::new(old, new);
        (0..10_000).for_each(|number| plan.add(sample_name(number).as_bytes()));
        plan
    }

    #[test]
    fn a_backend_at_the_end_takes_its_share_of_each() {
        let (old, new) = (config(&[1, 2, 3], ""), config(&[1, 2, 3, 4], ""));
        let plan = plan(&old, &new);
        assert!((0.23..0.27).contains(&plan.share(plan.moved())));
        assert_eq!(plan.moves().count(), 3);
        assert!(plan.moves().all(|(_, to, names)| to == "n.example:4" && names > 500));
        let backends = plan.backends();
        assert_eq!(backends.iter().map(|(name, ..)| *name).collect::<Vec<_>>().len(), 4);
        assert_eq!(backends.iter().map(|(_, before, _)| before).sum::<u64>(), 10_000);
        assert_eq!(backends.iter().map(|(.., after)| after).sum::<u64>(), 10_000);
        assert_eq!(backends[3].1, 0);
    }

    #[test]
    fn equivalent_configs_move_nothing() {
        let old = config(&[1, 2, 3], "");
        assert_eq!(plan(&old, &config(&[1, 2, 3], r#", "port": 999"#)).moved(), 0);
        let text = plan(&old, &old).to_text("made-up");
        assert!(text.starts_with("0 of 10,000 made-up names move: 0.0 %\n"), "{text}");
        assert!(!text.contains("from"), "{text}");
        // ketama with weight 1 is hashring-1.
        let (hashring, ketama) = (
            config(&[1, 2, 3], r#", "hashing": "hashring-1""#),
            config(&[1, 2, 3], r#", "hashing": "ketama""#),
        );
        assert_eq!(plan(&hashring, &ketama).moved(), 0);
        let moved = plan(&old, &ketama).moved();
        assert!((6_000..7_300).contains(&moved), "{moved}");
    }

    #[test]
    fn names_without_a_backend_are_counted() {
        let (old, mut new) = (config(&[1, 2], ""), config(&[1, 2], ""));
        for node in &mut new.nodes {
            node.disabled = true;
        }
        let plan = plan(&old, &new);
        let moves: Vec<_> = plan.moves().map(|(from, to, _)| (from, to)).collect();
        assert_eq!(moves, [("n.example:1", NOBODY), ("n.example:2", NOBODY)]);
        let json = plan.to_json("given");
        assert_eq!(json["moves"][0]["to"], Value::Null);
        assert_eq!(json["backends"][2]["backend"], Value::Null);
        assert_eq!(json["backends"][2]["names_after"], 10_000);
        assert_eq!(json["names"], 10_000);
    }
}
