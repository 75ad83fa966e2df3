//! The life of the process: start, ready, events, stop.
//!
//! In: a config. Out: a running proxy, then an exit code (`exit.rs`). Next: `state.rs` knows, `watch.rs` and
//! `operator.rs` work; the stop is `stop.rs`.

use super::bind::bind_admin;
use super::handle::ProxyHandle;
use super::net::{self, Listener};
use super::observe::{DebugLog, write_debug_log};
use super::operator::{Open, Operator, accept};
use super::signals::{self, Signal, Signals};
use super::state::{Control, Parts, Seat};
use super::stop;
use super::table::{self, Publisher};
use super::{Options, descriptors, watch};
use crate::config::{Config, MemoryBound};
use crate::driver::socket::{self, BindError, Listeners, Spread};
use crate::driver::uring::{KernelRing, refusal};
use crate::driver::{DriverError, Restrictions, Waker};
use crate::exit;
use crate::relay::Phase;
use crate::stats::WorkerShared;
use crate::worker::{self, Ended, Report, WorkerSetup};
use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// How long the workers may take to arm their receives.
const READY: Duration = Duration::from_secs(30);
/// How long a port may be taken before the start is refused.
const TAKEN: Duration = Duration::from_millis(500);
/// Room for reports of each worker, beside one for each of its backends.
const REPORTS_PER_WORKER: usize = 64;

/// Runs the proxy until it is stopped; the exit code.
///
/// When it returns the process is to end: what a client of the admin port keeps open may still be held, and after a
/// second signal the workers are still at work.
pub fn run(config: Config, options: Options) -> u8 {
    run_with(config, options, |_| ())
}

/// Like [`run`], and calls `started` once, when the proxy is ready; never if the start fails.
///
/// Blocks this thread. SIGHUP, SIGTERM and SIGINT are handled from then on, for the whole process.
pub fn run_with(config: Config, options: Options, started: impl FnOnce(ProxyHandle)) -> u8 {
    let sockets = match bind(&config) {
        Ok(sockets) => sockets,
        Err(failure) => return failure.tell(),
    };
    let rings_bytes = rings_bytes(&config);
    match net::run_local(live(config, options, sockets, started)) {
        Ok(code) => code,
        Err(error) => refused(error, rings_bytes).tell(),
    }
}

/// Why the process ends before its time: for the log, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What the operator is told.
    pub words: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// Something the system refused.
    pub fn system(words: impl Display) -> Failure {
        Failure { words: words.to_string(), code: exit::SYSTEM }
    }

    /// What ended a worker that nobody asked to end.
    pub fn of_worker(index: usize, end: &Result<Ended, DriverError>) -> Failure {
        match end {
            Err(DriverError::Refused(words)) => Failure { words: words.clone(), code: exit::NO_ENGINE },
            Err(error) => Failure {
                words: format!("worker {index} cannot go on, and half a proxy is none: {error}"),
                code: exit::SYSTEM,
            },
            Ok(end) => Failure {
                words: format!("worker {index} ended unasked ({end:?}): this is a mistake in the program"),
                code: exit::INTERNAL,
            },
        }
    }

    /// Logs it; the exit code.
    pub fn tell(&self) -> u8 {
        tracing::error!("{}", self.words);
        self.code
    }
}

/// Locked memory that the rings of the control thread and of all workers need.
fn rings_bytes(config: &Config) -> usize {
    net::RING_BYTES + config.workers * KernelRing::bytes(&config.limits().driver(), config.listen.len())
}

/// The control thread's own ring could not be made. `rings_bytes` is what all rings need of locked memory.
fn refused(error: io::Error, rings_bytes: usize) -> Failure {
    let is_refusal = matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::ENOMEM)
    );
    if !is_refusal {
        return Failure::system(format!("the control thread cannot start: {error}"));
    }
    let error = refusal::refusal("io_uring_setup", error, rings_bytes, &refusal::Host::read());
    Failure { words: error.to_string(), code: exit::NO_ENGINE }
}

/// Everything that listens.
struct Sockets {
    /// For each worker its sockets.
    workers: Vec<Vec<UdpSocket>>,
    listen: Vec<SocketAddr>,
    admin: Vec<TcpListener>,
    management: Vec<SocketAddr>,
    degraded: Vec<String>,
    send_buffer_granted_bytes: u64,
    spread: Spread,
}

