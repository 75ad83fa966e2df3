//! One admin connection, from its first byte to its end: reads, waits, answers. Knows no socket.
//!
//! In: a [`Connection`] (from `control/net.rs`), and the proxy as [`AdminActions`] (from `control/`). Out: replies.
//! A read that was started is never dropped, because the connection's runtime may neither cancel it nor free what it
//! holds (tokio-uring does neither): it is kept over timeouts, and at the end [`Connection::shutdown`] makes it return.

use super::admin_state::AdminState;
use super::command::{Command, ProxyJsQuery};
use super::connection::{Connection, Reading};
use super::counters::{AdminCounter, AdminCounters};
use super::readiness::Readiness;
use super::session::{Foreign, Input, Session};
use super::slots::ConnectionHandle;
use super::view::{Tapped, View};
use super::{HELP, proxy_js, reply};
use crate::config::AdminDialect;
use crate::version::VERSION;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Text without a newline is executed after this much silence.
const SILENCE: Duration = Duration::from_millis(200);
/// An idle client is disconnected after this time.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// A client that does not read a reply within this time is disconnected.
const WRITE: Duration = Duration::from_secs(10);
/// A `tap` ends after this time, however few metrics it has shown.
const TAP: Duration = Duration::from_secs(30);
/// A `tap` whose client has closed its sending side writes an empty line after this long without a metric: one that has closed only
/// its sending side looks like one that is gone, until a write fails.
const TAP_SILENCE: Duration = Duration::from_secs(1);
/// How long further input is read and discarded after the last reply: closing a connection with unread
/// bytes resets it, and the client might never see that reply.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of commands that a client may send ahead while it watches a `tap`.
const AHEAD_BYTES_MAX: usize = 65_536;
/// Lines of a `tap` are written together up to this size.
const TAP_WRITE_BYTES: usize = 16_384;

/// What the admin port requests from the running proxy. Its futures run on the control thread and need not be `Send`.
pub trait AdminActions {
    /// The proxy as it is now.
    fn view(&self) -> impl Future<Output = View>;

    /// What `health` answers: up (true) or down.
    fn health(&self) -> bool;

    /// The same question with the reason, for `/readyz`.
    fn readiness(&self) -> Readiness;

    /// Whether an HTTP client may call this host so: one of its own names, without a port. Addresses and `localhost` are
    /// not asked for.
    fn is_own_name(&self, name: &str) -> bool;

    /// Why it is running but not working, e.g. a stuck worker; `None` if it works.
    fn stuck(&self) -> impl Future<Output = Option<String>>;

    /// Sets what `health` answers.
    fn set_health(&self, up: bool);

    /// Sets the administrative state of this backend: its state then, or why there is none; control characters
    /// escaped.
    fn set_backend(
        &self,
        name: &[u8],
        admin_state: AdminState,
    ) -> impl Future<Output = Result<String, String>>;

    /// Reads the configuration again: what it changed, or every error.
    fn reload(&self) -> impl Future<Output = Result<String, Vec<String>>>;

    /// `NAME<TAB>HOST:PORT`, or why there is none; control characters escaped ([`escape`](super::escape())).
    fn where_name(&self, name: &[u8]) -> String;

    /// The next `metrics` metrics whose lines begin with `prefix`, or fewer if the channel is full at times; `None` if
    /// [`TAPS_MAX`] are open. The sender must stop when the receiver is gone, and drop when it has sent so many.
    fn tap(&self, prefix: &[u8], metrics: usize) -> Option<mpsc::Receiver<Tapped>>;

    /// The effective configuration, as JSON.
    fn config_json(&self) -> String;

    /// The dialect of the admin port.
    fn dialect(&self) -> AdminDialect;

    /// The configuration's file, as `proxy.js` answers `config`.
    fn listing(&self) -> String;

    /// Whether commands that change something are accepted from this peer: it is on this host, or
    /// `managementAllowChanges` is set.
    fn changes_allowed(&self, peer_is_local: bool) -> bool;

    /// The counters of the admin port.
    fn counters(&self) -> &AdminCounters;
}

/// Serves one connection to its end, or until it is evicted; when it returns, no read or write is in progress.
pub async fn serve(
    connection: impl Connection,
    proxy: &impl AdminActions,
    peer_is_local: bool,
    handle: &ConnectionHandle,
) {
    proxy.counters().count(AdminCounter::Connections);
    let mut client = Client {
        connection: &connection,
        reading: Reading::new(&connection),
        session: Session::new(),
        counters: proxy.counters(),
        handle,
        may_change: proxy.changes_allowed(peer_is_local),
    };
    if client.run_until_evicted(proxy).await == End::Closing {
        client.linger().await;
    }
    connection.shutdown();
    client.reading.finish().await;
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client has finished, timed out, or is gone: nothing is left to read.
    Over,
    /// This side closes, though the client may still be sending.
    Closing,
}

