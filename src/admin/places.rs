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

/// A client has so long to ask for something that there is before it has to yield: more than the silence that ends a
/// command without a newline.
const UNANSWERED: Duration = Duration::from_millis(400);
/// One that was answered is left alone for so long.
const ANSWERED: Duration = Duration::from_secs(1);
/// One that asks again and again is left alone for so long: an operator's question takes less.
const BUSY: Duration = Duration::from_secs(5);

/// What is known of one connection.
#[derive(Debug)]
pub struct Guest {
    begun: Instant,
    /// When it last took an answer to something that there is.
    answered: Cell<Option<Instant>>,
    /// Whether something that there is is being done for it.
    is_under_way: Cell<bool>,
    is_sent_away: Cell<bool>,
    sent_away: Notify,
}

impl Guest {
    /// One that has just come.
    pub fn new() -> Guest {
        Guest {
            begun: Instant::now(),
            answered: Cell::new(None),
            is_under_way: Cell::new(false),
            is_sent_away: Cell::new(false),
            sent_away: Notify::new(),
        }
    }

    /// It has taken an answer to something that there is. What it asks in vain does not count.
    pub fn answered(&self) {
        self.answered.set(Some(Instant::now()));
    }

    /// Something that there is is being done for it from now on, or no longer: it waits for this side meanwhile, which may
    /// take seconds.
    pub fn set_under_way(&self, is_under_way: bool) {
        self.is_under_way.set(is_under_way);
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

    /// Who has to yield first, and among equals since when; `None` if it is left alone.
    fn standing(&self, now: Instant) -> Option<(Rank, Instant)> {
        let lasts = now - self.begun;
        match self.answered.get() {
            _ if self.is_under_way.get() => (lasts >= BUSY).then_some((Rank::Busy, self.begun)),
            None => (lasts >= UNANSWERED).then_some((Rank::Unanswered, self.begun)),
            Some(at) if now - at >= ANSWERED => Some((Rank::Idle, at)),
            Some(_) => (lasts >= BUSY).then_some((Rank::Busy, self.begun)),
        }
    }
}

/// Who yields before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It has not asked for anything that there is.
    Unanswered,
    /// It was answered, and asks no more.
    Idle,
    /// It asks again and again, or waits for what it has asked for.
    Busy,
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
    /// answered, then who asks no more, then who asks again and again; among equals the one that does so for the longest
    /// time.
    pub fn take(self: &Rc<Self>) -> Option<(Place, bool)> {
        let is_full = self.guests.borrow().len() >= self.most;
        if is_full && !self.evict() {
            return None;
        }
        let guest = Rc::new(Guest::new());
        self.guests.borrow_mut().push(guest.clone());
        Some((Place { guest, places: self.clone() }, is_full))
    }

    /// Has the one who yields first leave; `false` if nobody has to.
    pub fn evict(&self) -> bool {
        // As many again may be on their way out, no more.
        if self.leaving.get() >= self.most {
            return false;
        }
        let mut guests = self.guests.borrow_mut();
        let now = Instant::now();
        let standings = guests.iter().enumerate();
        let first = standings.filter_map(|(at, guest)| Some((guest.standing(now)?, at))).min();
        let Some((_, first)) = first else { return false };
        guests.swap_remove(first).send_away();
        self.leaving.set(self.leaving.get() + 1);
        true
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
    async fn who_waits_for_what_it_has_asked_for_is_busy() {
        let places = Places::new(1);
        let held = full(&places);
        held[0].set_under_way(true);
        advance(BUSY - Duration::from_millis(1)).await;
        assert!(places.take().is_none());
        held[0].set_under_way(false);
        assert!(places.take().is_some(), "what was done for it did not end in an answer that it took");
        let places = Places::new(2);
        let held = full(&places);
        held[0].answered();
        held[1].set_under_way(true);
        advance(BUSY).await;
        let _newcomer = places.take().unwrap();
        assert!(held[0].is_sent_away() && !held[1].is_sent_away());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_and_again_yields_in_the_end() {
        let places = Places::new(2);
        let held = full(&places);
        for _ in 0..9 {
            assert!(places.take().is_none());
            advance(Duration::from_millis(550)).await;
            held.iter().for_each(|place| place.answered());
        }
        advance(Duration::from_millis(50)).await;
        assert!(places.take().is_some_and(|(_, has_yielded)| has_yielded));
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
