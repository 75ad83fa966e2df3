//! The new process as the old one sees it: started, offered the sockets, listened to, told to go or to end.
//!
//! In: a program, an offer with its sockets. Out: [`GiverEvent`]s. Next: `decide.rs` says what to do about them.

use super::decide::GiverEvent;
use super::message::{Answer, Link, LinkError, Offer, State, Word};
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

/// How often it is looked whether the new process has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long its last words may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Messages that may wait to be looked at.
const HEARD_MAX: usize = 8;

/// A new process.
pub struct Successor {
    child: Child,
    link: Link,
    heard: mpsc::Receiver<GiverEvent>,
    /// Nothing more is to be heard.
    is_silent: bool,
    deadline: Instant,
    ended: Option<String>,
    /// Its end was told: there is nothing more to tell.
    is_told: bool,
}

impl Successor {
    /// Starts `program` and makes it the offer; it has until the offer's time is over. The sockets are copies, which are
    /// closed here once they were sent.
    pub fn start(program: &Program, offer: Offer, sockets: Vec<OwnedFd>) -> io::Result<Successor> {
        let deadline = Instant::now() + Duration::from_millis(offer.timeout_ms);
        let (link, there) = Link::pair()?;
        let (hear, heard) = mpsc::channel(HEARD_MAX);
        let ear = link.another()?;
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
            converse(&ear, &offer, sockets, &hear);
        })?;
        Ok(Successor { child, link, heard, is_silent: false, deadline, ended: None, is_told: false })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What happens next. May be dropped while it waits.
    pub async fn next(&mut self) -> GiverEvent {
        loop {
            if let Some(how) = &self.ended {
                if self.is_told {
                    return std::future::pending().await;
                }
                if self.is_silent {
                    self.is_told = true;
                    return GiverEvent::Ended(how.clone());
                }
                match timeout(LAST_WORDS, self.heard.recv()).await {
                    Ok(Some(event)) => return event,
                    Ok(None) | Err(_) => self.is_silent = true,
                }
                continue;
            }
            tokio::select! {
                biased;
                event = self.heard.recv(), if !self.is_silent => match event {
                    Some(event) => return event,
                    None => self.is_silent = true,
                },
                () = sleep_until(self.deadline) => {
                    // Until another one is set, it is over once.
                    self.deadline += Duration::from_secs(3_600);
                    return GiverEvent::Late;
                }
                () = sleep(LOOK) => if let Ok(Some(status)) = self.child.try_wait() {
                    self.ended = Some(words(status));
                },
            }
        }
    }

    /// Gives it more time.
    pub fn set_time(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }

    /// Says that it is the proxy now.
    pub fn say_go(&self, state: State) -> Result<(), LinkError> {
        self.link.send(&Word::Go(state), NOTHING)
    }

    /// Says that it is to end. One that does not hear it runs out of time.
    pub fn say_abort(&self, why: String) {
        let _ = self.link.send(&Word::Abort(why), NOTHING);
    }

    /// Has it read its config again.
    pub fn ask_reload(&self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP);
    }

    /// Ends it by force.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Passes on that a signal asked for a stop: as a word, which cannot overtake the "go", and by the signal itself to one
    /// that does not listen.
    pub fn say_stop(&self, number: u8) {
        if self.link.send(&Word::Stop(number), NOTHING).is_ok() {
            return;
        }
        if let Ok(signal) = Signal::try_from(i32::from(number)) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }
}

/// No descriptors.
const NOTHING: &[OwnedFd] = &[];

/// Makes the offer and passes on what is answered, until the other end closes. A program that is no statsring, or another
/// version, is found out here.
fn converse(link: &Link, offer: &Offer, sockets: Vec<OwnedFd>, hear: &mpsc::Sender<GiverEvent>) {
    // What cannot be sent has a cause that the new process's end tells.
    let _ = link.send(offer, &sockets);
    drop(sockets);
    loop {
        let event = match link.receive::<Answer>() {
            Ok(Some((Answer::Ready(taken), _))) => GiverEvent::Ready { taken, is_current: true },
            Ok(Some((Answer::Failed(words), _))) => GiverEvent::Failed(words),
            Ok(None) | Err(LinkError::Io(_)) => return,
            Err(error) => {
                let _ = hear.blocking_send(GiverEvent::Failed(error.to_string()));
                return;
            }
        };
        if hear.blocking_send(event).is_err() {
            return;
        }
    }
}

fn words(status: ExitStatus) -> String {
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
    async fn its_end_is_told_once() {
        let program = Program { path: "/bin/true".into(), arguments: Vec::new() };
        let offer = Offer { pid: std::process::id(), timeout_ms: 60_000, ..Offer::default() };
        let mut successor = Successor::start(&program, offer, Vec::new()).unwrap();
        while !matches!(successor.next().await, GiverEvent::Ended(_)) {}
        assert!(timeout(Duration::from_millis(200), successor.next()).await.is_err(), "told twice");
    }
}
