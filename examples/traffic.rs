//! Traffic for measuring: a generator, three counting sinks, and the CPU that the program between them used.
//!
//! In: where to send, at which rate, where the backends' ports are, the proxy's process id. Out: one line of
//! `name=value` pairs. Next: `scripts/measure.sh`, which runs it several times and prints a table.

use argh::FromArgs;
use socket2::SockRef;
use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is asked of the kernel for each sink; it grants up to twice net.core.rmem_max.
const SINK_BUFFER_BYTES: usize = 16 << 20;
/// Different datagrams, built before the clock starts.
const DATAGRAMS_PREPARED: usize = 1024;
/// The sinks have everything when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Sending before the measurement, so that caches, routes and buffers are as in a long run.
const WARM_UP: Duration = Duration::from_millis(500);

/// Sends StatsD traffic to a proxy and counts what its backends get.
#[derive(FromArgs)]
struct Traffic {
    /// print so many free UDP ports of 127.0.0.1 and end
    #[argh(option)]
    free_ports: Option<usize>,
    /// the proxy's address
    #[argh(option, default = "SocketAddr::from((Ipv4Addr::LOCALHOST, 8125))")]
    to: SocketAddr,
    /// the backends' ports on 127.0.0.1, with commas between
    #[argh(option, default = "String::new()")]
    sinks: String,
    /// datagrams a second; 0 = as fast as one thread can
    #[argh(option, default = "20_000")]
    rate: u64,
    /// metrics in each datagram
    #[argh(option, default = "1")]
    metrics: usize,
    /// different names
    #[argh(option, default = "1_000")]
    names: usize,
    /// seconds to send
    #[argh(option, default = "5")]
    seconds: u64,
    /// the proxy's process id, for its CPU and memory
    #[argh(option)]
    pid: Option<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let traffic: Traffic = argh::from_env();
    if let Some(count) = traffic.free_ports {
        return print_free_ports(count);
    }
    let ports = traffic.sinks.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>()?;
    let sinks = Sinks::start(&ports)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(traffic.to)?;
    let datagrams = prepare(traffic.metrics.max(1), traffic.names.max(1));

    send(&socket, &datagrams, traffic.rate, WARM_UP);
    sinks.wait_until_quiet();

    let before = Figures::read(&traffic, &ports, &sinks)?;
    let sent = send(&socket, &datagrams, traffic.rate, Duration::from_secs(traffic.seconds.max(1)));
    sinks.wait_until_quiet();
    let after = Figures::read(&traffic, &ports, &sinks)?;

    println!(
        "seconds={:.3} sent_datagrams={} sent_metrics={} send_errors={} sink_metrics={} sink_datagrams={} \
         sink_drops={} proxy_drops={} cpu_ns={} rss_kib={} sink_buffer_bytes={}",
        sent.took.as_secs_f64(),
        sent.datagrams,
        sent.datagrams * traffic.metrics.max(1) as u64,
        sent.errors,
        after.metrics - before.metrics,
        after.datagrams - before.datagrams,
        after.sink_drops - before.sink_drops,
        after.proxy_drops - before.proxy_drops,
        after.cpu_ns - before.cpu_ns,
        after.rss_kib,
        sinks.buffer_bytes,
    );
    sinks.stop();
    Ok(())
}

/// All are held at once, so that they differ; they are free again when this process ends.
fn print_free_ports(count: usize) -> Result<(), Box<dyn Error>> {
    let sockets =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<Vec<_>>>()?;
    for socket in &sockets {
        println!("{}", socket.local_addr()?.port());
    }
    Ok(())
}

/// Datagrams of `metrics` counters of 39 bytes, newlines between them.
fn prepare(metrics: usize, names: usize) -> Vec<Vec<u8>> {
    let mut name = 0;
    (0..DATAGRAMS_PREPARED)
        .map(|index| {
            let lines: Vec<String> = (0..metrics)
                .map(|_| {
                    name = (name + 1) % names;
                    format!("service.frontend.requests.n{name:04}:{:05}|c", index * 7 % 100_000)
                })
                .collect();
            lines.join("\n").into_bytes()
        })
        .collect()
}

struct Sent {
    datagrams: u64,
    errors: u64,
    took: Duration,
}