/// Keeps signals away from every thread that starts from here on, and binds the sockets. What arrives from now on
/// waits in them.
fn bind(config: &Config) -> Result<Sockets, Failure> {
    signals::block().map_err(|error| Failure::system(format!("signals cannot be blocked: {error}")))?;
    let few_descriptors = descriptors::raise(config).map_err(Failure::system)?;
    let listeners = bind_data(config).map_err(Failure::system)?;
    let admin = bind_admin(&config.management).map_err(Failure::system)?;
    let management: io::Result<_> = admin.iter().map(TcpListener::local_addr).collect();
    let skipped = |(address, error): &(SocketAddr, io::Error)| format!("{address} is left out: {error}");
    let mut degraded: Vec<String> = listeners.skipped.iter().map(skipped).chain(few_descriptors).collect();
    Ok(Sockets {
        spread: spread(config, &listeners, &mut degraded),
        workers: listeners.workers,
        listen: listeners.addresses,
        management: management.map_err(|error| Failure::system(format!("the admin port: {error}")))?,
        admin,
        degraded,
        send_buffer_granted_bytes: send_buffer_granted(config.send_buffer_bytes),
    })
}

/// Binds the sockets for metrics. A process that was killed keeps its port for some 40 ms, until the kernel has taken its
/// ring down: whoever starts the next one at once need not know that.
fn bind_data(config: &Config) -> Result<Listeners, BindError> {
    let deadline = Instant::now() + TAKEN;
    loop {
        match socket::bind_listeners(&config.listen, config.workers, config.receive_buffer_bytes) {
            Err(BindError::Taken { .. }) if Instant::now() < deadline => std::thread::sleep(TAKEN / 10),
            result => return result,
        }
    }
}

/// Spreads datagrams over the workers as the config says, if the kernel lets it; what is really done.
fn spread(config: &Config, listeners: &Listeners, degraded: &mut Vec<String>) -> Spread {
    if config.spread == Spread::Datagram {
        match socket::spread_by_datagram(listeners) {
            Ok(()) => return Spread::Datagram,
            Err(error) => degraded.push(format!(
                "spread: datagram was refused by the kernel ({error}); each sender is served by one worker, as with flow"
            )),
        }
    }
    Spread::Flow
}

/// What the kernel grants one socket to a backend that asks for so much, in bytes; tried out on a socket that sends
/// nothing. 0 if it cannot be told.
fn send_buffer_granted(asked_bytes: usize) -> u64 {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let granted = socket::connect_backend(nobody, asked_bytes)
        .and_then(|socket| socket2::SockRef::from(&socket).send_buffer_size());
    granted.map_or(0, |bytes| bytes as u64)
}

/// The proxy's life on the control thread's runtime.
async fn live(config: Config, options: Options, sockets: Sockets, started: impl FnOnce(ProxyHandle)) -> u8 {
    let memory = MemoryBound::new(&config).to_string();
    let (publisher, seats) = match seats(&config) {
        Ok(seats) => seats,
        Err(failure) => return failure.tell(),
    };
    let room = config.workers * (config.nodes.len() + REPORTS_PER_WORKER);
    let (report, reports) = mpsc::channel(room);
    let Sockets { workers, listen, admin, management, degraded, send_buffer_granted_bytes, spread } = sockets;
    let control = Control::new(Parts {
        config,
        options,
        seats,
        publisher,
        listen,
        management,
        send_buffer_granted_bytes,
        spread,
    });
    control.degraded.borrow_mut().extend(degraded);
    if control.options.debug {
        start_debug_log(&control);
    }
    let backends = control.backends().clone();
    control.look_up(&backends).await;
    // The workers' first table is the real one: none of what waits in the sockets is dropped for want of a backend.
    control.publish();
    let mut process = match Process::start(control, workers, report, reports) {
        Ok(process) => process,
        Err(failure) => return failure.tell(),
    };
    if let Err(failure) = process.ready(&memory).await {
        return stop::abandon(process, failure).await;
    }
    for backend in backends {
        watch::start(&process.control, backend);
    }
    let doors = match Doors::open(&process.control, admin) {
        Ok(doors) => doors,
        Err(failure) => return stop::abandon(process, failure).await,
    };
    started(process.handle());
    let code = process.serve().await;
    doors.close().await;
    code
}

