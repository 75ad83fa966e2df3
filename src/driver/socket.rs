//! Listening sockets: bound, with a check for a second instance, and buffers requested and read back.
//!
//! In: addresses from the config. Out: one socket per address and worker. Next: `uring/`.

use super::holder::udp_port_holder;
use super::options;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrStorage, getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

/// The listening sockets of all workers.
#[derive(Debug)]
pub struct Listeners {
    /// For each worker its sockets, one per address.
    pub workers: Vec<Vec<UdpSocket>>,
    /// The addresses, with the port found where 0 was asked for.
    pub addresses: Vec<SocketAddr>,
    /// Addresses that this host does not have: left out, since another one is served.
    pub skipped: Vec<(SocketAddr, io::Error)>,
}

/// An error opening a listening socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Port in use.
    #[error("{address} is in use by {holder}: stop it, or set another `port`")]
    Taken {
        /// The address requested.
        address: SocketAddr,
        /// The process that uses it, if visible.
        holder: String,
    },
    /// The host does not have the address.
    #[error(
        "cannot listen on {0}: this host does not have that address; set `host` to an address of this host, or \
         \"freebind\": true if the address is added later, e.g. by keepalived"
    )]
    NotHere(SocketAddr),
    /// Anything else.
    #[error(
        "cannot listen on {address}: {source}; set `host` to an address of this host, and a `port` it may use"
    )]
    System {
        /// The address requested.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Binds `workers` sockets to each address (SO_REUSEPORT: the kernel spreads the senders over them), and asks for a
/// receive buffer of `receive_buffer_bytes` each; what was granted is read back by the driver.
///
/// SO_REUSEPORT would let a second instance of the same user take half the senders in silence, so each address is
/// bound once without it first.
pub fn bind_listeners(
    listen: &[SocketAddr],
    workers: usize,
    options: ListenOptions,
) -> Result<Listeners, BindError> {
    let mut listeners = Listeners {
        workers: (0..workers).map(|_| Vec::with_capacity(listen.len())).collect(),
        addresses: Vec::new(),
        skipped: Vec::new(),
    };
    for asked in listen {
        let address = match probe(same_port(*asked, &listeners.addresses), options) {
            Ok(address) => address,
            Err(error) if is_missing(&error) => {
                listeners.skipped.push((*asked, error));
                continue;
            }
            Err(error) => return Err(bind_error(*asked, error)),
        };
        for sockets in &mut listeners.workers {
            let socket =
                listener(address, options).map_err(|source| BindError::System { address, source })?;
            sockets.push(socket);
        }
        listeners.addresses.push(address);
    }
    match listeners.skipped.pop_if(|_| listeners.addresses.is_empty()) {
        Some((address, error)) => Err(bind_error(address, error)),
        None => Ok(listeners),
    }
}

/// How listening sockets are made.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Receive buffer to ask for, in bytes.
    pub receive_buffer_bytes: usize,
    /// Whether the host need not have the address yet (IP_FREEBIND, ip(7)).
    pub freebind: bool,
}

impl ListenOptions {
    /// At addresses that the host has, with a receive buffer of `receive_buffer_bytes` asked for.
    pub fn here(receive_buffer_bytes: usize) -> ListenOptions {
        ListenOptions { receive_buffer_bytes, freebind: false }
    }
}

/// Where any port will do, both families get the same one.
fn same_port(asked: SocketAddr, bound: &[SocketAddr]) -> SocketAddr {
    match bound.first() {
        Some(first) if asked.port() == 0 => with_port(asked, first.port()),
        _ => asked,
    }
}

