//! The parts of a running process, and the events that come from outside it: workers' reports, signals, other processes.
//!
//! In: what `start.rs` has made. Out: an [`Event`] at a time. Next: `event_loop.rs` has `phase.rs` decide and does what
//! follows; the stop is `stop.rs`, a restart without loss `restart.rs`.

use crate::control::lifecycle::engine::EngineChoice;
use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handle::ProxyHandle;
use crate::control::lifecycle::handover::decide::{OutgoingEvent, OutgoingHandover};
use crate::control::lifecycle::handover::predecessor::Predecessor;
use crate::control::lifecycle::handover::program::Program;
use crate::control::lifecycle::handover::successor::Successor;
use crate::control::lifecycle::phase::{Event, Phase};
use crate::control::lifecycle::signals::{Signal, Signals};
use crate::control::lifecycle::sockets::ListenerSet;
use crate::control::service::admin_listeners::AdminListeners;
use crate::control::shortage::{Operation, is_shortage};
use crate::control::state::Control;
use crate::driver::socket::Unbound;
use crate::driver::{DriverError, Restrictions};
use crate::exit;
use crate::logging;
use crate::text::count;
use crate::worker::{self, Ended, Report, WorkerSetup};
use nix::sys::signal::Signal as Number;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// A process whose workers run.
pub struct Process {
    /// The state.
    pub control: Rc<Control>,
    /// The result of each worker that ended.
    pub ended: Vec<Option<Result<Ended, DriverError>>>,
    /// The workers' threads.
    pub threads: Vec<JoinHandle<()>>,
    /// What it goes through.
    pub(in crate::control) phase: Phase,
    /// What follows from the last event, and comes before any other.
    pub(in crate::control) pending: VecDeque<Event>,
    /// When the time of the phase is over, if it has one; and how long that time was.
    pub(in crate::control) deadline: Option<(Instant, Duration)>,
    /// Sockets that are bound as soon as every receive is armed.
    pub(in crate::control) late: Vec<Unbound>,
    /// The admin port, from the ready to the end.
    pub(in crate::control) admin_listeners: Option<AdminListeners>,
    /// The exit code of the failure that ends the process, if one does.
    pub(in crate::control) failure_code: u8,
    /// The exit code, at the end.
    pub(in crate::control) exit_code: u8,
    /// Whether another process is to take over from this one.
    pub(in crate::control) outgoing: OutgoingHandover,
    /// That process.
    pub(in crate::control) successor: Option<Successor>,
    /// Reloads that had been accepted when it was started, and may have read the config.
    pub(in crate::control) reloads_at_start: u64,
    /// The process that this one takes over from.
    pub(in crate::control) predecessor: Option<Predecessor>,
    /// How this process was started.
    pub(in crate::control) program: Option<Program>,
    /// The sockets, for the next process.
    pub(in crate::control) listener_set: ListenerSet,
    reports: mpsc::Receiver<Report>,
    signals: Signals,
    /// Asks for a stop from within the process.
    pub(in crate::control) stop: Arc<Notify>,
}

/// What a process has before its workers start.
pub(in crate::control) struct StartContext {
    pub predecessor: Option<Predecessor>,
    pub program: Option<Program>,
    pub listener_set: ListenerSet,
    pub chosen: EngineChoice,
    pub late: Vec<Unbound>,
}

