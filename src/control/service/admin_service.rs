//! The admin service: the admin port's connections, and the effects of its commands.
//!
//! In: connections at the admin listeners. Out: a [`View`] of the proxy, changes of it. Next: `admin/`, which implements the
//! protocol.

use crate::admin::{
    self, AdminActions, AdminCounters, AdminState, BackendView, LastReload, MemoryView, Readiness, Tapped,
    TuningView, View, WorkerView,
};
use crate::config::{AdminDialect, Config, EVERY_NAME};
use crate::control::backends::backend::Backend;
use crate::control::liveness;
use crate::control::net::{self, Stream};
use crate::control::reload;
use crate::control::service::observe::Tap;
use crate::control::state::Control;
use crate::driver::clock;
use crate::failpoint::panic_on;
use crate::logging;
use crate::placement::HashCache;
use crate::stats::{alloc, host};
use crate::wire::Scanner;
use crate::worker::Limits;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;
use tokio::sync::mpsc;

impl admin::Connection for Stream {
    async fn read(&self, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        buffer.clear();
        let (read, buffer) = Stream::read(self, buffer).await;
        read.map(|_| buffer)
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        Stream::write_all(self, bytes).await.0
    }

    fn end_writes(&self) {
        Stream::end_writes(self);
    }

    fn shutdown(&self) {
        Stream::shutdown(self);
    }
}

/// The target of admin commands.
pub struct AdminService {
    control: Rc<Control>,
    counters: AdminCounters,
}

impl AdminService {
    /// For a control thread's state.
    pub fn new(control: Rc<Control>) -> Rc<AdminService> {
        Rc::new(AdminService { control, counters: AdminCounters::default() })
    }

    fn backends(&self) -> Vec<BackendView> {
        // Read once for all of them.
        let sockets = host::udp_sockets();
        let now_ms = self.control.now_ms();
        self.control.backends().iter().map(|backend| backend_view(backend, &sockets, now_ms)).collect()
    }

    /// The backends that serve names, in the placement's order.
    fn ring(&self) -> Vec<Arc<str>> {
        let table = self.control.publisher.routes.load();
        let living = table.placement.living(&table.live).into_iter();
        living.filter_map(|index| table.nodes.get(index)).map(|node| node.name.clone()).collect()
    }

    fn memory(&self) -> MemoryView {
        let control = &self.control;
        // Every worker has a socket of its own for each backend whose address is known.
        let resolved = control.backends().iter().filter(|backend| backend.address().is_some()).count();
        MemoryView {
            heap: alloc::figures(),
            packet_pool_bytes: control.packet_pool_bytes(),
            send_buffer_bytes: (control.worker_handles.len() * resolved) as u64
                * control.send_buffer_granted_bytes,
            resident_bytes: host::resident_bytes(),
        }
    }
}

/// The cache's size is fixed at start; a reload does not change it.
fn tuning(config: &Config, limits: &Limits) -> TuningView {
    TuningView {
        scanner: Scanner::new().name(),
        cache_names: limits.cache_entries,
        cache_entries: HashCache::entries(limits.cache_entries),
        flush_us: config.rules().flush_us,
        packet_auto: config.packet_auto,
    }
}

fn backend_view(backend: &Backend, sockets: &[host::HostSocket], now_ms: u64) -> BackendView {
    use std::sync::atomic::Ordering::Relaxed;
    let (state, since) = backend.state();
    let counters = &backend.counters;
    let here = backend.address().filter(|address| host::is_on_this_host(address.ip()).unwrap_or(false));
    BackendView {
        name: backend.name.clone(),
        state,
        addresses: backend.addresses().roles(now_ms).collect(),
        answering: backend.answering(),
        since_s: since.elapsed().as_secs(),
        is_healthy: backend.is_healthy(),
        metrics_sent: counters.metrics_sent.load(Relaxed),
        datagrams_sent: counters.datagrams_sent.load(Relaxed),
        bytes_sent: counters.bytes_sent.load(Relaxed),
        metrics_dropped: counters.metrics_dropped.load(Relaxed),
        refused: counters.refused.load(Relaxed),
        unreachable: counters.unreachable.load(Relaxed),
        errors: counters.errors(),
        kernel_drops: here.and_then(|address| host::drops_at(sockets, address)),
        gso: backend.node().gso_mode().name(),
        datagrams_gso: counters.datagrams_gso.load(Relaxed),
        gso_refused: counters.gso_refused.load(Relaxed),
        gso_errno: Some(counters.gso_errno.load(Relaxed)).filter(|errno| *errno != 0),
        sockets_reopened: counters.sockets_reopened.load(Relaxed),
        packet_bytes_max: counters.packet_bytes_max.load(Relaxed),
        path_payload_bytes: Some(counters.path_payload_bytes.load(Relaxed)).filter(|bytes| *bytes > 0),
        packets_fragmented: counters.packets_fragmented.load(Relaxed),
    }
}

