//! Everything that listens, wherever it comes from: bound here, inherited from an old process, or passed by a service
//! manager.
//!
//! In: the config, an [`Origin`]. Out: [`Sockets`], in which arriving datagrams are queued. Next: `process.rs`.

use crate::config::{Config, Configured};
use crate::control::Origin;
use crate::control::backends::own::OwnAddresses;
use crate::control::lifecycle::activation::Activated;
use crate::control::lifecycle::bind::bind_admin;
use crate::control::lifecycle::descriptors::{self, Budget};
use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::gro;
use crate::control::lifecycle::handover::inherit::Plan;
use crate::control::lifecycle::handover::message::{Offer, State};
use crate::control::lifecycle::handover::predecessor::Predecessor;
use crate::control::lifecycle::signals;
use crate::driver::options;
use crate::driver::socket::{self, BindError, ListenOptions, Spread, Unbound};
use crate::relay::Left;
use crate::text::count;
use crate::version::VERSION;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a port may be taken before the start is refused.
const TAKEN: Duration = Duration::from_millis(500);

/// The kernel numbers the sockets of a port in the order in which they were bound, and cannot be asked for it.
const UNKNOWN_ORDER: &str = "spread: cpu requires that the service manager passes sockets in the order in which it bound them, \
     which systemd does not ensure for several socket units; otherwise datagrams are received on other CPUs than they arrive \
     on: stop the socket units and let statsring bind the port, or set spread to flow";

/// Everything that listens.
pub struct Sockets {
    /// For each worker its sockets.
    pub workers: Vec<Vec<UdpSocket>>,
    /// Where they are bound.
    pub listen: Vec<SocketAddr>,
    /// Which addresses are this proxy's own.
    pub own: OwnAddresses,
    /// The admin port's.
    pub admin: Vec<TcpListener>,
    /// Where those listen.
    pub management: Vec<SocketAddr>,
    /// What works less well than asked for.
    pub degraded: Vec<String>,
    /// How many things that take descriptors may be under way at once.
    pub budget: Budget,
    /// Send buffer that the kernel grants one socket to a backend, in bytes.
    pub send_buffer_granted_bytes: u64,
    /// Which worker gets a datagram, as it really is.
    pub spread: Spread,
    /// Whether some of them join datagrams (UDP_GRO), as it really is.
    pub gro: bool,
    /// Those that other processes have too, whatever becomes of this one: they are not fenced at its end.
    pub shared: Left,
    /// What is bound only when everything is armed.
    pub late: Vec<Unbound>,
    /// The same sockets once more, for the next process.
    pub listener_set: ListenerSet,
    /// Where they come from, if they were not made here.
    pub origin: Option<String>,
}

/// This process's sockets once more, to be handed over.
pub struct ListenerSet {
    data: Vec<Vec<UdpSocket>>,
    /// The CPU of each worker, as far as they are pinned.
    cpus: Vec<usize>,
    admin: Vec<TcpListener>,
    offer: Offer,
}

impl ListenerSet {
    /// What another process is offered; `state` is what this one knows now.
    pub fn offer(&self, timeout: Duration, state: State) -> Offer {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Offer { timeout_ms, state, ..self.offer.clone() }
    }

