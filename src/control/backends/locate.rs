//! Locates the backends: looks up their names, and excludes this proxy's own addresses.
//!
//! In: names, the answers of look-ups, the addresses of this host. Out: the addresses of each backend, published when they
//! change; what is wrong with a config whose metrics would loop. Next: `health_checker.rs` looks names up again.

use crate::config::Config;
use crate::control::backends::addresses::Found;
use crate::control::backends::backend::Backend;
use crate::control::backends::own::loop_message;
use crate::control::net;
use crate::control::state::Control;
use crate::stats::host;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a start or a reload waits for names to resolve before it continues without them.
const FIRST_LOOKUP: Duration = Duration::from_secs(2);
/// How long a start waits for the other names once one backend can be served: a name server that answers at all answers
/// several names within this.
const FURTHER_LOOKUPS: Duration = Duration::from_millis(500);
/// How often the addresses of this host are re-read, if a backend has the proxy's own port.
const GUARD: Duration = Duration::from_secs(10);

/// Why a config is not to run: metrics would loop.
pub(in crate::control) struct Loops {
    /// For the operator.
    pub message: String,
    /// Whether this follows from the config itself, and not from a name server.
    pub is_literal: bool,
}

impl Control {
    /// Looks up the names of all backends that have no address yet, and does not wait long for those that are slow.
    pub(in crate::control) async fn look_up_at_start(self: &Rc<Self>) {
        let backends = self.backends().clone();
        self.look_up(&backends, FURTHER_LOOKUPS).await;
    }

    /// Looks up the names of backends that a reload adds: they are not to begin as dead ones.
    pub(in crate::control) async fn look_up_added(self: &Rc<Self>, added: &[Rc<Backend>]) {
        self.look_up(added, FIRST_LOOKUP).await;
    }

    /// Looks up the names among `backends` that have no address yet, all at once, and waits for the answers: for
    /// [`FIRST_LOOKUP`], and once one backend has an address no longer than `further`. Look-ups that take longer go on, and
    /// those who watch the backends get their answers.
    async fn look_up(self: &Rc<Self>, backends: &[Rc<Backend>], further: Duration) {
        let mut lookups = JoinSet::new();
        for backend in backends.iter().filter(|backend| backend.is_named() && backend.address().is_none()) {
            let (control, backend) = (self.clone(), backend.clone());
            lookups.spawn_local(async move {
                let (host, port) = {
                    let node = backend.node();
                    (node.host.clone(), node.port)
                };
                (control.resolver.resolve(&host, port).await, backend)
            });
        }
        let any_has_an_address = || backends.iter().any(|backend| backend.address().is_some());
        let mut deadline = net::deadline_in(FIRST_LOOKUP);
        let mut is_first = true;
        loop {
            if is_first && any_has_an_address() {
                is_first = false;
                deadline = deadline.min(net::deadline_in(further));
            }
            let Ok(Some(answer)) = tokio::time::timeout_at(deadline, lookups.join_next()).await else {
                break;
            };
            if let Ok((Ok(found), backend)) = answer {
                backend.set_addresses(self.examine(&found));
            }
        }
        lookups.detach_all();
    }

    /// Checks addresses before they are used.
    fn examine(&self, addresses: &[SocketAddr]) -> Vec<Found> {
        // With nothing to choose, or all on other hosts, the host's sockets need not be read.
        let mut sockets = None;
        let mut is_idle = |address: SocketAddr| {
            if addresses.len() < 2 || !host::is_on_this_host(address.ip()).unwrap_or(false) {
                return false;
            }
            let sockets = sockets.get_or_insert_with(host::udp_sockets);
            // The kernel may not show them; this proxy has some.
            !sockets.is_empty() && host::drops_at(sockets, address).is_none()
        };
        let found = addresses.iter().map(|address| Found {
            address: *address,
            is_own: self.own.has(*address).unwrap_or(false),
            is_idle: is_idle(*address),
        });
        found.collect()
    }

