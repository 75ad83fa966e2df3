//! The old process as seen by the new one: its offer, its sockets, its "go" or abort.
//!
//! In: a socket at standard input, where the old process put it. Out: an [`Offer`], then [`IncomingEvent`]s. Next: `decide.rs`
//! decides on the actions.

use super::decide::{IncomingAction, IncomingEvent, IncomingHandover};
use super::message::{FromNew, FromOld, Inherited, Link, LinkError, Offer, State};
use nix::sys::signal::SigSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tokio::sync::mpsc;

/// Set in the environment of a process that takes over.
pub const VARIABLE: &str = "STATSRING_HANDOVER";
/// How long each piece of the offer may take.
const OFFER: Duration = Duration::from_secs(10);
/// Capacity of the message queue.
const CHANNEL_CAPACITY: usize = 8;

/// An old process.
pub struct Predecessor {
    /// What it offered.
    pub offer: Offer,
    sockets: Vec<OwnedFd>,
    taken: Inherited,
    link: Link,
    incoming: IncomingHandover,
    /// `None` until [`Predecessor::listen`], and at the end of messages.
    rx: Option<mpsc::Receiver<Received>>,
    last_state: Option<State>,
}

enum Received {
    FromOld(FromOld),
    Exited,
}

impl Predecessor {
    /// The old process that started this one as its successor, if there is one. Standard input is empty from then on.
    ///
    /// To be called before there are other threads.
    pub fn meet() -> Result<Option<Predecessor>, String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let unusable = |error: LinkError| {
            format!(
                "the handover failed: {error} ({VARIABLE} is reserved for processes started by statsring itself)"
            )
        };
        let link = standard_input().map_err(|error| unusable(error.into()))?;
        let received =
            link.set_patience(Some(OFFER)).map_err(LinkError::from).and_then(|()| link.receive::<Offer>());
        match received {
            // A message that overtook the offer reads as an empty one: the old process has already aborted the restart.
            Ok(Some((Offer { pid: 0, .. }, _))) => Err("the old process has aborted the restart".to_owned()),
            Ok(Some((offer, sockets))) => Ok(Some(Predecessor {
                offer,
                sockets,
                taken: Inherited::default(),
                link,
                incoming: IncomingHandover::new(),
                rx: None,
                last_state: None,
            })),
            Ok(None) => Err(unusable(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Err(error) => {
                let message = unusable(error);
                let _ = link.send(&FromNew::Failed(message.clone()), NOTHING);
                Err(message)
            }
        }
    }

    /// The sockets, in the order of the offer; once.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    /// Notes which of them are used.
    pub fn set_taken(&mut self, taken: Inherited) {
        self.taken = taken;
    }

    /// Starts to receive messages from the old process.
    pub fn listen(&mut self) -> io::Result<()> {
        self.link.set_patience(None)?;
        let reader = self.link.another()?;
        let (tx, rx) = mpsc::channel(CHANNEL_CAPACITY);
        std::thread::Builder::new().name("predecessor".to_owned()).spawn(move || {
            let _ = SigSet::all().thread_block();
            while let Ok(Some((message, _))) = reader.receive::<FromOld>() {
                if tx.blocking_send(Received::FromOld(message)).is_err() {
                    return;
                }
            }
            let _ = tx.blocking_send(Received::Exited);
        })?;
        self.rx = Some(rx);
        Ok(())
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> IncomingEvent {
        let Some(rx) = &mut self.rx else { return std::future::pending().await };
        match rx.recv().await {
            Some(Received::FromOld(FromOld::Go(state))) => {
                self.last_state = Some(state);
                IncomingEvent::Go
            }
            Some(Received::FromOld(FromOld::Abort(why))) => IncomingEvent::Abort(why),
            Some(Received::FromOld(FromOld::Stop(signal))) => {
                tracing::info!("the old process forwarded signal {signal}");
                IncomingEvent::Stop
            }
            Some(Received::Exited) | None => {
                self.rx = None;
                IncomingEvent::OldExited
            }
        }
    }

    /// The action for an event.
    pub fn on(&mut self, event: IncomingEvent) -> IncomingAction {
        self.incoming.on(event)
    }

    /// Whether a stop waits until this process serves.
    pub fn is_stop_pending(&self) -> bool {
        self.incoming.is_stop_pending()
    }

    /// Whether the handover is over.
    pub fn is_complete(&self) -> bool {
        self.incoming.is_complete()
    }

    /// The last state of the old process, if received; once.
    pub fn take_last_state(&mut self) -> Option<State> {
        self.last_state.take()
    }

    /// Reports that this process receives.
    pub fn send_ready(&self) -> Result<(), LinkError> {
        self.link.send(&FromNew::Ready(self.taken.clone()), NOTHING)
    }

    /// Reports why this process exits. If that is lost, the exit itself is seen.
    pub fn send_failed(&self, message: &str) {
        let _ = self.link.send(&FromNew::Failed(message.to_owned()), NOTHING);
    }
}

/// No descriptors.
const NOTHING: &[OwnedFd] = &[];

/// The connection to the old process; standard input becomes empty.
fn standard_input() -> io::Result<Link> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Link::new(UnixStream::from(socket))
}