    /// The sockets once more, in the order of the offer.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let data = self.data.iter().flatten().map(AsFd::as_fd);
        let all = data.chain(self.admin.iter().map(AsFd::as_fd));
        all.map(|socket| socket.try_clone_to_owned()).collect()
    }

    /// Whether the data sockets came from a service manager.
    pub fn is_data_activated(&self) -> bool {
        self.offer.data_activated
    }

    /// Whether the admin port's sockets came from a service manager.
    pub fn is_admin_activated(&self) -> bool {
        self.offer.admin_activated
    }

    /// Puts the sockets back as this process has them: a new one that came to nothing may have changed what both share.
    pub fn restore(&self, config: &Config, spread: Spread) {
        for socket in self.data.iter().flatten() {
            let restored = if self.offer.data_activated {
                socket::raise_receive_buffer(socket, config.receive_buffer_bytes)
            } else {
                socket::ask_receive_buffer(socket, config.receive_buffer_bytes)
            };
            if let Err(error) = restored {
                tracing::warn!("receiveBuffer: {error}: it keeps the size set by the failed restart");
            }
            // Where it is refused, datagrams come without, which is counted.
            let _ = options::stamp_arrivals(socket, config.timestamps);
        }
        if let Err(message) = self.distribute(spread) {
            tracing::warn!("{message}");
        }
    }

    /// Distributes datagrams among the workers; an error is for the operator.
    pub fn distribute(&self, spread: Spread) -> Result<(), String> {
        socket::distribute(&self.data, spread, &self.cpus).map_err(|error| refused(spread, &error))
    }
}

/// Where this process's sockets come from, as far as that is decided before the config is known.
struct BoundListeners {
    workers: Vec<Vec<UdpSocket>>,
    listen: Vec<SocketAddr>,
    admin: Vec<TcpListener>,
    shared: Left,
    late: Vec<Unbound>,
    data_activated: bool,
    admin_activated: bool,
    degraded: Vec<String>,
    origin: Option<String>,
}

impl BoundListeners {
    /// Sockets for metrics alone, made here.
    fn of(workers: Vec<Vec<UdpSocket>>, listen: Vec<SocketAddr>, shared: Left) -> BoundListeners {
        BoundListeners {
            workers,
            listen,
            admin: Vec::new(),
            shared,
            late: Vec::new(),
            data_activated: false,
            admin_activated: false,
            degraded: Vec::new(),
            origin: None,
        }
    }
}

/// Keeps signals away from every thread that starts from here on, and makes or takes over the sockets. The number of
/// workers in `config` becomes that of the sockets.
pub fn open(config: &mut Config, origin: &mut Origin) -> Result<Sockets, Failure> {
    signals::block().map_err(|error| Failure::system(format!("cannot block signals: {error}")))?;
    if origin.predecessor.is_none() && origin.activated.is_none() {
        descriptors::raise_to_bind(config).map_err(Failure::system)?;
    }
    let mut found = match (&mut origin.predecessor, origin.activated.take()) {
        (Some(predecessor), _) => inherit(config, predecessor),
        (None, Some(activated)) => activate(config, activated),
        (None, None) => bind(config),
    }
    .map_err(|failure| Failure {
        message: origin.configured.format.name_keys(&failure.message),
        ..failure
    })?;
    let overridden = overridden(config, origin.configured, &found);
    found.degraded.extend(overridden);
    set_workers(config, found.workers.len(), &mut found.degraded);
    // Only now it is known for how many workers.
    let is_restart = origin.predecessor.is_some();
    let (budget, degraded) = descriptors::raise(config, is_restart).map_err(Failure::system)?;
    found.degraded.extend(degraded);
    let spread = spread(config, &found.workers, &mut found.degraded);
    if spread == Spread::Cpu && found.data_activated && found.workers.len() > 1 {
        found.degraded.push(UNKNOWN_ORDER.to_owned());
    }
    let inherited = if is_restart { found.shared } else { Left::NONE };
    let (gro, degraded) = gro::enable(config.gro, &found.workers, inherited);
    found.degraded.extend(degraded);
    let management: io::Result<Vec<SocketAddr>> = found.admin.iter().map(TcpListener::local_addr).collect();
    let management = management.map_err(|error| Failure::system(format!("the admin port: {error}")))?;
    let listener_set = hold(config, &found, &management)
        .map_err(|error| Failure::system(format!("cannot duplicate a socket: {error}")))?;
    let own = OwnAddresses::new(&found.listen, found.workers.first().map_or(&[], Vec::as_slice));
    Ok(Sockets {
        budget,
        spread,
        gro,
        own,
        listener_set,
        workers: found.workers,
        listen: found.listen,
        admin: found.admin,
        management,
        degraded: found.degraded,
        send_buffer_granted_bytes: send_buffer_granted(config.send_buffer_bytes),
        shared: found.shared,
        late: found.late,
        origin: found.origin,
    })
}

