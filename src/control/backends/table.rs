//! The desired state as the workers see it: building a [`RouteTable`], and handing it over.
//!
//! In: the config, and what is known of each backend. Out: a table in the workers' `ArcSwap`, and a wake for each.
//! Next: `worker/`, which reads it once per batch.

use crate::admin::AdminState;
use crate::config::Config;
use crate::driver::Waker;
use crate::placement::{Fingerprint, LiveSet, Part, Placement};
use crate::relay::{GsoMode, Observer, OnNodeDown, Phase, RouteNode, RouteTable};
use crate::stats::NodeCounters;
use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is known of one backend, in the config's order.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its identity.
    pub name: Arc<str>,
    /// Where it is, if its name resolves.
    pub address: Option<SocketAddr>,
    /// Whether a refusal may move it to another address.
    pub may_move: bool,
    /// The address of this host that the kernel would choose now for packets to it, if that is known.
    pub source: Option<IpAddr>,
    /// Its figures.
    pub counters: Arc<NodeCounters>,
    /// How several packets may go to it in one send.
    pub gso: GsoMode,
    /// Whether the config keeps metrics from it.
    pub disabled: bool,
    /// Whether its health checks find it up.
    pub up: bool,
    /// Its administrative state.
    pub admin_state: AdminState,
}

impl Standing {
    /// Whether it may get metrics now.
    pub fn is_live(&self) -> bool {
        self.up && !self.disabled && self.address.is_some() && self.admin_state == AdminState::Up
    }

    /// Whether its names are served by others by configuration or command, not because it fails.
    pub fn is_diverted(&self) -> bool {
        self.disabled || self.admin_state == AdminState::Drain
    }

    fn is_node(&self, node: &RouteNode) -> bool {
        self.name == node.name
            && self.address == node.address
            && self.may_move == node.may_move
            && self.source == node.source
            && self.gso == node.gso
            && Arc::ptr_eq(&self.counters, &node.counters)
    }

    fn into_node(self) -> RouteNode {
        let Standing { name, address, may_move, source, gso, counters, .. } = self;
        RouteNode { name, address, may_move, source, gso, counters }
    }
}

/// The table for `config` and `standings`, in the config's order.
///
/// `previous` is the last table. Its nodes are kept if they are the same, so that a worker sees at a glance that only the
/// living set has changed, and has nothing to hand over. Its placement is carried on unless the config's is another:
/// those of proxy.js depend on the order in which backends came back.
pub fn build(
    generation: u64,
    config: &Config,
    standings: impl IntoIterator<Item = Standing>,
    previous: Option<&RouteTable>,
    phase: Phase,
    observer: Option<Arc<dyn Observer>>,
) -> RouteTable {
    let standings: Vec<Standing> = standings.into_iter().collect();
    let live = LiveSet::new(standings.iter().map(Standing::is_live));
    let diverted = LiveSet::new(standings.iter().map(Standing::is_diverted));
    let spec = config.spec();
    let placement = match previous.map(|table| &table.placement).filter(|placement| placement.is_of(&spec)) {
        Some(placement) => placement.with_living(&live),
        None => Placement::new(spec).with_living(&live),
    };
    let kept = previous.map(|table| &table.nodes).filter(|nodes| {
        nodes.len() == standings.len() && nodes.iter().zip(&standings).all(|(node, now)| now.is_node(node))
    });
    let nodes = kept.cloned().unwrap_or_else(|| standings.into_iter().map(Standing::into_node).collect());
    RouteTable { generation, nodes, live, diverted, placement, rules: config.rules(), phase, observer }
}

/// The numbers by which this table can be compared with those of other proxies.
pub fn fingerprint(table: &RouteTable) -> Fingerprint {
    let part = |index: usize| match () {
        _ if table.live.contains(index) => Part::Serves,
        _ if table.diverted.contains(index) && table.rules.on_node_down == OnNodeDown::Drop => Part::Diverted,
        _ => Part::Dead,
    };
    let rules = [&*table.placement.description(), table.rules.on_node_down.name()];
    Fingerprint::new(rules, table.nodes.iter().enumerate().map(|(index, node)| (&*node.name, part(index))))
}

/// The way to the workers.
#[derive(Clone)]
pub struct Publisher {
    /// What the workers read.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// What wakes them.
    pub wakers: Vec<Arc<Waker>>,
}

impl Publisher {
    /// Replaces the table. The store comes first: a wake is only a hint to look.
    pub fn publish(&self, table: RouteTable) {
        self.routes.store(Arc::new(table));
        self.wake();
    }