impl Process {
    /// Starts the workers; those that could be started run.
    pub(in crate::control) fn start(
        control: Rc<Control>,
        listeners: Vec<Vec<UdpSocket>>,
        (report, reports): (mpsc::Sender<Report>, mpsc::Receiver<Report>),
        before: StartContext,
    ) -> Result<Process, Failure> {
        let StartContext { mut predecessor, program, listener_set, chosen, late } = before;
        let refuse = |predecessor: &Option<Predecessor>, message: String| {
            predecessor.iter().for_each(|old| old.send_failed(&message));
            Failure::system(message)
        };
        if let Some(old) = &mut predecessor
            && let Err(error) = old.listen()
        {
            return Err(refuse(&predecessor, format!("cannot read from the old process: {error}")));
        }
        // Before the workers: metrics they receive would be lost if they could not be stopped.
        let signals = Signals::listen()
            .map_err(|error| refuse(&predecessor, format!("cannot handle signals: {error}")))?;
        let has_inherited = predecessor.is_some() || listener_set.is_data_activated();
        let (mut threads, mut pending) = (Vec::with_capacity(listeners.len()), VecDeque::new());
        for (index, listeners) in listeners.into_iter().enumerate() {
            let setup = WorkerSetup {
                index,
                listeners,
                routes: control.publisher.routes.clone(),
                shared: control.worker_handles[index].shared.clone(),
                waker: control.publisher.wakers[index].clone(),
                reports: report.clone(),
                limits: control.limits,
                engine: chosen.engine,
                rings_bytes: chosen.rings_bytes,
                cpu: control.worker_handles[index].cpu.get(),
                has_inherited,
            };
            match worker::spawn(setup) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    let failure =
                        Failure::system(format!("cannot start the thread of worker {index}: {error}"));
                    pending.push_back(Event::Failed(failure));
                    break;
                }
            }
        }
        let ended = threads.iter().map(|_| None).collect();
        Ok(Process {
            control,
            ended,
            threads,
            phase: Phase::START,
            pending,
            deadline: None,
            late,
            admin_listeners: None,
            failure_code: exit::OK,
            exit_code: exit::OK,
            outgoing: OutgoingHandover::new(),
            successor: None,
            reloads_at_start: 0,
            predecessor,
            program,
            listener_set,
            reports,
            signals,
            stop: Arc::new(Notify::new()),
        })
    }

    /// What a worker's end means that nobody asked for.
    pub fn end_of(&self, worker: usize) -> Failure {
        match self.ended.get(worker) {
            Some(Some(end)) => Failure::of_worker(worker, end),
            _ => Failure::of_worker(worker, &Ok(Ended::Panicked)),
        }
    }

    /// Logs that the proxy is ready, and its degradations.
    pub(in crate::control) fn announce(&self, memory: &str) {
        let control = &self.control;
        let config = control.config();
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
        };
        let driver_info = control
            .worker_handles
            .first()
            .and_then(|worker_handle| worker_handle.driver_info.borrow().clone())
            .unwrap_or_default();
        let asked = config.receive_buffer_bytes;
        // The kernel grants twice the requested size, which includes its own overhead.
        if driver_info.receive_buffer_bytes < 2 * asked {
            let message = format!(
                "receiveBuffer: expected {} bytes, granted {}; raise net.core.rmem_max to {asked} \
                 (`sysctl -w net.core.rmem_max={asked}`), or bursts may be lost",
                2 * asked,
                driver_info.receive_buffer_bytes,
            );
            control.degraded.borrow_mut().push(message);
        }
        if let Restrictions::Refused(errno) = driver_info.restrictions {
            control.degraded.borrow_mut().push(format!(
                "the workers' rings are not restricted to the operations that they need: refused by the kernel ({})",
                io::Error::from_raw_os_error(errno)
            ));
        }
        tracing::info!(
            listen = list(&control.listen),
            admin = list(&control.management),
            backends = config.nodes.len(),
            workers = control.worker_handles.len(),
            engine = driver_info.engine,
            receive_buffer_bytes = driver_info.receive_buffer_bytes,
            "ready: metrics at {}; admin port at {}; {}; {} ({}); receive buffer {} bytes per socket; {}",
            list(&control.listen),
            list(&control.management),
            count(config.nodes.len(), "backend"),
            count(control.worker_handles.len(), "worker"),
            driver_info.engine,
            driver_info.receive_buffer_bytes,
            memory.lines().next().unwrap_or_default(),
        );
        if let Some(message) = &control.origin {
            tracing::info!("{message}");
        }
        for message in control.degraded.borrow().iter() {
            tracing::warn!("{message}");
        }
    }

    /// For a program that embeds the proxy.
    pub(in crate::control) fn handle(&self) -> ProxyHandle {
        let control = &self.control;
        ProxyHandle {
            workers: control
                .worker_handles
                .iter()
                .map(|worker_handle| worker_handle.shared.clone())
                .collect(),
            publisher: control.publisher.clone(),
            listen: control.listen.as_slice().into(),
            management: control.management.as_slice().into(),
            latency: control.latency.clone(),
            stopping: control.stopping.clone(),
            stop: self.stop.clone(),
        }
    }

    /// The next event from outside; `None` if it needs no decision. May be dropped while it waits.
    pub(in crate::control) async fn event(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            // `None` after the last worker is gone: then only the other branches count.
            Some(report) = self.reports.recv() => self.note(report),
            signal = self.signals.next() => Some(match signal {
                // Without a config file there is nothing to read again: SIGHUP ends it, as it does by default.
                Signal::Reload if self.control.options.config_path.is_none() => {
                    Event::Stop(Some(Number::SIGHUP as u8))
                }
                Signal::Reload => Event::Reload,
                Signal::Restart => Event::Restart,
                Signal::Stop(number) => Event::Stop(Some(number)),
            }),
            () = self.stop.notified() => Some(Event::Stop(None)),
            event = or_never(self.predecessor.as_mut().map(Predecessor::next)) => {
                Some(Event::Predecessor(event))
            }
            event = or_never(self.successor.as_mut().map(Successor::next)) => {
                Some(Event::Successor(self.with_reloads(event)))
            }
        }
    }

    /// Marks a new process that read the config before a reload which was accepted since.
    fn with_reloads(&self, event: OutgoingEvent) -> OutgoingEvent {
        match event {
            OutgoingEvent::Ready { taken, .. } => OutgoingEvent::Ready {
                taken,
                is_current: self.reloads_at_start == self.control.reloads.get(),
            },
            event => event,
        }
    }

    fn note(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Ready { worker, info } => {
                if let Some(worker_handle) = self.control.worker_handles.get(worker) {
                    *worker_handle.driver_info.borrow_mut() = Some(info);
                }
            }
            Report::SendsFail { node, address } => {
                if let Some(backend) = self.control.backend(&node) {
                    backend.note_send_errors(address);
                }
            }
            Report::SocketFailed { node, error } => {
                if is_shortage(&error) {
                    self.control.shortages.note(Operation::Socket, &error);
                }
                tracing::error!(
                    backend = %node.escape_default(),
                    errno = logging::errno(&error),
                    "backend {}: cannot create a socket: {error}; its metrics are dropped and counted as send_failed; retrying \
                     every second",
                    node.escape_default()
                );
            }
            Report::SocketMade { node } => {
                self.control.shortages.note_done(Operation::Socket);
                tracing::info!("backend {}: socket created", node.escape_default())
            }
            Report::FragmentationBegan { node } => {
                if let Some(message) = self.control.fragmentation(&node) {
                    tracing::warn!("{message}");
                }
            }
            Report::PinFailed { worker, cpu, error } => {
                if let Some(worker_handle) = self.control.worker_handles.get(worker) {
                    worker_handle.cpu.set(None);
                }
                // It comes before the worker is ready, so it is reported with the other degradations.
                let message =
                    format!("pinWorkers: cannot pin worker {worker} to CPU {cpu}: {error}; it is not pinned");
                self.control.degraded.borrow_mut().push(message);
            }
            Report::Ended { worker, end } => {
                if let Some(place) = self.ended.get_mut(worker) {
                    *place = Some(end);
                }
                return Some(Event::WorkerEnded(worker));
            }
            report => log(&report),
        }
        None
    }
}

