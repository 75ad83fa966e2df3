//! The built-in traffic: metrics with names as a small shop's services have them, sent as `statsring load --replay` does.
//!
//! In: the proxy's address. Out: datagrams, and the exact count of them. Next: the proxy.

use crate::tools::load::generate::Source;
use crate::tools::load::replay::Replay;
use crate::tools::load::send::{Extent, SendLive, Sent, connect, send};
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

const SERVICES: [&str; 12] = [
    "web", "api", "search", "cart", "payments", "mail", "images", "login", "orders", "stock", "reviews",
    "admin",
];
const ENDPOINTS: [&str; 12] = [
    "index", "list", "item", "add", "remove", "update", "upload", "export", "health", "status", "query",
    "page",
];
const REGIONS: [&str; 6] = ["eu-west", "eu-north", "us-east", "us-west", "ap-south", "ap-east"];
/// Hosts that report their load.
const HOSTS: usize = 100;
/// Lines of each name, with different values.
const VARIANTS: usize = 4;

/// Metrics of a datagram: some clients send each metric by itself, some gather.
pub const DATAGRAM_METRICS: u32 = 4;
/// Datagrams a second: 20,000 metrics.
const RATE: u64 = 5_000;
/// Datagrams that leave together, every 2 ms: short beside the proxy's flush interval, and long enough to cost little CPU.
const BURST: u64 = 10;

/// The lines of the traffic.
pub fn lines() -> Replay {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for variant in 0..VARIANTS {
        for (index, service) in SERVICES.iter().enumerate() {
            let ms = 3 + (index * 7 + variant * 13) % 240;
            // Busy services sample.
            let sampled = if index < 3 { "|@0.5" } else { "" };
            for endpoint in ENDPOINTS {
                let _ = writeln!(text, "{service}.requests.{endpoint}:1|c");
                let _ = writeln!(text, "{service}.latency.{endpoint}:{ms}|ms{sampled}");
            }
        }
        for host in 1..=HOSTS {
            let _ = writeln!(text, "host.{host:02}.cpu:{}|g", (host * 7 + variant * 11) % 100);
            let memory = 4_096 + host * 31 + variant;
            let _ = writeln!(text, "host.{host:02}.memory:{memory}|g|#rack:{}", host % 8);
        }
        for region in REGIONS {
            let _ = writeln!(text, "users.active.{region}:u{}|s", 1_000 + variant * 37);
        }
    }
    Replay::parse(text.into_bytes())
}

/// Traffic under way.
pub struct Traffic {
    live: Arc<SendLive>,
    thread: JoinHandle<Sent>,
}

impl Traffic {
    /// Begins to send to `proxy`.
    pub fn start(lines: Arc<Replay>, proxy: SocketAddr) -> io::Result<Traffic> {
        let flows = connect(proxy, 1)?;
        let live = Arc::<SendLive>::default();
        let (told, extent) = (live.clone(), Extent { time: Duration::MAX, datagrams: u64::MAX });
        let mut source = Source::replayed(lines, DATAGRAM_METRICS);
        let thread = Builder::new()
            .name("demo-traffic".to_owned())
            .spawn(move || send(&flows, &mut source, Some(RATE), BURST, extent, &told))?;
        Ok(Traffic { live, thread })
    }

    /// Ends it; what was sent in all.
    pub fn stop(self) -> Sent {
        self.live.stop.store(true, Ordering::Relaxed);
        // A panic there has ended the process already.
        self.thread.join().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Placement;
    use crate::wire::routing_key;
    use std::net::UdpSocket;

    #[test]
    fn every_line_is_a_metric_and_all_backends_have_a_fair_share() {
        let lines = lines();
        let names = 2 * SERVICES.len() * ENDPOINTS.len() + 2 * HOSTS + REGIONS.len();
        assert_eq!((lines.name_count(), lines.line_count(), lines.skipped()), (names, VARIANTS * names, 0));
        let mut shares = [0; 3];
        for position in 0..names {
            let key = routing_key(lines.text(lines.text_at(position))).unwrap();
            shares[Placement::Jump.home(key, 3).unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| *share > names / 4), "{shares:?}");
    }

    #[test]
    fn it_sends_until_it_is_stopped() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let traffic = Traffic::start(Arc::new(lines()), listener.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 4_096];
        let length = listener.recv(&mut buffer).unwrap();
        let lines = buffer[..length].split(|byte| *byte == b'\n').count();
        let sent = traffic.stop();
        assert_eq!(lines as u64 * sent.datagrams, sent.metrics);
        assert_eq!(sent.texts.iter().sum::<u64>(), sent.metrics);
    }
}