    /// Wakes every worker.
    pub fn wake(&self) {
        for waker in &self.wakers {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;
    use crate::placement::Hashing;

    fn standing(name: &str, address: Option<&str>, disabled: bool, up: bool) -> Standing {
        Standing {
            name: name.into(),
            address: address.map(|address| address.parse().unwrap()),
            may_move: false,
            source: None,
            counters: Arc::default(),
            gso: GsoMode::Padded,
            disabled,
            up,
            admin_state: AdminState::Up,
        }
    }

    #[test]
    fn only_up_enabled_and_resolved_backends_live() {
        let standings = [
            standing("a:1", Some("127.0.0.1:1"), false, true),
            standing("b:1", None, false, true),
            standing("c:1", Some("127.0.0.1:3"), true, true),
            standing("d:1", Some("127.0.0.1:4"), false, false),
            standing("e:1", Some("127.0.0.1:5"), false, true),
        ];
        let table =
            build(7, &config(&["a:1", "b:1", "c:1", "d:1", "e:1"]), standings, None, Phase::Run, None);
        assert_eq!(table.generation, 7);
        assert_eq!(table.live.iter().collect::<Vec<_>>(), [0, 4]);
        assert_eq!(
            table.nodes.iter().map(|node| &*node.name).collect::<Vec<_>>(),
            ["a:1", "b:1", "c:1", "d:1", "e:1"]
        );
    }

    #[test]
    fn a_drained_backend_is_not_live_and_changes_the_fingerprint() {
        let mut config = config(&["a:1", "b:1"]);
        let of = |config: &Config, disabled: bool, admin_state: AdminState, up: bool| {
            let b = Standing { admin_state, ..standing("b:1", Some("127.0.0.1:2"), disabled, up) };
            build(1, config, [standing("a:1", Some("127.0.0.1:1"), false, true), b], None, Phase::Run, None)
        };
        let (all, dead) =
            (of(&config, false, AdminState::Up, true), of(&config, false, AdminState::Up, false));
        let drained = of(&config, false, AdminState::Drain, true);
        let forced = of(&config, false, AdminState::Down, true);
        let lives_of = |table: &RouteTable| (table.live.contains(1), table.diverted.contains(1));
        assert_eq!([&all, &dead, &forced].map(lives_of), [(true, false), (false, false), (false, false)]);
        assert_eq!([&drained, &of(&config, true, AdminState::Up, true)].map(lives_of), [(false, true); 2]);
        assert_eq!(fingerprint(&all).config, fingerprint(&drained).config);
        assert_ne!(fingerprint(&all).now, fingerprint(&drained).now);
        // Its names go to the others in each of these cases: the proxies agree.
        assert_eq!(fingerprint(&dead), fingerprint(&drained));
        assert_eq!(fingerprint(&dead), fingerprint(&forced));
        config.on_node_down = OnNodeDown::Drop;
        let [dead, drained] = [(AdminState::Up, false), (AdminState::Drain, true)]
            .map(|(admin_state, up)| of(&config, false, admin_state, up));
        assert_ne!(fingerprint(&dead).now, fingerprint(&drained).now);
    }

    #[test]
    fn the_nodes_are_the_same_object_as_long_as_nothing_about_them_changes() {
        let config = config(&["a:1", "b:1"]);
        let mut standings =
            [standing("a:1", Some("127.0.0.1:1"), false, true), standing("b:1", None, false, true)];
        let first = build(1, &config, standings.clone(), None, Phase::Run, None);
        standings[0].up = false;
        let health = build(2, &config, standings.clone(), Some(&first), Phase::Run, None);
        assert!(Arc::ptr_eq(&first.nodes, &health.nodes));
        assert_ne!(first.live, health.live);
        standings[1].address = Some("127.0.0.1:2".parse().unwrap());
        let moved = build(3, &config, standings.clone(), Some(&first), Phase::Run, None);
        assert!(!Arc::ptr_eq(&first.nodes, &moved.nodes));
        let fewer = build(4, &config, standings[..1].to_vec(), Some(&moved), Phase::Run, None);
        assert_eq!(fewer.nodes.len(), 1);
    }

    #[test]
    fn a_backend_that_returns_is_last_until_the_list_changes() {
        // Both have a point of the same value, and the hash of the name lies just before it.
        let names = ["127.0.0.32:28125", "127.0.3.15:28125", "127.0.0.1:28125"];
        let mut config = config(&names);
        config.hashing = Hashing::Hashring3;
        let mut standings = names.map(|name| standing(name, Some(name), false, true));
        let mut table = build(0, &config, [], None, Phase::Run, None);
        let mut owners = Vec::new();
        for up in [[true, true], [false, true], [true, true], [true, true]] {
            (standings[0].up, standings[1].up) = (up[0], up[1]);
            table = build(table.generation + 1, &config, standings.clone(), Some(&table), Phase::Run, None);
            owners.push(table.backend(b"tie.207").map(|node| node.name.to_string()));
        }
        assert_eq!(owners, [0, 1, 1, 1].map(|index| Some(names[index].to_owned())));
        // With another list it is as if it were started with it.
        config.nodes.pop();
        config.shards.pop();
        let fewer = build(9, &config, standings[..2].to_vec(), Some(&table), Phase::Run, None);
        assert_eq!(fewer.backend(b"tie.207").map(|node| &*node.name), Some(names[0]));
        config.hashing = Hashing::Jump;
        let other = build(10, &config, standings[..2].to_vec(), Some(&fewer), Phase::Run, None);
        assert_eq!(other.placement, Placement::Jump);
    }

    #[test]
    fn publishing_replaces_the_table_and_wakes_every_worker() {
        let empty = build(0, &config(&["a:1"]), [], None, Phase::Run, None);
        let publisher = Publisher {
            routes: Arc::new(ArcSwap::from_pointee(empty)),
            wakers: (0..3).map(|_| Arc::new(Waker::new().unwrap())).collect(),
        };
        let counters = Arc::new(NodeCounters::default());
        let one = Standing { counters: counters.clone(), ..standing("a:1", None, false, true) };
        publisher.publish(build(1, &config(&["a:1"]), [one], None, Phase::Drain { timeout_us: 5 }, None));
        let table = publisher.routes.load();
        assert_eq!((table.generation, table.phase), (1, Phase::Drain { timeout_us: 5 }));
        assert!(Arc::ptr_eq(&table.nodes[0].counters, &counters));
        for waker in &publisher.wakers {
            assert_eq!(waker.take().unwrap(), 1);
        }
    }
}
