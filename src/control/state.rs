//! What the control thread knows, and how a change of it reaches the workers.
//!
//! In: the config, the backends' changes, taps, the operator's wishes. Out: a new route table for each change.
//! Next: `table.rs` builds and hands it over.

use crate::admin::{
    AdminState, BackendState, ONGOING_US, Readiness, capped, error_message, escape, fragmentation_message,
    ongoing,
};
use crate::config::Config;
use crate::control::Options;
use crate::control::backends::backend::Backend;
use crate::control::backends::backend_set::BackendSet;
use crate::control::backends::check::Slots;
use crate::control::backends::own::OwnAddresses;
use crate::control::backends::resolve::Resolver;
use crate::control::backends::send_error_log::SendErrorBudget;
use crate::control::backends::table::{self, Publisher};
use crate::control::config_reads::ConfigReads;
use crate::control::lifecycle::descriptors::Budget;
use crate::control::lifecycle::handle::LATENCY_WAIT;
use crate::control::lifecycle::handover::message::State;
use crate::control::lifecycle::systemd::Notifier;
use crate::control::service::observe::Observers;
use crate::control::shortage::Shortages;
use crate::driver::socket::Spread;
use crate::driver::{DriverInfo, clock};
use crate::logging;
use crate::placement::Fingerprint;
use crate::relay::Left;
use crate::stats::{Counters, Latency, WorkerShared};
use crate::text::count;
use crate::worker::Limits;
use std::cell::{Cell, Ref, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Mutex, Notify};

/// Line of `status` while no backend serves.
const NO_BACKEND: &str = "no backend is up: all metrics are dropped and counted (no_backend or node_down) until a backend is up; see the admin command backends and \
    the log for the cause";

/// How long the answer to a change waits until every worker follows it; a sleeping one wakes within `flushInterval`.
const IN_FORCE: Duration = Duration::from_secs(3);
/// What the answer adds if a worker takes longer.
pub(in crate::control) const NOT_IN_FORCE: &str = "; not yet applied by every worker";

/// One worker as control sees it.
pub struct WorkerHandle {
    /// Where it publishes.
    pub shared: Arc<WorkerShared>,
    /// What it was granted, once it is ready.
    pub driver_info: RefCell<Option<DriverInfo>>,
    /// The CPU that it keeps to, if it is pinned.
    pub cpu: Cell<Option<usize>>,
    /// Since when it has not responded to `/healthz` and the watchdog, if that is so.
    pub stuck_since: Cell<Option<Instant>>,
}

/// The control thread's knowledge; shared by its tasks, never leaves the thread.
pub struct Control {
    /// How the process was started.
    pub options: Options,
    /// The workers, by index.
    pub worker_handles: Vec<WorkerHandle>,
    /// The way to them.
    pub publisher: Publisher,
    /// Where metrics come in, as bound.
    pub listen: Vec<SocketAddr>,
    /// Where the admin port listens, as bound.
    pub management: Vec<SocketAddr>,
    /// Which addresses are this proxy's own.
    pub own: OwnAddresses,
    /// Whether the addresses of this host are looked at from time to time.
    pub is_guarding: Cell<bool>,
    /// The bounds of each worker, set at start.
    pub limits: Limits,
    /// Send buffer that the kernel grants one socket to a backend, in bytes.
    pub send_buffer_granted_bytes: u64,
    /// Which worker gets a datagram, as it really is.
    pub spread: Cell<Spread>,
    /// Whether the service manager made the data sockets, whose number is that of the workers.
    pub(in crate::control) has_given_sockets: bool,
    /// Looks names up.
    pub resolver: Resolver,
    /// How many things that take descriptors may be under way at once.
    pub budget: Budget,
    /// What checks take.
    pub checks: Rc<Slots>,
    /// What this process has run out of.
    pub shortages: Rc<Shortages>,
    /// When the process started.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// The histograms of all workers since the start. Whoever takes figures from the workers adds them here: this
    /// thread, or another one by a `ProxyHandle`.
    pub latency: Arc<std::sync::Mutex<Latency>>,
    /// What `health` answers unless a stop is under way; the operator may change it.
    pub health_wanted: Cell<bool>,
    /// Whether every worker's receive is armed.
    pub ready: Cell<bool>,
    /// Whether a stop is under way.
    pub stopping: Arc<AtomicBool>,
    /// Which listening sockets are left to others when the workers end.
    pub left: Cell<Left>,
    /// Where the sockets come from, if this process did not make them.
    pub origin: Option<String>,
    /// The service manager, if there is one.
    pub notifier: Notifier,
    /// How the last restart that was asked for stands.
    pub last_restart: RefCell<Option<LastRestart>>,
    /// How the last reload ended, if there was one.
    pub last_reload: RefCell<Option<LastReload>>,
    /// Tells the tasks that go by its times that the config is another.
    pub reconfigured: Notify,
    /// When the config in force was read, by the wall clock.
    pub config_since: Cell<SystemTime>,
    /// What works less well than asked for, one sentence each.
    pub degraded: RefCell<Vec<String>>,
    /// The config's file as the admin command `config` of `proxy.js` shows it.
    pub listing: RefCell<String>,
    /// Who looks at passing metrics.
    pub observers: RefCell<Observers>,
    /// Which errors of sends may still be logged.
    pub send_errors: RefCell<SendErrorBudget>,
    pub(in crate::control) backend_set: BackendSet,
    fingerprint: Cell<Option<Fingerprint>>,
    pub(in crate::control) reloading: Mutex<()>,
    /// Reads of the config file.
    pub(in crate::control) config_reads: ConfigReads,
    /// Reloads that were applied.
    pub reloads: Cell<u64>,
    /// The process that has taken over from this one.
    pub taken_over_by: Cell<Option<i32>>,
}

