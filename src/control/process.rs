//! The life of the process: start, ready, events, stop.
//!
//! In: a config. Out: a running proxy, then an exit code (`exit.rs`). Next: `state.rs` knows, `watch.rs` and
//! `operator.rs` work; the stop is `stop.rs`, a restart without loss `restart.rs`.

use super::engine::{self, Chosen};
use super::handle::ProxyHandle;
use super::handover::decide::{Giver, GiverEvent, TakerAction, TakerEvent};
use super::handover::predecessor::Predecessor;
use super::handover::program::Program;
use super::handover::successor::Successor;
use super::net::{self, Listener};
use super::observe::{DebugLog, write_debug_log};
use super::operator::{Open, Operator, accept};
use super::signals::{Signal, Signals};
use super::sockets::{self, Held, Sockets};
use super::state::{Control, Parts, Seat};
use super::stop;
use super::table::{self, Publisher};
use super::{Options, Origin, restart, watch};
use crate::config::{Config, MemoryBound};
use crate::driver::socket::Unbound;
use crate::driver::{DriverError, Engine, Restrictions, Waker};
use crate::exit;
use crate::relay::{Left, Phase};
use crate::stats::WorkerShared;
use crate::worker::{self, Ended, Report, WorkerSetup};
use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How long the workers may take to arm their receives.
const READY: Duration = Duration::from_secs(30);
/// Room for reports of each worker, beside one for each of its backends.
const REPORTS_PER_WORKER: usize = 64;

/// Runs the proxy until it is stopped; the exit code. `origin` says where this process comes from.
///
/// When it returns the process is to end: what a client of the admin port keeps open may still be held, and after a
/// second signal the workers are still at work.
pub fn run(config: Config, options: Options, origin: Origin) -> u8 {
    begin(config, options, origin, |_| ())
}

/// Like [`run`] for a proxy within a process that is something else, and calls `started` once, when the proxy is ready;
/// never if the start fails.
///
/// Blocks this thread. SIGHUP, SIGTERM, SIGINT and SIGUSR2 are handled from then on, for the whole process.
pub fn run_with(config: Config, options: Options, started: impl FnOnce(ProxyHandle)) -> u8 {
    begin(config, options, Origin::default(), started)
}

fn begin(mut config: Config, options: Options, mut origin: Origin, started: impl FnOnce(ProxyHandle)) -> u8 {
    let mut sockets = match sockets::open(&mut config, &mut origin) {
        Ok(sockets) => sockets,
        Err(failure) => {
            origin.refuse(&failure.words);
            return failure.tell();
        }
    };
    let chosen = match engine::choose(&config, sockets.listen.len()) {
        Ok(chosen) => chosen,
        Err(failure) => {
            origin.refuse(&failure.words);
            return failure.tell();
        }
    };
    sockets.degraded.extend(chosen.degraded.iter().cloned());
    let (engine, rings_bytes) = (chosen.engine, chosen.rings_bytes);
    match net::run_local(engine, live(config, options, sockets, origin, (chosen, started))) {
        Ok(code) => code,
        Err(error) => refused(error, rings_bytes, engine).tell(),
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

/// The control thread's runtime could not be made. `rings_bytes` is what all rings need of locked memory.
fn refused(error: io::Error, rings_bytes: usize, engine: Engine) -> Failure {
    let is_refusal = matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::ENOMEM)
    );
    if engine == Engine::Portable || !is_refusal {
        return Failure::system(format!("the control thread cannot start: {error}"));
    }
    Failure { words: engine::refused(error, rings_bytes).to_string(), code: exit::NO_ENGINE }
}