/// The same address with another port; an IPv6 one keeps its scope.
pub fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Binds without SO_REUSEPORT and closes: fails if the port is in use.
fn probe(address: SocketAddr, options: ListenOptions) -> io::Result<SocketAddr> {
    let socket = udp_socket(address)?;
    allow_missing(&socket, address, options.freebind)?;
    socket.bind(&SockAddr::from(address))?;
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

fn listener(address: SocketAddr, options: ListenOptions) -> io::Result<UdpSocket> {
    let socket = unbound(address, options)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn unbound(address: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let socket = udp_socket(address)?;
    socket.set_reuse_port(true)?;
    options::ask_receive_buffer(&socket, options.receive_buffer_bytes)?;
    allow_missing(&socket, address, options.freebind)?;
    Ok(socket)
}

/// Lets a socket that is to listen be bound to an address that the host does not have yet, if `freebind` says so.
pub fn allow_missing(socket: &Socket, address: SocketAddr, freebind: bool) -> io::Result<()> {
    match (freebind, address) {
        (false, _) => Ok(()),
        (true, SocketAddr::V4(_)) => socket.set_freebind_v4(true),
        (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true),
    }
}

/// Whether an address could not be bound because the host does not have it, or nothing of its family.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// A listening socket that is made now and bound later: what is to receive from it can be armed before, so that nothing
/// that arrives waits for it.
#[derive(Debug)]
pub struct Unbound {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Unbound {
    /// Makes a socket for `address`. The first of the two is for the receiver.
    pub fn new(address: SocketAddr, options: ListenOptions) -> Result<(UdpSocket, Unbound), BindError> {
        let made = || {
            let socket = unbound(address, options)?;
            let other = socket.try_clone()?;
            Ok((socket.into(), Unbound { socket: other.into(), address }))
        };
        made().map_err(|source| BindError::System { address, source })
    }

    /// Binds it: from now on it gets datagrams.
    pub fn bind(&self) -> Result<(), BindError> {
        socket2::SockRef::from(&self.socket)
            .bind(&SockAddr::from(self.address))
            .map_err(|error| bind_error(self.address, error))
    }
}

/// Whether an address can be bound: it is bound by nobody else, or only by sockets at a port that is shared with this
/// process.
pub fn can_bind(asked: SocketAddr, options: ListenOptions, is_shared: bool) -> Result<(), BindError> {
    match probe(asked, options) {
        Ok(_) => Ok(()),
        Err(error) if is_shared && error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Err(error) => Err(bind_error(asked, error)),
    }
}

/// A data socket that another process made: its address, after it was set to block, as receives on a ring need it.
///
/// # Errors
/// It is not a UDP socket bound to a port: in words.
pub fn adopt(socket: OwnedFd) -> Result<(UdpSocket, SocketAddr), String> {
    let socket = Socket::from(socket);
    let words = |error: io::Error| format!("not a usable socket: {error}");
    let (kind, protocol) = (socket.r#type().map_err(words)?, socket.protocol().map_err(words)?);
    let local = socket.local_addr().map_err(words)?;
    let Some(address) = local.as_socket().filter(|_| kind == Type::DGRAM && protocol == Some(Protocol::UDP))
    else {
        return Err("expected a UDP socket over IPv4 or IPv6".to_owned());
    };
    if address.port() == 0 {
        return Err("not bound to a port".to_owned());
    }
    socket.set_nonblocking(false).map_err(words)?;
    Ok((socket.into(), address))
}

/// Asks for a receive buffer of another size than before.
pub fn ask_receive_buffer(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    options::ask_receive_buffer(socket, bytes)
}

/// Raises the receive buffer of a socket that another process made, if the kernel lets it become larger than it is.
pub fn raise_receive_buffer(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    // A request without privilege is cut to the host's limit, which may be less than whoever made the socket was granted.
    let trial = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    options::ask_receive_buffer(&trial, bytes)?;
    if trial.recv_buffer_size()? > socket2::SockRef::from(socket).recv_buffer_size()? {
        options::ask_receive_buffer(socket, bytes)?;
    }
    Ok(())
}

/// Has a listening socket join datagrams of a sender (UDP_GRO): everyone who reads it must read the lengths of the segments.
pub fn join_datagrams(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::UdpGroSegment, &true)?)
}

/// Whether a listening socket joins datagrams of a sender.
pub fn joins_datagrams(socket: &UdpSocket) -> io::Result<bool> {
    Ok(getsockopt(socket, sockopt::UdpGroSegment)?)
}

/// How datagrams are distributed among workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// One for all of a sender's: their order is kept, and one busy sender has one worker.
    #[default]
    Flow,
    /// Any, at random: one busy sender is shared by all workers, and its order is lost.
    Datagram,
    /// The one that is pinned to the CPU on which the datagram arrives; from another CPU, that CPU's number modulo the
    /// workers.
    Cpu,
}

impl Spread {
    /// Its value in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Spread::Flow => "flow",
            Spread::Datagram => "datagram",
            Spread::Cpu => "cpu",
        }
    }
}

