//! The receiving thread: all sinks' sockets, one account.
//!
//! In: datagrams. Out: while it works the sums so far ([`SinkLive`]), at the end everything ([`Received`]). One thread
//! for all sinks, so that a name at two of them is seen without locks. Next: `account.rs`.

use super::account::{Account, Expected};
use super::figures::{Arrived, SinkFigures};
use super::sequence::SINKS_MAX;
use crate::driver::options;
use crate::tools::load::line::host_now_us;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What is asked of the kernel for each sink, unless told otherwise.
pub const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// The longest datagram there is.
pub(super) const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams read from one socket before the next has its turn.
pub(super) const TURN: usize = 64;
/// Longest sleep without a look at whether to stop, ms.
const NAP_MS: u16 = 20;

/// The sums while the thread works; each is exact, together they may be of slightly different moments.
#[derive(Debug, Default)]
pub struct SinkLive {
    /// Datagrams.
    pub datagrams: AtomicU64,
    /// Metrics, of whatever load.
    pub metrics: AtomicU64,
    /// The same by sink, for as many sinks as fit.
    pub by_sink: Box<[AtomicU64]>,
    /// Metrics that arrived for the first time.
    pub unique: AtomicU64,
    /// Metrics that had arrived before.
    pub duplicated: AtomicU64,
    /// Metrics at another sink than the first one of their name.
    pub misplaced: AtomicU64,
    /// Datagrams dropped at the sinks' sockets.
    pub dropped: AtomicU64,
    /// When the last datagram came, µs of the host's clock; 0 = none has.
    pub last_arrival_us: AtomicU64,
    /// Set: read what is queued, and end.
    pub stop: AtomicBool,
    /// Plus one; 0 = not reported yet.
    total: AtomicU64,
}

impl SinkLive {
    /// For this number of sinks.
    pub fn by_sink(sinks: usize) -> SinkLive {
        SinkLive { by_sink: (0..sinks).map(|_| AtomicU64::new(0)).collect(), ..SinkLive::default() }
    }

    /// How many metrics were sent, once the load has reported it.
    pub fn total(&self) -> Option<u64> {
        self.total.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Reads a list as `8127,127.0.0.1:8129,[::1]:0`; a port alone is one of 127.0.0.1.
///
/// # Errors
/// A part is not an address; there are none, or more than [`SINKS_MAX`].
pub fn parse_addresses(list: &str) -> Result<Vec<SocketAddr>, String> {
    let address = |part: &str| {
        let part = part.trim();
        let port = || part.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        part.parse::<SocketAddr>()
            .or_else(|_| port())
            .map_err(|_| format!("{part:?} is neither a port nor ADDRESS:PORT"))
    };
    let addresses = list.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
    if addresses.len() > SINKS_MAX {
        return Err(format!("{} sinks are too many; at most {SINKS_MAX}", addresses.len()));
    }
    Ok(addresses)
}

/// Why an address cannot be listened on, with the remedy.
pub fn listen_error(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the process that uses it, or choose another port",
        _ => "",
    };
    format!("cannot listen on {address}: {error}{remedy}")
}

/// A socket that does not block, bound to this address and with a receive buffer of so many bytes; and where it listens.
///
/// # Errors
/// The address is taken, or not of this host.
pub fn bind(address: SocketAddr, receive_buffer_bytes: usize) -> io::Result<(SocketAddr, UdpSocket)> {
    let socket = UdpSocket::bind(address)?;
    options::ask_receive_buffer(&socket, receive_buffer_bytes)?;
    socket.set_nonblocking(true)?;
    Ok((socket.local_addr()?, socket))
}

/// The sinks' sockets.
#[derive(Debug, Default)]
pub struct Sinks {
    sockets: Vec<UdpSocket>,
    figures: Vec<SinkFigures>,
}

/// What there is at the end.
#[derive(Debug)]
pub struct Received {
    account: Account,
    figures: Vec<SinkFigures>,
    first_us: u64,
    last_us: u64,
}

impl Received {
    /// The figures, compared with what was sent.
    pub fn figures(&self, expected: &Expected) -> Arrived {
        let seconds = (self.last_us - self.first_us) as f64 / 1e6;
        self.account.figures(expected, self.figures.clone(), seconds)
    }
}

impl Sinks {
    /// Binds a socket to each address and requests a receive buffer of this size.
    ///
    /// # Errors
    /// Worded for the operator: an address is taken, or not of this host.
    pub fn bind(addresses: &[SocketAddr], receive_buffer_bytes: usize) -> Result<Sinks, String> {
        let mut sinks = Sinks::default();
        for address in addresses {
            sinks.add(*address, receive_buffer_bytes).map_err(|error| listen_error(*address, &error))?;
        }
        Ok(sinks)
    }

    /// Adds a socket bound to this address; where it listens.
    ///
    /// # Errors
    /// The address is taken, or not of this host.
    pub fn add(&mut self, address: SocketAddr, receive_buffer_bytes: usize) -> io::Result<SocketAddr> {
        let (address, socket) = bind(address, receive_buffer_bytes)?;
        self.figures.push(SinkFigures {
            address: address.to_string(),
            receive_buffer_bytes: SockRef::from(&socket).recv_buffer_size()?,
            ..SinkFigures::default()
        });
        self.sockets.push(socket);
        Ok(address)
    }

    /// Where they listen, with the ports found where 0 was asked for.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.figures.iter().map(|figures| &*figures.address)
    }

