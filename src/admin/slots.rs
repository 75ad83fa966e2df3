//! The connection slots, and which connection is evicted when all are in use, so that idle clients do
//! not lock an operator out.
//!
//! In: new connections, when they were answered. Out: a [`Slot`] for each, or none; a notification to a
//! connection that was evicted. Next: `server.rs` serves it; `control/` requests slots.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time that a client has for its first valid request before it may be evicted: more than the silence that ends a
/// command without a newline.
const UNANSWERED: Duration = Duration::from_millis(400);
/// Time that a client is protected after a reply.
const ANSWERED: Duration = Duration::from_secs(1);
/// Time that a client which keeps sending requests is protected: an operator needs less.
const BUSY: Duration = Duration::from_secs(5);

/// What is known of one connection.
#[derive(Debug)]
pub struct ConnectionHandle {
    begun: Instant,
    /// When it last received a reply to a valid request.
    answered: Cell<Option<Instant>>,
    /// Whether a valid request is being processed for it.
    is_under_way: Cell<bool>,
    is_evicted: Cell<bool>,
    evicted: Notify,
}

impl ConnectionHandle {
    /// A new connection.
    pub fn new() -> ConnectionHandle {
        ConnectionHandle {
            begun: Instant::now(),
            answered: Cell::new(None),
            is_under_way: Cell::new(false),
            is_evicted: Cell::new(false),
            evicted: Notify::new(),
        }
    }

    /// It received a reply to a valid request. Invalid requests do not count.
    pub fn answered(&self) {
        self.answered.set(Some(Instant::now()));
    }

    /// A valid request is being processed for it from now on, or no longer: it waits for this side meanwhile, which may
    /// take seconds.
    pub fn set_under_way(&self, is_under_way: bool) {
        self.is_under_way.set(is_under_way);
    }

    /// Waits until it is evicted.
    pub async fn evicted(&self) {
        while !self.is_evicted.get() {
            self.evicted.notified().await;
        }
    }

    /// Whether it was evicted.
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.get()
    }

    fn mark_evicted(&self) {
        self.is_evicted.set(true);
        self.evicted.notify_waiters();
    }

    /// Eviction class, and since when; `None` if it is protected.
    fn rank(&self, now: Instant) -> Option<(Rank, Instant)> {
        let lasts = now - self.begun;
        match self.answered.get() {
            _ if self.is_under_way.get() => (lasts >= BUSY).then_some((Rank::Busy, self.begun)),
            None => (lasts >= UNANSWERED).then_some((Rank::Unanswered, self.begun)),
            Some(at) if now - at >= ANSWERED => Some((Rank::Idle, at)),
            Some(_) => (lasts >= BUSY).then_some((Rank::Busy, self.begun)),
        }
    }
}

/// Eviction order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// No valid request yet.
    Unanswered,
    /// Answered, now idle.
    Idle,
    /// Keeps sending requests, or waits for a reply.
    Busy,
}

impl Default for ConnectionHandle {
    fn default() -> Self {
        ConnectionHandle::new()
    }
}

/// All slots.
#[derive(Debug)]
pub struct ConnectionSlots {
    most: usize,
    handles: RefCell<Vec<Rc<ConnectionHandle>>>,
    /// Evicted connections that have not closed yet.
    leaving: Cell<usize>,
}

impl ConnectionSlots {
    /// With this many slots.
    pub fn new(most: usize) -> Rc<ConnectionSlots> {
        Rc::new(ConnectionSlots { most, handles: RefCell::default(), leaving: Cell::new(0) })
    }

    /// A slot for a new connection, and whether another one was evicted; `None` if all are protected. Evicted first are those never
    /// answered, then idle ones, then those that keep sending requests; among equals the one in that state for the longest
    /// time.
    pub fn take(self: &Rc<Self>) -> Option<(Slot, bool)> {
        let is_full = self.handles.borrow().len() >= self.most;
        if is_full && !self.evict() {
            return None;
        }
        let handle = Rc::new(ConnectionHandle::new());
        self.handles.borrow_mut().push(handle.clone());
        Some((Slot { handle, slots: self.clone() }, is_full))
    }

