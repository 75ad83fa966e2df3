//! Where a config sends names, without a running proxy: for `where`, `plan`, and what a reload says that it moves.
//!
//! In: a [`Config`], and which of its backends are down. Out: the backend of a name. Next: `tools/`, `control/reload.rs`.

use super::{Config, Node};
use crate::placement::{LiveSet, Placement, Spec};
use crate::relay::OnNodeDown;

/// The backends of names under a config.
pub struct Assignment<'c> {
    config: &'c Config,
    placement: Placement,
    live: LiveSet,
}

impl<'c> Assignment<'c> {
    /// What `config` does while the backends for which `is_down` says so do not answer, and the disabled ones get nothing.
    ///
    /// Takes time where the placement is a ring with many points.
    pub fn new(config: &'c Config, is_down: impl Fn(&Node) -> bool) -> Assignment<'c> {
        let live = LiveSet::new(config.nodes.iter().map(|node| !node.disabled && !is_down(node)));
        Assignment { config, placement: config.placement().with_living(&live), live }
    }

    /// The index of the backend that gets `name`; `None` if nobody does.
    pub fn index(&self, name: &[u8]) -> Option<usize> {
        match self.config.on_node_down {
            OnNodeDown::Divert => self.placement.owner(name, &self.live),
            OnNodeDown::Drop => {
                let home = self.placement.home(name, self.config.nodes.len());
                home.filter(|home| self.live.contains(*home))
            }
        }
    }

    /// The backend that gets `name`; `None` if nobody does.
    pub fn node(&self, name: &[u8]) -> Option<&'c Node> {
        self.config.nodes.get(self.index(name)?)
    }
}

impl Config {
    /// What decides about the placement.
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

/// A made-up name as services use them; others for other numbers.
pub fn sample_name(number: usize) -> String {
    format!("service{}.host{}.requests.{number}", number % 7, number % 113)
}