/// Logs a report that changes nothing here.
fn log(report: &Report) {
    match report {
        Report::SocketReopened { node, reason } => {
            tracing::debug!("backend {}: socket reopened: {reason}", node.escape_default());
        }
        Report::ReopenFailed { node, reason, error } => tracing::warn!(
            "backend {}: cannot reopen its socket ({reason}): {error}; keeping the old one and retrying",
            node.escape_default()
        ),
        Report::GsoRefused { node, error, retry_s } => tracing::info!(
            "{}: the kernel refuses to send several packets at once (gso): {error}; sending them one by one, and trying again \
             after {retry_s} s",
            node.escape_default()
        ),
        Report::FragmentationEnded { node } => {
            tracing::info!("backend {}: packets fit the path MTU again", node.escape_default());
        }
        Report::PacketsResized { node, packet_bytes } => tracing::info!(
            "backend {}: the path MTU has changed: packets of up to {packet_bytes} bytes from now on",
            node.escape_default()
        ),
        Report::Truncated { datagram_bytes } => tracing::warn!(
            "a datagram of {datagram_bytes} bytes is longer than maxDatagramSize: its complete lines are forwarded, the \
             rest is lost and counted in datagrams_truncated and bytes_truncated; raise maxDatagramSize"
        ),
        Report::FenceFailed { error } => {
            tracing::warn!(
                "cannot close the sockets to new datagrams: {error}; datagrams that arrive during the stop may be lost"
            );
        }
        // `note` follows these.
        Report::Ready { .. }
        | Report::SendsFail { .. }
        | Report::SocketFailed { .. }
        | Report::SocketMade { .. }
        | Report::FragmentationBegan { .. }
        | Report::PinFailed { .. }
        | Report::Ended { .. } => {}
    }
}

/// What a future gives, if there is one.
async fn or_never<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
