//! A stand-in for a StatsD server: takes metrics over UDP, answers `health` over TCP, and can be killed and restored.

use crate::patience::wait_until;
use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a backend has received.
#[derive(Default)]
struct Received {
    /// Each line with how often.
    lines: HashMap<String, u64>,
    /// Where the datagrams came from.
    sources: BTreeSet<SocketAddr>,
}

/// How long a thread of a backend waits before it looks whether to stop.
const PAUSE: Duration = Duration::from_millis(20);

/// How the admin port answers `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Up,
    /// Never says a word.
    Hangs,
    /// A byte every few ms, without end.
    Trickles,
    /// Ends the connection by a reset.
    Resets,
    /// Megabytes of something else.
    Floods,
    /// Up, and down the next time.
    Flaps,
    /// Up, after a banner line that comes on its own.
    Banner,
    /// Up, after a while.
    Slow,
}

/// Between two parts of an answer: long enough that they are two reads.
const BETWEEN_PARTS: Duration = Duration::from_millis(100);

/// What the admin port's thread shares.
struct Temper {
    manner: Mutex<Manner>,
    /// Questions answered, in whatever manner.
    asked: AtomicU64,
}

pub struct Backend {
    ip: IpAddr,
    temper: Arc<Temper>,
    pub port: u16,
    pub adminport: u16,
    received: Arc<Mutex<Received>>,
    data: Option<Service>,
    admin: Option<Service>,
}

/// A thread that serves until it is told to stop.
struct Service {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Service {
    fn start(serve: impl FnOnce(Arc<AtomicBool>) + Send + 'static) -> Service {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || serve(stop)
        });
        Service { stop, thread }
    }

    /// Returns when its socket is closed.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

impl Backend {
    pub fn start() -> Backend {
        Backend::start_at(Ipv4Addr::LOCALHOST, 0, 0)
    }

    /// At these ports of an address; 0 takes a free one.
    pub fn start_at(ip: impl Into<IpAddr>, port: u16, adminport: u16) -> Backend {
        let ip = ip.into();
        let data = UdpSocket::bind((ip, port)).unwrap();
        let admin = TcpListener::bind((ip, adminport)).unwrap();
        let mut backend = Backend {
            ip,
            temper: Arc::new(Temper { manner: Mutex::new(Manner::Up), asked: AtomicU64::new(0) }),
            port: data.local_addr().unwrap().port(),
            adminport: admin.local_addr().unwrap().port(),
            received: Arc::default(),
            data: None,
            admin: None,
        };
        backend.serve_data(data);
        backend.serve_admin(admin);
        backend
    }

    pub fn name(&self) -> String {
        SocketAddr::from((self.ip, self.port)).to_string()
    }

    /// Answers health checks so from now on.
    pub fn behave(&self, manner: Manner) {
        *self.temper.manner.lock().unwrap() = manner;
    }

    /// Health checks so far.
    pub fn asked(&self) -> u64 {
        self.temper.asked.load(Ordering::Relaxed)
    }

    /// Lines received, with repetitions.
    pub fn total(&self) -> u64 {
        self.received.lock().unwrap().lines.values().sum()
    }

    /// Each line received, with how often.
    pub fn lines(&self) -> HashMap<String, u64> {
        self.received.lock().unwrap().lines.clone()
    }

    /// Where datagrams came from.
    pub fn sources(&self) -> BTreeSet<SocketAddr> {
        self.received.lock().unwrap().sources.clone()
    }

    pub fn forget(&self) {
        *self.received.lock().unwrap() = Received::default();
    }

    /// Both ports refuse from now on.
    pub fn kill(&mut self) {
        self.kill_data();
        self.kill_admin();
    }

    /// Only the admin port refuses from now on.
    pub fn kill_admin(&mut self) {
        if let Some(admin) = self.admin.take() {
            admin.end();
        }
    }

    /// Only the port for metrics refuses from now on.
    pub fn kill_data(&mut self) {
        if let Some(data) = self.data.take() {
            data.end();
        }
    }

    /// The admin port is at another address from now on, with the same number.
    pub fn move_admin(&mut self, ip: impl Into<IpAddr>) {
        if let Some(admin) = self.admin.take() {
            admin.end();
        }
        let address = SocketAddr::new(ip.into(), self.adminport);
        self.serve_admin(retry(|| TcpListener::bind(address)));
    }

    pub fn restore(&mut self) {
        if self.data.is_none() {
            let address = SocketAddr::from((self.ip, self.port));
            self.serve_data(retry(|| UdpSocket::bind(address)));
        }
        if self.admin.is_none() {
            let address = SocketAddr::from((self.ip, self.adminport));
            self.serve_admin(retry(|| TcpListener::bind(address)));
        }
    }

    fn serve_data(&mut self, socket: UdpSocket) {
        // As much as the system gives: this is not the socket under test.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
        socket.set_read_timeout(Some(PAUSE)).unwrap();
        let received = self.received.clone();
        self.data = Some(Service::start(move |stop| {
            let mut buffer = vec![0; 65_536];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, source)) => count(&received, &buffer[..length], source),
                    // Only when nothing is left to read.
                    Err(_) if stop.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        }));
    }

    fn serve_admin(&mut self, listener: TcpListener) {
        let temper = self.temper.clone();
        // Accepting is what a read timeout limits too, so that the thread needs no connection to be ended by: it may be in
        // another network than the one who ends it.
        socket2::SockRef::from(&listener).set_read_timeout(Some(PAUSE)).unwrap();
        self.admin = Some(Service::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let _ = answer(stream, &temper);
                }
            }
        }));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn count(received: &Mutex<Received>, datagram: &[u8], source: SocketAddr) {
    let mut received = received.lock().unwrap();
    received.sources.insert(source);
    for line in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        *received.lines.entry(String::from_utf8_lossy(line).into_owned()).or_default() += 1;
    }
}

fn answer(mut stream: TcpStream, temper: &Temper) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut question = [0; 64];
    let length = stream.read(&mut question)?;
    if !question[..length].starts_with(b"health") {
        return Ok(());
    }
    let number = temper.asked.fetch_add(1, Ordering::Relaxed);
    let manner = *temper.manner.lock().unwrap();
    match manner {
        Manner::Flaps if number % 2 == 1 => stream.write_all(b"health: down\n")?,
        Manner::Up | Manner::Flaps => stream.write_all(b"health: up\n")?,
        Manner::Banner => {
            stream.set_nodelay(true)?;
            stream.write_all(b"StatsD 0.10.2, node 3\n")?;
            std::thread::sleep(BETWEEN_PARTS);
            stream.write_all(b"health: up\n")?;
        }
        Manner::Slow => {
            std::thread::sleep(BETWEEN_PARTS);
            stream.write_all(b"health: up\n")?;
        }
        // Until the other side has had enough.
        Manner::Hangs => drop(stream.read(&mut question)),
        Manner::Trickles => {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Manner::Resets => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Manner::Floods => drop((0..64).try_for_each(|_| stream.write_all(&[b'x'; 65_536]))),
    }
    Ok(())
}

/// Somebody else's short-lived connection may hold the port for a moment.
fn retry<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let mut bound = None;
    wait_until("the backend's port is free again", || {
        bound = bind().ok();
        bound.is_some()
    });
    bound.unwrap()
}
