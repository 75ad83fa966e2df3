//! Accepts the admin port's connections up to the limit.
//!
//! In: listening sockets. Out: a served connection for each client, or an error that there are too many. Next: `admin_service.rs`
//! answers.
//!
//! A connection is accepted only below the limit, so that connections never use descriptors that something else needs;
//! further ones wait in the kernel. Without a descriptor for one, an idle connection is evicted, or one is served with a
//! spare descriptor: an operator can always query the proxy.

use crate::admin::{self, AdminActions, AdminCounter, AdminCounters, ConnectionSlots};
use crate::control::lifecycle::descriptors::Budget;
use crate::control::net::{self, Ends, Listener, Stream};
use crate::control::service::admin_service::AdminService;
use crate::control::service::spares::{Lent, Spares};
use crate::control::shortage::{Operation, Shortages, is_of_descriptors, is_shortage};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The reply to clients without a slot.
const TOO_MANY: &[u8] = b"error: too many connections\n";
/// Time limit for that reply.
const REFUSAL: Duration = Duration::from_secs(1);
/// Pause after a failed accept, e.g. without descriptors: an immediate retry would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Open connections of all listeners.
pub struct Open {
    served: Rc<ConnectionSlots>,
    /// One per connection that may be open, and one per listener for the connection it waits for.
    slots: Arc<Semaphore>,
    /// Connections that are being rejected with a reply; further ones are closed silently.
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
            served: ConnectionSlots::new(budget.connections),
            slots: Arc::new(Semaphore::new(budget.connections + extra + listeners)),
            refused: Cell::new(0),
            refused_max: extra,
            spares: Spares::for_admin(),
            shortages,
            closing: Cell::new(false),
        })
    }

    /// Stops accepting.
    pub fn close(&self) {
        self.closing.set(true);
        self.slots.close();
    }

    /// Frees a descriptor after a failed accept.
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

/// Accepts connections until the listener is closed. Must run as its own task and never be dropped.
pub async fn accept(operator: Rc<AdminService>, listener: Rc<Listener>, open: Rc<Open>) {
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

fn greet(operator: &Rc<AdminService>, open: &Rc<Open>, (stream, ends): (Stream, Ends), held: Held) {
    let (operator, open) = (operator.clone(), open.clone());
    stream.set_nodelay();
    net::spawn(async move {
        serve(&operator, &open, stream, ends).await;
        // After the stream.
        drop(held);
    });
}

async fn serve(operator: &AdminService, open: &Open, stream: Stream, ends: Ends) {
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
