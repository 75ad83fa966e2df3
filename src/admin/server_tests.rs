//! The connection loop over an in-memory connection, on a paused clock.

#[path = "tap_tests.rs"]
mod tap;

use super::super::session::LINE_BYTES_MAX;
use super::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Both ends of a connection: the server has it as a [`Connection`], the test plays the client.
#[derive(Default)]
pub(in crate::admin) struct Wire {
    sent: RefCell<VecDeque<u8>>,
    client_done: Cell<bool>,
    client_gone: Cell<bool>,
    pub(in crate::admin) client_reads: Cell<bool>,
    replies: RefCell<Vec<u8>>,
    shut_down: Cell<bool>,
    pub(in crate::admin) writes_ended: Cell<bool>,
    reads_dropped: Cell<u32>,
    writes_dropped: Cell<u32>,
    changed: Notify,
}

/// Detects an operation that is dropped before its end.
struct Operation<'a> {
    dropped: &'a Cell<u32>,
    ended: bool,
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.dropped.set(self.dropped.get() + 1);
        }
    }
}

impl Wire {
    pub(in crate::admin) fn new() -> Rc<Wire> {
        let wire = Wire::default();
        wire.client_reads.set(true);
        Rc::new(wire)
    }

    pub(in crate::admin) fn send(&self, bytes: &[u8]) {
        self.sent.borrow_mut().extend(bytes);
        self.changed.notify_waiters();
    }

    /// The client closes its sending side.
    pub(in crate::admin) fn half_close(&self) {
        self.client_done.set(true);
        self.changed.notify_waiters();
    }

    /// The client is gone: what is written to it fails.
    fn disappear(&self) {
        self.client_gone.set(true);
        self.half_close();
    }

    /// The replies within the next `ms`.
    pub(in crate::admin) async fn replies_within(&self, ms: u64) -> String {
        sleep(Duration::from_millis(ms)).await;
        String::from_utf8(self.replies.take()).unwrap()
    }
}

impl Connection for Rc<Wire> {
    async fn read(&self, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut operation = Operation { dropped: &self.reads_dropped, ended: false };
        loop {
            let changed = self.changed.notified();
            if !self.shut_down.get() {
                let mut sent = self.sent.borrow_mut();
                let ready = sent.len().min(buffer.capacity());
                buffer.extend(sent.drain(..ready));
            }
            if !buffer.is_empty() || self.client_done.get() || self.shut_down.get() {
                operation.ended = true;
                return Ok(buffer);
            }
            changed.await;
        }
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut operation = Operation { dropped: &self.writes_dropped, ended: false };
        loop {
            let changed = self.changed.notified();
            assert!(!self.writes_ended.get(), "something is written after the end of writes");
            if self.shut_down.get() || self.client_gone.get() {
                operation.ended = true;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.client_reads.get() {
                self.replies.borrow_mut().extend(bytes);
                operation.ended = true;
                return Ok(());
            }
            changed.await;
        }
    }

    fn end_writes(&self) {
        self.writes_ended.set(true);
    }

    fn shutdown(&self) {
        self.shut_down.set(true);
        self.changed.notify_waiters();
    }
}

/// A proxy that records its calls.
#[derive(Default)]
pub(in crate::admin) struct Proxy {
    pub(in crate::admin) down: Cell<bool>,
    pub(in crate::admin) reloads: Cell<u32>,
    pub(in crate::admin) stuck: Cell<bool>,
    reload_lasts: Cell<Duration>,
    admin_state: Cell<AdminState>,
    allow_changes: bool,
    dialect: Cell<AdminDialect>,
    taps: RefCell<Option<mpsc::Receiver<Tapped>>>,
    tapped: RefCell<Vec<(Vec<u8>, usize)>>,
    pub(in crate::admin) counters: AdminCounters,
}

impl AdminActions for Proxy {
    async fn view(&self) -> View {
        View { uptime_s: 51, admin: self.counters.clone(), ..View::default() }
    }

    fn health(&self) -> bool {
        !self.down.get()
    }

    fn readiness(&self) -> Readiness {
        if self.down.get() { Readiness::HealthDown } else { Readiness::Ready }
    }

    fn is_own_name(&self, name: &str) -> bool {
        name == "proxy.example"
    }

    async fn stuck(&self) -> Option<String> {
        self.stuck.get().then(|| "worker 0 has made no progress for 9 s".to_owned())
    }

    fn set_health(&self, up: bool) {
        self.down.set(!up);
    }