/// The state after a command.
pub(super) type Answered = Result<(), End>;

pub(super) struct Client<'c, C> {
    connection: &'c C,
    pub(super) reading: Reading<'c, C>,
    session: Session,
    pub(super) counters: &'c AdminCounters,
    pub(super) handle: &'c ConnectionHandle,
    may_change: bool,
}

impl<C: Connection> Client<'_, C> {
    async fn run_until_evicted(&mut self, proxy: &impl AdminActions) -> End {
        let (connection, handle) = (self.connection, self.handle);
        let mut conversation = pin!(self.run(proxy));
        tokio::select! {
            biased;
            end = &mut conversation => end,
            () = handle.evicted() => {
                // A read or write in progress must complete: this forces it.
                connection.shutdown();
                conversation.await
            }
        }
    }

    async fn run(&mut self, proxy: &impl AdminActions) -> End {
        let mut idle_since = Instant::now();
        loop {
            self.session.set_dialect(proxy.dialect());
            while let Some(input) = self.session.next_command() {
                if let Err(end) = self.answer(input, proxy).await {
                    return end;
                }
                idle_since = Instant::now();
                self.session.set_dialect(proxy.dialect());
            }
            if self.session.is_finished() {
                return End::Over;
            }
            let unfinished = self.session.has_text();
            let until = if unfinished { Instant::now() + SILENCE } else { idle_since + IDLE };
            tokio::select! {
                biased;
                read = self.reading.next() => {
                    if let Err(end) = self.on_read(read) {
                        return end;
                    }
                    idle_since = Instant::now();
                }
                () = sleep_until(until) => {
                    // `proxy.js` keeps all connections; here they are evicted when all slots are in use.
                    if !unfinished && proxy.dialect() == AdminDialect::ProxyJs {
                        idle_since = Instant::now();
                        continue;
                    }
                    if !unfinished {
                        self.counters.count(AdminCounter::IdleClosed);
                        return End::Over;
                    }
                    self.session.silence();
                }
            }
        }
    }

    /// Handles the result of a read.
    fn on_read(&mut self, read: io::Result<Vec<u8>>) -> Answered {
        match read {
            // This end is not the client's: an incomplete command is discarded.
            _ if self.handle.is_evicted() => return Err(End::Over),
            Ok(bytes) if bytes.is_empty() => self.session.end_of_file(),
            Ok(bytes) => {
                self.session.feed(&bytes);
                self.reading.recycle(bytes);
            }
            Err(_) => return Err(End::Over),
        }
        Ok(())
    }

    async fn answer(&mut self, input: Input, proxy: &impl AdminActions) -> Answered {
        let (counter, last_reply) = match input {
            Input::Command(command) => {
                self.counters.count(AdminCounter::Commands);
                let is_known = !matches!(command, Command::Unknown | Command::Misused(_));
                self.command(command, is_known, proxy).await?;
                if is_known {
                    self.handle.answered();
                }
                return Ok(());
            }
            Input::Foreign(Foreign::Http) => {
                let begun = self.session.take_foreign();
                return Err(self.serve_http(begun, proxy).await);
            }
            Input::LineTooLong => (AdminCounter::LinesTooLong, reply::line_too_long()),
            Input::Foreign(Foreign::Tls) => (AdminCounter::ForeignProtocols, reply::tls()),
        };
        self.counters.count(counter);
        self.write(last_reply).await?;
        Err(End::Closing)
    }

    async fn command(&mut self, command: Command, is_known: bool, proxy: &impl AdminActions) -> Answered {
        let text = match command {
            Command::Quit => return Err(End::Closing),
            Command::Tap { prefix, metrics } => match proxy.tap(&prefix, metrics) {
                Some(receiver) => return self.tap(receiver, metrics).await,
                None => reply::too_many_taps(),
            },
            command => {
                // Until the reply is ready, the client waits for this side; then this side waits for the client.
                self.handle.set_under_way(is_known);
                let text = self.carry_out(command, proxy).await;
                self.handle.set_under_way(false);
                text
            }
        };
        self.write(text).await
    }

    /// Executes a command; returns the reply.
    async fn carry_out(&self, command: Command, proxy: &impl AdminActions) -> String {
        match command {
            // The first never gets here, the others have no single text as reply.
            Command::Nothing | Command::Quit | Command::Tap { .. } => String::new(),
            Command::Ping => "pong\n".to_string(),
            Command::Version => format!("statsring {VERSION}\n"),
            Command::Help => HELP.to_string(),
            Command::Health => reply::health(proxy.health()),
            Command::Config => proxy.config_json(),
            Command::ProxyJs(ProxyJsQuery::Help) => proxy_js::HELP.to_string(),
            Command::ProxyJs(ProxyJsQuery::Config) => proxy.listing(),
            Command::ProxyJs(ProxyJsQuery::Status) => {
                let view = proxy.view().await;
                proxy_js::status(view.uptime_s, &view.ring)
            }
            Command::Where(name) => proxy.where_name(&name),
            Command::SetHealth(_) | Command::Reload | Command::SetBackend { .. } if !self.may_change => {
                self.counters.count(AdminCounter::ChangesRefused);
                reply::refused(match command {
                    Command::Reload => "reload",
                    Command::SetBackend { .. } => "backend",
                    _ => "health up|down",
                })
            }
            Command::SetBackend { name, admin_state } => {
                reply::changed(proxy.set_backend(&name, admin_state).await)
            }
            Command::SetHealth(up) => {
                proxy.set_health(up);
                reply::health(up)
            }
            Command::Reload => reply::reload(proxy.reload().await),
            Command::Misused(usage) => {
                self.counters.count(AdminCounter::CommandsUnknown);
                reply::wrong_arguments(usage)
            }
            Command::Unknown => {
                self.counters.count(AdminCounter::CommandsUnknown);
                reply::unknown(proxy.dialect())
            }
            Command::Stats
            | Command::Memstats
            | Command::Latency
            | Command::LatencyDistribution(_)
            | Command::Backends
            | Command::Status => reply::shown(&command, &proxy.view().await).unwrap_or_default(),
        }
    }

    /// Shows metrics as they arrive, until `asked` were shown, the time is over, or the client is gone.
    ///
    /// A client that has closed its sending side still gets its lines: whether it has gone for good shows in a write, so
    /// something is written now and then.
    async fn tap(&mut self, mut metrics: mpsc::Receiver<Tapped>, asked: usize) -> Answered {
        let start = Instant::now();
        let mut quiet_since = start;
        let mut shown = 0;
        while shown < asked {
            let listens = !self.session.is_ended() && self.session.buffered() < AHEAD_BYTES_MAX;
            let metric = tokio::select! {
                biased;
                read = self.reading.next(), if listens => {
                    self.on_read(read)?;
                    quiet_since = Instant::now();
                    continue;
                }
                metric = metrics.recv() => metric,
                () = sleep_until(start + TAP) => None,
                () = sleep_until(quiet_since + TAP_SILENCE), if !listens => {
                    self.write("\n".to_owned()).await?;
                    quiet_since = Instant::now();
                    continue;
                }
            };
            let Some(metric) = metric else {
                return self.write(reply::tap_ended(shown, asked, start.elapsed().as_secs())).await;
            };
            let mut lines = reply::tapped(&metric);
            shown += 1;
            while shown < asked && lines.len() < TAP_WRITE_BYTES {
                let Ok(metric) = metrics.try_recv() else { break };
                lines.push_str(&reply::tapped(&metric));
                shown += 1;
            }
            self.write(lines).await?;
            quiet_since = Instant::now();
            self.handle.answered();
        }
        Ok(())
    }

    async fn write(&mut self, text: String) -> Answered {
        self.write_bytes(reply::bounded(text).into_bytes()).await
    }

    pub(super) async fn write_bytes(&mut self, bytes: Vec<u8>) -> Answered {
        let mut write = pin!(self.connection.write_all(bytes));
        match timeout(WRITE, &mut write).await {
            Ok(written) => written.map_err(|_| End::Over),
            Err(_) => {
                self.counters.count(AdminCounter::WritesTimedOut);
                // Like a read, a write in progress must complete.
                self.connection.shutdown();
                let _ = write.await;
                Err(End::Over)
            }
        }
    }

    /// Reads and discards until the client closes, pauses, or times out. One that waits for the end of the reply is
    /// notified at once.
    async fn linger(&mut self) {
        self.connection.end_writes();
        let end = Instant::now() + LINGER;
        while Instant::now() < end {
            tokio::select! {
                biased;
                read = self.reading.next() => match read {
                    Ok(bytes) if !bytes.is_empty() => self.reading.recycle(bytes),
                    _ => return,
                },
                () = sleep_until(end.min(Instant::now() + SILENCE)) => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
pub(in crate::admin) mod tests;
