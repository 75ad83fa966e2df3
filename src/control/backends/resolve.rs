//! Backends' names → addresses, without ever blocking the control thread, and without one name waiting for another.
//!
//! In: a host as the config has it, and a port. Out: its addresses, or why there are none. Next: `health_checker.rs` keeps the
//! chosen one up to date, `table.rs` hands it to the workers.
//!
//! The system's resolver blocks its caller, for minutes if name servers do not answer. So each lookup has its
//! own thread, at most [`LOOKUPS_MAX`] at once. Names whose last lookup was slow may use only three quarters of them, so that a dead name server never delays names that others, or `/etc/hosts`, answer at once. Nodes that have the same
//! host share one lookup.

use crate::control::blocking::run_blocking;
use crate::control::shortage::{self, is_shortage};
use crate::lookup;
use crate::worker::NODES_MAX;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

/// Look-ups, and so threads, at once.
pub(in crate::control) const LOOKUPS_MAX: usize = 128;
/// Descriptors that a look-up takes at most: the files of `/etc`, a socket to each name server for each family, the runtime of
/// a static build's.
pub(in crate::control) const PER_LOOKUP: usize = 8;
/// A look-up that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Stack of a look-up's thread: less than usual since there may be many, and ample for the modules of the system's resolver.
const STACK_BYTES: usize = 512 << 10;

/// Result of a lookup, shared by all requests for the same host.
type Answer = Result<Arc<[SocketAddr]>, LookupError>;

/// Why a lookup failed.
#[derive(Clone, Debug)]
enum LookupError {
    /// The resolver's error.
    Failed(io::ErrorKind, String),
    /// This process lacks resources: the errno.
    NotMade(i32),
}

impl From<io::Error> for LookupError {
    fn from(error: io::Error) -> LookupError {
        match error.raw_os_error() {
            Some(errno) if is_shortage(&error) => LookupError::NotMade(errno),
            _ => LookupError::Failed(error.kind(), error.to_string()),
        }
    }
}

/// Looks names up.
pub struct Resolver {
    free: Semaphore,
    free_slow: Semaphore,
    /// Look-ups under way, by host.
    under_way: RefCell<HashMap<String, Rc<OnceCell<Answer>>>>,
    /// Hosts whose last look-up was slow.
    slow: RefCell<HashSet<String>>,
}

impl Resolver {
    /// With nothing under way, and at most so many `lookups` at once, [`LOOKUPS_MAX`] if the limit on open files allows it.
    pub fn new(lookups: usize) -> Resolver {
        Resolver {
            free: Semaphore::new(lookups),
            free_slow: Semaphore::new(slow_of(lookups)),
            under_way: RefCell::default(),
            slow: RefCell::default(),
        }
    }

