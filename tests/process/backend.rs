//! A simulated StatsD server: receives metrics over UDP, answers `health` over TCP, and can be killed and restored.

use crate::patience::wait_until;
use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Everything a backend has received.
#[derive(Default)]
struct Received {
    /// Lines with their number of occurrences.
    lines: HashMap<String, u64>,
    /// Source addresses of the datagrams.
    sources: BTreeSet<SocketAddr>,
}

/// How often a backend's threads check whether to stop.
const PAUSE: Duration = Duration::from_millis(20);

/// Behaviour of the admin port on `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Up,
    /// No reply.
    Hangs,
    /// A byte every few ms, endlessly.
    Trickles,
    /// Resets the connection.
    Resets,
    /// Megabytes of other data.
    Floods,
    /// Alternates between up and down.
    Flaps,
    /// Up, after a separate banner line.
    Banner,
    /// Up, after a delay.
    Slow,
}

/// Pause between two parts of a reply: long enough for two reads.
const BETWEEN_PARTS: Duration = Duration::from_millis(100);

/// State shared with the admin port's thread.
struct Temper {
    manner: Mutex<Manner>,
    /// Health checks received.
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

/// A thread that serves until it is stopped.
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

    /// Binds these ports; 0 selects a free one.
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

    /// Sets the behaviour on health checks.
    pub fn behave(&self, manner: Manner) {
        *self.temper.manner.lock().unwrap() = manner;
    }

    /// Number of health checks so far.
    pub fn asked(&self) -> u64 {
        self.temper.asked.load(Ordering::Relaxed)
    }

    /// Number of lines received.
    pub fn total(&self) -> u64 {
        self.received.lock().unwrap().lines.values().sum()
    }

    /// Lines received, with their number of occurrences.
    pub fn lines(&self) -> HashMap<String, u64> {
        self.received.lock().unwrap().lines.clone()
    }

    /// Source addresses of the datagrams.
    pub fn sources(&self) -> BTreeSet<SocketAddr> {
        self.received.lock().unwrap().sources.clone()
    }

    pub fn forget(&self) {
        *self.received.lock().unwrap() = Received::default();
    }

    /// Closes both ports.
    pub fn kill(&mut self) {
        self.kill_data();
        self.kill_admin();
    }

    /// Closes only the admin port.
    pub fn kill_admin(&mut self) {
        if let Some(admin) = self.admin.take() {
            admin.end();
        }
    }

    /// Closes only the metrics port.
    pub fn kill_data(&mut self) {
        if let Some(data) = self.data.take() {
            data.end();
        }
    }

    /// Moves the admin port to another address, with the same number.
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
        // The maximum: this is not the socket under test.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
        socket.set_read_timeout(Some(PAUSE)).unwrap();
        let received = self.received.clone();
        self.data = Some(Service::start(move |stop| {
            let mut buffer = vec![0; 65_536];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, source)) => count(&received, &buffer[..length], source),
                    // Only when the buffer is empty.
                    Err(_) if stop.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        }));
    }

    fn serve_admin(&mut self, listener: TcpListener) {
        let temper = self.temper.clone();
        // The read timeout also limits accept, so no connection is needed to end the thread, which may be in another network
        // namespace.
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
        // Until the other side closes.
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

/// A short-lived connection of another process may hold the port for a moment.
fn retry<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let mut bound = None;
    wait_until("the backend's port is free again", || {
        bound = bind().ok();
        bound.is_some()
    });
    bound.unwrap()
}
