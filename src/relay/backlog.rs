//! The backlog of packets for busy sockets: one store for all backends, allocated at start, in which each backend has its list.
//! Separate queues would have to grow at run time.
//!
//! In: packets whose send met a full socket buffer, and those closed after them. Out: the same, newest first.
//! Next: `egress.rs`, which keeps a backend's list and its bounds.

use crate::packet::Packet;

/// The store.
pub struct Backlog {
    places: Vec<Place>,
    /// The first free place; the others follow by `older`.
    free: Option<usize>,
}

/// One place; without a packet it is free.
struct Place {
    packet: Option<Packet>,
    older: Option<usize>,
}

/// One backend's packets in the store, in the order of their sequence numbers.
#[derive(Debug, Default)]
pub struct List {
    newest: Option<usize>,
}

impl Backlog {
    /// Room for so many packets.
    pub fn new(packets: usize) -> Backlog {
        Backlog { places: Vec::with_capacity(packets), free: None }
    }

    /// Reserves space for this number of packets in total.
    pub fn grow_to(&mut self, packets: usize) {
        self.places.reserve(packets.saturating_sub(self.places.len()));
    }

    /// Inserts a packet in order: after older, before newer ones. Packets come in order as a rule, so the place is
    /// looked for from the newest on.
    pub fn insert(&mut self, list: &mut List, packet: Packet) {
        let (mut newer, mut older) = (None, list.newest);
        while let Some(place) = older
            && self.places[place].packet.as_ref().is_some_and(|other| other.sequence() > packet.sequence())
        {
            (newer, older) = (older, self.places[place].older);
        }
        let place = self.occupy(Place { packet: Some(packet), older });
        match newer {
            Some(newer) => self.places[newer].older = Some(place),
            None => list.newest = Some(place),
        }
    }

    fn occupy(&mut self, filled: Place) -> usize {
        match self.free {
            Some(place) => {
                self.free = std::mem::replace(&mut self.places[place], filled).older;
                place
            }
            None => {
                self.places.push(filled);
                self.places.len() - 1
            }
        }
    }

    /// A list's newest packet.
    pub fn newest_mut(&mut self, list: &List) -> Option<&mut Packet> {
        self.places[list.newest?].packet.as_mut()
    }

    /// Takes a list's newest packet out.
    pub fn take_newest(&mut self, list: &mut List) -> Option<Packet> {
        let place = list.newest?;
        let emptied = std::mem::replace(&mut self.places[place], Place { packet: None, older: self.free });
        self.free = Some(place);
        list.newest = emptied.older;
        emptied.packet
    }

    /// A list's packets, newest first.
    pub fn packets<'a>(&'a self, list: &List) -> impl Iterator<Item = &'a Packet> {
        std::iter::successors(list.newest, |place| self.places[*place].older)
            .filter_map(|place| self.places[place].packet.as_ref())
    }

    /// Calls `change` with each packet of a list, newest first.
    pub fn change_each(&mut self, list: &List, mut change: impl FnMut(&mut Packet)) {
        let mut next = list.newest;
        while let Some(place) = next {
            next = self.places[place].older;
            if let Some(packet) = &mut self.places[place].packet {
                change(packet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::SocketSlot;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn packet(sequence: u64) -> Packet {
        let mut packet = Packet::with_capacity(1);
        packet.set_sequence(sequence);
        packet
    }

    fn sequences(backlog: &Backlog, list: &List) -> Vec<u64> {
        let mut sequences: Vec<u64> = backlog.packets(list).map(|packet| packet.sequence()).collect();
        sequences.reverse();
        sequences
    }

    proptest! {
        /// Several lists in one store are what as many sorted queues are; a place is used again.
        #[test]
        fn as_sorted_queues(steps in proptest::collection::vec((0usize..3, any::<bool>(), 0u64..1_000), 0..200)) {
            let mut backlog = Backlog::new(0);
            let mut lists: [List; 3] = Default::default();
            let mut queues: [VecDeque<u64>; 3] = Default::default();
            let mut held_max = 0;
            for (index, takes, sequence) in steps {
                let (list, queue) = (&mut lists[index], &mut queues[index]);
                if takes {
                    let taken = backlog.take_newest(list).map(|packet| packet.sequence());
                    prop_assert_eq!(taken, queue.pop_back());
                } else {
                    backlog.insert(list, packet(sequence));
                    queue.insert(queue.partition_point(|other| *other <= sequence), sequence);
                }
                prop_assert_eq!(backlog.newest_mut(list).map(|packet| packet.sequence()), queue.back().copied());
                held_max = held_max.max(queues.iter().map(VecDeque::len).sum::<usize>());
                for (list, queue) in lists.iter().zip(&queues) {
                    prop_assert!(sequences(&backlog, list).iter().eq(queue));
                }
            }
            prop_assert_eq!(backlog.places.len(), held_max);
        }
    }

    #[test]
    fn each_packet_of_a_list_is_changed_and_no_other() {
        let mut backlog = Backlog::new(4);
        let (mut one, mut other) = (List::default(), List::default());
        for sequence in [3, 1, 2] {
            backlog.insert(&mut one, packet(sequence));
        }
        backlog.insert(&mut other, packet(9));
        backlog.change_each(&one, |packet| packet.set_destination(7, SocketSlot(7)));
        assert!(backlog.packets(&one).all(|packet| packet.backend() == 7));
        assert!(backlog.packets(&other).all(|packet| packet.backend() != 7));
        assert_eq!(sequences(&backlog, &one), [1, 2, 3]);
    }
}
