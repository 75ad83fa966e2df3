//! The limit on open files: raised to the config's maximum need, and budgeted if it is lower.
//!
//! In: the config, the process's limits, its open files. Out: the soft limit raised; how many admin connections, checks and
//! lookups there may be at once, so that none of them starves another; or the limit that the operator has to raise.
//! Next: `sockets.rs` asks, `state.rs` keeps the budget.

use crate::config::Config;
use crate::control::backends::resolve::{LOOKUPS_MAX, PER_LOOKUP, literal};
use crate::control::config_reads::READS_MAX;
use crate::control::service::spares::SPARES;
use crate::text::count;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::HashSet;

/// The runtime's epoll and eventfd, its ring, and the signal socket pair with its copy.
const RUNTIME: usize = 6;
/// Files of `/proc` that the admin port reads, and sockets for kernel queries, one at a time each.
const QUESTIONS: usize = 3;
/// A restart: the link to the other process and two copies of it, and what the start of a process takes.
const RESTART: usize = 5;
/// Of each worker: its eventfd, its ring, and a backend's new socket while there is still the old one.
const PER_WORKER: usize = 3;
/// Checks of one backend at once, if its name has several addresses.
const CHECKS_PER_BACKEND: usize = 4;
/// Backends that a reload can replace at once, whatever the limit.
const REPLACED_AT_ONCE: usize = 16;
/// For each so many admin connections one more may be open, to be told that there are too many, or on its way out.
const SERVED_PER_EXTRA: usize = 4;

/// Limits of operations that need descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Admin connections served.
    pub connections: usize,
    /// Connections to backends' admin ports.
    pub checks: usize,
    /// Look-ups of names.
    pub lookups: usize,
    /// Backends while a reload is under way, old and new together: each takes a descriptor of every worker.
    pub backends: usize,
}

impl Budget {
    /// The minimum for `config` to work.
    fn least(config: &Config) -> Budget {
        let nodes = config.nodes.len();
        Budget { connections: 8, checks: 4, lookups: 2, backends: nodes + nodes.min(REPLACED_AT_ONCE) }
    }

    /// Enough for everything that `config` can have in progress. A reload may bring more, which then takes turns if there is
    /// not [`Budget::most`].
    fn enough(config: &Config) -> Budget {
        let hosts = config.nodes.iter().map(|node| node.host.as_str());
        let names: HashSet<&str> = hosts.filter(|host| literal(host).is_none()).collect();
        let (least, most) = (Budget::least(config), Budget::most(config));
        Budget {
            checks: (CHECKS_PER_BACKEND * config.nodes.len()).clamp(4 * least.checks, most.checks),
            lookups: names.len().clamp(2 * least.lookups, most.lookups),
            ..most
        }
    }

    /// More than this is of no use.
    fn most(config: &Config) -> Budget {
        let backends = config.limits().sockets_max;
        Budget { connections: 64, checks: 256, lookups: LOOKUPS_MAX, backends }
    }

    /// Admin connections that may be open beside those served.
    pub fn extra_connections(&self) -> usize {
        self.connections / SERVED_PER_EXTRA
    }

    fn descriptors(&self, workers: usize) -> u64 {
        let connections = self.connections + self.extra_connections();
        (connections + self.checks + PER_LOOKUP * self.lookups + workers * self.backends) as u64
    }

    /// The interpolation towards `more` by the ratio of `given` to `whole`.
    fn towards(&self, more: Budget, given: u64, whole: u64) -> Budget {
        let (given, whole) = (given.min(whole) as usize, whole.max(1) as usize);
        let between = |from: usize, to: usize| from + (to - from) * given / whole;
        Budget {
            connections: between(self.connections, more.connections),
            checks: between(self.checks, more.checks),
            lookups: between(self.lookups, more.lookups),
            backends: between(self.backends, more.backends),
        }
    }
}

/// A config's need of descriptors, and the resulting budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    least: u64,
    enough: u64,
    most: u64,
    budgets: [Budget; 3],
}

impl Need {
    /// In addition to the descriptors `open` before the sockets are duplicated.
    fn of(config: &Config, open: u64) -> Need {
        let (workers, listeners) = (config.workers, config.listen.len());
        // Each is kept once more for a restart, and once more while one begins; a worker fences its own at the end.
        let copies = 2 * (workers * listeners + config.management.len());
        // Each accepts one connection beyond those that are open.
        let accepted = config.management.len();
        let reads = READS_MAX + PER_LOOKUP;
        let fixed = RUNTIME + QUESTIONS + RESTART + reads + SPARES + copies + accepted + workers * PER_WORKER;
        let budgets = [Budget::least(config), Budget::enough(config), Budget::most(config)];
        let [least, enough, most] = budgets.map(|budget| open + fixed as u64 + budget.descriptors(workers));
        // A worker's table of sockets may not have more places than the limit.
        let table = (config.limits().sockets_max + listeners + 1) as u64;
        Need { least: least.max(table), enough: enough.max(table), most: most.max(table), budgets }
    }

    /// The budget under a limit of at least `least`.
    fn budget(&self, limit: u64) -> Budget {
        let [least, enough, most] = self.budgets;
        match limit.checked_sub(self.enough) {
            Some(beyond) => enough.towards(most, beyond, self.most - self.enough),
            None => least.towards(enough, limit.saturating_sub(self.least), self.enough - self.least),
        }
    }
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The soft limit is enough, and this is what it is.
    Enough(u64),
    /// It is to become this, which is enough.
    Raise(u64),
    /// It is to become this, which is not enough for everything.
    RaiseAndTell(u64),
    /// Not even the minimum is available.
    Refuse,
}

