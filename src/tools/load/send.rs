//! The sending thread: one socket for each flow, datagrams at the given pace.
//!
//! In: a [`Source`], a [`Pace`]. Out: datagrams at the proxy, and what the kernel accepted ([`Sent`]). One
//! `send` a datagram: `sendmmsg` was measured to save 5 % and would give a batch one stamp.
//! Next: `mod.rs` compares with what arrived.

use super::generate::Source;
use super::line::{Run, end_marker, host_now_us};
use super::pace::{Due, Pace};
use crate::driver::socket::connect_backend;
use serde::Serialize;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is asked of the kernel for each sending socket.
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// Longest sleep without a look at whether to stop.
const NAP_NS_MAX: u64 = 20_000_000;
/// A send that reports the refusal of an earlier datagram is tried again so often.
const REFUSALS_MAX: u32 = 3;
/// Names of end markers.
const MARKERS: usize = 64;
const MARKERS_PER_DATAGRAM: usize = 16;
const _: () = assert!(MARKERS.is_multiple_of(MARKERS_PER_DATAGRAM));
const MARKER_ROUNDS: u32 = 3;
const MARKER_PAUSE: Duration = Duration::from_millis(50);

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How long to send.
    pub time: Duration,
    /// How many datagrams to send at most.
    pub datagrams: u64,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their metrics.
    pub metrics: u64,
    /// Their payload.
    pub bytes: u64,
    /// Datagrams that the kernel did not take.
    pub failed_datagrams: u64,
    /// Their metrics.
    pub failed_metrics: u64,
    /// The last reason for that.
    pub last_error: Option<String>,
    /// Sends that reported an earlier datagram as refused.
    pub refused: u64,
    /// From the first to the last datagram, µs.
    #[serde(skip)]
    pub took_us: u64,
    /// Datagrams of the requested rate that were skipped because of a stall of this host.
    pub given_up: u64,
    /// How late a datagram was at most, µs.
    pub behind_us_max: u64,
    /// How often each captured text was sent.
    #[serde(skip)]
    pub texts: Vec<u64>,
    /// End markers that the kernel took, one metric each.
    #[serde(skip)]
    pub markers: u64,
    /// Their datagrams.
    #[serde(skip)]
    pub marker_datagrams: u64,
}

impl Sent {
    /// Datagrams, those of the end markers too: what a proxy counts.
    pub fn all_datagrams(&self) -> u64 {
        self.datagrams + self.marker_datagrams
    }

    /// Metrics, end markers too: what a proxy counts.
    pub fn all_metrics(&self) -> u64 {
        self.metrics + self.markers
    }
}

/// Progress of the sending thread, and its stop flag.
#[derive(Debug, Default)]
pub struct SendLive {
    /// Datagrams so far.
    pub datagrams: AtomicU64,
    /// Metrics so far.
    pub metrics: AtomicU64,
    /// Set: stop sending.
    pub stop: AtomicBool,
}

/// Sockets of the flows, connected to the proxy.
///
/// # Errors
/// The kernel's error, such as too many open files.
pub fn connect(to: SocketAddr, flows: usize) -> io::Result<Vec<UdpSocket>> {
    (0..flows).map(|_| connect_backend(to, SEND_BUFFER_BYTES)).collect()
}

/// Sends until the extent is reached or a stop is requested. `flows` has at least one socket.
pub fn send(
    flows: &[UdpSocket],
    source: &mut Source,
    rate: Option<u64>,
    burst: u64,
    extent: Extent,
    live: &SendLive,
) -> Sent {
    let begin = Instant::now();
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let end_ns = ns(extent.time);
    let mut pace = Pace::new(rate, burst, 0);
    let mut sender =
        Sender { flows, source, datagram: Vec::with_capacity(65_536), flow: 0, sent: Sent::default() };
    while !live.stop.load(Ordering::Relaxed) {
        let now_ns = ns(begin.elapsed());
        if now_ns >= end_ns || sender.tried() >= extent.datagrams {
            break;
        }
        match pace.due(now_ns) {
            Due::Send(count) => {
                let room = extent.datagrams - sender.tried();
                if !(0..count.min(room)).all(|_| sender.send_next()) {
                    break;
                }
                live.datagrams.store(sender.sent.datagrams, Ordering::Relaxed);
                live.metrics.store(sender.sent.metrics, Ordering::Relaxed);
            }
            Due::Sleep { until_ns } => {
                let nap_ns = (until_ns.min(end_ns) - now_ns).min(NAP_NS_MAX);
                thread::sleep(Duration::from_nanos(nap_ns));
            }
        }
    }
    let texts = sender.source.texts_sent().to_vec();
    Sent {
        took_us: ns(begin.elapsed()) / 1_000,
        given_up: pace.given_up(),
        behind_us_max: pace.behind_us_max(),
        texts,
        ..sender.sent
    }
}

