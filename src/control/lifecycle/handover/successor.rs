//! The new process as seen by the old one: started, offered the sockets, listened to, sent "go" or abort.
//!
//! In: a program, an offer with its sockets. Out: [`OutgoingEvent`]s. Next: `decide.rs` decides on the actions.

use super::decide::OutgoingEvent;
use super::message::{FromNew, FromOld, Link, LinkError, Offer, State};
use super::predecessor::VARIABLE;
use super::program::Program;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Poll interval for the exit of the new process.
const LOOK: Duration = Duration::from_millis(20);
/// How long its last messages may take to arrive after its exit.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// Capacity of the message queue.
const CHANNEL_CAPACITY: usize = 8;

/// A new process.
pub struct Successor {
    child: Child,
    link: Link,
    rx: mpsc::Receiver<OutgoingEvent>,
    /// No more messages.
    is_silent: bool,
    deadline: Instant,
    ended: Option<String>,
    /// Its exit was reported: no more events.
    is_told: bool,
}

impl Successor {
    /// Starts `program` and makes it the offer; it has until the offer's time is over. The sockets are copies, which are
    /// closed here once they were sent.
    pub fn start(program: &Program, offer: Offer, sockets: Vec<OwnedFd>) -> io::Result<Successor> {
        let deadline = Instant::now() + Duration::from_millis(offer.timeout_ms);
        let (link, there) = Link::pair()?;
        let (tx, rx) = mpsc::channel(CHANNEL_CAPACITY);
        let reader = link.another()?;
        let child = Command::new(&program.path)
            .args(&program.arguments)
            // The one descriptor that a program always inherits at a known place.
            .stdin(OwnedFd::from(there))
            .env(VARIABLE, "1")
            // The watchdog is the service's, whichever process it is.
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .spawn()?;
        std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
            let _ = SigSet::all().thread_block();
            exchange(&reader, &offer, sockets, &tx);
        })?;
        Ok(Successor { child, link, rx, is_silent: false, deadline, ended: None, is_told: false })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> OutgoingEvent {
        loop {
            if let Some(how) = &self.ended {
                if self.is_told {
                    return std::future::pending().await;
                }
                if self.is_silent {
                    self.is_told = true;
                    return OutgoingEvent::Exited(how.clone());
                }
                match timeout(DRAIN_TIME, self.rx.recv()).await {
                    Ok(Some(event)) => return event,
                    Ok(None) | Err(_) => self.is_silent = true,
                }
                continue;
            }
            tokio::select! {
                biased;
                event = self.rx.recv(), if !self.is_silent => match event {
                    Some(event) => return event,
                    None => self.is_silent = true,
                },
                () = sleep_until(self.deadline) => {
                    // It fires once until it is set again.
                    self.deadline += Duration::from_secs(3_600);
                    return OutgoingEvent::TimedOut;
                }
                () = sleep(LOOK) => if let Ok(Some(status)) = self.child.try_wait() {
                    self.ended = Some(exit_text(status));
                },
            }
        }
    }

    /// Gives it more time.
    pub fn set_time_limit(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }

    /// Tells it to serve.
    pub fn send_go(&self, state: State) -> Result<(), LinkError> {
        self.link.send(&FromOld::Go(state), NOTHING)
    }

    /// Tells it to exit. If that is lost, its time limit applies.
    pub fn send_abort(&self, why: String) {
        let _ = self.link.send(&FromOld::Abort(why), NOTHING);
    }

    /// Makes it reload its config.
    pub fn request_reload(&self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Forwards a stop signal: as a message, which cannot overtake the "go", and as the signal itself to one
    /// that does not listen.
    pub fn send_stop(&self, number: u8) {
        if self.link.send(&FromOld::Stop(number), NOTHING).is_ok() {
            return;
        }
        if let Ok(signal) = Signal::try_from(i32::from(number)) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }
}

/// No descriptors.
const NOTHING: &[OwnedFd] = &[];

/// Sends the offer and forwards the answers, until the other end closes. A program that is not statsring, or another
/// version, is detected here.
fn exchange(link: &Link, offer: &Offer, sockets: Vec<OwnedFd>, tx: &mpsc::Sender<OutgoingEvent>) {
    // The cause of a failed send shows in the exit of the new process.
    let _ = link.send(offer, &sockets);
    drop(sockets);
    loop {
        let event = match link.receive::<FromNew>() {
            Ok(Some((FromNew::Ready(taken), _))) => OutgoingEvent::Ready { taken, is_current: true },
            Ok(Some((FromNew::Failed(message), _))) => OutgoingEvent::Failed(message),
            Ok(None) | Err(LinkError::Io(_)) => return,
            Err(error) => {
                let _ = tx.blocking_send(OutgoingEvent::Failed(error.to_string()));
                return;
            }
        };
        if tx.blocking_send(event).is_err() {
            return;
        }
    }
}

fn exit_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}; see its messages in the log"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "exited".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_exit_is_reported_once() {
        let program = Program { path: "/bin/true".into(), arguments: Vec::new() };
        let offer = Offer { pid: std::process::id(), timeout_ms: 60_000, ..Offer::default() };
        let mut successor = Successor::start(&program, offer, Vec::new()).unwrap();
        while !matches!(successor.next().await, OutgoingEvent::Exited(_)) {}
        assert!(timeout(Duration::from_millis(200), successor.next()).await.is_err(), "told twice");
    }
}
