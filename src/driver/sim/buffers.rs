//! Tracks receive buffers: each is in exactly one place, and every invalid move is reported.
//!
//! In: moves of buffers between the fake kernel and the driver. Out: refusals, and a census. Next: `kernel.rs`.

use std::collections::VecDeque;

/// Where a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the ring, for the kernel to take.
    Free,
    /// In a completion that the driver has not taken yet.
    Posted,
    /// With the driver.
    Held,
    /// Given back, not published yet.
    Returned,
}

/// How many buffers are where; the sum is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In the ring, for the kernel to take.
    pub free: usize,
    /// In completions that the driver has not taken yet.
    pub posted: usize,
    /// With the driver.
    pub held: usize,
    /// Given back, not published yet.
    pub returned: usize,
}

/// The places of all buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    places: Vec<Place>,
    free: VecDeque<u16>,
    returned: Vec<u16>,
}

impl Buffers {
    /// All of them free.
    pub fn new(count: usize) -> Buffers {
        Buffers {
            places: vec![Place::Free; count],
            free: (0..count).map(|id| id as u16).collect(),
            returned: Vec::with_capacity(count),
        }
    }

    /// The kernel takes a buffer for a completion.
    pub fn take(&mut self) -> Option<u16> {
        let id = self.free.pop_front()?;
        self.places[usize::from(id)] = Place::Posted;
        Some(id)
    }

    /// Whether the kernel finds no buffer.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// The driver took the completion that carries `id`.
    pub fn hold(&mut self, id: u16) {
        self.places[usize::from(id)] = Place::Held;
    }

    /// Whether the driver holds `id`.
    pub fn is_held(&self, id: u16) -> bool {
        self.places.get(usize::from(id)) == Some(&Place::Held)
    }

    /// The driver gives `id` back; `false` if it does not hold it.
    pub fn give_back(&mut self, id: u16) -> bool {
        let is_held = self.is_held(id);
        if is_held {
            self.places[usize::from(id)] = Place::Returned;
            self.returned.push(id);
        }
        is_held
    }

    /// The kernel sees what was given back.
    pub fn publish(&mut self) {
        for id in self.returned.drain(..) {
            self.places[usize::from(id)] = Place::Free;
            self.free.push_back(id);
        }
    }

    /// How many are where.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for place in &self.places {
            match place {
                Place::Free => census.free += 1,
                Place::Posted => census.posted += 1,
                Place::Held => census.held += 1,
                Place::Returned => census.returned += 1,
            }
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_round_and_no_step_can_be_skipped() {
        let mut buffers = Buffers::new(2);
        let id = buffers.take().unwrap();
        assert!(!buffers.give_back(id));
        buffers.hold(id);
        assert!(buffers.is_held(id) && buffers.give_back(id));
        assert!(!buffers.give_back(id) && !buffers.give_back(99));
        assert_eq!(buffers.census(), Census { free: 1, posted: 0, held: 0, returned: 1 });
        assert!(buffers.take().is_some() && buffers.take().is_none() && buffers.is_empty());
        buffers.publish();
        assert_eq!(buffers.take(), Some(id));
    }
}
