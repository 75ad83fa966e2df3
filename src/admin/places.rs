//! The places for connections, and who yields when all are taken: so that clients which hold places and say nothing do
//! not keep an operator out.
//!
//! In: connections that come, what they have been answered, when. Out: a [`Place`] for each, or none; word to a
//! connection that it has lost its place. Next: `server.rs` serves it; `control/` asks for places.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A client has so long to be answered for the first time before it has to yield: more than the silence that ends a
/// command without a newline.
const UNANSWERED: Duration = Duration::from_millis(400);
/// One that was answered is left alone for so long.
const ANSWERED: Duration = Duration::from_secs(1);

/// What is known of one connection.
#[derive(Debug)]
pub struct Guest {
    /// Since when it has got nothing: its last answer, or its beginning.
    since: Cell<Instant>,
    was_answered: Cell<bool>,
    is_sent_away: Cell<bool>,
    sent_away: Notify,
}

impl Guest {
    /// One that has just come.
    pub fn new() -> Guest {
        Guest {
            since: Cell::new(Instant::now()),
            was_answered: Cell::new(false),
            is_sent_away: Cell::new(false),
            sent_away: Notify::new(),
        }
    }

    /// It has taken an answer.
    pub fn answered(&self) {
        self.since.set(Instant::now());
        self.was_answered.set(true);
    }

    /// Waits until it has to yield its place.
    pub async fn sent_away(&self) {
        while !self.is_sent_away.get() {
            self.sent_away.notified().await;
        }
    }

    /// Whether it has to yield its place.
    pub fn is_sent_away(&self) -> bool {
        self.is_sent_away.get()
    }

    fn send_away(&self) {
        self.is_sent_away.set(true);
        self.sent_away.notify_waiters();
    }

    fn may_be_sent_away(&self, now: Instant) -> bool {
        now - self.since.get() >= if self.was_answered.get() { ANSWERED } else { UNANSWERED }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Guest::new()
    }
}

/// All places.
#[derive(Debug)]
pub struct Places {
    most: usize,
    guests: RefCell<Vec<Rc<Guest>>>,
    /// Those that lost their place and are not gone yet.
    leaving: Cell<usize>,
}

impl Places {
    /// So many.
    pub fn new(most: usize) -> Rc<Places> {
        Rc::new(Places { most, guests: RefCell::default(), leaving: Cell::new(0) })
    }

    /// A place for a newcomer, and whether another one had to yield it; `None` if nobody has to. First yields who was never
    /// answered, then who was answered; among equals the one that has got nothing for the longest time.
    pub fn take(self: &Rc<Self>) -> Option<(Place, bool)> {
        let mut guests = self.guests.borrow_mut();
        let is_full = guests.len() >= self.most;
        if is_full {
            // As many again may be on their way out, no more.
            if self.leaving.get() >= self.most {
                return None;
            }
            let now = Instant::now();
            let longest = (0..guests.len())
                .filter(|at| guests[*at].may_be_sent_away(now))
                .min_by_key(|at| (guests[*at].was_answered.get(), guests[*at].since.get()))?;
            guests.swap_remove(longest).send_away();
            self.leaving.set(self.leaving.get() + 1);
        }
        let guest = Rc::new(Guest::new());
        guests.push(guest.clone());
        Some((Place { guest, places: self.clone() }, is_full))
    }
}

/// A connection's place for as long as it lives.
#[derive(Debug)]
pub struct Place {
    guest: Rc<Guest>,
    places: Rc<Places>,
}

impl Deref for Place {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_sent_away() {
            self.places.leaving.set(self.places.leaving.get() - 1);
        } else {
            self.places.guests.borrow_mut().retain(|guest| !Rc::ptr_eq(guest, &self.guest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn full(places: &Rc<Places>) -> Vec<Place> {
        std::iter::from_fn(|| places.take())
            .map(|(place, has_yielded)| {
                assert!(!has_yielded);
                place
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_gets_the_place_of_who_was_silent_longest() {
        let places = Places::new(3);
        let held = full(&places);
        assert_eq!(held.len(), 3);
        advance(UNANSWERED).await;
        held[0].answered();
        held[1].answered();
        let (newcomer, has_yielded) = places.take().unwrap();
        assert!(has_yielded && held[2].is_sent_away() && !held[0].is_sent_away());
        held[2].sent_away().await;
        // The newcomer has its time, and so have those that were answered.
        assert!(places.take().is_none());
        advance(ANSWERED).await;
        newcomer.answered();
        held[0].answered();
        assert!(places.take().unwrap().1 && held[1].is_sent_away());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_never_answered_yields_before_who_was() {
        let places = Places::new(2);
        let held = full(&places);
        held[0].answered();
        advance(Duration::from_secs(20)).await;
        let (newcomer, _) = places.take().unwrap();
        assert!(held[1].is_sent_away());
        advance(UNANSWERED).await;
        // The longer silence counts less than an answer.
        let _another = places.take().unwrap();
        assert!(newcomer.is_sent_away() && !held[0].is_sent_away());
    }

    #[tokio::test(start_paused = true)]
    async fn places_come_back_and_those_on_their_way_out_are_bounded() {
        let places = Places::new(2);
        let mut held = full(&places);
        held.pop();
        held.extend(full(&places));
        assert_eq!(held.len(), 2);
        for _ in 0..2 {
            advance(UNANSWERED).await;
            held.push(places.take().unwrap().0);
        }
        advance(UNANSWERED).await;
        assert!(places.take().is_none(), "two are still on their way out");
        held.retain(|place| !place.is_sent_away());
        assert!(places.take().unwrap().1);
        drop(held);
        assert_eq!(full(&places).len(), 2);
    }
}