/// Distributes datagrams among the workers as `spread` says, at every address. `cpus` holds the CPUs that the workers are
/// pinned to, by index, as far as they are.
///
/// A program of the kernel's chooses a socket by its index in the SO_REUSEPORT group. That is the worker's: sockets are bound in
/// the order of the workers, and only the last workers' are ever closed while the others go on.
///
/// # Errors
/// The kernel refuses the program; [`Spread::Flow`] is in effect.
pub fn distribute(workers: &[Vec<UdpSocket>], spread: Spread, cpus: &[usize]) -> io::Result<()> {
    let count = u32::try_from(workers.len()).map_err(io::Error::other)?;
    // One socket stands for its address's whole group.
    let of_each_address = workers.first().map_or(&[][..], Vec::as_slice);
    // Fails if it is in effect already.
    let reset = || of_each_address.iter().for_each(|socket| drop(options::spread_by_flow(socket)));
    // A single socket receives everything, and may have been made without SO_REUSEPORT.
    let spread = if count > 1 { spread } else { Spread::Flow };
    let attach = |socket| match spread {
        Spread::Flow => Ok(()),
        Spread::Datagram => options::spread_by_datagram(socket, count),
        Spread::Cpu => options::spread_by_cpu(socket, count, cpus),
    };
    if spread == Spread::Flow {
        reset();
    }
    of_each_address.iter().try_for_each(attach).inspect_err(|_| reset())
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_error(address: SocketAddr, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        let holder =
            udp_port_holder(address.port()).unwrap_or_else(|| "a process not visible from here".into());
        BindError::Taken { address, holder }
    } else if is_missing(&source) {
        BindError::NotHere(address)
    } else {
        BindError::System { address, source }
    }
}