    async fn set_backend(&self, name: &[u8], admin_state: AdminState) -> Result<String, String> {
        if name != b"h:1" {
            return Err(format!("no such backend: {}", super::super::escape(name)));
        }
        self.admin_state.set(admin_state);
        Ok(format!("backend h:1: {}", admin_state.name()))
    }

    async fn reload(&self) -> Result<String, Vec<String>> {
        self.reloads.set(self.reloads.get() + 1);
        sleep(self.reload_lasts.get().max(Duration::from_millis(5))).await;
        match self.reloads.get() {
            1 => Ok("nothing changed".to_string()),
            _ => Err(vec!["port: 0 is not a port".to_string(), "nodes: none".to_string()]),
        }
    }

    fn where_name(&self, name: &[u8]) -> String {
        format!("{}\th:1", super::super::escape(name))
    }

    fn tap(&self, prefix: &[u8], metrics: usize) -> Option<mpsc::Receiver<Tapped>> {
        self.tapped.borrow_mut().push((prefix.to_vec(), metrics));
        self.taps.take()
    }

    fn config_json(&self) -> String {
        "{\"port\": 8125}".to_string()
    }

    fn dialect(&self) -> AdminDialect {
        self.dialect.get()
    }

    fn listing(&self) -> String {
        "\nport: 8125\n".to_string()
    }

    fn changes_allowed(&self, peer_is_local: bool) -> bool {
        peer_is_local || self.allow_changes
    }

    fn counters(&self) -> &AdminCounters {
        &self.counters
    }
}

/// Serves a connection while `client` runs; returns the connection's duration.
pub(in crate::admin) async fn serve_while(
    proxy: &Proxy,
    peer_is_local: bool,
    wire: &Rc<Wire>,
    client: impl Future<Output = ()>,
) -> Duration {
    serve_with_handle(&ConnectionHandle::new(), proxy, peer_is_local, wire, client).await
}

/// The same for a guest that the test knows.
async fn serve_with_handle(
    handle: &ConnectionHandle,
    proxy: &Proxy,
    peer_is_local: bool,
    wire: &Rc<Wire>,
    client: impl Future<Output = ()>,
) -> Duration {
    let start = Instant::now();
    let served = async {
        serve(wire.clone(), proxy, peer_is_local, handle).await;
        start.elapsed()
    };
    let (lasted, ()) = tokio::join!(served, client);
    assert!(wire.shut_down.get(), "the connection was not closed");
    assert_eq!(wire.reads_dropped.get(), 0, "a read was dropped before its end");
    assert_eq!(wire.writes_dropped.get(), 0, "a write was dropped before its end");
    lasted
}

pub(in crate::admin) fn is_about(time: Duration, ms: u64) -> bool {
    (ms..ms + 50).contains(&(time.as_millis() as u64))
}

#[tokio::test(start_paused = true)]
async fn a_newline_is_answered_at_once() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"ping\n");
        assert_eq!(wire.replies_within(1).await, "pong\n");
        wire.send(b"hea");
        assert_eq!(wire.replies_within(100).await, "");
        wire.send(b"lth\r\n");
        assert_eq!(wire.replies_within(1).await, "health: up\n");
        wire.half_close();
    });
    assert!(is_about(lasted.await, 102));
}

#[tokio::test(start_paused = true)]
async fn text_without_a_newline_is_answered_once_after_a_silence() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    serve_while(&proxy, true, &wire, async {
        wire.send(b"stats");
        assert_eq!(wire.replies_within(199).await, "");
        let replies = wire.replies_within(2).await;
        assert!(
            replies.starts_with("time running in seconds: 51\npackets_received: 0.000000\n"),
            "{replies}"
        );
        wire.send(b"\n");
        assert_eq!(wire.replies_within(1_000).await, "");
        // Slow typing restarts the timeout.
        for byte in b"ping" {
            wire.send(&[*byte]);
            assert_eq!(wire.replies_within(150).await, "");
        }
        assert_eq!(wire.replies_within(60).await, "pong\n");
        wire.half_close();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pipelined_commands_are_answered_in_order_and_the_half_close_ends_it() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"ping\nbogus\n\nhealth down\nhealth\nhealth sideways\nreload\nreload\nwhere a\x1bb\nconfig\nversion");
        wire.half_close();
        let expected = format!(
            "pong\nunknown command; help lists the commands\nhealth: down\nhealth: down\nerror: usage: health [up|down]\n\
             nothing changed\nerror: port: 0 is not a port\nerror: nodes: none\na\\x1bb\th:1\n{{\"port\": 8125}}\n\
             statsring {VERSION}\n"
        );
        assert_eq!(wire.replies_within(50).await, expected);
    });
    assert!(is_about(lasted.await, 10));
    assert!(proxy.down.get());
    assert_eq!(proxy.counters.get(AdminCounter::Commands), 10);
    assert_eq!(proxy.counters.get(AdminCounter::CommandsUnknown), 2);
}

