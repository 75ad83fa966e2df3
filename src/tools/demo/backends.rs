//! The built-in backends: the sinks of `statsring sink`, on the usual ports or free ones.
//!
//! In: packets from the proxy, `health` from its checks. Out: what has arrived; at the end the account. Next: `show.rs`,
//! `account.rs`.

use super::ports::note;
use crate::placement::Placement;
use crate::tools::load::line::host_now_us;
use crate::tools::load::replay::Replay;
use crate::tools::sink::account::{Account, Expected};
use crate::tools::sink::figures::Arrived;
use crate::tools::sink::health;
use crate::tools::sink::receive::{RECEIVE_BUFFER_BYTES, Received, SinkLive, Sinks};
use crate::tools::sink::replayed::Replayed;
use crate::tools::sink::settle::{Standing, is_over};
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// The usual ports: metrics, health.
const PORTS: [(u16, u16); 3] = [(8127, 8128), (8129, 8130), (8131, 8132)];
/// A backend has received everything after this much silence.
const QUIET_US: u64 = 1_000_000;

/// The built-in backends, running.
pub struct Backends {
    /// As a config file has them.
    pub nodes: Vec<Value>,
    /// What has arrived.
    pub live: Arc<SinkLive>,
    /// Whether each answers that it is up.
    pub up: Vec<Arc<AtomicBool>>,
    receiver: JoinHandle<Received>,
}

impl Backends {
    /// Starts them; one sentence for each port that is not the usual one. Fails only if loopback has none left.
    pub fn start(lines: Arc<Replay>, placement: Placement) -> io::Result<(Backends, Vec<String>)> {
        let (mut sinks, mut listeners, mut nodes, mut notes) = (Sinks::default(), vec![], vec![], vec![]);
        for (number, (usual, usual_health)) in (1..).zip(PORTS) {
            let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut listen = |port| sinks.add(at(port), RECEIVE_BUFFER_BYTES);
            let metrics = listen(usual).or_else(|_| listen(0))?;
            let listener = TcpListener::bind(at(usual_health)).or_else(|_| TcpListener::bind(at(0)))?;
            let port = listener.local_addr()?.port();
            notes.extend(note(usual, metrics.port(), &format!("backend {number}")));
            notes.extend(note(usual_health, port, &format!("the health of backend {number}")));
            nodes.push(json!({"host": metrics.ip(), "port": metrics.port(), "adminport": port}));
            listeners.push(listener);
        }
        let account = Replayed::new(lines).placed(|name| placement.home(name, PORTS.len()));
        let live = Arc::new(SinkLive::by_sink(PORTS.len()));
        let receiver = sinks.spawn(Account::Replayed(Box::new(account)), live.clone())?;
        Ok((Backends { nodes, live, up: health::spawn(listeners)?, receiver }, notes))
    }

    /// Waits until so many metrics have arrived, or until nothing more comes, and stops them: what arrived, compared with how
    /// often each text of the traffic was sent.
    pub fn stop(self, metrics: u64, texts: &[u64]) -> Arrived {
        let begin_us = host_now_us();
        loop {
            let now_us = host_now_us();
            let standing = Standing {
                sent: metrics,
                arrived: self.live.metrics.load(Ordering::Relaxed),
                quiet_us: now_us.saturating_sub(self.live.last_arrival_us.load(Ordering::Relaxed)),
                waited_us: now_us - begin_us,
            };
            if is_over(&standing, QUIET_US) {
                break;
            }
            sleep(Duration::from_millis(1));
        }
        self.live.stop.store(true, Ordering::Release);
        let received = self.receiver.join();
        // A panic there has ended the process already.
        received.map(|received| received.figures(&Expected::Texts(texts.to_vec()))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic;
    use super::*;
    use crate::wire::routing_key;
    use std::net::UdpSocket;

    #[test]
    fn metrics_are_told_apart_by_whose_they_are_and_where_they_belong() {
        let lines = Arc::new(traffic::lines());
        let (backends, notes) = Backends::start(lines.clone(), Placement::Jump).unwrap();
        let ports: Vec<u16> =
            backends.nodes.iter().map(|node| node["port"].as_u64().unwrap().try_into().unwrap()).collect();
        let usual =
            |node: &Value| PORTS.iter().any(|usual| node["port"] == usual.0 && node["adminport"] == usual.1);
        assert!(notes.is_empty() == backends.nodes.iter().all(usual), "{notes:?}");
        let home = Placement::Jump.home(routing_key(lines.text(0)).unwrap(), 3).unwrap();
        let packet = [lines.text(0), &b"foo:1|c\n"[..], lines.text(0)].join(&b'\n');
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in [ports[home], ports[(home + 1) % 3]] {
            sender.send_to(&packet, ("127.0.0.1", port)).unwrap();
        }
        let mut texts = vec![0; lines.text_count()];
        texts[0] = 5;
        let arrived = backends.stop(6, &texts);
        assert_eq!((arrived.metrics, arrived.foreign, arrived.misplaced), (6, 2, 2));
        assert_eq!((arrived.unique, arrived.lost, arrived.dropped_at_sinks), (4, 1, 0));
    }
}