/// What [`Control::new`] is made of.
pub struct ControlInit {
    /// The config to start with.
    pub config: Config,
    /// How the process was started.
    pub options: Options,
    /// The workers.
    pub worker_handles: Vec<WorkerHandle>,
    /// The way to them.
    pub publisher: Publisher,
    /// Where metrics come in, as bound.
    pub listen: Vec<SocketAddr>,
    /// Where the admin port listens, as bound.
    pub management: Vec<SocketAddr>,
    /// Which addresses are this proxy's own.
    pub own: OwnAddresses,
    /// How many things that take descriptors may be under way at once.
    pub budget: Budget,
    /// Send buffer that the kernel grants one socket to a backend, in bytes.
    pub send_buffer_granted_bytes: u64,
    /// Which worker gets a datagram, as it really is.
    pub spread: Spread,
    /// Whether listening sockets join datagrams, as it really is.
    pub gro: bool,
    /// Whether the service manager made the data sockets, whose number is that of the workers.
    pub has_given_sockets: bool,
    /// The service manager, if there is one.
    pub notifier: Notifier,
    /// Where the sockets come from, if this process did not make them.
    pub origin: Option<String>,
}

/// A restart without loss, as the old process or the new one sees it.
#[derive(Clone, Debug)]
pub struct LastRestart {
    /// When it came to this.
    pub at: Instant,
    /// Its state, for the log and `status`.
    pub message: String,
    /// Whether it is still in progress.
    pub is_under_way: bool,
}

/// How a reload ended.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When.
    pub at: Instant,
    /// As logged.
    pub message: String,
    /// Whether it was applied.
    pub succeeded: bool,
}

impl Control {
    /// The state at start; nothing is published yet.
    pub fn new(parts: ControlInit) -> Rc<Control> {
        let ControlInit {
            config,
            options,
            worker_handles,
            publisher,
            listen,
            management,
            own,
            budget,
            send_buffer_granted_bytes,
            spread,
            gro,
            has_given_sockets,
            notifier,
            origin,
        } = parts;
        let (limits, shortages) = (config.limits_with(gro), Rc::<Shortages>::default());
        Rc::new(Control {
            listing: RefCell::new(options.listing.clone()),
            options,
            worker_handles,
            publisher,
            listen,
            management,
            own,
            is_guarding: Cell::new(false),
            limits,
            send_buffer_granted_bytes,
            spread: Cell::new(spread),
            has_given_sockets,
            resolver: Resolver::new(budget.lookups),
            budget,
            checks: Slots::new(budget.checks, shortages.clone()),
            shortages,
            started: Instant::now(),
            started_at: SystemTime::now(),
            latency: Arc::default(),
            health_wanted: Cell::new(true),
            ready: Cell::new(false),
            stopping: Arc::default(),
            left: Cell::new(Left::NONE),
            origin,
            notifier,
            last_restart: RefCell::new(None),
            last_reload: RefCell::new(None),
            reconfigured: Notify::new(),
            config_since: Cell::new(SystemTime::now()),
            degraded: RefCell::default(),
            observers: RefCell::default(),
            send_errors: RefCell::default(),
            backend_set: BackendSet::new(config),
            fingerprint: Cell::new(None),
            reloading: Mutex::new(()),
            config_reads: ConfigReads::default(),
            reloads: Cell::new(0),
            taken_over_by: Cell::new(None),
        })
    }

