//! The admin port's connections: accepted while there may be more of them.
//!
//! In: listening sockets. Out: a served connection for each client, or a word that there are too many. Next: `admin_service.rs`
//! answers.
//!
//! A connection is accepted only when there may be one more, so that they never take descriptors that something else needs;
//! further ones wait with the kernel. Without a descriptor for one, an idle connection has to yield, or one is served by a
//! descriptor that is kept back: an operator can always ask what is wrong.

use crate::admin::{self, AdminActions, AdminCounter, AdminCounters, Places};
use crate::control::lifecycle::descriptors::Budget;
use crate::control::net::{self, Ends, Listener, Stream};
use crate::control::service::admin_service::Operator;
use crate::control::service::spares::{Lent, Spares};
use crate::control::shortage::{Operation, Shortages, is_of_descriptors, is_shortage};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What clients are told for whom there is no place.
const TOO_MANY: &[u8] = b"error: too many connections\n";
/// How long telling them may take.
const REFUSAL: Duration = Duration::from_secs(1);
/// After an accept that failed, as for want of descriptors: trying again at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The connections that are open, of all listeners.
pub struct Open {
    served: Rc<Places>,
    /// For each connection that may be open, and for each listener the one that it waits for.
    slots: Arc<Semaphore>,
    /// Connections that are being told that there are too many; further ones are closed without a word.
    refused: Cell<usize>,
    refused_max: usize,
    spares: Rc<Spares>,
    shortages: Rc<Shortages>,
    closing: Cell<bool>,
}

/// What one connection holds until it is closed.
struct Held {
    _slot: OwnedSemaphorePermit,
    _lent: Option<Lent>,
}

impl Open {
    /// For so many `listeners`.
    pub fn new(listeners: usize, budget: Budget, shortages: Rc<Shortages>) -> Rc<Open> {
        let extra = budget.extra_connections();
        Rc::new(Open {
            served: Places::new(budget.connections),
            slots: Arc::new(Semaphore::new(budget.connections + extra + listeners)),
            refused: Cell::new(0),
            refused_max: extra,
            spares: Spares::for_admin(),
            shortages,
            closing: Cell::new(false),
        })
    }

    /// No more are taken.
    pub fn close(&self) {
        self.closing.set(true);
        self.slots.close();
    }

    /// Makes room after an accept that failed.
    fn make_room(&self, error: &io::Error, counters: &AdminCounters) -> Option<Lent> {
        if !is_shortage(error) {
            tracing::warn!("admin port: cannot accept a connection: {error}");
            return None;
        }
        self.shortages.note(Operation::Accept, error);
        if !is_of_descriptors(error) {
            return None;
        }
        if self.served.evict() {
            counters.count(AdminCounter::ConnectionsYielded);
            return None;
        }
        self.spares.lend()
    }
}

/// Accepts connections until the listener is closed. To be run as a task of its own and never dropped.
pub async fn accept(operator: Rc<Operator>, listener: Rc<Listener>, open: Rc<Open>) {
    let mut lent = None;
    while !open.closing.get() {
        let Ok(slot) = open.slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, ends)) => {
                if lent.is_none() {
                    open.shortages.note_done(Operation::Accept);
                }
                greet(&operator, &open, (stream, ends), Held { _slot: slot, _lent: lent.take() });
            }
            Err(_) if open.closing.get() => return,
            Err(error) => {
                let made = open.make_room(&error, operator.counters());
                lent = lent.or(made);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn greet(operator: &Rc<Operator>, open: &Rc<Open>, (stream, ends): (Stream, Ends), held: Held) {
    let (operator, open) = (operator.clone(), open.clone());
    stream.set_nodelay();
    net::spawn(async move {
        serve(&operator, &open, stream, ends).await;
        // After the stream.
        drop(held);
    });
}

async fn serve(operator: &Operator, open: &Open, stream: Stream, ends: Ends) {
    if let Some((place, has_yielded)) = open.served.take() {
        if has_yielded {
            operator.counters().count(AdminCounter::ConnectionsYielded);
        }
        admin::serve(stream, operator, ends.are_local(), &place).await;
        return;
    }
    operator.counters().count(AdminCounter::ConnectionsRefused);
    if open.refused.get() < open.refused_max {
        open.refused.set(open.refused.get() + 1);
        let deadline = net::deadline_in(REFUSAL);
        let _ = stream.write_all_until(TOO_MANY.to_vec(), deadline).await;
        open.refused.set(open.refused.get() - 1);
    }
    stream.shutdown();
}