/// What each worker shares with control, and the way to them all.
fn seats(config: &Config) -> Result<(Publisher, Vec<Seat>), Failure> {
    let nothing = table::build(0, config, [], None, Phase::Run, None);
    let wakers: io::Result<Vec<_>> = (0..config.workers).map(|_| Waker::new().map(Arc::new)).collect();
    let wakers = wakers.map_err(|error| Failure::system(format!("no eventfd to wake a worker: {error}")))?;
    let seat = |index| Seat {
        shared: Arc::new(WorkerShared::default()),
        facts: RefCell::new(None),
        cpu: Cell::new(config.worker_cpus.get(index).copied()),
    };
    let publisher = Publisher { routes: Arc::new(ArcSwap::from_pointee(nothing)), wakers };
    Ok((publisher, (0..config.workers).map(seat).collect()))
}

fn start_debug_log(control: &Rc<Control>) {
    let (log, passed) = DebugLog::new();
    net::spawn(write_debug_log(Arc::downgrade(&log), passed));
    control.observers.borrow_mut().debug = Some(log);
}

/// A number of things, in words.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// What happens to a running process.
#[derive(Debug)]
pub enum Event {
    /// A worker reported something that needs no decision.
    Noted,
    /// SIGHUP.
    Reload,
    /// A stop is wanted: the signal's number, or `None` if a [`ProxyHandle`] asked.
    Stop(Option<u8>),
    /// A worker's thread ended.
    Ended {
        /// Which.
        worker: usize,
        /// How.
        end: Result<Ended, DriverError>,
    },
}

/// A process whose workers run.
pub struct Process {
    /// What is known.
    pub control: Rc<Control>,
    /// How each worker ended, if it has.
    pub ended: Vec<Option<Result<Ended, DriverError>>>,
    /// The workers' threads.
    pub threads: Vec<JoinHandle<()>>,
    reports: mpsc::Receiver<Report>,
    signals: Signals,
    stop: Arc<Notify>,
}

impl Process {
    fn start(
        control: Rc<Control>,
        listeners: Vec<Vec<UdpSocket>>,
        report: mpsc::Sender<Report>,
        reports: mpsc::Receiver<Report>,
    ) -> Result<Process, Failure> {
        let mut threads = Vec::with_capacity(listeners.len());
        for (index, listeners) in listeners.into_iter().enumerate() {
            let setup = WorkerSetup {
                index,
                listeners,
                routes: control.publisher.routes.clone(),
                shared: control.seats[index].shared.clone(),
                waker: control.publisher.wakers[index].clone(),
                reports: report.clone(),
                limits: control.limits,
                rings_bytes: rings_bytes(&control.config()),
                cpu: control.seats[index].cpu.get(),
            };
            let thread = worker::spawn(setup)
                .map_err(|error| Failure::system(format!("no thread for worker {index}: {error}")))?;
            threads.push(thread);
        }
        let signals = Signals::listen()
            .map_err(|error| Failure::system(format!("signals cannot be handled: {error}")))?;
        let ended = threads.iter().map(|_| None).collect();
        Ok(Process { control, ended, threads, reports, signals, stop: Arc::new(Notify::new()) })
    }

    /// Waits until every worker's receive is armed, and says so, once.
    async fn ready(&mut self, memory: &str) -> Result<(), Failure> {
        let deadline = net::deadline_in(READY);
        while self.control.seats.iter().any(|seat| seat.facts.borrow().is_none()) {
            match tokio::time::timeout_at(deadline, self.event()).await {
                Ok(Event::Ended { worker, end }) => return Err(Failure::of_worker(worker, &end)),
                Ok(Event::Stop(_)) => {
                    return Err(Failure { words: "stopped before it was ready".to_owned(), code: exit::OK });
                }
                // The config was read a moment ago.
                Ok(Event::Reload | Event::Noted) => {}
                Err(_) => return Err(Failure::system("the workers did not arm their receives in time")),
            }
        }
        self.control.ready.set(true);
        self.announce(memory);
        Ok(())
    }