/// Binds everything.
fn bind(config: &Config) -> Result<BoundListeners, Failure> {
    let mut found = bind_data(config)?;
    found.admin = bind_admin(&config.management, false, config.freebind).map_err(Failure::system)?;
    Ok(found)
}

/// Binds the sockets for metrics. A process that was killed keeps its port for some 40 ms, until the kernel has taken its
/// ring down: whoever starts the next one at once need not know that.
fn bind_data(config: &Config) -> Result<BoundListeners, Failure> {
    let deadline = Instant::now() + TAKEN;
    let listeners = loop {
        match socket::bind_listeners(&config.listen, config.workers, listen_options(config)) {
            Err(BindError::Taken { .. }) if Instant::now() < deadline => std::thread::sleep(TAKEN / 10),
            result => break result.map_err(Failure::system)?,
        }
    };
    let skipped = listeners.skipped.iter().map(|(address, error)| format!("{address} skipped: {error}"));
    let degraded = skipped.collect();
    Ok(BoundListeners { degraded, ..BoundListeners::of(listeners.workers, listeners.addresses, Left::NONE) })
}

/// Takes what a service manager passed, and binds what it did not.
fn activate(config: &Config, activated: Activated) -> Result<BoundListeners, Failure> {
    let (has_data, has_admin) = (!activated.data.is_empty(), !activated.admin.is_empty());
    for socket in activated.data.iter().flatten() {
        socket::raise_receive_buffer(socket, config.receive_buffer_bytes).map_err(Failure::system)?;
    }
    let origin = format!(
        "{} and {} were passed by the service manager",
        count(activated.data.len() * activated.data_addresses.len(), "data socket"),
        count(activated.admin.len(), "admin socket"),
    );
    let mut found = if has_data {
        BoundListeners::of(activated.data, activated.data_addresses, Left::ALL)
    } else {
        bind_data(config)?
    };
    found.admin = if has_admin {
        activated.admin
    } else {
        bind_admin(&config.management, false, config.freebind).map_err(Failure::system)?
    };
    (found.data_activated, found.admin_activated, found.origin) = (has_data, has_admin, Some(origin));
    Ok(found)
}

/// Keys of the file that passed sockets override, each with both values.
fn overridden(config: &Config, configured: Configured, found: &BoundListeners) -> Vec<String> {
    let mut notices = Vec::new();
    let keys = |keys: [&'static str; 2]| keys.map(|key| configured.format.key(key)).join(", ");
    let mut compare = |keys: String, configured: &[SocketAddr], sockets: Vec<SockRef<'_>>| {
        let passed = served(&sockets);
        if !is_covered(configured, &passed) {
            let list = |addresses: &[SocketAddr]| {
                addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
            };
            notices.push(format!(
                "{keys}: the config has {}, but the sockets passed by the service manager are at {} and take precedence; change \
                 the socket unit, or remove the keys",
                list(configured),
                list(&passed)
            ));
        }
    };
    if found.data_activated && configured.listen {
        let sockets = found.workers.first().into_iter().flatten().map(SockRef::from).collect();
        compare(keys(["host", "port"]), &config.listen, sockets);
    }
    if found.admin_activated && configured.management {
        let sockets = found.admin.iter().map(SockRef::from).collect();
        compare(keys(["managementHost", "managementPort"]), &config.management, sockets);
    }
    notices
}