/// The proxy's life on the control thread's runtime.
async fn live(
    config: Config,
    options: Options,
    sockets: Sockets,
    origin: Origin,
    (chosen, started): (Chosen, impl FnOnce(ProxyHandle)),
) -> u8 {
    let memory = MemoryBound::new(&config, chosen.engine).to_string();
    let (mut process, sockets) = match prepare(config, options, sockets, origin, chosen).await {
        Ok(prepared) => prepared,
        Err(failure) => return failure.tell(),
    };
    let armed = match process.armed().await {
        Ok(()) => process.take_over(&sockets.late).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = armed {
        return stop::abandon(process, failure).await;
    }
    // What others had when this process might have failed is its own now, or the service manager's.
    process.control.left.set(if process.held.is_data_activated() { Left::ALL } else { Left::NONE });
    process.control.ready.set(true);
    process.announce(&memory);
    for backend in process.control.backends().iter() {
        watch::start(&process.control, backend.clone());
    }
    let doors = match Doors::open(&process.control, sockets.admin, process.held.is_admin_activated()) {
        Ok(doors) => doors,
        Err(failure) => return stop::abandon(process, failure).await,
    };
    process.control.notifier.ready();
    process.control.tell_status();
    started(process.handle());
    process.serve(doors).await
}

/// What is left of [`Sockets`] when the workers have theirs.
struct Rest {
    admin: Vec<TcpListener>,
    late: Vec<Unbound>,
}

/// Everything up to the start of the workers. A failure has been told to the old process, if there is one.
async fn prepare(
    config: Config,
    options: Options,
    sockets: Sockets,
    origin: Origin,
    chosen: Chosen,
) -> Result<(Process, Rest), Failure> {
    let (publisher, seats) = seats(&config).inspect_err(|failure| origin.refuse(&failure.words))?;
    let room = config.workers * (config.nodes.len() + REPORTS_PER_WORKER);
    let (report, reports) = mpsc::channel(room);
    let Origin { predecessor, program, notifier, notices, .. } = origin;
    let control = Control::new(Parts {
        config,
        options,
        seats,
        publisher,
        listen: sockets.listen,
        management: sockets.management,
        send_buffer_granted_bytes: sockets.send_buffer_granted_bytes,
        spread: sockets.spread,
        has_given_sockets: sockets.held.is_data_activated(),
        notifier,
        origin: sockets.origin,
    });
    control.degraded.borrow_mut().extend(sockets.degraded.into_iter().chain(notices));
    control.left.set(sockets.shared);
    if control.options.debug {
        start_debug_log(&control);
    }
    if let Some(old) = &predecessor {
        control.resume(&old.offer.state);
    }
    let backends = control.backends().clone();
    control.look_up(&backends).await;
    // The workers' first table is the real one: none of what waits in the sockets is dropped for want of a backend.
    control.publish();
    let before = Before { predecessor, program, held: sockets.held, chosen };
    let process = Process::start(control, sockets.workers, (report, reports), before)?;
    Ok((process, Rest { admin: sockets.admin, late: sockets.late }))
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
    /// SIGUSR2.
    Restart,
    /// What the process that is to take over from this one does.
    Successor(GiverEvent),
    /// What the process that this one takes over from does.
    Predecessor(TakerEvent),
    /// A stop is wanted: the signal's number, or `None` if a [`ProxyHandle`] asked.
    Stop(Option<u8>),
    /// A worker's thread ended; how, stands in [`Process::ended`].
    Ended {
        /// Which.
        worker: usize,
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
    /// Why there are not as many as there should be; then those that run are to end.
    obstacle: Option<Failure>,
    /// Whether another process is to take over from this one.
    pub(super) giver: Giver,
    /// That process.
    pub(super) successor: Option<Successor>,
    /// Whether a signal to stop went on to it.
    pub(super) has_passed_on: bool,
    /// The process that this one takes over from.
    pub(super) predecessor: Option<Predecessor>,
    /// How this process was started.
    pub(super) program: Option<Program>,
    /// The sockets, for the next process.
    pub(super) held: Held,
    reports: mpsc::Receiver<Report>,
    signals: Signals,
    /// Asks for a stop from within the process.
    pub(super) stop: Arc<Notify>,
}

/// What a process has before its workers start.
struct Before {
    predecessor: Option<Predecessor>,
    program: Option<Program>,
    held: Held,
    chosen: Chosen,
}

impl Process {
    fn start(
        control: Rc<Control>,
        listeners: Vec<Vec<UdpSocket>>,
        (report, reports): (mpsc::Sender<Report>, mpsc::Receiver<Report>),
        before: Before,
    ) -> Result<Process, Failure> {
        let Before { mut predecessor, program, held, chosen } = before;
        let refuse = |predecessor: &Option<Predecessor>, words: String| {
            predecessor.iter().for_each(|old| old.say_failed(&words));
            Failure::system(words)
        };
        if let Some(old) = &mut predecessor
            && let Err(error) = old.listen()
        {
            return Err(refuse(&predecessor, format!("the old process cannot be heard: {error}")));
        }
        // Before the workers: what they take would be lost if nobody could end them.
        let signals = Signals::listen()
            .map_err(|error| refuse(&predecessor, format!("signals cannot be handled: {error}")))?;
        let has_inherited = predecessor.is_some() || held.is_data_activated();
        let (mut threads, mut obstacle) = (Vec::with_capacity(listeners.len()), None);
        for (index, listeners) in listeners.into_iter().enumerate() {
            let setup = WorkerSetup {
                index,
                listeners,
                routes: control.publisher.routes.clone(),
                shared: control.seats[index].shared.clone(),
                waker: control.publisher.wakers[index].clone(),
                reports: report.clone(),
                limits: control.limits,
                engine: chosen.engine,
                rings_bytes: chosen.rings_bytes,
                cpu: control.seats[index].cpu.get(),
                has_inherited,
            };
            match worker::spawn(setup) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    obstacle = Some(Failure::system(format!("no thread for worker {index}: {error}")));
                    break;
                }
            }
        }
        let ended = threads.iter().map(|_| None).collect();
        Ok(Process {
            obstacle,
            control,
            ended,
            threads,
            giver: Giver::new(),
            successor: None,
            has_passed_on: false,
            predecessor,
            program,
            held,
            reports,
            signals,
            stop: Arc::new(Notify::new()),
        })
    }

    /// Waits until every worker's receive is armed.
    async fn armed(&mut self) -> Result<(), Failure> {
        if let Some(obstacle) = self.obstacle.take() {
            return Err(obstacle);
        }
        let deadline = net::deadline_in(READY);
        while self.control.seats.iter().any(|seat| seat.facts.borrow().is_none()) {
            match tokio::time::timeout_at(deadline, self.event()).await {
                Ok(Event::Ended { worker }) => return Err(self.end_of(worker)),
                Ok(Event::Stop(_)) => {
                    return Err(Failure { words: "stopped before it was ready".to_owned(), code: exit::OK });
                }
                Ok(Event::Predecessor(event)) => {
                    let old = self.predecessor.as_mut();
                    if let Some(TakerAction::Retire(why)) = old.map(|old| old.on(event)) {
                        return Err(restart::retired(&why));
                    }
                }
                // For a reload there is nothing to do: the config was read a moment ago.
                Ok(event) => self.decline(&event),
                Err(_) => return Err(Failure::system("the workers did not arm their receives in time")),
            }
        }
        Ok(())
    }

    /// What a worker's end means that nobody asked for.
    pub fn end_of(&self, worker: usize) -> Failure {
        match self.ended.get(worker) {
            Some(Some(end)) => Failure::of_worker(worker, end),
            _ => Failure::of_worker(worker, &Ok(Ended::Panicked)),
        }
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
        if let Some(words) = &control.origin {
            tracing::info!("{words}");
        }
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
    async fn serve(&mut self, doors: Doors) -> u8 {
        let code = loop {
            match self.event().await {
                Event::Reload => {
                    let control = self.control.clone();
                    // Both outcomes go to the log there.
                    net::spawn(async move { drop(control.reload().await) });
                }
                Event::Noted => {}
                Event::Restart => self.ask_restart(),
                Event::Successor(event) => {
                    if let Some(taken) = self.give(event) {
                        doors.leave(&taken.admin).await;
                        return stop::leave(self, &taken).await;
                    }
                }
                Event::Predecessor(event) => self.follow(event),
                Event::Stop(signal) => break stop::stop(self, signal).await,
                Event::Ended { worker } => {
                    let failure = self.end_of(worker);
                    break stop::fail(self, failure).await;
                }
            }
        };
        doors.close().await;
        code
    }

    /// The next event. May be dropped while it waits.
    pub async fn event(&mut self) -> Event {
        tokio::select! {
            biased;
            // `None` after the last worker is gone: then only the other branches count.
            Some(report) = self.reports.recv() => self.note(report),
            signal = self.signals.next() => match signal {
                Signal::Reload => Event::Reload,
                Signal::Restart => Event::Restart,
                Signal::Stop(number) if self.pass_on(number) => Event::Noted,
                Signal::Stop(number) => Event::Stop(Some(number)),
            },
            () = self.stop.notified() => Event::Stop(None),
            event = or_never(self.predecessor.as_mut().map(Predecessor::next)) => Event::Predecessor(event),
            event = or_never(self.successor.as_mut().map(Successor::next)) => Event::Successor(event),
        }
    }

    fn note(&mut self, report: Report) -> Event {
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
                "backend {}: no socket for it: {error}; its metrics are dropped and counted as send_failed, and it is tried \
                 again every second",
                node.escape_default()
            ),
            Report::SocketMade { node } => {
                tracing::info!("backend {}: there is a socket for it now", node.escape_default())
            }
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
            Report::Ended { worker, end } => {
                if let Some(place) = self.ended.get_mut(worker) {
                    *place = Some(end);
                }
                return Event::Ended { worker };
            }
        }
        Event::Noted
    }
}