/// A connected socket to a backend: sends need no address, refusals and drops are reported. It blocks; sends carry
/// MSG_DONTWAIT.
pub fn connect_backend(address: SocketAddr, send_buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = udp_socket(address)?;
    options::ask_send_buffer(&socket, send_buffer_bytes)?;
    // Where this is refused, as in some sandboxes, metrics go all the same, and fewer errors of earlier sends are noticed.
    let _ = options::report_errors(&socket, address.is_ipv6());
    socket.connect(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// The address of this host that the kernel would choose now for packets to `address`: a connected socket keeps the one that
/// it was given when it was made.
///
/// # Errors
/// There is no route to it, or no socket to ask by.
pub fn source_of(address: SocketAddr) -> io::Result<IpAddr> {
    let socket = udp_socket(address)?;
    socket.connect(&SockAddr::from(address))?;
    Ok(UdpSocket::from(socket).local_addr()?.ip())
}

/// Fences a listening socket: connected to an address that nobody sends from, nothing new arrives, and its queue stays
/// readable. The returned socket holds that address; keep it as long as the fence. There is none, and needs to be none, where
/// the host has no address of its family, or not the one that it listens at (IP_FREEBIND).
pub fn fence(listener: &UdpSocket) -> io::Result<Option<UdpSocket>> {
    // By sender the kernel chooses among the sockets that are not connected, in every version; a program may choose any.
    // Where there is none this fails, and nothing is to be done.
    let _ = options::spread_by_flow(listener);
    let mut unused = with_port(listener.local_addr()?, 0);
    match unused.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => unused.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => unused.set_ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => {}
    }
    let holder = match UdpSocket::bind(unused) {
        Err(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable
                && (lacks_family(unused) || !listener.local_addr()?.ip().is_unspecified()) =>
        {
            return Ok(None);
        }
        bound => bound?,
    };
    listener.connect(holder.local_addr()?)?;
    Ok(Some(holder))
}

/// Whether this host has no address at all of this one's family.
fn lacks_family(address: SocketAddr) -> bool {
    let is_alike = |own: SockaddrStorage| match address {
        SocketAddr::V4(_) => own.as_sockaddr_in().is_some(),
        SocketAddr::V6(_) => own.as_sockaddr_in6().is_some(),
    };
    getifaddrs().is_ok_and(|mut all| !all.any(|interface| interface.address.is_some_and(is_alike)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    use std::time::Duration;

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn a_second_instance_is_refused_with_the_holders_name() {
        let first = bind_listeners(&[ANY.parse().unwrap()], 2, ListenOptions::here(1 << 20)).unwrap();
        assert_eq!(first.workers.len(), 2);
        let error =
            bind_listeners(&first.addresses, 1, ListenOptions::here(1 << 20)).unwrap_err().to_string();
        let expected = format!("{} is in use by ", first.addresses[0]);
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn a_foreign_address_is_an_error_with_a_cure() {
        let error = bind_listeners(&["192.0.2.1:8125".parse().unwrap()], 1, ListenOptions::here(4096))
            .unwrap_err()
            .to_string();
        assert!(error.contains("192.0.2.1:8125") && error.contains("`host`"), "{error}");
    }

    #[test]
    fn both_families_share_a_port() {
        let listen = [ANY.parse().unwrap(), "[::1]:0".parse().unwrap()];
        let listeners = bind_listeners(&listen, 1, ListenOptions::here(4096)).unwrap();
        assert_eq!(listeners.addresses[0].port(), listeners.addresses[1].port());
    }

    #[test]
    fn behind_a_fence_the_queue_stays_and_nothing_new_comes() {
        let listener = UdpSocket::bind(ANY).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let sender = UdpSocket::bind(ANY).unwrap();
        let to = listener.local_addr().unwrap();
        sender.send_to(b"before", to).unwrap();
        let _holder = fence(&listener).unwrap();
        let _ = sender.send_to(b"after", to);
        let mut buffer = [0; 16];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"before");
        assert!(listener.recv(&mut buffer).is_err());
    }

    /// What waits in a socket, read to its end.
    fn received(socket: &UdpSocket) -> usize {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 16];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
    }

    #[test]
    fn one_sender_is_spread_over_all_workers_only_if_wanted() {
        for listen in [ANY, "[::1]:0"] {
            let listeners =
                bind_listeners(&[listen.parse().unwrap()], 3, ListenOptions::here(1 << 20)).unwrap();
            let of_worker = |worker: usize| &listeners.workers[worker][0];
            let sender = UdpSocket::bind(listen).unwrap();
            let send = || {
                (0..300).for_each(|_| assert_eq!(sender.send_to(b"x", listeners.addresses[0]).unwrap(), 1));
                [0, 1, 2].map(|worker| received(of_worker(worker)))
            };
            let mut by_flow = send();
            by_flow.sort_unstable();
            assert_eq!(by_flow, [0, 0, 300]);
            distribute(&listeners.workers, Spread::Datagram, &[]).unwrap();
            // 100 each are expected; 40 are seven standard deviations away.
            let by_datagram = send();
            assert!(by_datagram.iter().all(|count| *count > 40), "{by_datagram:?}");
            assert_eq!(by_datagram.iter().sum::<usize>(), 300);
            // Workers stop one after the other: the ones that do not yet get everything.
            let mut holders = vec![fence(of_worker(1)).unwrap()];
            let [first, fenced, last] = send();
            assert_eq!((first + last, fenced), (300, 0));
            holders.push(fence(of_worker(0)).unwrap());
            assert_eq!(send(), [0, 0, 300]);
        }
    }

    /// Sends from a thread on this CPU, each datagram by another socket.
    fn send_from(cpu: usize, to: SocketAddr) {
        let send = move || {
            let mut cpus = CpuSet::new();
            cpus.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
            for _ in 0..30 {
                let sender = UdpSocket::bind(with_port(to, 0)).unwrap();
                assert_eq!(sender.send_to(b"x", to).unwrap(), 1);
            }
        };
        std::thread::spawn(send).join().unwrap();
    }

    #[test]
    fn a_cpu_with_a_worker_of_its_own_is_served_by_it_and_another_one_by_its_number() {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
        for listen in [ANY, "[::1]:0"] {
            let listen = [listen.parse().unwrap()];
            let listeners = bind_listeners(&listen, 3, ListenOptions::here(1 << 20)).unwrap();
            let to = listeners.addresses[0];
            for cpu in allowed.iter().copied().take(4) {
                let mut lists = vec![
                    vec![],
                    vec![900, 901, 902],
                    vec![900, cpu],
                    vec![cpu, 900, 901],
                    vec![900, 901, cpu],
                ];
                // A list for more workers than there are.
                lists.push(vec![900, 901, 902, cpu]);
                for cpus in lists {
                    distribute(&listeners.workers, Spread::Cpu, &cpus).unwrap();
                    send_from(cpu, to);
                    let own = cpus.iter().take(3).position(|own| *own == cpu).unwrap_or(cpu % 3);
                    let mut expected = [0; 3];
                    expected[own] = 30;
                    let found = [0, 1, 2].map(|worker| received(&listeners.workers[worker][0]));
                    assert_eq!(found, expected, "CPU {cpu}, workers on {cpus:?}");
                }
            }
        }
    }

    #[test]
    fn programs_for_the_most_workers_are_accepted() {
        let cpus: Vec<usize> = (0..64).rev().collect();
        let listeners = bind_listeners(&[ANY.parse().unwrap()], 64, ListenOptions::here(4_096)).unwrap();
        distribute(&listeners.workers, Spread::Cpu, &cpus).unwrap();
    }

    #[test]
    fn a_single_socket_needs_no_program() {
        // Without SO_REUSEPORT the kernel would refuse one.
        let workers = [vec![UdpSocket::bind(ANY).unwrap()]];
        for spread in [Spread::Cpu, Spread::Datagram, Spread::Flow] {
            distribute(&workers, spread, &[0]).unwrap();
        }
    }
}
