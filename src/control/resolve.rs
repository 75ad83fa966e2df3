//! Backends' names → addresses, without ever blocking the control thread.
//!
//! In: a host as the config has it, and a port. Out: its addresses, or why there are none. Next: `watch.rs` keeps the
//! chosen one up to date, `table.rs` hands it to the workers.
//!
//! A look-up (`lookup`) can take half a minute, so each runs on a short-lived thread of its own; at most
//! [`LOOKUPS_MAX`] at once, however many names the config has.

use super::offload::offload;
use crate::lookup;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::Semaphore;

/// Look-ups, and so threads, at once.
const LOOKUPS_MAX: usize = 8;

/// Looks names up.
pub struct Resolver {
    free: Semaphore,
}

impl Resolver {
    /// With nothing under way.
    pub fn new() -> Resolver {
        Resolver { free: Semaphore::new(LOOKUPS_MAX) }
    }

    /// The addresses of `host`, in the resolver's order of preference; an address is its own answer, at once.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(ip) = literal(host) {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let _slot = self.free.acquire().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        offload("resolve", move || lookup::addresses(&host, port)).await?
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver::new()
    }
}

/// The address that `host` is, if it is one.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

/// Which of the found addresses to use: the present one as long as it is among them, since a name server that rotates
/// its answers must not make the backend move with each look-up.
pub fn choose(present: Option<SocketAddr>, found: &[SocketAddr]) -> Option<SocketAddr> {
    present.filter(|address| found.contains(address)).or_else(|| found.first().copied())
}

#[cfg(test)]
mod tests {
    use super::super::offload::tests::run;
    use super::*;

    #[test]
    fn addresses_answer_themselves() {
        let resolver = Resolver::new();
        assert_eq!(run(resolver.resolve("192.0.2.7", 8125)).unwrap(), ["192.0.2.7:8125".parse().unwrap()]);
        assert_eq!(run(resolver.resolve("::1", 1)).unwrap(), ["[::1]:1".parse().unwrap()]);
    }

    #[test]
    fn a_name_leads_to_its_addresses() {
        let found = run(Resolver::new().resolve("localhost", 8126)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 8126));
    }

    #[test]
    fn a_name_that_cannot_exist_is_an_error_and_frees_its_slot() {
        let resolver = Resolver::new();
        for _ in 0..2 * LOOKUPS_MAX {
            // A label of more than 63 bytes is refused before anyone is asked.
            assert!(run(resolver.resolve(&"x".repeat(70), 1)).is_err());
        }
        assert_eq!(resolver.free.available_permits(), LOOKUPS_MAX);
    }

    #[test]
    fn rotated_answers_do_not_move_a_backend() {
        let [a, b]: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap()];
        assert_eq!(choose(None, &[a, b]), Some(a));
        assert_eq!(choose(Some(b), &[a, b]), Some(b));
        assert_eq!(choose(Some(b), &[a]), Some(a));
        assert_eq!(choose(Some(b), &[]), None);
    }
}