/// Where sockets receive: `[::]` stands for `0.0.0.0` too unless it is restricted to IPv6 (IPV6_V6ONLY).
fn served(sockets: &[SockRef<'_>]) -> Vec<SocketAddr> {
    let mut addresses = Vec::with_capacity(sockets.len() + 1);
    for socket in sockets {
        let Some(address) = socket.local_addr().ok().and_then(|address| address.as_socket()) else {
            continue;
        };
        addresses.push(address);
        if address.ip() == Ipv6Addr::UNSPECIFIED && socket.only_v6().is_ok_and(|is_only| !is_only) {
            addresses.push((Ipv4Addr::UNSPECIFIED, address.port()).into());
        }
    }
    addresses
}

/// Whether every configured address is served, and nothing at an address of another kind. A host that means both families (all
/// addresses, `localhost`, both the defaults) is served by either.
fn is_covered(configured: &[SocketAddr], passed: &[SocketAddr]) -> bool {
    let alike = |one: &SocketAddr, other: &SocketAddr| {
        let both = |is: fn(&IpAddr) -> bool| is(&one.ip()) && is(&other.ip());
        let is_same_kind = both(IpAddr::is_unspecified) || both(IpAddr::is_loopback);
        one.port() == other.port() && (one.ip() == other.ip() || is_same_kind)
    };
    let is_served = |address: &SocketAddr| {
        let means_both =
            configured.iter().any(|other| alike(address, other) && other.is_ipv4() != address.is_ipv4());
        passed.iter().any(|known| known == address || means_both && alike(address, known))
    };
    configured.iter().all(is_served)
        && passed.iter().all(|known| configured.iter().any(|wanted| alike(known, wanted)))
}

/// Goes on with an old process's sockets, and makes those that it does not have; what is new at the data port is bound when
/// everything is armed, so that nothing that arrives is queued for this process, and lost if it fails.
fn inherit(config: &Config, predecessor: &mut Predecessor) -> Result<BoundListeners, Failure> {
    let mut descriptors: Vec<Option<OwnedFd>> = predecessor.take_sockets().into_iter().map(Some).collect();
    let offer = &predecessor.offer;
    let mut plan = Plan::new(offer, &config.listen, config.workers, &config.management);
    let degraded = leave_out(&mut plan, offer, config)?;
    let listen: Vec<SocketAddr> = plan.data.iter().map(|(address, _)| *address).collect();
    let (mut workers, mut late) = (Vec::with_capacity(plan.workers), Vec::new());
    for worker in 0..plan.workers {
        let mut sockets = Vec::with_capacity(listen.len());
        for (listener, address) in listen.iter().enumerate() {
            let place = plan.data_descriptor(offer, worker, listener);
            sockets.push(match place {
                Some(place) => {
                    let socket = take(&mut descriptors, place)?;
                    let (socket, _) = socket::adopt(socket).map_err(Failure::system)?;
                    adapt_receive_buffer(&socket, config, offer).map_err(Failure::system)?;
                    socket
                }
                None => {
                    let (socket, unbound) =
                        Unbound::new(*address, listen_options(config)).map_err(Failure::system)?;
                    late.push(unbound);
                    socket
                }
            });
        }
        workers.push(sockets);
    }
    let mut admin = Vec::with_capacity(plan.admin.len());
    let mut new_admin = Vec::new();
    for (index, (address, _)) in plan.admin.iter().enumerate() {
        match plan.admin_descriptor(offer, index) {
            Some(place) => admin.push(TcpListener::from(take(&mut descriptors, place)?)),
            None => new_admin.push(*address),
        }
    }
    if !new_admin.is_empty() {
        let has_others = !admin.is_empty();
        admin.extend(bind_admin(&new_admin, has_others, config.freebind).map_err(Failure::system)?);
    }
    let shared = if offer.data_activated { Left::ALL } else { plan.inherited() };
    let origin = inherited_text(&plan, offer, late.len(), admin.len());
    let (data_activated, admin_activated) = (offer.data_activated, offer.admin_activated);
    predecessor.set_taken(plan.taken());
    let origin = Some(origin);
    Ok(BoundListeners {
        admin,
        late,
        data_activated,
        admin_activated,
        degraded,
        origin,
        ..BoundListeners::of(workers, listen, shared)
    })
}

/// Takes addresses out of the plan that this host does not have; a message for each. Fails if another process uses
/// one of the new ones.
fn leave_out(plan: &mut Plan, offer: &Offer, config: &Config) -> Result<Vec<String>, Failure> {
    let (mut degraded, mut missing) = (Vec::new(), None);
    let mut kept = Vec::with_capacity(plan.data.len());
    for (address, place) in plan.data.drain(..) {
        // At a port of the old process's it is the one that has it.
        let is_shared = offer.data.iter().any(|offered| offered.port() == address.port());
        let can_bind = if place.is_some() {
            Ok(())
        } else {
            socket::can_bind(address, listen_options(config), is_shared)
        };
        match can_bind {
            Ok(()) => kept.push((address, place)),
            Err(error @ BindError::NotHere(_)) => {
                degraded.push(format!("{address} skipped: {error}"));
                missing = Some(error);
            }
            Err(error) => return Err(Failure::system(error)),
        }
    }
    plan.data = kept;
    match missing.filter(|_| plan.data.is_empty()) {
        Some(error) => Err(Failure::system(error)),
        None => Ok(degraded),
    }
}

fn listen_options(config: &Config) -> ListenOptions {
    ListenOptions { receive_buffer_bytes: config.receive_buffer_bytes, freebind: config.freebind }
}

fn take(descriptors: &mut [Option<OwnedFd>], place: usize) -> Result<OwnedFd, Failure> {
    let descriptor = descriptors.get_mut(place).and_then(Option::take);
    descriptor.ok_or_else(|| Failure::system("the old process announced a socket but did not pass it"))
}

fn adapt_receive_buffer(socket: &UdpSocket, config: &Config, offer: &Offer) -> io::Result<()> {
    if offer.data_activated {
        socket::raise_receive_buffer(socket, config.receive_buffer_bytes)
    } else if offer.receive_buffer_bytes == config.receive_buffer_bytes {
        Ok(())
    } else {
        socket::ask_receive_buffer(socket, config.receive_buffer_bytes)
    }
}

/// What was inherited, for the log.
fn inherited_text(plan: &Plan, offer: &Offer, bound: usize, admin: usize) -> String {
    let taken = plan.taken();
    let list = |addresses: &[SocketAddr]| {
        let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let mut message = format!(
        "inherited from process {} (version {}): {} ({}), {} ({})",
        offer.pid,
        offer.version.escape_default(),
        count(taken.data.len() * taken.workers, "data socket"),
        list(&taken.data),
        count(taken.admin.len(), "admin socket"),
        list(&taken.admin),
    );
    if bound > 0 || admin > taken.admin.len() {
        let new_admin = count(admin - taken.admin.len(), "admin socket");
        message.push_str(&format!("; newly created: {}, {new_admin}", count(bound, "data socket")));
    }
    let given_up = offer.workers * offer.data.len() - taken.data.len() * taken.workers;
    if given_up > 0 {
        message.push_str(&format!("; closed: {}", count(given_up, "data socket")));
    }
    message
}

/// There are as many workers as sockets at an address.
fn set_workers(config: &mut Config, workers: usize, degraded: &mut Vec<String>) {
    if config.workers == workers {
        return;
    }
    if !config.workers_auto {
        degraded.push(format!(
            "workers: {} configured, {workers} running, one for each passed UDP socket at an address (ReusePort=yes)",
            config.workers
        ));
    }
    config.workers = workers;
    // A list of CPUs that is too short pins the first workers.
    config.worker_cpus.truncate(workers);
}

/// Distributes datagrams among the workers as configured, if the kernel permits it; returns what is in effect.
fn spread(config: &Config, workers: &[Vec<UdpSocket>], degraded: &mut Vec<String>) -> Spread {
    match socket::distribute(workers, config.spread, &config.worker_cpus) {
        Ok(()) => config.spread,
        Err(error) => {
            degraded.push(refused(config.spread, &error));
            Spread::Flow
        }
    }
}

fn refused(spread: Spread, error: &io::Error) -> String {
    format!(
        "spread: {} was refused by the kernel (SO_ATTACH_REUSEPORT_CBPF: {error}); using flow: each sender is served by one \
         worker; permit that socket option in the sandbox, or set spread to flow",
        spread.name()
    )
}

fn hold(config: &Config, found: &BoundListeners, management: &[SocketAddr]) -> io::Result<ListenerSet> {
    let again =
        |sockets: &Vec<UdpSocket>| sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<Vec<_>>>();
    Ok(ListenerSet {
        data: found.workers.iter().map(again).collect::<io::Result<_>>()?,
        cpus: config.worker_cpus.clone(),
        admin: found.admin.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?,
        offer: Offer {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            data: found.listen.clone(),
            workers: found.workers.len(),
            receive_buffer_bytes: config.receive_buffer_bytes,
            data_activated: found.data_activated,
            admin: management.to_vec(),
            admin_activated: found.admin_activated,
            ..Offer::default()
        },
    })
}

/// What the kernel grants one socket to a backend that asks for so much, in bytes; tried out on a socket that sends
/// nothing. 0 if unknown.
fn send_buffer_granted(asked_bytes: usize) -> u64 {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let granted = socket::connect_backend(nobody, asked_bytes)
        .and_then(|socket| socket2::SockRef::from(&socket).send_buffer_size());
    granted.map_or(0, |bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    #[test]
    fn what_a_new_process_changed_at_shared_sockets_is_put_back() {
        let config = Config { receive_buffer_bytes: 100_000, timestamps: true, ..config(&["127.0.0.1:9"]) };
        let bound =
            socket::bind_listeners(&["127.0.0.1:0".parse().unwrap()], 2, ListenOptions::here(100_000))
                .unwrap();
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
        let cpus = vec![cpu + 1, cpu];
        let listener_set =
            ListenerSet { data: bound.workers, cpus, admin: Vec::new(), offer: Offer::default() };
        let granted =
            |index: usize| socket2::SockRef::from(&listener_set.data[index][0]).recv_buffer_size().unwrap();
        let before = [granted(0), granted(1)];
        listener_set
            .data
            .iter()
            .flatten()
            .for_each(|socket| socket::ask_receive_buffer(socket, 5_000).unwrap());
        listener_set.data.iter().flatten().for_each(|socket| options::stamp_arrivals(socket, false).unwrap());
        listener_set.distribute(Spread::Flow).unwrap();
        assert_ne!([granted(0), granted(1)], before);
        listener_set.restore(&config, Spread::Datagram);
        assert_eq!([granted(0), granted(1)], before);
        for socket in listener_set.data.iter().flatten() {
            assert!(
                nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::ReceiveTimestampns).unwrap()
            );
        }
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        (0..100).for_each(|_| assert_eq!(sender.send_to(b"x", bound.addresses[0]).unwrap(), 1));
        let received = |index: usize| {
            let socket = &listener_set.data[index][0];
            socket.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| socket.recv(&mut [0; 4]).ok()).count()
        };
        // 50 each are expected; none is a matter of 1 in 2^99.
        assert!(received(0) > 0 && received(1) > 0, "spread by datagram again");
        listener_set.distribute(Spread::Flow).unwrap();
        listener_set.restore(&config, Spread::Cpu);
        let mut only = CpuSet::new();
        only.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &only).unwrap();
        for _ in 0..100 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(sender.send_to(b"x", bound.addresses[0]).unwrap(), 1);
        }
        assert_eq!([received(0), received(1)], [0, 100], "spread by CPU again");
    }
}