fn judge(need: Need, soft: u64, hard: u64) -> Verdict {
    match need {
        _ if soft >= need.most => Verdict::Enough(soft),
        _ if hard >= need.enough => Verdict::Raise(hard.min(need.most)),
        _ if hard >= need.least => Verdict::RaiseAndTell(hard),
        _ => Verdict::Refuse,
    }
}

/// Raises this process's soft limit as far as `config` needs it and the hard limit allows, before the sockets of
/// `config` are made. An error if it cannot run at all.
pub fn raise_to_bind(config: &Config) -> Result<(), String> {
    let listening = config.workers * config.listen.len() + config.management.len();
    raise_for(config, open_now() + listening as u64).map(drop)
}

/// Raises it when all listening sockets exist; `is_restart` if there is also a link to an old process. Returns the
/// budget, and the degradation as text, if any; an error if it cannot run at all.
pub fn raise(config: &Config, is_restart: bool) -> Result<(Budget, Option<String>), String> {
    // That link is part of what a restart takes, or each process of a row of them would ask for more.
    raise_for(config, open_now() - u64::from(is_restart))
}

fn raise_for(config: &Config, open: u64) -> Result<(Budget, Option<String>), String> {
    let need = Need::of(config, open);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| format!("cannot read the limit on open files: {error}"))?;
    let message = format!(
        "open files: {} may be needed for {} and {}, at least {} to start, and the limit is {hard}: raise it (`LimitNOFILE=` \
         of the service, `--ulimit nofile=` of the container, `ulimit -Hn`), or lower `workers`",
        need.enough,
        count(config.nodes.len(), "backend"),
        count(config.workers, "worker"),
        need.least,
    );
    let to = match judge(need, soft, hard) {
        Verdict::Enough(soft) => return Ok((need.budget(soft), None)),
        Verdict::Raise(to) | Verdict::RaiseAndTell(to) => to,
        Verdict::Refuse => return Err(message),
    };
    setrlimit(Resource::RLIMIT_NOFILE, to, hard)
        .map_err(|error| format!("{message}; raising the soft limit of {soft} failed: {error}"))?;
    let budget = need.budget(to);
    let degraded = (to < need.enough).then(|| {
        format!(
            "{message}; until then there are at most {} admin connections, {} health checks and {} name lookups at once, and a \
             reload may list {} backends, old and new together",
            budget.connections, budget.checks, budget.lookups, budget.backends
        )
    });
    Ok((budget, degraded))
}

/// Open descriptors of this process; the standard streams if unknown.
fn open_now() -> u64 {
    // The folder itself is open while it is read.
    std::fs::read_dir("/proc/self/fd").map_or(3, |files| files.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;

    const OPEN: u64 = 10;

    fn config_of(nodes: usize, workers: usize) -> Config {
        let mut config = config(&["192.0.2.1:1"]);
        config.workers = workers;
        config.nodes = vec![config.nodes[0].clone(); nodes];
        config
    }

    #[test]
    fn a_few_backends_fit_the_usual_limit_and_a_thousand_do_not() {
        let few = Need::of(&config_of(3, 4), OPEN);
        assert!(few.least < 128 && few.enough < 1_024, "{few:?}");
        let many = Need::of(&config_of(1_000, 4), OPEN);
        assert!((4_000..5_000).contains(&many.least) && many.enough > 8_000, "{many:?}");
        assert_eq!(Need::of(&config_of(1_000, 4), OPEN + 7).least, many.least + 7);
    }

    #[test]
    fn the_soft_limit_is_raised_as_needed_and_as_allowed() {
        let need = Need { least: 2_100, enough: 5_000, most: 6_000, ..Need::of(&config_of(3, 1), OPEN) };
        assert_eq!(judge(need, 9_000, 9_000), Verdict::Enough(9_000));
        assert_eq!(judge(need, 1_024, 524_288), Verdict::Raise(6_000));
        assert_eq!(judge(need, 5_000, 5_100), Verdict::Raise(5_100));
        assert_eq!(judge(need, 1_024, 4_096), Verdict::RaiseAndTell(4_096));
        assert_eq!(judge(need, 4_096, 4_096), Verdict::RaiseAndTell(4_096));
        assert_eq!(judge(need, 1_024, 1_024), Verdict::Refuse);
    }

    #[test]
    fn what_there_may_be_at_once_never_exceeds_the_limit() {
        for (nodes, workers) in [(1, 1), (3, 2), (200, 4), (2_000, 1)] {
            let need = Need::of(&config_of(nodes, workers), OPEN);
            let fixed = need.enough - need.budgets[1].descriptors(workers);
            assert_eq!(need.budget(need.enough), need.budgets[1]);
            assert_eq!(need.budget(u64::MAX), need.budgets[2]);
            for limit in (need.least..need.most + 100).step_by(7) {
                let budget = need.budget(limit);
                let taken = fixed + budget.descriptors(workers);
                assert!(taken <= limit && budget.backends > nodes, "{taken} of {limit}: {budget:?}");
            }
        }
    }
}