impl AdminActions for AdminService {
    async fn view(&self) -> View {
        let control = &self.control;
        control.collect_latency().await;
        let config = control.config();
        let unix_time = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        View {
            uptime_s: control.started.elapsed().as_secs(),
            now_us: clock::now_us(),
            unix_time: unix_time(SystemTime::now()),
            started_unix_time: unix_time(control.started_at),
            config_unix_time: unix_time(control.config_since.get()),
            health_up: control.is_healthy(),
            readiness: control.readiness(),
            workers: control
                .worker_handles
                .iter()
                .map(|worker_handle| WorkerView {
                    counters: worker_handle.shared.published.read(),
                    driver_info: worker_handle.driver_info.borrow().clone(),
                    cpu_us: worker_handle.shared.cpu_us(),
                    socket_drops: worker_handle.shared.drops.read(),
                    socket_dropped_us: worker_handle.shared.drops.last_us(),
                    pinned_to: worker_handle.cpu.get(),
                    sleep: worker_handle.shared.sleep.read(),
                })
                .collect(),
            latency: control.latency.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            timestamps: control.limits.timestamps,
            backends: self.backends(),
            ring: self.ring(),
            spread: control.spread.get().name(),
            placement: config.hashing.name(),
            fingerprint: control.fingerprint(),
            listen: control.listen.clone(),
            management: control.management.clone(),
            datagram_bytes_max: config.datagram_bytes_max,
            receive_buffer_asked_bytes: config.receive_buffer_bytes,
            gso: config.gso.name(),
            gro: control.limits.gro,
            tuning: tuning(&config, &control.limits),
            host_udp: host::udp_errors(),
            memory: self.memory(),
            pid: std::process::id(),
            process: host::process(),
            origin: control.origin.clone(),
            last_restart: control
                .last_restart
                .borrow()
                .as_ref()
                .map(|last| (last.at.elapsed().as_secs(), last.message.clone())),
            last_reload: control.last_reload.borrow().as_ref().map(|last| LastReload {
                ago_s: last.at.elapsed().as_secs(),
                message: last.message.clone(),
                succeeded: last.succeeded,
            }),
            shortages: control.shortages.counts(),
            log: logging::figures(),
            degraded: control.degraded_now(),
            admin: self.counters.clone(),
        }
    }

    fn health(&self) -> bool {
        self.control.is_healthy()
    }

    fn readiness(&self) -> Readiness {
        self.control.readiness()
    }

    /// The configured host of the admin port, and this host's own name: neither can be the
    /// name of a foreign page.
    fn is_own_name(&self, name: &str) -> bool {
        let is_it = |own: &str| own.trim_end_matches('.').eq_ignore_ascii_case(name);
        let config = self.control.config();
        config.management_names.iter().any(|own| own == EVERY_NAME || is_it(own))
            || is_it(&config.management_host)
            || host::name().is_some_and(|own| is_it(&own))
    }

    async fn stuck(&self) -> Option<String> {
        let stuck = liveness::stuck(&self.control).await;
        (!stuck.is_empty()).then(|| liveness::describe(&stuck))
    }

    fn set_health(&self, up: bool) {
        panic_on("control");
        if self.control.health_wanted.replace(up) != up {
            let health = if up { "up" } else { "down" };
            tracing::info!(health, "health set to {health} by the operator");
        }
    }

    async fn set_backend(&self, name: &[u8], admin_state: AdminState) -> Result<String, String> {
        self.control.set_admin_state(name, admin_state).await
    }

    async fn reload(&self) -> Result<String, Vec<String>> {
        reload::reload(&self.control).await.map_err(|message| message.lines().map(str::to_owned).collect())
    }

    fn where_name(&self, name: &[u8]) -> String {
        let table = self.control.publisher.routes.load();
        let owner = match table.backend(name) {
            Some(node) => admin::escape(node.name.as_bytes()),
            None if table.live.alive() == 0 => "no backend is up".to_owned(),
            None => "its backend is down, and onNodeDown is drop".to_owned(),
        };
        format!("{}\t{owner}", admin::escape(name))
    }

    fn tap(&self, prefix: &[u8], metrics: usize) -> Option<mpsc::Receiver<Tapped>> {
        let (tap, passed) = Tap::new(prefix.to_vec(), metrics);
        let control = self.control.clone();
        if !control.observers.borrow_mut().add(&tap) {
            return None;
        }
        control.publish();
        net::spawn(async move {
            tap.closed().await;
            control.observers.borrow_mut().remove(&tap);
            control.publish();
        });
        Some(passed)
    }

    fn config_json(&self) -> String {
        format!("{:#}\n", self.control.config().to_json())
    }

    fn dialect(&self) -> AdminDialect {
        self.control.config().management_dialect
    }

    fn listing(&self) -> String {
        self.control.listing.borrow().clone()
    }

    fn changes_allowed(&self, peer_is_local: bool) -> bool {
        peer_is_local || self.control.config().management_allow_changes
    }

    fn counters(&self) -> &AdminCounters {
        &self.counters
    }
}