    /// The addresses of `host`, in order of trial for metrics; an address resolves to itself, immediately. An
    /// error for which [`is_shortage`] holds is not evidence about the name.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(ip) = literal(host) {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let shared = self.under_way.borrow_mut().entry(host.to_owned()).or_default().clone();
        let answer = shared.get_or_init(|| self.look_up(host)).await.clone();
        let mut under_way = self.under_way.borrow_mut();
        if under_way.get(host).is_some_and(|other| Rc::ptr_eq(other, &shared)) {
            under_way.remove(host);
        }
        let with_port = |mut address: SocketAddr| {
            address.set_port(port);
            address
        };
        match answer {
            Ok(found) => Ok(found.iter().copied().map(with_port).collect()),
            Err(LookupError::Failed(kind, text)) => Err(io::Error::new(kind, text)),
            Err(LookupError::NotMade(errno)) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Looks `host` up on a thread of its own, as soon as there may be one more.
    async fn look_up(&self, host: &str) -> Answer {
        let is_slow = self.slow.borrow().contains(host);
        // The semaphores are never closed.
        let _slow_slot = if is_slow { self.free_slow.acquire().await.ok() } else { None };
        let _slot = self.free.acquire().await.ok();
        let started = Instant::now();
        let owned = host.to_owned();
        let found = run_blocking("resolve", STACK_BYTES, move || ask(&owned)).await;
        self.remember(host, started.elapsed() > SLOW);
        Ok(found.and_then(|found| found)?.into())
    }

    fn remember(&self, host: &str, is_slow: bool) {
        let mut slow = self.slow.borrow_mut();
        if !is_slow {
            slow.remove(host);
            return;
        }
        // Reloads may have brought ever new hosts: what is forgotten is found out again.
        if slow.len() >= NODES_MAX {
            slow.clear();
        }
        slow.insert(host.to_owned());
    }
}

/// Of so many look-ups at once, those of names whose last look-up was slow.
fn slow_of(lookups: usize) -> usize {
    (lookups / 4 * 3).max(1)
}

/// Asks the system's resolver, which says of a name that it does not exist if it could not open the files that tell: then the
/// error is why they could not be opened.
fn ask(host: &str) -> io::Result<Vec<SocketAddr>> {
    lookup::addresses(host, 0)
        .map(lookup::in_order_for_metrics)
        .map_err(|error| shortage::of_descriptors(PER_LOOKUP).unwrap_or(error))
}

/// The address that `host` is, if it is one.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::blocking::tests::run;

    #[test]
    fn addresses_answer_themselves() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        assert_eq!(run(resolver.resolve("192.0.2.7", 8125)).unwrap(), ["192.0.2.7:8125".parse().unwrap()]);
        assert_eq!(run(resolver.resolve("::1", 1)).unwrap(), ["[::1]:1".parse().unwrap()]);
    }

    #[test]
    fn a_name_leads_to_its_addresses() {
        let found = run(Resolver::new(LOOKUPS_MAX).resolve("localhost", 8126)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 8126));
    }

    #[test]
    fn a_name_that_cannot_exist_is_an_error_and_frees_its_slot() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        for _ in 0..2 * LOOKUPS_MAX {
            // A label of more than 63 bytes is refused before anyone is asked.
            assert!(run(resolver.resolve(&"x".repeat(70), 1)).is_err());
        }
        assert_eq!(resolver.free.available_permits(), LOOKUPS_MAX);
        assert_eq!(resolver.free_slow.available_permits(), slow_of(LOOKUPS_MAX));
        assert!(resolver.under_way.borrow().is_empty());
    }

    #[test]
    fn nodes_of_one_host_share_a_look_up_and_keep_their_ports() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        let both = async { tokio::join!(resolver.resolve("localhost", 1), resolver.resolve("localhost", 2)) };
        let taken = || LOOKUPS_MAX - resolver.free.available_permits();
        let mut most = 0;
        let (one, two) = run(async {
            let mut both = std::pin::pin!(both);
            std::future::poll_fn(|context| {
                let polled = both.as_mut().poll(context);
                most = most.max(taken());
                polled
            })
            .await
        });
        assert_eq!(most, 1);
        assert!(one.unwrap().iter().all(|address| address.port() == 1));
        assert!(two.unwrap().iter().all(|address| address.port() == 2));
    }

    #[test]
    fn names_that_were_slow_leave_threads_for_the_others() {
        let resolver = Resolver::new(LOOKUPS_MAX);
        resolver.remember("slow.test", true);
        run(async {
            let _all_slow = resolver.free_slow.acquire_many(slow_of(LOOKUPS_MAX) as u32).await.unwrap();
            let _their_threads = resolver.free.acquire_many(slow_of(LOOKUPS_MAX) as u32).await.unwrap();
            assert!(resolver.resolve("localhost", 1).await.is_ok());
            let waiting = std::pin::pin!(resolver.resolve("slow.test", 1));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.poll(&mut context).is_pending());
            assert_eq!(resolver.free.available_permits(), LOOKUPS_MAX - slow_of(LOOKUPS_MAX));
        });
        resolver.remember("slow.test", false);
        assert!(resolver.slow.borrow().is_empty());
    }
}
