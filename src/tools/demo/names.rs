//! The metrics that the built-in traffic consists of: names as a small shop's services have them.
//!
//! In: the placement. Out: ready lines for `traffic.rs`, and for `backends.rs` which names there are and where each of
//! them belongs. Next: both.

use crate::placement::Placement;
use crate::wire;
use std::collections::HashMap;

const SERVICES: [&str; 12] = [
    "web", "api", "search", "cart", "payments", "mail", "images", "login", "orders", "stock", "reviews",
    "admin",
];
const ENDPOINTS: [&str; 12] = [
    "index", "list", "item", "add", "remove", "update", "upload", "export", "health", "status", "query",
    "page",
];
const REGIONS: [&str; 6] = ["eu-west", "eu-north", "us-east", "us-west", "ap-south", "ap-east"];
/// Hosts that report their load.
const HOSTS: usize = 100;
/// Lines of each name, with different values.
const VARIANTS: usize = 4;

/// The names of the traffic.
pub struct Names {
    /// Ready lines, without newline.
    pub lines: Vec<String>,
    /// Each name's backend while all are up.
    homes: HashMap<Box<[u8]>, usize>,
    placement: Placement,
    nodes: usize,
}

/// What a backend sees in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether its name is one of the traffic's; else somebody else sent it.
    pub is_own: bool,
    /// The backend that owns its name.
    pub home: Option<usize>,
}

impl Names {
    /// All names, spread over so many backends.
    pub fn new(placement: Placement, nodes: usize) -> Names {
        let mut names = Names { lines: Vec::new(), homes: HashMap::new(), placement, nodes };
        for (index, service) in SERVICES.into_iter().enumerate() {
            for endpoint in ENDPOINTS {
                names.add(&format!("{service}.requests.{endpoint}"), |_| "1|c".to_owned());
                names.add(&format!("{service}.latency.{endpoint}"), |variant| {
                    let ms = 3 + (index * 7 + variant * 13) % 240;
                    // Busy services sample.
                    if index < 3 { format!("{ms}|ms|@0.5") } else { format!("{ms}|ms") }
                });
            }
        }
        for host in 1..=HOSTS {
            names.add(&format!("host.{host:02}.cpu"), |variant| {
                format!("{}|g", (host * 7 + variant * 11) % 100)
            });
            names.add(&format!("host.{host:02}.memory"), |variant| {
                format!("{}|g|#rack:{}", 4_096 + host * 31 + variant, host % 8)
            });
        }
        for region in REGIONS {
            names.add(&format!("users.active.{region}"), |variant| format!("u{}|s", 1_000 + variant * 37));
        }
        names
    }

    fn add(&mut self, name: &str, value: impl Fn(usize) -> String) {
        self.lines.extend((0..VARIANTS).map(|variant| format!("{name}:{}", value(variant))));
        if let Some(home) = self.placement.home(name.as_bytes(), self.nodes) {
            self.homes.insert(name.as_bytes().into(), home);
        }
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// Looks at a line that arrived at a backend.
    pub fn look(&self, line: &[u8]) -> Seen {
        let Some(key) = wire::routing_key(line) else { return Seen { is_own: false, home: None } };
        match self.homes.get(key) {
            Some(home) => Seen { is_own: true, home: Some(*home) },
            None => Seen { is_own: false, home: self.placement.home(key, self.nodes) },
        }
    }
}

/// The names as the demo has them.
#[cfg(test)]
pub(super) fn sample() -> Names {
    Names::new(Placement::Jump, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_metric_of_a_known_name_and_all_backends_have_a_fair_share() {
        let names = sample();
        assert_eq!(names.len(), 12 * 12 * 2 + 2 * HOSTS + REGIONS.len());
        assert_eq!(names.lines.len(), VARIANTS * names.len());
        let mut shares = [0usize; 3];
        for line in &names.lines {
            let seen = names.look(line.as_bytes());
            assert!(seen.is_own, "{line}");
            shares[seen.home.unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| (names.lines.len() / 4..).contains(share)), "{shares:?}");
    }

    #[test]
    fn other_names_have_a_home_too_and_a_line_without_a_name_has_none() {
        let names = sample();
        let seen = names.look(b"foo:1|c");
        assert!(!seen.is_own && seen.home.is_some());
        assert_eq!(names.look(b"junk"), Seen { is_own: false, home: None });
    }
}
