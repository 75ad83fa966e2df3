//! The built-in traffic: a steady stream of datagrams with one to several metrics each.
//!
//! In: ready lines, the proxy's address. Out: datagrams, and the exact count of them. Next: the proxy.

use super::names::Names;
use super::thread::spawn;
use crate::placement::splitmix64;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Metrics a second.
pub const METRICS_PER_SECOND: u64 = 20_000;
/// Metrics in the datagrams, taken at random: some clients send each metric by itself, some gather. 4 on average.
const DATAGRAM_METRICS: [u64; 10] = [1, 1, 1, 1, 2, 3, 4, 6, 8, 13];
/// The most metrics that one datagram has.
pub const DATAGRAM_METRICS_MAX: u64 = 13;
/// The time between two bursts: short beside the proxy's flush interval, and long enough to cost little CPU.
const TICK: Duration = Duration::from_millis(2);
const TICK_METRICS: i64 = (METRICS_PER_SECOND / 500) as i64;
/// What was missed beyond this, as while the process was stopped, is not made up for: it would be a flood.
const CATCH_UP_MAX: Duration = Duration::from_millis(20);

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    metrics: AtomicU64,
    datagrams: AtomicU64,
    refused: AtomicBool,
}

/// What was sent, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentFigures {
    /// Metrics that this host's kernel took.
    pub metrics: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// The proxy's port was closed while traffic was still sent: the last datagrams reached nobody.
    pub refused: bool,
}

impl Sent {
    fn figures(&self) -> SentFigures {
        SentFigures {
            metrics: self.metrics.load(Ordering::Acquire),
            datagrams: self.datagrams.load(Ordering::Acquire),
            refused: self.refused.load(Ordering::Acquire),
        }
    }
}

/// Traffic under way.
pub struct Traffic {
    sent: Arc<Sent>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Traffic {
    /// Begins to send to `proxy`.
    pub fn start(names: Arc<Names>, proxy: SocketAddr) -> io::Result<Traffic> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(proxy)?;
        let (sent, ended) = (Arc::<Sent>::default(), Arc::<AtomicBool>::default());
        let thread = spawn("demo-traffic", {
            let (sent, ended) = (sent.clone(), ended.clone());
            move || Sender { names, socket, sent, random: 1, datagram: Vec::new() }.run(&ended)
        })?;
        Ok(Traffic { sent, ended, thread })
    }

    /// Ends it; what was sent in all.
    pub fn stop(self) -> SentFigures {
        self.ended.store(true, Ordering::Release);
        // A panic there has ended the process already.
        let _ = self.thread.join();
        self.sent.figures()
    }
}

struct Sender {
    names: Arc<Names>,
    socket: UdpSocket,
    sent: Arc<Sent>,
    random: u64,
    datagram: Vec<u8>,
}

impl Sender {
    /// Sends until it is stopped, or until nothing is listening any more.
    fn run(mut self, ended: &AtomicBool) {
        let mut next = Instant::now();
        let mut owed = 0;
        while !ended.load(Ordering::Acquire) {
            let now = Instant::now();
            if now.saturating_duration_since(next) > CATCH_UP_MAX {
                next = now;
            }
            while next <= now {
                next += TICK;
                owed += TICK_METRICS;
            }
            while owed > 0 {
                let metrics = self.fill();
                owed -= metrics as i64;
                if !self.send(metrics) {
                    return;
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Makes the next datagram; the metrics in it.
    fn fill(&mut self) -> u64 {
        let metrics = DATAGRAM_METRICS[self.draw(DATAGRAM_METRICS.len())];
        self.datagram.clear();
        for _ in 0..metrics {
            let line = self.draw(self.names.lines.len());
            if !self.datagram.is_empty() {
                self.datagram.push(b'\n');
            }
            self.datagram.extend_from_slice(self.names.lines[line].as_bytes());
        }
        metrics
    }

    /// Whether to continue.
    fn send(&self, metrics: u64) -> bool {
        match self.socket.send(&self.datagram) {
            Ok(_) => {
                self.sent.metrics.fetch_add(metrics, Ordering::AcqRel);
                self.sent.datagrams.fetch_add(1, Ordering::AcqRel);
                true
            }
            // It belongs to an earlier datagram; this one was not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.sent.refused.store(true, Ordering::Release);
                false
            }
            // This host had no room for it just now. It was not sent, so it is not counted.
            Err(_) => true,
        }
    }

    /// A number below `below`, the same sequence in every run.
    fn draw(&mut self, below: usize) -> usize {
        self.random = splitmix64(self.random);
        (self.random % below as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;
    use crate::stats::host;

    #[test]
    fn the_average_datagram_has_four_metrics() {
        let sum: u64 = DATAGRAM_METRICS.iter().sum();
        assert_eq!(sum, 4 * DATAGRAM_METRICS.len() as u64);
        assert_eq!(DATAGRAM_METRICS.iter().max(), Some(&DATAGRAM_METRICS_MAX));
        assert_eq!(TICK_METRICS as u128 * 1_000, METRICS_PER_SECOND as u128 * TICK.as_millis());
    }

    #[test]
    fn what_arrives_is_what_was_counted() {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let traffic = Traffic::start(Arc::new(names::sample()), address).unwrap();
        let mut buffer = [0; 4_096];
        let mut take = || {
            let bytes = listener.recv(&mut buffer).unwrap();
            buffer[..bytes].split(|byte| *byte == b'\n').count() as u64
        };
        let mut metrics = take();
        let sent = traffic.stop();
        // Only if this thread was kept from the CPU for long.
        let drops = host::drops_at(&host::udp_sockets(), address).unwrap_or(0);
        for _ in 1..sent.datagrams - drops {
            metrics += take();
        }
        assert!(metrics == sent.metrics || (drops > 0 && metrics < sent.metrics), "{metrics} of {sent:?}");
        assert!(!sent.refused);
    }

    #[test]
    fn traffic_ends_when_nobody_listens() {
        let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let traffic = Traffic::start(Arc::new(names::sample()), address).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !traffic.sent.figures().refused && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(traffic.stop().refused);
    }
}
