//! The desired state of the data plane, as one value: the backends, the live set, and the rules.
//!
//! In: built by `control/` from the config and from health. Out: read by each worker once per batch.
//! Next: `relay/mod.rs`, which routes by it.

use crate::placement::{Hashing, JumpTable, LiveSet, Placement};
use crate::stats::NodeCounters;
use crate::wire::KeyRule;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything a worker needs to route, replaced as a whole.
pub struct RouteTable {
    /// Incremented with each table that control publishes.
    pub generation: u64,
    /// The backends, in the config's order, which is part of the placement.
    pub nodes: Arc<[RouteNode]>,
    /// Which of them may receive metrics now.
    pub live: LiveSet,
    /// Of the others, those whose names are served elsewhere regardless of `on_node_down`: disabled, or drained
    /// by the operator.
    pub diverted: LiveSet,
    /// How a name finds its backend, made for those who live.
    pub placement: Placement,
    /// The reloadable rules.
    pub rules: Rules,
    /// Whether the workers run or end.
    pub phase: Phase,
    /// Observers of every metric with its backend: `tap` and `-d`.
    pub observer: Option<Arc<dyn Observer>>,
}

impl RouteTable {
    /// A quicker way to the same decisions, where all of few backends live.
    pub(super) fn jump_table(&self) -> Option<JumpTable> {
        let is_usual = self.placement == Placement::Jump && self.live.is_full();
        is_usual.then(|| JumpTable::new(self.nodes.len())).flatten()
    }

    /// The key by which `line` is placed, whose key by statsring's own rule is `own`: the placements of other proxies come
    /// with their rules. `None` if the line is malformed.
    #[inline]
    pub fn key<'l>(&self, line: &'l [u8], own: Option<&'l [u8]>) -> Option<&'l [u8]> {
        if matches!(self.placement, Placement::Jump) || !KeyRule::may_differ(line, own) {
            return own;
        }
        self.key_by_rule(line, own)
    }

    #[cold]
    fn key_by_rule<'l>(&self, line: &'l [u8], own: Option<&'l [u8]>) -> Option<&'l [u8]> {
        let rule = match self.placement.hashing() {
            Hashing::Jump => KeyRule::Statsring,
            Hashing::Hashring3 | Hashing::Hashring1 => KeyRule::ProxyJs,
            Hashing::Ketama => KeyRule::Hit9,
            Hashing::Murmur3 => KeyRule::Uber,
            Hashing::JumpFnv1a => KeyRule::Jjneely,
        };
        rule.key(line, own)
    }

    /// The backend that gets what has this key; `None` if it is dropped.
    pub fn backend(&self, key: &[u8]) -> Option<&RouteNode> {
        let home = self.placement.home(key, self.nodes.len())?;
        let index = match self.on_node_down(home) {
            OnNodeDown::Divert => self.placement.owner(key, &self.live),
            OnNodeDown::Drop => Some(home).filter(|home| self.live.contains(*home)),
        };
        self.nodes.get(index?)
    }

    /// What happens to the names of backend `home` while it is not live.
    pub fn on_node_down(&self, home: usize) -> OnNodeDown {
        if self.diverted.contains(home) { OnNodeDown::Divert } else { self.rules.on_node_down }
    }
}

/// One backend as the data plane sees it.
#[derive(Clone, Debug)]
pub struct RouteNode {
    /// Its identity: the config's text `host:port`.
    pub name: Arc<str>,
    /// Where it is; `None` while its name does not resolve (it is then not in the live set).
    pub address: Option<SocketAddr>,
    /// Whether a refusal may switch it to another address soon: refused packets wait for that.
    pub may_move: bool,
    /// The address of this host that the kernel would choose now for packets to it, if that is known. A socket that was made
    /// when another one was chosen is replaced.
    pub source: Option<IpAddr>,
    /// How several packets for it may be batched (UDP_SEGMENT).
    pub gso: GsoMode,
    /// Its figures, kept across reloads.
    pub counters: Arc<NodeCounters>,
}

/// How several packets for one backend go to the kernel in one send (UDP_SEGMENT), which needs all but the last to have one
/// length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GsoMode {
    /// Each packet is sent separately.
    #[default]
    Off,
    /// Without padding, for servers that count or log empty lines: a packet is filled up to the length of the one before it
    /// at most, so that two always go together, and more if their lengths happen to be equal.
    Unpadded,
    /// All but the last are lengthened with newlines.
    Padded,
}

impl GsoMode {
    /// As shown by `gso` and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            GsoMode::Off => "off",
            GsoMode::Unpadded => "unpadded",
            GsoMode::Padded => "padded",
        }
    }
}

/// Rules that a reload may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The longest time between a metric's arrival and its sending, in µs; 0 sends with each batch.
    pub flush_us: u64,
    /// Largest packet that metrics are packed into.
    pub packet_bytes_max: usize,
    /// Whether the path MTU may reduce that; it is followed while it changes.
    pub packet_auto: bool,
    /// Bytes that may be queued for one backend, per worker.
    pub queue_bytes_max: usize,
    /// Time after which the socket to a backend is replaced, and so its source port, in µs; 0 = never.
    pub reopen_us: u64,
    /// What to do with a line that has no key or no `|`.
    pub malformed: Malformed,
    /// What to do with the names of a dead backend.
    pub on_node_down: OnNodeDown,
}

/// What to do with a malformed line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Count and drop it.
    Drop,
    /// Send it to the backend that its whole text hashes to.
    Forward,
}

/// What to do with the names of a dead backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNodeDown {
    /// Other backends serve them until it returns.
    Divert,
    /// They are dropped, and counted.
    Drop,
}

impl OnNodeDown {
    /// Its value in the config.
    pub const fn name(self) -> &'static str {
        match self {
            OnNodeDown::Divert => "divert",
            OnNodeDown::Drop => "drop",
        }
    }
}

/// The phase of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Receive and relay.
    Run,
    /// Fence the sockets, relay what is queued, flush, end. After `timeout_us` the rest is counted and dropped.
    Drain {
        /// From the moment a worker sees it.
        timeout_us: u64,
    },
    /// End as by [`Phase::Drain`], but leave some sockets open for the process that inherits them.
    Leave {
        /// From the moment a worker sees it.
        timeout_us: u64,
        /// Which.
        left: Left,
    },
}

/// Listening sockets that other processes keep receiving from: neither fenced nor drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Of the first so many workers.
    pub workers: usize,
    /// One bit for each of a worker's sockets, the lowest for its first; at most 64 of them.
    pub listeners: u64,
}

impl Left {
    /// Every socket.
    pub const ALL: Left = Left { workers: usize::MAX, listeners: u64::MAX };
    /// None.
    pub const NONE: Left = Left { workers: 0, listeners: 0 };

    /// Whether this worker's socket is one of them.
    pub fn has(self, worker: usize, listener: usize) -> bool {
        worker < self.workers
            && u32::try_from(listener).is_ok_and(|bit| self.listeners.checked_shr(bit).unwrap_or(0) & 1 == 1)
    }

    /// Whether it is none at all.
    pub fn is_none(self) -> bool {
        self.workers == 0 || self.listeners == 0
    }
}

/// Called for every routed metric, on the worker's thread: it must not block.
pub trait Observer: Send + Sync {
    /// `line` goes to `node`.
    fn routed(&self, line: &[u8], node: &RouteNode);
}