    /// The config in effect.
    pub fn config(&self) -> Ref<'_, Config> {
        self.backend_set.config()
    }

    /// Packets of all workers, used or not, in bytes; a reload of their size or of the backends renews them.
    pub fn packet_pool_bytes(&self) -> u64 {
        let config = self.config();
        let pool = self.limits.relay().pool_size(config.nodes.len(), config.packet_bytes_max);
        (self.worker_handles.len() * (pool.bytes() + pool.arrivals_bytes())) as u64
    }

    /// The backends, in the config's order.
    pub fn backends(&self) -> Ref<'_, Vec<Rc<Backend>>> {
        self.backend_set.backends()
    }

    /// The backend of this identity.
    pub fn backend(&self, name: &str) -> Option<Rc<Backend>> {
        self.backend_set.backend(name)
    }

    /// Milliseconds since the start: the clock of the health checks.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a stop is under way.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A stop begins.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// What `health` answers.
    pub fn is_healthy(&self) -> bool {
        self.readiness().is_ready()
    }

    /// The same with the reason.
    pub fn readiness(&self) -> Readiness {
        let has_backends = self.config().ready_without_backends || self.any_lives();
        Readiness::of(self.is_stopping(), self.ready.get(), self.health_wanted.get(), has_backends)
    }

    /// What works less well than configured at this moment, one sentence each.
    pub fn degraded_now(&self) -> Vec<String> {
        let since_start = self.degraded.borrow().clone();
        let no_backend = (!self.any_lives()).then(|| NO_BACKEND.to_owned());
        since_start
            .into_iter()
            .chain(self.own_in_use())
            .chain(no_backend)
            .chain(self.shortages.messages())
            .chain(self.failing_sends())
            .chain(self.fragmented_sends())
            .chain(logging::figures().trouble())
            .collect()
    }

    /// The errors of sends that go on, one sentence each.
    fn failing_sends(&self) -> Vec<String> {
        let now_us = clock::now_us();
        let mut sentences = Vec::new();
        for backend in self.backends().iter() {
            let (name, errors) = (backend.name.escape_default(), backend.counters.errors());
            let message = |error| format!("backend {name}: {}", error_message(error, backend.address()));
            sentences.extend(ongoing(&errors, now_us).map(message));
        }
        capped(sentences, |left| format!("{left} more send errors; the admin command backends lists them"))
    }

    /// Backends that are up and whose packets are fragmented, one sentence each.
    fn fragmented_sends(&self) -> Vec<String> {
        let backends = self.backends();
        let serving = backends.iter().filter(|backend| backend.state().0 == BackendState::Up);
        let sentences = serving.filter_map(|backend| self.fragmentation_of(backend)).collect();
        capped(sentences, |left| {
            format!("packets to {left} more backends are fragmented; the admin command backends lists them")
        })
    }

    /// That packets to a backend are fragmented, if they are.
    pub fn fragmentation(&self, node: &str) -> Option<String> {
        self.backend(node).and_then(|backend| self.fragmentation_of(&backend))
    }

    fn fragmentation_of(&self, backend: &Backend) -> Option<String> {
        let fragmentation = backend.counters.fragmentation(clock::now_us(), ONGOING_US)?;
        let message = fragmentation_message(fragmentation, self.config().packet_auto);
        Some(format!("backend {}: {message}", backend.name.escape_default()))
    }

    /// The counters of all workers together, each a consistent snapshot.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::new();
        for worker_handle in &self.worker_handles {
            sum.merge(&worker_handle.shared.published.read());
        }
        sum
    }

    /// Takes over what the workers have measured; one that is too busy to answer in time is in the next answer.
    pub async fn collect_latency(&self) {
        for worker_handle in &self.worker_handles {
            worker_handle.shared.latency.request();
        }
        self.publisher.wake();
        let all_done = async {
            while !self.worker_handles.iter().all(|worker_handle| worker_handle.shared.latency.is_done()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(LATENCY_WAIT, all_done).await;
        let mut total = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for worker_handle in &self.worker_handles {
            worker_handle.shared.latency.collect(&mut total);
        }
    }

    /// Hands the present state to the workers.
    pub fn publish(&self) {
        for backend in self.backends().iter().filter(|backend| !backend.is_source_asked()) {
            // Before the workers make their sockets: a change between the two would go unseen. Those without a route are asked
            // for again by `source.rs`, or each change of one backend would check hundreds of others.
            backend.ask_source();
        }
        let previous = self.publisher.routes.load();
        let table = self.backend_set.next_table(Some(&previous), self.observers.borrow().observer());
        let fingerprint = table::fingerprint(&table);
        let alive = table.live.alive();
        self.publisher.publish(table);
        if self.fingerprint.replace(Some(fingerprint)) != Some(fingerprint) {
            let Fingerprint { config, now } = fingerprint;
            let backends = self.backends().len();
            tracing::info!(
                backends_up = alive,
                backends,
                fingerprint = %format_args!("{now:016x}"),
                fingerprint_config = %format_args!("{config:016x}"),
                "placement: {alive} of {backends} backends serving, fingerprint {now:016x} (of the config: {config:016x})"
            );
        }
        if self.ready.get() {
            self.notify_status();
        }
    }

    /// Waits until every worker follows the last table that was published, so that nothing which arrives after the answer
    /// to a change goes by the old one. False if one of them does not in time.
    pub(in crate::control) async fn in_force(&self) -> bool {
        let generation = self.backend_set.generation();
        let all_follow = async {
            while !self
                .worker_handles
                .iter()
                .all(|worker_handle| worker_handle.shared.generation() >= generation)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let follow = tokio::time::timeout(IN_FORCE, all_follow).await.is_ok();
        if !follow {
            tracing::warn!("a worker has not applied the change yet: it is busy, or its backlog is blocked");
        }
        follow
    }

    /// The numbers by which the placement in force can be compared with those of other proxies; `None` before the first
    /// table.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.get()
    }

    /// Whether any backend gets metrics now.
    pub fn any_lives(&self) -> bool {
        self.backends().iter().any(|backend| backend.standing().is_live())
    }

    /// Logs it if no backend is left.
    pub fn warn_if_none_lives(&self) {
        if !self.any_lives() {
            tracing::error!("no backend is up: metrics are dropped and counted until a backend is up");
        }
    }

    /// The operator wants something of the backend of this identity. Either answer is for the operator.
    pub async fn set_admin_state(&self, name: &[u8], admin_state: AdminState) -> Result<String, String> {
        let shown = escape(name);
        let known = self.backends().iter().find(|backend| backend.name.as_bytes() == name).cloned();
        let Some(backend) = known else {
            return Err(format!(
                "no such backend: {shown}; the admin command backends lists them as HOST:PORT"
            ));
        };
        if backend.set_admin_state(admin_state) {
            tracing::info!(
                backend = shown,
                admin_state = admin_state.name(),
                "backend {shown} set to {} by the operator",
                admin_state.name()
            );
            self.publish();
            self.warn_if_none_lives();
        }
        let follow = self.in_force().await;
        let mut message = format!("backend {shown}: {}", backend.state().0.name());
        if !follow {
            message.push_str(NOT_IN_FORCE);
        }
        if !self.any_lives() {
            message.push_str("; no backend is up: metrics are dropped and counted");
        }
        Ok(message)
    }

    /// Tells the workers to end, and that whatever is left after `timeout` is to be counted and dropped.
    pub fn drain(&self, timeout: Duration) {
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        self.backend_set.end(timeout_us, self.left.get());
        self.publish();
    }

    /// Sends the service manager a line of status.
    pub fn notify_status(&self) {
        let backends = self.backends();
        let live = backends.iter().filter(|backend| backend.standing().is_live()).count();
        let all = backends.len();
        let workers = count(self.worker_handles.len(), "worker");
        let stage = if self.is_stopping() { "stopping" } else { "serving" };
        self.notifier.status(&format!("{stage}: {live} of {all} backends up, {workers}"));
    }

    /// The state that a process which takes over continues from.
    pub fn carry(&self) -> State {
        State { health_wanted: self.health_wanted.get(), backends: self.backend_set.carry(self.now_ms()) }
    }

    /// Continues from the state of an old process, for the backends that this one has as well.
    pub fn resume(&self, state: &State) {
        self.health_wanted.set(state.health_wanted);
        self.backend_set.resume(&state.backends, self.now_ms());
        self.mark_own();
    }
}
