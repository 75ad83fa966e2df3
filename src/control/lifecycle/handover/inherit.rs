//! Which of an old process's sockets a new one inherits, and which it has to create: a pure comparison.
//!
//! In: an [`Offer`], the new process's config. Out: a [`Plan`]. Next: `control/lifecycle/sockets.rs` carries it out.

use super::message::{Inherited, Offer};
use crate::relay::Left;
use std::net::SocketAddr;

/// Where each socket comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Data addresses, with their index in the offer, if any.
    pub data: Vec<(SocketAddr, Option<usize>)>,
    /// Workers of the new process.
    pub workers: usize,
    /// Of the first so many, the sockets at offered addresses are the offered ones.
    pub inherited_workers: usize,
    /// Addresses of the admin port, likewise.
    pub admin: Vec<(SocketAddr, Option<usize>)>,
}

impl Plan {
    /// For a config that listens at `listen` with `workers`, and at `management`. Sockets that a service manager gave are
    /// taken regardless of the config: they are what it would be given at a start.
    pub fn new(offer: &Offer, listen: &[SocketAddr], workers: usize, management: &[SocketAddr]) -> Plan {
        let (listen, workers) =
            if offer.data_activated { (&offer.data[..], offer.workers) } else { (listen, workers) };
        let management = if offer.admin_activated { &offer.admin } else { management };
        Plan {
            data: find(listen, &offer.data),
            workers,
            inherited_workers: workers.min(offer.workers),
            admin: find(management, &offer.admin),
        }
    }

    /// Index of a worker's socket at the `listener`-th data address in the offered descriptors.
    pub fn data_descriptor(&self, offer: &Offer, worker: usize, listener: usize) -> Option<usize> {
        let place = self.data.get(listener)?.1?;
        (worker < self.inherited_workers).then_some(worker * offer.data.len() + place)
    }

    /// Index of the admin port's socket at its `index`-th address.
    pub fn admin_descriptor(&self, offer: &Offer, index: usize) -> Option<usize> {
        Some(offer.workers * offer.data.len() + self.admin.get(index)?.1?)
    }

    /// The report to the old process.
    pub fn taken(&self) -> Inherited {
        let inherited = |addresses: &[(SocketAddr, Option<usize>)]| {
            addresses.iter().filter(|(_, place)| place.is_some()).map(|(address, _)| *address).collect()
        };
        Inherited {
            data: inherited(&self.data),
            workers: self.inherited_workers,
            admin: inherited(&self.admin),
        }
    }

    /// The new process's own sockets that are inherited.
    pub fn inherited(&self) -> Left {
        left(self.inherited_workers, self.data.iter().map(|(_, place)| place.is_some()))
    }
}

/// The sockets of a process at the data addresses `listen` that another one has taken.
pub fn left_to(taken: &Inherited, listen: &[SocketAddr]) -> Left {
    left(taken.workers, listen.iter().map(|address| taken.data.contains(address)))
}

fn left(workers: usize, are_left: impl Iterator<Item = bool>) -> Left {
    let listeners = are_left.enumerate().filter(|(_, is_left)| *is_left);
    Left {
        workers,
        listeners: listeners
            .fold(0, |bits, (listener, _)| bits | 1u64.checked_shl(listener as u32).unwrap_or(0)),
    }
}

fn find(wanted: &[SocketAddr], offered: &[SocketAddr]) -> Vec<(SocketAddr, Option<usize>)> {
    wanted.iter().map(|address| (*address, offered.iter().position(|offered| offered == address))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn offer(workers: usize) -> Offer {
        Offer {
            data: addresses(&["0.0.0.0:8125", "[::]:8125"]),
            workers,
            admin: addresses(&["127.0.0.1:8126", "[::1]:8126"]),
            ..Offer::default()
        }
    }

    #[test]
    fn the_same_config_inherits_everything() {
        let offer = offer(2);
        let plan = Plan::new(&offer, &offer.data, 2, &offer.admin);
        let places = [(0, 0), (0, 1), (1, 0), (1, 1)];
        assert_eq!(
            places.map(|(worker, listener)| plan.data_descriptor(&offer, worker, listener)),
            [Some(0), Some(1), Some(2), Some(3)]
        );
        assert_eq!([0, 1].map(|index| plan.admin_descriptor(&offer, index)), [Some(4), Some(5)]);
        assert_eq!(
            plan.taken(),
            Inherited { data: offer.data.clone(), workers: 2, admin: offer.admin.clone() }
        );
        let left = left_to(&plan.taken(), &offer.data);
        assert!(places.iter().all(|(worker, listener)| left.has(*worker, *listener)));
        assert!(!left.has(2, 0) && !left.has(0, 2));
    }

    #[test]
    fn more_workers_have_sockets_of_their_own_and_of_fewer_the_rest_is_given_up() {
        let offer = offer(2);
        let more = Plan::new(&offer, &offer.data, 3, &offer.admin);
        assert_eq!(more.data_descriptor(&offer, 1, 1), Some(3));
        assert_eq!(more.data_descriptor(&offer, 2, 0), None);
        assert!(more.inherited().has(1, 0) && !more.inherited().has(2, 0));
        let fewer = Plan::new(&offer, &offer.data, 1, &offer.admin);
        let left = left_to(&fewer.taken(), &offer.data);
        assert!(left.has(0, 0) && left.has(0, 1) && !left.has(1, 0) && !left.has(1, 1));
    }

    #[test]
    fn only_sockets_of_changed_addresses_are_created() {
        let offer = offer(2);
        let listen = addresses(&["[::]:8125", "0.0.0.0:9125"]);
        let plan = Plan::new(&offer, &listen, 2, &addresses(&["127.0.0.1:9126"]));
        assert_eq!([0, 1].map(|listener| plan.data_descriptor(&offer, 1, listener)), [Some(3), None]);
        assert_eq!(plan.admin_descriptor(&offer, 0), None);
        let left = left_to(&plan.taken(), &offer.data);
        assert!(!left.has(0, 0) && left.has(0, 1));
        assert!(plan.inherited().has(0, 0) && !plan.inherited().has(0, 1));
    }

    #[test]
    fn passed_sockets_are_kept_regardless_of_the_config() {
        let offer = Offer { data_activated: true, ..offer(2) };
        let plan = Plan::new(&offer, &addresses(&["127.0.0.1:1"]), 7, &addresses(&["127.0.0.1:2"]));
        assert_eq!((plan.workers, plan.taken().data), (2, offer.data.clone()));
        assert!(plan.taken().admin.is_empty());
    }
}
