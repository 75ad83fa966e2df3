//! Whole admin connections: input from a client and all replies, with a proxy that records what it is asked to change.
//!
//! Input: the first byte says how the client sends (bits 0 to 5: chunk length, bit 6: it disconnects when answered, bit 7: it
//! is on another host), the rest is what it sends.

use crate::expand::expand;
use crate::session::{REPEAT, foreign, piece_bytes};
use statsring::admin::{
    AdminActions, AdminCounter, AdminCounters, AdminState, Command, Connection, ConnectionHandle,
    LINE_BYTES_MAX, LastReload, Readiness, Tapped, View, WorkerView, parse, serve,
};
use statsring::config::AdminDialect;
use std::cell::{Cell, RefCell};
use std::io;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// The client disconnects after this many reply bytes: long replies dominate the run time.
const ENOUGH_BYTES: usize = 1_000;

/// The host name of the proxy.
pub const OWN_NAME: &str = "own.example";

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    static VIEW: View = sample();
}

/// Runs any input as a client.
pub fn run(bytes: &[u8]) {
    let Some((way, text)) = bytes.split_first() else { return };
    let text = &expand(text, REPEAT);
    let is_local = way & 0x80 == 0;
    let is_gone = way & 0x40 != 0;
    let (proxy, replies) = run_connection(text, piece_bytes(*way, text), is_local, is_gone);
    let expected = Expected::of(text);
    let commands = proxy.counters.get(AdminCounter::Commands);
    if is_gone || replies.len() > ENOUGH_BYTES {
        assert!(commands <= expected.commands);
        assert!(proxy.changes() <= expected.changes);
    } else {
        assert_eq!(commands, expected.commands);
        assert!(replies.is_empty() || replies.ends_with(b"\n"), "a reply ends within a line");
        let is_clean =
            |byte: &u8| *byte == b'\n' || *byte == b'\r' || *byte == b'\t' || !byte.is_ascii_control();
        assert!(replies.iter().all(is_clean), "a reply contains a control character");
        assert_eq!(proxy.changes(), if is_local { expected.changes } else { 0 });
        let refused = proxy.counters.get(AdminCounter::ChangesRefused);
        assert_eq!(refused, if is_local { 0 } else { expected.changes });
    }
}

impl Proxy {
    /// Number of requested changes.
    pub fn changes(&self) -> u64 {
        self.health_sets.get() + self.reloads.get() + self.backend_sets.get()
    }
}

/// The expected effects of a connection.
#[derive(Default)]
struct Expected {
    commands: u64,
    changes: u64,
}

impl Expected {
    fn of(text: &[u8]) -> Expected {
        let mut expected = Expected::default();
        for line in text.split(|byte| *byte == b'\n') {
            if foreign(line).is_some() || line.len() > LINE_BYTES_MAX {
                break;
            }
            let command = parse(line);
            expected.commands += u64::from(command != Command::Nothing);
            let is_change =
                matches!(command, Command::SetHealth(_) | Command::Reload | Command::SetBackend { .. });
            expected.changes += u64::from(is_change);
            if command == Command::Quit {
                break;
            }
        }
        expected
    }
}

/// Serves one connection to its end; returns the recorded changes and the replies.
pub fn run_connection(text: &[u8], piece_bytes: usize, is_local: bool, is_gone: bool) -> (Proxy, Vec<u8>) {
    let proxy = Proxy::default();
    let wire = Wire {
        unsent: RefCell::new(text.to_vec()),
        sent: Cell::new(0),
        piece_bytes,
        replies: RefCell::default(),
        is_gone,
        is_write_ended: Cell::new(false),
        is_shut_down: Cell::new(false),
    };
    RUNTIME.with(|runtime| runtime.block_on(serve(&wire, &proxy, is_local, &ConnectionHandle::new())));
    assert!(wire.is_shut_down.get(), "the connection was left open");
    assert_eq!(proxy.counters.get(AdminCounter::Connections), 1);
    (proxy, wire.replies.take())
}