    /// Evicts the first in order; `false` if all are protected.
    pub fn evict(&self) -> bool {
        // At most as many again may be closing.
        if self.leaving.get() >= self.most {
            return false;
        }
        let mut handles = self.handles.borrow_mut();
        let now = Instant::now();
        let standings = handles.iter().enumerate();
        let first = standings.filter_map(|(at, handle)| Some((handle.rank(now)?, at))).min();
        let Some((_, first)) = first else { return false };
        handles.swap_remove(first).mark_evicted();
        self.leaving.set(self.leaving.get() + 1);
        true
    }
}

/// A connection's slot, held for its lifetime.
#[derive(Debug)]
pub struct Slot {
    handle: Rc<ConnectionHandle>,
    slots: Rc<ConnectionSlots>,
}

impl Deref for Slot {
    type Target = ConnectionHandle;

    fn deref(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_evicted() {
            self.slots.leaving.set(self.slots.leaving.get() - 1);
        } else {
            self.slots.handles.borrow_mut().retain(|handle| !Rc::ptr_eq(handle, &self.handle));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn full(slots: &Rc<ConnectionSlots>) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take())
            .map(|(place, has_yielded)| {
                assert!(!has_yielded);
                place
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_evicts_the_longest_idle_one() {
        let slots = ConnectionSlots::new(3);
        let held = full(&slots);
        assert_eq!(held.len(), 3);
        advance(UNANSWERED).await;
        held[0].answered();
        held[1].answered();
        let (newcomer, has_yielded) = slots.take().unwrap();
        assert!(has_yielded && held[2].is_evicted() && !held[0].is_evicted());
        held[2].evicted().await;
        // The new connection is protected, and so are those that were answered.
        assert!(slots.take().is_none());
        advance(ANSWERED).await;
        newcomer.answered();
        held[0].answered();
        assert!(slots.take().unwrap().1 && held[1].is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_never_answered_are_evicted_first() {
        let slots = ConnectionSlots::new(2);
        let held = full(&slots);
        held[0].answered();
        advance(Duration::from_secs(20)).await;
        let (newcomer, _) = slots.take().unwrap();
        assert!(held[1].is_evicted());
        advance(UNANSWERED).await;
        // The longer silence counts less than an answer.
        let _another = slots.take().unwrap();
        assert!(newcomer.is_evicted() && !held[0].is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_reply_is_busy() {
        let slots = ConnectionSlots::new(1);
        let held = full(&slots);
        held[0].set_under_way(true);
        advance(BUSY - Duration::from_millis(1)).await;
        assert!(slots.take().is_none());
        held[0].set_under_way(false);
        assert!(slots.take().is_some(), "what was done for it did not end in an answer that it took");
        let slots = ConnectionSlots::new(2);
        let held = full(&slots);
        held[0].answered();
        held[1].set_under_way(true);
        advance(BUSY).await;
        let _newcomer = slots.take().unwrap();
        assert!(held[0].is_evicted() && !held[1].is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_sending_requests_is_evicted_eventually() {
        let slots = ConnectionSlots::new(2);
        let held = full(&slots);
        for _ in 0..9 {
            assert!(slots.take().is_none());
            advance(Duration::from_millis(550)).await;
            held.iter().for_each(|place| place.answered());
        }
        advance(Duration::from_millis(50)).await;
        assert!(slots.take().is_some_and(|(_, has_yielded)| has_yielded));
    }

    #[tokio::test(start_paused = true)]
    async fn places_come_back_and_those_on_their_way_out_are_bounded() {
        let slots = ConnectionSlots::new(2);
        let mut held = full(&slots);
        held.pop();
        held.extend(full(&slots));
        assert_eq!(held.len(), 2);
        for _ in 0..2 {
            advance(UNANSWERED).await;
            held.push(slots.take().unwrap().0);
        }
        advance(UNANSWERED).await;
        assert!(slots.take().is_none(), "two are still on their way out");
        held.retain(|place| !place.is_evicted());
        assert!(slots.take().unwrap().1);
        drop(held);
        assert_eq!(full(&slots).len(), 2);
    }
}
