//! The built-in backends: they count what arrives, and answer for their health.
//!
//! In: packets from the proxy, `health` from its checks. Out: exact counts per backend. Next: `show.rs`, `account.rs`.

use super::names::Names;
use super::ports::BackendSockets;
use super::thread::spawn;
use crate::stats::host;
use crate::wire;
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Receive buffer to request: a backend that waits for a CPU must not lose the demo's packets.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How often a backend checks for the end.
const LOOK: Duration = Duration::from_millis(100);
/// A backend has received everything after this much silence.
const QUIET: Duration = Duration::from_millis(1_000);
/// How long a health connection may take to say something.
const PATIENCE: Duration = Duration::from_secs(2);
/// Health connections at once, per backend.
const CONNECTIONS_MAX: usize = 16;
/// The longest question that is read.
const QUESTION_BYTES_MAX: u64 = 1_024;
/// After an accept that failed, as for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// One built-in backend.
pub struct Backend {
    /// Where it takes metrics.
    pub address: SocketAddr,
    count: Arc<Count>,
    is_up: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Count {
    metrics: AtomicU64,
    others: AtomicU64,
    elsewhere: AtomicU64,
    datagrams: AtomicU64,
}

/// What arrived at one backend, or at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Metrics of the built-in traffic.
    pub metrics: u64,
    /// Metrics with other names, sent by the user.
    pub others: u64,
    /// Of both, those whose name belongs to another backend.
    pub elsewhere: u64,
    /// Packets.
    pub datagrams: u64,
}

impl Arrived {
    /// All metrics.
    pub fn total(&self) -> u64 {
        self.metrics + self.others
    }

    /// Adds another backend's.
    pub fn add(&mut self, other: Arrived) {
        self.metrics += other.metrics;
        self.others += other.others;
        self.elsewhere += other.elsewhere;
        self.datagrams += other.datagrams;
    }
}

impl Backend {
    /// What arrived so far.
    pub fn arrived(&self) -> Arrived {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        Arrived {
            metrics: read(&self.count.metrics),
            others: read(&self.count.others),
            elsewhere: read(&self.count.elsewhere),
            datagrams: read(&self.count.datagrams),
        }
    }

    /// Sets its answer to `health`.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Release);
    }
}

/// The built-in backends, running.
pub struct Backends {
    /// In the config's order.
    pub list: Vec<Backend>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backends {
    /// Starts them on bound sockets. Their health is up.
    pub fn start(sockets: Vec<BackendSockets>, names: &Arc<Names>) -> io::Result<Backends> {
        let mut backends =
            Backends { list: Vec::with_capacity(sockets.len()), ended: Arc::default(), threads: Vec::new() };
        for (index, BackendSockets { metrics, health }) in sockets.into_iter().enumerate() {
            let backend = Backend {
                address: metrics.local_addr()?,
                count: Arc::default(),
                is_up: Arc::new(AtomicBool::new(true)),
            };
            // What is granted depends on the host; less only means less patience.
            let _ = SockRef::from(&metrics).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
            metrics.set_read_timeout(Some(LOOK))?;
            let (count, names, ended) = (backend.count.clone(), names.clone(), backends.ended.clone());
            let number = index + 1;
            backends.threads.push(spawn(&format!("demo-backend-{number}"), move || {
                take_metrics(index, &metrics, &names, &count, &ended);
            })?);
            let is_up = backend.is_up.clone();
            // It waits for connections until the process ends.
            spawn(&format!("demo-health-{number}"), move || serve_health(&health, &is_up))?;
            backends.list.push(backend);
        }
        Ok(backends)
    }

    /// What arrived at all of them so far.
    pub fn arrived(&self) -> Arrived {
        let mut sum = Arrived::default();
        for backend in &self.list {
            sum.add(backend.arrived());
        }
        sum
    }

    /// Packets that the kernel dropped at their sockets for want of room.
    pub fn kernel_drops(&self) -> u64 {
        let sockets = host::udp_sockets();
        self.list.iter().filter_map(|backend| host::drops_at(&sockets, backend.address)).sum()
    }

    /// Waits until so many metrics have arrived, or until nothing more comes.
    pub fn wait_for(&self, metrics: u64) {
        let mut last = self.arrived().total();
        let mut since = Instant::now();
        while last < metrics && since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.arrived().total();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A panic there has ended the process already.
            let _ = thread.join();
        }
    }
}

