//! Where a config places names, without a running proxy: for `where`, `plan`, and the share of names that a reload moves.
//!
//! In: a [`Config`], and which of its backends are down. Out: the backend of a name. Next: `tools/`, `control/reload.rs`.

use super::{Config, Node};
use crate::placement::{LiveSet, Placement, Spec};
use crate::relay::OnNodeDown;

/// The backends of names under a config.
#[derive(Debug)]
pub struct Assignment {
    placement: Placement,
    live: LiveSet,
    /// Backends whose names are served by others regardless of `onNodeDown`.
    disabled: LiveSet,
    on_node_down: OnNodeDown,
}

impl Assignment {
    /// The assignment of `config` while the backends for which `is_down` is true are down, and the disabled ones get nothing.
    ///
    /// Takes time where the placement is a ring with many points.
    pub fn new(config: &Config, is_down: impl Fn(&Node) -> bool) -> Assignment {
        let live = LiveSet::new(config.nodes.iter().map(|node| !node.disabled && !is_down(node)));
        Assignment {
            placement: config.placement().with_living(&live),
            live,
            disabled: LiveSet::new(config.nodes.iter().map(|node| node.disabled)),
            on_node_down: config.on_node_down,
        }
    }

    /// The index in the config of the backend that gets `name`; `None` if there is none.
    pub fn index(&self, name: &[u8]) -> Option<usize> {
        let home = self.placement.home(name, self.live.len())?;
        if self.on_node_down == OnNodeDown::Divert || self.disabled.contains(home) {
            return self.placement.owner(name, &self.live);
        }
        Some(home).filter(|home| self.live.contains(*home))
    }
}

impl Config {
    /// The inputs of the placement.
    pub fn spec(&self) -> Spec {
        Spec {
            hashing: self.hashing,
            nodes: self.nodes.iter().map(|node| (node.name.clone(), node.weight)).collect(),
            shards: self.shards.clone(),
        }
    }

    /// The placement when all backends live. Takes time where it is a ring with many points.
    pub fn placement(&self) -> Placement {
        Placement::new(self.spec())
    }
}

/// A generated name as services use them; different for each number.
pub fn sample_name(number: usize) -> String {
    format!("service{}.host{}.requests.{number}", number % 7, number % 113)
}
