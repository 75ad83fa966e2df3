//! The limit on open files, raised to what the config can need: a socket for each backend and worker is soon more than the
//! usual 1,024.
//!
//! In: the config, the process's limits. Out: the soft limit raised, or what the operator has to raise. Next: `process.rs`.

use super::operator::CONNECTIONS_MAX;
use super::process::count;
use super::resolve::{LOOKUPS_MAX, literal};
use super::state::PROBES_MAX;
use crate::config::Config;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::HashSet;

/// The rings, their eventfds, standard streams, the config while it is read.
const OTHERS: u64 = 64;
/// A look-up of a name: the files of `/etc`, a socket to each name server for each family, the runtime of a static build's.
const PER_LOOKUP: u64 = 8;

/// What a config needs of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    /// For every worker, connection, check and look-up there can be, while a reload holds both lists of backends.
    all: u64,
    /// Less, and no worker can even set its table of sockets up.
    least: u64,
}

impl Need {
    fn of(config: &Config) -> Need {
        let (workers, listeners) = (config.workers as u64, config.listen.len() as u64);
        let sockets = config.limits().sockets_max as u64;
        // Each worker fences its listeners at the end with another socket; each is kept once more for a restart, and once
        // more while one begins; its ring and its eventfd; a new socket to a backend beside the old one that it replaces.
        let worker = sockets + 4 * listeners + 3;
        let admin = 3 * config.management.len() as u64 + CONNECTIONS_MAX as u64 + PROBES_MAX as u64;
        let names: HashSet<&str> = config
            .nodes
            .iter()
            .map(|node| node.host.as_str())
            .filter(|host| literal(host).is_none())
            .collect();
        let lookups = PER_LOOKUP * names.len().min(LOOKUPS_MAX) as u64;
        Need { all: workers * worker + admin + lookups + OTHERS, least: sockets + listeners + 1 }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The soft limit is enough.
    Enough,
    /// It is to become this, which is enough.
    Raise(u64),
    /// It is to become this, which may not be enough.
    RaiseAndTell(u64),
    /// Not even the least can be had.
    Refuse,
}

fn judge(need: Need, soft: u64, hard: u64) -> Verdict {
    match need {
        _ if soft >= need.all => Verdict::Enough,
        _ if hard >= need.all => Verdict::Raise(need.all),
        _ if hard >= need.least => Verdict::RaiseAndTell(hard),
        _ => Verdict::Refuse,
    }
}

/// Raises this process's soft limit as far as `config` needs it and the hard limit allows. What is degraded in words, if
/// anything is; an error if it cannot run at all.
pub fn raise(config: &Config) -> Result<Option<String>, String> {
    let need = Need::of(config);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| format!("the limit on open files cannot be read: {error}"))?;
    let words = |wanted: u64| {
        format!(
            "open files: {wanted} may be needed for {} and {}, and the limit is {hard}: raise it (`LimitNOFILE=` of the \
             service, `--ulimit nofile=` of the container, `ulimit -Hn`), or lower `workers`",
            count(config.nodes.len(), "backend"),
            count(config.workers, "worker"),
        )
    };
    let (to, degraded) = match judge(need, soft, hard) {
        Verdict::Enough => return Ok(None),
        Verdict::Raise(to) => (to, None),
        Verdict::RaiseAndTell(to) => (to, Some(words(need.all))),
        Verdict::Refuse => return Err(words(need.least)),
    };
    setrlimit(Resource::RLIMIT_NOFILE, to, hard)
        .map_err(|error| format!("{}; raising the soft limit of {soft} failed: {error}", words(need.all)))?;
    Ok(degraded)
}

#[cfg(test)]
mod tests {
    use super::super::reload::tests::config;
    use super::*;

    #[test]
    fn a_few_backends_fit_the_usual_limit_and_a_thousand_do_not() {
        let mut config = config(&["a:1", "b:1", "c:1"]);
        config.workers = 4;
        assert!(Need::of(&config).all < 1_024, "{:?}", Need::of(&config));
        config.nodes = vec![config.nodes[0].clone(); 1_000];
        let need = Need::of(&config);
        assert!(need.least > 2_000 && need.all > 4 * need.least, "{need:?}");
    }

    #[test]
    fn the_soft_limit_is_raised_no_further_than_needed_and_no_further_than_allowed() {
        let need = Need { all: 5_000, least: 2_100 };
        assert_eq!(judge(need, 5_000, 5_000), Verdict::Enough);
        assert_eq!(judge(need, 1_024, 524_288), Verdict::Raise(5_000));
        assert_eq!(judge(need, 1_024, 4_096), Verdict::RaiseAndTell(4_096));
        assert_eq!(judge(need, 4_096, 4_096), Verdict::RaiseAndTell(4_096));
        assert_eq!(judge(need, 1_024, 1_024), Verdict::Refuse);
    }
}