/// A client that always has the next chunk ready, then half-closes.
struct Wire {
    unsent: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    piece_bytes: usize,
    replies: RefCell<Vec<u8>>,
    is_gone: bool,
    is_write_ended: Cell<bool>,
    is_shut_down: Cell<bool>,
}

impl Connection for &Wire {
    async fn read(&self, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        buffer.clear();
        if !self.is_shut_down.get() {
            let (unsent, start) = (self.unsent.borrow(), self.sent.get());
            let end = (start + self.piece_bytes.min(buffer.capacity())).min(unsent.len());
            buffer.extend_from_slice(&unsent[start..end]);
            self.sent.set(end);
        }
        Ok(buffer)
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        assert!(!self.is_write_ended.get(), "write after the end of writes");
        if self.is_gone || self.is_shut_down.get() || self.replies.borrow().len() > ENOUGH_BYTES {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.replies.borrow_mut().extend(bytes);
        Ok(())
    }

    fn end_writes(&self) {
        self.is_write_ended.set(true);
    }

    fn shutdown(&self) {
        self.is_shut_down.set(true);
    }
}

/// A proxy that records requested changes.
#[derive(Default)]
pub struct Proxy {
    /// Calls that set health.
    pub health_sets: Cell<u64>,
    /// Reloads requested.
    pub reloads: Cell<u64>,
    /// Backend changes requested.
    pub backend_sets: Cell<u64>,
    /// Counters of the admin port.
    pub counters: AdminCounters,
}

impl AdminActions for Proxy {
    async fn view(&self) -> View {
        View { admin: self.counters.clone(), ..VIEW.with(View::clone) }
    }

    fn health(&self) -> bool {
        self.health_sets.get().is_multiple_of(2)
    }

    fn readiness(&self) -> Readiness {
        if self.health() { Readiness::Ready } else { Readiness::HealthDown }
    }

    async fn stuck(&self) -> Option<String> {
        None
    }

    fn is_own_name(&self, name: &str) -> bool {
        name == OWN_NAME
    }

    fn set_health(&self, _: bool) {
        self.health_sets.set(self.health_sets.get() + 1);
    }

    async fn reload(&self) -> Result<String, Vec<String>> {
        self.reloads.set(self.reloads.get() + 1);
        if self.reloads.get() % 2 == 1 {
            Ok("nothing changed".into())
        } else {
            Err(vec!["port: \x1b".into()])
        }
    }

    async fn set_backend(&self, name: &[u8], _: AdminState) -> Result<String, String> {
        self.backend_sets.set(self.backend_sets.get() + 1);
        let name = statsring::admin::escape(name);
        if name.len().is_multiple_of(2) {
            Ok(format!("{name}: changed"))
        } else {
            Err(format!("no such backend: {name}"))
        }
    }

    fn where_name(&self, name: &[u8]) -> String {
        format!("{}\t127.0.0.1:8125", statsring::admin::escape(name))
    }

    fn tap(&self, prefix: &[u8], metrics: usize) -> Option<mpsc::Receiver<Tapped>> {
        let (sender, receiver) = mpsc::channel(4);
        for _ in 0..metrics.min(3) {
            let metric = Tapped { line: [prefix, b"\x00\x1b:1|c"].concat(), node: "node:8125".into() };
            sender.try_send(metric).expect("the channel has room");
        }
        Some(receiver)
    }

    fn config_json(&self) -> String {
        "{\"port\": 8125}".into()
    }

    fn dialect(&self) -> AdminDialect {
        AdminDialect::Statsring
    }

    fn listing(&self) -> String {
        "\nport: 8125\n".into()
    }

    fn changes_allowed(&self, peer_is_local: bool) -> bool {
        peer_is_local
    }

    fn counters(&self) -> &AdminCounters {
        &self.counters
    }
}

/// A sample view, with hostile text from outside.
fn sample() -> View {
    View {
        uptime_s: 51,
        workers: vec![WorkerView::default()],
        degraded: vec!["bad\x07thing".into()],
        last_reload: Some(LastReload { ago_s: 1, message: "a\nb\x1b".into(), succeeded: false }),
        ..View::default()
    }
}
