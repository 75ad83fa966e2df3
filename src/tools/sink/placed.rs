//! Where a metric may arrive, if the proxy's config changes or a backend fails while the load runs: without this, the sink
//! that a name was seen at first counts as its place.
//!
//! In: the configs that may be in force, the backends that may be down, a name, a sink. Out: whether one of these
//! placements gives the name to that sink. Next: `sequenced.rs`, which counts what no placement explains as misplaced.

use crate::config::{self, Assignment, Config};
use crate::lookup;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Sinks that can be distinguished here: bits of a word.
const SINKS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Placed {
    placements: Vec<Placement>,
    /// For each name the sinks that it may arrive at, one bit each; 0 until it is seen.
    allowed: Vec<u64>,
    /// Names that were seen where they may not be.
    is_astray: Vec<bool>,
    misplaced: u64,
    names_misplaced: u64,
}

/// One config with the backends that live, and the sink of each backend.
#[derive(Debug)]
struct Placement {
    assignment: Assignment,
    sinks: Vec<Option<usize>>,
}

impl Placed {
    /// The placements of each config: with all its backends up, and with each of `down` down alone. For `names` names and
    /// the sinks at these addresses.
    ///
    /// # Errors
    /// A file is not a config; a backend is in none of them; there are more than 64 sinks.
    pub fn new(
        files: &[PathBuf],
        down: &[String],
        sinks: &[SocketAddr],
        names: usize,
    ) -> Result<Placed, String> {
        if sinks.len() > SINKS_MAX {
            return Err(format!("--placed-by: {} sinks are too many; at most {SINKS_MAX}", sinks.len()));
        }
        let mut placements = Vec::new();
        let mut unknown: Vec<&String> = down.iter().collect();
        for file in files {
            let loaded = config::load(file).map_err(|error| format!("--placed-by: {error}"))?;
            let config = loaded.config;
            placements.push(Placement::new(&config, None, sinks));
            for name in down {
                if config.nodes.iter().any(|node| *node.name == **name) {
                    placements.push(Placement::new(&config, Some(name), sinks));
                    unknown.retain(|other| *other != name);
                }
            }
        }
        if let Some(name) = unknown.first() {
            return Err(format!("--down {name:?} is not a backend of any --placed-by config"));
        }
        let (allowed, is_astray) = (vec![0; names], vec![false; names]);
        Ok(Placed { placements, allowed, is_astray, misplaced: 0, names_misplaced: 0 })
    }

    /// Takes an arrival into account: the name of this index, which is below the number of names, at this sink.
    #[inline]
    pub fn note(&mut self, index: usize, name: &[u8], sink: u16) {
        let Some(allowed) = self.allowed.get_mut(index) else { return };
        if *allowed == 0 {
            *allowed = self
                .placements
                .iter()
                .filter_map(|placement| placement.sink(name))
                .fold(0, |bits, sink| bits | 1 << sink);
        }
        if *allowed >> sink & 1 == 0 {
            self.misplaced += 1;
            self.names_misplaced += u64::from(!std::mem::replace(&mut self.is_astray[index], true));
        }
    }

    /// Metrics, and names, that were seen where no placement puts them.
    pub fn misplaced(&self) -> (u64, u64) {
        (self.misplaced, self.names_misplaced)
    }
}

impl Placement {
    fn new(config: &Config, down: Option<&str>, sinks: &[SocketAddr]) -> Placement {
        let sink_of = |node: &config::Node| {
            let found = lookup::addresses(&node.host, node.port).ok()?;
            found.into_iter().find_map(|address| sinks.iter().position(|sink| *sink == address))
        };
        Placement {
            assignment: Assignment::new(config, |node| down == Some(&*node.name)),
            sinks: config.nodes.iter().map(sink_of).collect(),
        }
    }

    fn sink(&self, name: &[u8]) -> Option<usize> {
        let node = self.assignment.index(name)?;
        self.sinks.get(node).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config file of this test with these ports of 127.0.0.1, gone in the end.
    struct File(PathBuf);

    impl File {
        fn new(ports: &[u16]) -> File {
            let nodes: Vec<_> =
                ports.iter().map(|port| serde_json::json!({"host": "127.0.0.1", "port": port})).collect();
            let name = format!("statsring-placed-{}-{}.json", std::process::id(), ports.len());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, serde_json::json!({"nodes": nodes}).to_string()).unwrap();
            File(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_a_placement_explains_is_not_misplaced() {
        let sinks: Vec<SocketAddr> = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let (three, four) = (File::new(&[1, 2, 3]), File::new(&[1, 2, 3, 4]));
        let files = [three.0.clone(), four.0.clone()];
        // foo's home is 2 of three (PLACEMENT: golden vectors), and 1 if that is down.
        let astray = |files: &[PathBuf], down: &[&str], sink: u16| {
            let down: Vec<String> = down.iter().map(|name| (*name).to_owned()).collect();
            let mut placed = Placed::new(files, &down, &sinks, 1).unwrap();
            placed.note(0, b"foo", sink);
            placed.note(0, b"foo", sink);
            placed.misplaced()
        };
        let of_three = |sink| astray(&files[..1], &[], sink);
        assert_eq!([0, 1, 2, 3].map(of_three), [(2, 1), (2, 1), (0, 0), (2, 1)]);
        assert_eq!(astray(&files[..1], &["127.0.0.1:3"], 1), (0, 0));
        assert_eq!(astray(&files[..1], &["127.0.0.1:3"], 0), (2, 1));
        // With a fourth at the end a name stays or goes there.
        let of_both: Vec<bool> = (0..4).map(|sink| astray(&files, &[], sink).0 == 0).collect();
        assert!(of_both[2] && !of_both[0] && !of_both[1], "{of_both:?}");
        let error = Placed::new(&files, &["127.0.0.1:9".to_owned()], &sinks, 1).unwrap_err();
        assert!(error.contains("127.0.0.1:9"), "{error}");
        assert!(Placed::new(&["/nowhere/x".into()], &[], &sinks, 1).is_err());
    }
}