struct Sender<'a> {
    flows: &'a [UdpSocket],
    source: &'a mut Source,
    datagram: Vec<u8>,
    flow: usize,
    sent: Sent,
}

impl Sender<'_> {
    fn tried(&self) -> u64 {
        self.sent.datagrams + self.sent.failed_datagrams
    }

    /// False if there is nothing more to send.
    #[inline]
    fn send_next(&mut self) -> bool {
        let flow = self.flow;
        self.flow = if flow + 1 == self.flows.len() { 0 } else { flow + 1 };
        let metrics = u64::from(self.source.fill(flow, host_now_us(), &mut self.datagram));
        if metrics == 0 {
            return false;
        }
        match send_whole(&self.flows[flow], &self.datagram, &mut self.sent.refused) {
            Ok(()) => {
                self.sent.datagrams += 1;
                self.sent.metrics += metrics;
                self.sent.bytes += self.datagram.len() as u64;
            }
            Err(error) => {
                self.source.unsent();
                self.sent.failed_datagrams += 1;
                self.sent.failed_metrics += metrics;
                self.sent.last_error = Some(error.to_string());
            }
        }
        true
    }
}

/// Tells the sinks of other processes that this was all: several names, so that each backend gets one, and several
/// times, since each may be lost.
pub fn send_markers(socket: &UdpSocket, run: &Run, sent: &mut Sent) {
    for round in 0..MARKER_ROUNDS {
        if round > 0 {
            thread::sleep(MARKER_PAUSE);
        }
        for first in (0..MARKERS).step_by(MARKERS_PER_DATAGRAM) {
            let markers: Vec<Vec<u8>> =
                (first..first + MARKERS_PER_DATAGRAM).map(|k| end_marker(run, k, sent.metrics)).collect();
            // A marker that is lost is one of many.
            if send_whole(socket, &markers.join(&b'\n'), &mut sent.refused).is_ok() {
                sent.markers += MARKERS_PER_DATAGRAM as u64;
                sent.marker_datagrams += 1;
            }
        }
    }
}

/// Sends one datagram. A refusal is that of an earlier datagram; this one was not sent and is tried again.
#[inline]
pub fn send_whole(socket: &UdpSocket, datagram: &[u8], refused: &mut u64) -> io::Result<()> {
    let mut refusals = 0;
    loop {
        match socket.send(datagram) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                *refused += 1;
                refusals += 1;
                if refusals > REFUSALS_MAX {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::LineForm;
    use super::super::names::Names;
    use super::*;

    fn source(flows: u32) -> Source {
        let form = LineForm::new(&Run::new(Some("s")).unwrap(), 0, &["c"], None);
        Source::sequenced(form, Names::new(10, flows, 0.0).unwrap(), 10, 2)
    }

    #[test]
    fn a_load_ends_after_its_datagrams_from_all_its_flows() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flows = connect(sink.local_addr().unwrap(), 3).unwrap();
        let live = SendLive::default();
        let extent = Extent { time: Duration::from_secs(60), datagrams: 70 };
        let sent = send(&flows, &mut source(3), None, 1, extent, &live);
        assert_eq!((sent.datagrams, sent.metrics, sent.failed_datagrams), (70, 140, 0));
        assert_eq!(live.metrics.load(Ordering::Relaxed), 140);
        let mut buffer = [0; 2048];
        let mut senders = std::collections::HashSet::new();
        let mut bytes = 0;
        for _ in 0..70 {
            let (length, from) = sink.recv_from(&mut buffer).unwrap();
            bytes += length as u64;
            senders.insert(from);
        }
        assert_eq!((senders.len(), bytes), (3, sent.bytes));
    }

    #[test]
    fn refused_datagrams_are_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = socket.local_addr().unwrap();
        drop(socket);
        let flows = connect(nobody, 1).unwrap();
        let extent = Extent { time: Duration::from_secs(60), datagrams: 50 };
        let sent = send(&flows, &mut source(1), None, 1, extent, &SendLive::default());
        assert!(sent.refused > 0, "{sent:?}");
        assert_eq!(sent.datagrams + sent.failed_datagrams, 50);
    }

    #[test]
    fn it_stops_on_request() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flows = connect(sink.local_addr().unwrap(), 1).unwrap();
        let live = SendLive { stop: AtomicBool::new(true), ..SendLive::default() };
        let extent = Extent { time: Duration::from_secs(3600), datagrams: u64::MAX };
        assert_eq!(send(&flows, &mut source(1), Some(1), 1, extent, &live).datagrams, 0);
    }
}