    /// Receives in a thread of its own until `live.stop` is set.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn spawn(self, account: Account, live: Arc<SinkLive>) -> io::Result<JoinHandle<Received>> {
        thread::Builder::new().name("sink".into()).spawn(move || self.receive(account, &live))
    }

    fn receive(self, account: Account, live: &SinkLive) -> Received {
        let Sinks { sockets, figures } = self;
        let mut received = Received { account, figures, first_us: 0, last_us: 0 };
        let mut polls: Vec<PollFd> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let stop = live.stop.load(Ordering::Acquire);
            let timeout = if stop { PollTimeout::ZERO } else { PollTimeout::from(NAP_MS) };
            match poll(&mut polls, timeout) {
                Ok(0) | Err(_) if stop => break,
                Ok(_) => {}
                // Nothing but a signal is known to cause this; it must not make the thread spin.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
            for (index, poll) in polls.iter().enumerate() {
                if poll.any() == Some(true) {
                    received.read_some(&sockets[index], index, &mut buffer);
                }
            }
            received.count_drops(&sockets);
            received.publish(live);
        }
        received
    }
}

impl Received {
    fn read_some(&mut self, socket: &UdpSocket, index: usize, buffer: &mut [u8]) {
        let figures = &mut self.figures[index];
        for _ in 0..TURN {
            let Ok(length) = socket.recv(buffer) else { return };
            let now_us = host_now_us();
            let datagram = &buffer[..length];
            figures.datagrams += 1;
            figures.bytes += length as u64;
            figures.metrics += self.account.take(datagram, index as u16, now_us);
            self.last_us = now_us;
            if self.first_us == 0 {
                self.first_us = now_us;
            }
        }
    }

    fn count_drops(&mut self, sockets: &[UdpSocket]) {
        for (figures, socket) in self.figures.iter_mut().zip(sockets) {
            // A kernel that does not report drops leaves 0: then a drop here looks like the proxy's loss.
            figures.dropped =
                options::receive_memory(socket).map_or(figures.dropped, |(_, drops)| u64::from(drops));
        }
    }

    fn publish(&self, live: &SinkLive) {
        let sum = |figure: fn(&SinkFigures) -> u64| self.figures.iter().map(figure).sum();
        let progress = self.account.progress();
        live.datagrams.store(sum(|sink| sink.datagrams), Ordering::Relaxed);
        live.metrics.store(sum(|sink| sink.metrics), Ordering::Relaxed);
        live.dropped.store(sum(|sink| sink.dropped), Ordering::Relaxed);
        live.unique.store(progress.unique, Ordering::Relaxed);
        live.duplicated.store(progress.duplicated, Ordering::Relaxed);
        live.misplaced.store(progress.misplaced, Ordering::Relaxed);
        live.total.store(progress.total.map_or(0, |total| total + 1), Ordering::Relaxed);
        for (live, sink) in live.by_sink.iter().zip(&self.figures) {
            live.store(sink.metrics, Ordering::Relaxed);
        }
        live.last_arrival_us.store(self.last_us, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sequenced::Sequenced;
    use super::*;
    use crate::tools::load::line::{LineForm, Run};
    use std::time::Instant;

    #[test]
    fn a_list_of_addresses() {
        let addresses = parse_addresses("8127, 127.0.0.2:1,[::1]:0").unwrap();
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.1:8127", "127.0.0.2:1", "[::1]:0"]);
        for list in ["", "1,,2", "localhost:1", "65536", "1 2"] {
            assert!(parse_addresses(list).is_err(), "{list:?}");
        }
        assert!(parse_addresses(&["1"; SINKS_MAX + 1].join(",")).is_err());
    }

    #[test]
    fn an_address_in_use_is_reported() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Sinks::bind(&[address], 4096).unwrap_err();
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
    }

    #[test]
    fn what_two_sinks_get_is_one_account() {
        let any = "127.0.0.1:0".parse().unwrap();
        let sinks = Sinks::bind(&[any, any], 1 << 20).unwrap();
        let addresses: Vec<String> = sinks.addresses().map(str::to_owned).collect();
        let run = Run::new(Some("r")).unwrap();
        let form = LineForm::new(&run, 0, &["c"], None);
        let live = Arc::new(SinkLive::default());
        let account = Account::Sequenced(Box::new(Sequenced::new(10, Some(run), None)));
        let thread = sinks.spawn(account, Arc::clone(&live)).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Name 3 at both, its first metric twice.
        for (sequence, sink) in [(0, 0), (1, 1), (0, 1)] {
            let mut line = Vec::new();
            form.write(&mut line, 3, sequence, host_now_us());
            sender.send_to(&line, &addresses[sink]).unwrap();
            let before = Instant::now();
            while live.datagrams.load(Ordering::Relaxed) < sequence + 1 && before.elapsed().as_secs() < 20 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        live.stop.store(true, Ordering::Release);
        let received = thread.join().unwrap();
        let arrived = received.figures(&Expected::Total(3));
        assert_eq!((arrived.unique, arrived.lost, arrived.duplicated, arrived.misplaced), (2, 1, 1, 2));
        assert_eq!((arrived.sinks[0].metrics, arrived.sinks[1].metrics), (1, 2));
        assert!(arrived.latency_us.is_some_and(|latency| latency.count == 3));
        assert_eq!(live.unique.load(Ordering::Relaxed), 2);
    }
}