fn take_metrics(index: usize, socket: &UdpSocket, names: &Names, count: &Count, ended: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !ended.load(Ordering::Acquire) {
        // It fails when the time is over, which is there to look at `ended`.
        let Ok(bytes) = socket.recv(&mut buffer) else { continue };
        let mut arrived = Arrived { datagrams: 1, ..Arrived::default() };
        for line in wire::lines(&buffer[..bytes]) {
            let seen = names.look(line);
            *(if seen.is_own { &mut arrived.metrics } else { &mut arrived.others }) += 1;
            arrived.elsewhere += u64::from(seen.home != Some(index));
        }
        count.metrics.fetch_add(arrived.metrics, Ordering::AcqRel);
        count.others.fetch_add(arrived.others, Ordering::AcqRel);
        count.elsewhere.fetch_add(arrived.elsewhere, Ordering::AcqRel);
        count.datagrams.fetch_add(arrived.datagrams, Ordering::AcqRel);
    }
}

/// Answers health connections, each on a thread of its own: one that says nothing must not hold up the proxy's checks.
fn serve_health(listener: &TcpListener, is_up: &Arc<AtomicBool>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(ACCEPT_AGAIN);
            continue;
        };
        if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let place = Place(open.clone());
        let is_up = is_up.clone();
        // Without a thread the connection is closed, and the proxy counts a failed check.
        let _ = spawn("demo-health", move || {
            // An error of the connection has no recipient.
            let _ = answer_health(&stream, &is_up);
            drop(place);
        });
    }
}

/// An open connection's place.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One question, one answer, as StatsD's admin port gives it, and the end of the connection.
fn answer_health(mut stream: &TcpStream, is_up: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = Vec::new();
    let mut chunk = [0; 64];
    while !question.contains(&b'\n') && (question.len() as u64) < QUESTION_BYTES_MAX {
        match stream.read(&mut chunk)? {
            0 => break,
            bytes => question.extend_from_slice(&chunk[..bytes]),
        }
    }
    let answer: &[u8] = match question.trim_ascii() {
        b"health" if is_up.load(Ordering::Acquire) => b"health: up\n",
        b"health" => b"health: down\n",
        _ => b"unknown command; expected health\n",
    };
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Write)?;
    // What is still unread when a socket is closed would reset the connection, and could take the answer with it.
    io::copy(&mut stream.take(QUESTION_BYTES_MAX), &mut io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{names, ports};
    use super::*;
    use std::net::Ipv4Addr;

    /// Backends, and where they answer for their health.
    fn backends(names: &Arc<Names>) -> (Backends, Vec<SocketAddr>) {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let sockets = (0..3).map(|_| ports::BackendSockets {
            metrics: UdpSocket::bind(any).unwrap(),
            health: TcpListener::bind(any).unwrap(),
        });
        let sockets: Vec<ports::BackendSockets> = sockets.collect();
        let health = sockets.iter().map(|sockets| sockets.health.local_addr().unwrap()).collect();
        (Backends::start(sockets, names).unwrap(), health)
    }

    fn ask(health: SocketAddr, question: &[u8]) -> String {
        let mut stream = TcpStream::connect(health).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn health_is_answered_and_the_connection_closed() {
        let (backends, health) = backends(&Arc::new(names::sample()));
        let (backend, health) = (&backends.list[1], health[1]);
        assert_eq!(ask(health, b"health\r\n"), "health: up\n");
        backend.set_up(false);
        assert_eq!(ask(health, b"health\n"), "health: down\n");
        backend.set_up(true);
        // One that says nothing does not hold up the others.
        let _silent = TcpStream::connect(health).unwrap();
        assert_eq!(ask(health, b"health\n"), "health: up\n");
        assert!(ask(health, b"GET / HTTP/1.0\r\n\r\n").starts_with("unknown command"));
    }

    #[test]
    fn metrics_are_told_apart_by_whose_they_are_and_where_they_belong() {
        let names = Arc::new(names::sample());
        let (backends, _) = backends(&names);
        let own = &names.lines[0];
        let home = names.look(own.as_bytes()).home.unwrap();
        let foreign_home = names.look(b"foo:1|c").home.unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let packet = format!("{own}\nfoo:1|c\n\n{own}");
        for backend in &backends.list {
            sender.send_to(packet.as_bytes(), backend.address).unwrap();
        }
        backends.wait_for(9);
        for (index, backend) in backends.list.iter().enumerate() {
            let elsewhere = 2 * u64::from(index != home) + u64::from(index != foreign_home);
            assert_eq!(backend.arrived(), Arrived { metrics: 2, others: 1, elsewhere, datagrams: 1 });
        }
        assert_eq!(backends.arrived().total(), 9);
        assert_eq!(backends.kernel_drops(), 0);
    }
}