/// What a future gives, if there is one.
async fn or_never<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The admin port's listeners, with the tasks that accept at them.
struct Doors {
    listeners: Vec<(SocketAddr, Rc<Listener>)>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    open: Rc<Open>,
    /// They are a service manager's, which goes on listening.
    are_shared: bool,
}

impl Doors {
    fn open(control: &Rc<Control>, listeners: Vec<TcpListener>, are_shared: bool) -> Result<Doors, Failure> {
        let failure = |error| Failure::system(format!("the admin port: {error}"));
        let operator = Operator::new(control.clone());
        let mut doors =
            Doors { listeners: Vec::new(), accepting: Vec::new(), open: Rc::default(), are_shared };
        for listener in listeners {
            let address = listener.local_addr().map_err(failure)?;
            let listener = Rc::new(Listener::from_std(listener).map_err(failure)?);
            doors.accepting.push(net::spawn(accept(operator.clone(), listener.clone(), doors.open.clone())));
            doors.listeners.push((address, listener));
        }
        Ok(doors)
    }

    /// Takes no more connections; those that are open are left to the end of the process.
    async fn close(self) {
        self.leave(&[]).await;
    }

    /// Takes no more connections; at the addresses `taken` another process does.
    async fn leave(self, taken: &[SocketAddr]) {
        self.open.closing.set(true);
        for (address, listener) in &self.listeners {
            if self.are_shared || taken.contains(address) {
                listener.leave();
            } else {
                listener.close();
            }
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
    use std::net::{Ipv4Addr, TcpStream};
    use std::sync::mpsc as std_mpsc;
    use std::time::Instant;

    fn anywhere() -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]
    }