#[tokio::test(start_paused = true)]
async fn every_command_of_help_is_answered() {
    for line in HELP.lines() {
        let name = line.split_whitespace().next().unwrap();
        if matches!(name, "quit" | "tap") {
            continue;
        }
        let (proxy, wire) = (Proxy::default(), Wire::new());
        serve_while(&proxy, true, &wire, async {
            wire.send(name.as_bytes());
            wire.half_close();
            let replies = wire.replies_within(50).await;
            assert!(
                replies.ends_with('\n') && replies != "unknown command; help lists the commands\n",
                "{name}: {replies}"
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_accepted_from_this_host_or_if_allowed() {
    for (peer_is_local, allow_changes, taken) in
        [(true, false, true), (false, true, true), (false, false, false)]
    {
        let (proxy, wire) = (Proxy { allow_changes, ..Proxy::default() }, Wire::new());
        serve_while(&proxy, peer_is_local, &wire, async {
            wire.send(b"health down\nreload\nhealth up\nbackend h:1 drain\nhealth down\nhealth\n");
            wire.half_close();
            let replies = wire.replies_within(50).await;
            assert_eq!(replies.contains("managementAllowChanges"), !taken, "{replies}");
            assert!(
                replies.ends_with(if taken { "\nhealth: down\n" } else { "\nhealth: up\n" }),
                "{replies}"
            );
        })
        .await;
        assert_eq!((proxy.down.get(), proxy.reloads.get()), (taken, u32::from(taken)));
        assert_eq!(proxy.admin_state.get(), if taken { AdminState::Drain } else { AdminState::Up });
        assert_eq!(proxy.counters.get(AdminCounter::ChangesRefused), if taken { 0 } else { 5 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_set_by_its_name_and_an_unknown_one_is_an_error() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    serve_while(&proxy, true, &wire, async {
        wire.send(b"backend h:1 down\nbackend x\x1b:2 drain\nbackend h:1 sideways\n");
        wire.half_close();
        let expected = "backend h:1: down\nerror: no such backend: x\\x1b:2\n\
            error: usage: backend HOST:PORT drain|down|up\n";
        assert_eq!(wire.replies_within(50).await, expected);
    })
    .await;
    assert_eq!(proxy.admin_state.get(), AdminState::Down);
}

#[tokio::test(start_paused = true)]
async fn ten_megabytes_without_a_newline_get_one_reply() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(&vec![b'x'; 10 << 20]);
        let expected = format!("error: line longer than {LINE_BYTES_MAX} bytes\n");
        assert_eq!(wire.replies_within(1).await, expected);
        assert!(wire.sent.borrow().is_empty(), "what is unread at the close would reset the connection");
        assert_eq!(wire.replies_within(1_000).await, "");
    });
    assert!(is_about(lasted.await, 200));
    assert_eq!(proxy.counters.get(AdminCounter::LinesTooLong), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_sending_is_disconnected() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"quit\n");
        while !wire.shut_down.get() {
            wire.send(b"health down\n");
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(is_about(lasted.await, 2_000));
    assert!(!proxy.down.get());
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_disconnected_after_half_a_minute() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    assert!(is_about(serve_while(&proxy, true, &wire, async {}).await, 30_000));
    assert_eq!(proxy.counters.get(AdminCounter::IdleClosed), 1);
    // One that sends something now and then is not.
    let wire = Wire::new();
    let lasted = serve_while(&proxy, true, &wire, async {
        for _ in 0..3 {
            sleep(Duration::from_secs(29)).await;
            wire.send(b"ping\n");
        }
        assert_eq!(wire.replies_within(1).await, "pong\npong\npong\n");
    });
    assert!(is_about(lasted.await, 3 * 29_000 + 30_000));
}

#[tokio::test(start_paused = true)]
async fn quit_ends_it_and_what_follows_is_not_run() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"ping\n");
        assert_eq!(wire.replies_within(1).await, "pong\n");
        assert!(!wire.writes_ended.get());
        wire.send(b"quit\nhealth down\n");
        assert_eq!(wire.replies_within(1).await, "");
        assert!(wire.writes_ended.get(), "who reads to the end waits for the silence");
    });
    assert!(is_about(lasted.await, 201));
    assert!(!proxy.down.get());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_a_reload_keeps_its_slot() {
    let places = super::super::ConnectionSlots::new(1);
    let (place, _) = places.take().unwrap();
    let (proxy, wire) = (Proxy::default(), Wire::new());
    proxy.reload_lasts.set(Duration::from_secs(3));
    serve_with_handle(&place, &proxy, true, &wire, async {
        wire.send(b"reload\n");
        sleep(Duration::from_millis(2_999)).await;
        assert!(places.take().is_none(), "a newcomer got its place");
        assert_eq!(wire.replies_within(2).await, "nothing changed\n");
        wire.half_close();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_disconnected() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    wire.client_reads.set(false);
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"stats\nhealth down\n");
    });
    assert!(is_about(lasted.await, 10_000));
    assert!(!proxy.down.get());
    assert_eq!(proxy.counters.get(AdminCounter::WritesTimedOut), 1);
}

#[tokio::test(start_paused = true)]
async fn an_evicted_client_is_disconnected_immediately() {
    for begun in ["", "health do", "stats\n", "tap 5\n", "GET /metr"] {
        for reads in [true, false] {
            let places = super::super::ConnectionSlots::new(1);
            let (place, _) = places.take().unwrap();
            let (proxy, wire) = (Proxy::default(), Wire::new());
            let (_sender, receiver) = mpsc::channel(10);
            proxy.taps.replace(Some(receiver));
            wire.client_reads.set(reads);
            let newcomer = Cell::new(None);
            let lasted = serve_with_handle(&place, &proxy, true, &wire, async {
                // It keeps sending invalid input, so that no silence ends its line.
                for number in 0..11 {
                    wire.send(if number == 0 { begun.as_bytes() } else { b"x" });
                    sleep(Duration::from_millis(100)).await;
                }
                newcomer.set(places.take());
            });
            assert!(is_about(lasted.await, 1_100), "{begun:?}");
            assert!(newcomer.take().is_some_and(|(_, has_yielded)| has_yielded));
            assert!(!proxy.down.get());
            drop(place);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_command_of_an_evicted_client_is_not_run() {
    let places = super::super::ConnectionSlots::new(1);
    let (place, _) = places.take().unwrap();
    let (proxy, wire) = (Proxy::default(), Wire::new());
    serve_with_handle(&place, &proxy, true, &wire, async {
        sleep(Duration::from_secs(2)).await;
        wire.send(b"health down");
        sleep(Duration::from_millis(1)).await;
        assert!(places.take().is_some());
    })
    .await;
    assert!(!proxy.down.get());
}

#[tokio::test(start_paused = true)]
async fn in_the_proxy_js_dialect_its_answers_are_given() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    proxy.dialect.set(AdminDialect::ProxyJs);
    let lasted = serve_while(&proxy, true, &wire, async {
        for (sent, answer) in [
            ("help\r\n", "Commands: config, health, status, quit\n\n"),
            ("config\n", "\nport: 8125\n"),
            ("status\n", "uptime: 51\nnodes: \n"),
            ("health DOWN\n", "health: down\n"),
            ("health sideways\n", "health: down\n"),
            ("\r\n", "ERROR\n"),
            ("what\n", "ERROR\n"),
            ("ping\nstatsring config\n", "pong\n{\"port\": 8125}\n"),
        ] {
            wire.send(sent.as_bytes());
            assert_eq!(wire.replies_within(1).await, answer, "{sent:?}");
        }
        // A reload may change the dialect of an open connection.
        proxy.dialect.set(AdminDialect::Statsring);
        wire.send(b"what\n");
        assert_eq!(wire.replies_within(1).await, "unknown command; help lists the commands\n");
        wire.send(b"quit\n");
    });
    assert!(lasted.await < Duration::from_secs(1));
    assert_eq!(proxy.counters.get(AdminCounter::CommandsUnknown), 3);
}

#[tokio::test(start_paused = true)]
async fn in_the_proxy_js_dialect_idle_clients_stay() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    proxy.dialect.set(AdminDialect::ProxyJs);
    let lasted = serve_while(&proxy, false, &wire, async {
        sleep(Duration::from_secs(3_600)).await;
        wire.send(b"health\n");
        assert_eq!(wire.replies_within(1).await, "health: up\n");
        wire.send(b"health down\n");
        assert!(
            wire.replies_within(1).await.starts_with("error: health up|down is accepted from this host only")
        );
        proxy.dialect.set(AdminDialect::Statsring);
    });
    let lasted = lasted.await;
    assert!((3_600..3_670).contains(&lasted.as_secs()), "{lasted:?}");
    assert_eq!(proxy.counters.get(AdminCounter::IdleClosed), 1);
}