/// Each datagram has its own deadline; a sleep that lasts too long is made up for at once.
fn send(socket: &UdpSocket, datagrams: &[Vec<u8>], rate: u64, time: Duration) -> Sent {
    let begin = Instant::now();
    let (mut sent, mut errors) = (0u64, 0u64);
    for datagram in datagrams.iter().cycle() {
        // Flat out has no rate to divide by, and no deadlines.
        if let Some(due_ns) = ((sent + errors) * 1_000_000_000).checked_div(rate) {
            let early = Duration::from_nanos(due_ns).saturating_sub(begin.elapsed());
            if !early.is_zero() {
                thread::sleep(early);
            }
        }
        // Asking the clock for every datagram would slow the flat-out run.
        if (rate > 0 || (sent + errors).is_multiple_of(32)) && begin.elapsed() >= time {
            break;
        }
        match socket.send(datagram) {
            Ok(_) => sent += 1,
            Err(_) => errors += 1,
        }
    }
    Sent { datagrams: sent, errors, took: begin.elapsed() }
}

#[derive(Default)]
struct Count {
    datagrams: AtomicU64,
    metrics: AtomicU64,
}

struct Sinks {
    count: Arc<Count>,
    ended: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    buffer_bytes: usize,
}

impl Sinks {
    fn start(ports: &[u16]) -> Result<Sinks, Box<dyn Error>> {
        let count = Arc::new(Count::default());
        let ended = Arc::new(AtomicBool::new(false));
        let mut buffer_bytes = usize::MAX;
        let mut threads = Vec::new();
        for port in ports {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, *port))
                .map_err(|error| format!("a sink cannot have 127.0.0.1 port {port}: {error}"))?;
            SockRef::from(&socket).set_recv_buffer_size(SINK_BUFFER_BYTES)?;
            buffer_bytes = buffer_bytes.min(SockRef::from(&socket).recv_buffer_size()?);
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let (count, ended) = (count.clone(), ended.clone());
            threads.push(thread::spawn(move || count_packets(&socket, &count, &ended)));
        }
        Ok(Sinks { count, ended, threads, buffer_bytes })
    }

    fn wait_until_quiet(&self) {
        let mut last = self.count.datagrams.load(Ordering::Relaxed);
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(20));
            let now = self.count.datagrams.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A sink that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

fn count_packets(socket: &UdpSocket, count: &Count, ended: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !ended.load(Ordering::Relaxed) {
        // The time-out is there to look at `ended`.
        let Ok(bytes) = socket.recv(&mut buffer) else { continue };
        count.datagrams.fetch_add(1, Ordering::Relaxed);
        count.metrics.fetch_add(lines(&buffer[..bytes]), Ordering::Relaxed);
    }
}

/// Lines that are not empty: proxies may pad with newlines.
fn lines(packet: &[u8]) -> u64 {
    let (mut lines, mut start) = (0, 0);
    for end in memchr::memchr_iter(b'\n', packet).chain([packet.len()]) {
        lines += u64::from(end > start);
        start = end + 1;
    }
    lines
}

/// Everything that is compared before and after.
struct Figures {
    metrics: u64,
    datagrams: u64,
    sink_drops: u64,
    proxy_drops: u64,
    cpu_ns: u64,
    rss_kib: u64,
}

impl Figures {
    fn read(traffic: &Traffic, ports: &[u16], sinks: &Sinks) -> Result<Figures, Box<dyn Error>> {
        let (cpu_ns, rss_kib) = match traffic.pid {
            Some(pid) => (cpu_ns(pid)?, rss_kib(pid)?),
            None => (0, 0),
        };
        Ok(Figures {
            metrics: sinks.count.metrics.load(Ordering::Relaxed),
            datagrams: sinks.count.datagrams.load(Ordering::Relaxed),
            sink_drops: kernel_drops(ports)?,
            proxy_drops: kernel_drops(&[traffic.to.port()])?,
            cpu_ns,
            rss_kib,
        })
    }
}

/// Time that all threads of a process have been on a CPU, user and kernel.
fn cpu_ns(pid: u32) -> Result<u64, Box<dyn Error>> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split_whitespace().next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(total)
}

fn rss_kib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Datagrams dropped at this host's UDP sockets on `ports`.
fn kernel_drops(ports: &[u16]) -> Result<u64, Box<dyn Error>> {
    let mut drops = 0;
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        // Without IPv6 there is no udp6.
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(dropped)) = (fields.get(1), fields.last()) else { continue };
            let port = u16::from_str_radix(local.rsplit(':').next().unwrap_or_default(), 16)?;
            if ports.contains(&port) {
                drops += dropped.parse::<u64>()?;
            }
        }
    }
    Ok(drops)
}