    /// Takes over what a look-up of a backend's name found.
    pub(in crate::control) fn take_addresses(&self, backend: &Backend, found: &[SocketAddr]) {
        let before = backend.address();
        let is_known = {
            let known: HashSet<SocketAddr> = backend.addresses().all().collect();
            known.len() == found.len() && found.iter().all(|address| known.contains(address))
        };
        let has_changed = match is_known {
            true => backend.mark_own(|address| self.own.has(address)),
            false => backend.set_addresses(self.examine(found)),
        };
        let name = backend.name.escape_default();
        if let Some(address) = backend.address().filter(|address| Some(*address) != before) {
            let others: Vec<String> =
                found.iter().filter(|other| **other != address).map(SocketAddr::to_string).collect();
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(", and also at {}", others.join(", "))
            };
            tracing::info!(backend = %name, %address, "backend {name} is at {address}{others}");
        }
        if backend.note_family_missing() {
            let found: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
            tracing::warn!(
                backend = %name,
                "backend {name} resolves only to {}, but addressFamily is {}: it is considered down until it has an address of \
                 that family",
                found.join(", "),
                backend.node().family.name()
            );
        }
        self.warn_of_own(backend);
        if has_changed {
            self.publish();
        }
    }

    /// Looks at the addresses of this host again: whether a backend is at one of the proxy's own now.
    pub(in crate::control) fn mark_own(&self) {
        let mut has_changed = false;
        for backend in self.backends().iter() {
            has_changed |= backend.mark_own(|address| self.own.has(address));
            self.warn_of_own(backend);
        }
        if has_changed && self.ready.get() {
            self.publish();
            self.warn_if_none_lives();
        }
    }

    fn warn_of_own(&self, backend: &Backend) {
        for address in backend.take_new_own() {
            let name = backend.name.escape_default();
            tracing::error!(backend = %name, %address, "{}", own_message(backend, address));
        }
    }

    /// Addresses of backends that are not used because the proxy itself listens there, one sentence each.
    pub(in crate::control) fn own_in_use(&self) -> Vec<String> {
        let backends = self.backends();
        let own = backends.iter().filter(|backend| !backend.node().disabled).flat_map(|backend| {
            backend.addresses().own().map(|address| own_message(backend, address)).collect::<Vec<_>>()
        });
        own.collect()
    }

    /// An error if `backends`, which are those of `config`, have one that is at this proxy's own address and nowhere else.
    pub(in crate::control) fn refuse_loops(
        &self,
        config: &Config,
        backends: &[Rc<Backend>],
    ) -> Result<(), Loops> {
        for (index, (node, backend)) in config.nodes.iter().zip(backends).enumerate() {
            backend.mark_own(|address| self.own.has(address));
            let own: Vec<SocketAddr> = backend.addresses().own().collect();
            if node.disabled || own.is_empty() || backend.address().is_some() {
                continue;
            }
            let is_literal = !backend.is_named();
            let message = loop_message(config, index, if is_literal { &[] } else { &own });
            return Err(Loops { message, is_literal });
        }
        Ok(())
    }

    /// Looks at the addresses of this host from time to time, as long as a backend has the proxy's own port: an address may
    /// come to this host that was another's.
    pub(in crate::control) fn guard(self: &Rc<Self>) {
        let is_needed = |control: &Control| {
            control.backends().iter().any(|backend| control.own.has_port(backend.node().port))
        };
        if !is_needed(self) || self.is_guarding.replace(true) {
            return;
        }
        let control = self.clone();
        net::spawn(async move {
            while is_needed(&control) {
                tokio::time::sleep(GUARD).await;
                control.mark_own();
            }
            control.is_guarding.set(false);
        });
    }
}

fn own_message(backend: &Backend, address: SocketAddr) -> String {
    format!(
        "backend {}: {address} is this proxy's own address: metrics would loop, so it is not used",
        backend.name.escape_default()
    )
}