    fn options() -> Options {
        Options { config_path: None, listing: String::new(), debug: false }
    }

    /// A proxy in this process, its handle, and the thread that ends with its exit code.
    fn start(config: Config) -> (ProxyHandle, JoinHandle<u8>) {
        let (give, take) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            run_with(config, options(), |handle| {
                let _ = give.send(handle);
            })
        });
        match take.recv_timeout(Duration::from_secs(60)) {
            Ok(handle) => (handle, thread),
            Err(_) => panic!("the start failed: {:?}", thread.join()),
        }
    }

    #[test]
    fn a_proxy_in_process_is_fed_read_stopped_and_leaves_nothing_behind() {
        [None, Some(Engine::Portable)].into_iter().for_each(feed_read_stop);
    }

    fn feed_read_stop(engine: Option<Engine>) {
        let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = config(&[&backend.local_addr().unwrap().to_string()]);
        (config.listen, config.management, config.workers) = (anywhere(), anywhere(), 2);
        config.engine = engine;
        let (proxy, thread) = start(config.clone());
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
        let (again, thread) = start(config);
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
        let codes = [
            (libc::EPERM, Engine::IoUring, exit::NO_ENGINE),
            (libc::EMFILE, Engine::IoUring, exit::SYSTEM),
            (libc::EPERM, Engine::Portable, exit::SYSTEM),
        ];
        for (errno, engine, code) in codes {
            assert_eq!(refused(io::Error::from_raw_os_error(errno), 1, engine).code, code, "{errno}");
        }
    }
}