    fn announce(&self, memory: &str) {
        let control = &self.control;
        let config = control.config();
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
        };
        let facts = control.seats.first().and_then(|seat| seat.facts.borrow().clone()).unwrap_or_default();
        let asked = config.receive_buffer_bytes;
        // The kernel grants twice what it is asked for, and counts its own overhead in.
        if facts.receive_buffer_bytes < 2 * asked {
            let words = format!(
                "receiveBuffer: {} bytes were granted where {} were wanted; raise net.core.rmem_max to {asked} \
                 (`sysctl -w net.core.rmem_max={asked}`), or bursts may be lost",
                facts.receive_buffer_bytes,
                2 * asked,
            );
            control.degraded.borrow_mut().push(words);
        }
        if let Restrictions::Refused(errno) = facts.restrictions {
            control.degraded.borrow_mut().push(format!(
                "the workers' rings are not restricted to what they need: the kernel refused it ({})",
                io::Error::from_raw_os_error(errno)
            ));
        }
        tracing::info!(
            "ready: metrics at {}, admin port at {}, {}, {} on {}, receive buffer {} bytes each, {}",
            list(&control.listen),
            list(&control.management),
            count(config.nodes.len(), "backend"),
            count(control.seats.len(), "worker"),
            facts.engine,
            facts.receive_buffer_bytes,
            memory.lines().next().unwrap_or_default(),
        );
        for words in control.degraded.borrow().iter() {
            tracing::warn!("{words}");
        }
    }

    fn handle(&self) -> ProxyHandle {
        let control = &self.control;
        ProxyHandle {
            workers: control.seats.iter().map(|seat| seat.shared.clone()).collect(),
            publisher: control.publisher.clone(),
            listen: control.listen.as_slice().into(),
            management: control.management.as_slice().into(),
            latency: control.latency.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Runs until the end; the exit code.
    async fn serve(&mut self) -> u8 {
        loop {
            match self.event().await {
                Event::Reload => {
                    let control = self.control.clone();
                    // Both outcomes go to the log there.
                    net::spawn(async move { drop(control.reload().await) });
                }
                Event::Noted => {}
                Event::Stop(signal) => return stop::stop(self, signal).await,
                Event::Ended { worker, end } => {
                    return stop::fail(self, Failure::of_worker(worker, &end)).await;
                }
            }
        }
    }

    /// The next event. May be dropped while it waits.
    pub async fn event(&mut self) -> Event {
        tokio::select! {
            biased;
            // `None` after the last worker is gone: then only the other branches count.
            Some(report) = self.reports.recv() => self.note(report),
            signal = self.signals.next() => match signal {
                Signal::Reload => Event::Reload,
                Signal::Stop(number) => Event::Stop(Some(number)),
            },
            () = self.stop.notified() => Event::Stop(None),
        }
    }

    fn note(&self, report: Report) -> Event {
        match report {
            Report::Ready { worker, facts } => {
                if let Some(seat) = self.control.seats.get(worker) {
                    *seat.facts.borrow_mut() = Some(facts);
                }
            }
            Report::Refused { node } => {
                if let Some(backend) = self.control.backend(&node) {
                    backend.note_refusal();
                }
            }
            Report::SocketFailed { node, error } => tracing::error!(
                "backend {}: no socket for it: {error}; its metrics are dropped and counted as send_failed",
                node.escape_default()
            ),
            Report::SendFailed { node, error } => {
                tracing::warn!(
                    "backend {}: a send failed: {error}; counted as send_failed",
                    node.escape_default()
                );
            }
            Report::TrainsRefused { node, error } => tracing::info!(
                "{}: several packets in one send (gso) are refused: {error}; they go one by one from now on",
                node.escape_default()
            ),
            Report::Truncated { datagram_bytes } => tracing::warn!(
                "a datagram of {datagram_bytes} bytes is longer than maxDatagramSize: its whole lines are relayed, the \
                 rest is counted as truncated; raise maxDatagramSize"
            ),
            Report::PinFailed { worker, cpu, error } => {
                if let Some(seat) = self.control.seats.get(worker) {
                    seat.cpu.set(None);
                }
                // It comes before the worker is ready, so it is told with everything else that is degraded.
                let words = format!(
                    "pinWorkers: worker {worker} cannot be kept to CPU {cpu}: {error}; it runs where the kernel puts it"
                );
                self.control.degraded.borrow_mut().push(words);
            }
            Report::FenceFailed { error } => {
                tracing::warn!(
                    "the sockets could not be fenced: {error}; what arrives during the stop may be lost"
                );
            }
            Report::Ended { worker, end } => return Event::Ended { worker, end },
        }
        Event::Noted
    }
}

/// The admin port's listeners, with the tasks that accept at them.
struct Doors {
    listeners: Vec<Rc<Listener>>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    open: Rc<Open>,
}

impl Doors {
    fn open(control: &Rc<Control>, listeners: Vec<TcpListener>) -> Result<Doors, Failure> {
        let operator = Operator::new(control.clone());
        let mut doors = Doors { listeners: Vec::new(), accepting: Vec::new(), open: Rc::default() };
        for listener in listeners {
            let listener = Listener::from_std(listener)
                .map_err(|error| Failure::system(format!("the admin port: {error}")))?;
            let listener = Rc::new(listener);
            doors.accepting.push(net::spawn(accept(operator.clone(), listener.clone(), doors.open.clone())));
            doors.listeners.push(listener);
        }
        Ok(doors)
    }

    /// Takes no more connections; those that are open are left to the end of the process.
    async fn close(self) {
        self.open.closing.set(true);
        for listener in &self.listeners {
            listener.close();
        }
        for task in self.accepting {
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reload::tests::config;
    use super::*;
    use crate::stats::Counter;
    use std::net::TcpStream;
    use std::sync::mpsc as std_mpsc;

    fn anywhere() -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]
    }

    fn options() -> Options {
        Options { config_path: None, debug: false }
    }

    /// A proxy in this process, its handle, and the thread that ends with its exit code; `None` where io_uring is
    /// refused.
    fn start(config: Config) -> Option<(ProxyHandle, JoinHandle<u8>)> {
        let (give, take) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            run_with(config, options(), |handle| {
                let _ = give.send(handle);
            })
        });
        if let Ok(handle) = take.recv_timeout(Duration::from_secs(60)) {
            return Some((handle, thread));
        }
        assert_eq!(thread.join().unwrap(), exit::NO_ENGINE, "only a refusal may keep it from starting");
        eprintln!("skipped: io_uring is refused here");
        None
    }

    #[test]
    fn a_proxy_in_process_is_fed_read_stopped_and_leaves_nothing_behind() {
        let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = config(&[&backend.local_addr().unwrap().to_string()]);
        (config.listen, config.management, config.workers) = (anywhere(), anywhere(), 2);
        let Some((proxy, thread)) = start(config.clone()) else { return };
        assert_eq!((proxy.workers().len(), proxy.routes().live.alive()), (2, 1));
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"gorets:1|c", proxy.listen()[0]).unwrap();
        backend.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut line = [0; 64];
        let length = backend.recv(&mut line).unwrap();
        assert_eq!(&line[..length], b"gorets:1|c");
        let mut latency = crate::stats::Latency::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while latency.get(crate::stats::LatencyKind::Residence).is_empty() {
            proxy.collect_latency(&mut latency);
            assert!(Instant::now() < deadline, "the metric's latency was not recorded");
        }
        // Two askings are one stop, and an idle client of the admin port does not hold it up.
        let _idle = TcpStream::connect(proxy.management()[0]).unwrap();
        proxy.stop();
        proxy.stop();
        assert_eq!(thread.join().unwrap(), exit::OK);
        assert_eq!(proxy.counters().get(Counter::MetricsSent), 1);
        assert_eq!(proxy.counters().imbalance(), 0);
        // The same ports can be had again.
        config.listen = proxy.listen().to_vec();
        config.management = proxy.management().to_vec();
        let Some((again, thread)) = start(config) else { return };
        again.stop();
        assert_eq!(thread.join().unwrap(), exit::OK);
    }

    #[test]
    fn a_taken_port_ends_the_start_with_its_exit_code() {
        let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = config(&["127.0.0.1:9"]);
        (config.listen, config.management) = (vec![held.local_addr().unwrap()], anywhere());
        let code = run_with(config, options(), |_| panic!("it is not ready"));
        assert_eq!(code, exit::SYSTEM);
    }

    #[test]
    fn what_ended_a_worker_has_its_own_code() {
        let codes = [
            (Err(DriverError::Refused("no".to_owned())), exit::NO_ENGINE),
            (Err(DriverError::System { operation: "enter", source: io::Error::other("x") }), exit::SYSTEM),
            (Ok(Ended::Panicked), exit::INTERNAL),
            (Ok(Ended::Drained), exit::INTERNAL),
        ];
        for (end, code) in codes {
            assert_eq!(Failure::of_worker(0, &end).code, code, "{end:?}");
        }
        assert_eq!(refused(io::Error::from_raw_os_error(libc::EPERM), 1).code, exit::NO_ENGINE);
        assert_eq!(refused(io::Error::from_raw_os_error(libc::EMFILE), 1).code, exit::SYSTEM);
    }
}
