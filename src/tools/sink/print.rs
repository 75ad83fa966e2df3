//! `statsring sink --print`: stands in for the StatsD servers of a config and prints every metric that arrives.
//!
//! In: the backends of a config, of `--listen`, or those of the example config. Out: on stdout one line per metric, after the
//! name of the backend that received it; health checks are answered. It ends with SIGINT, SIGTERM, or after `--seconds`.

use super::health;
use super::interrupt::Interrupt;
use super::options::{Options, health_addresses, seconds_to_us};
use super::receive::{self, DATAGRAM_BYTES, TURN, parse_addresses};
use crate::admin::escape;
use crate::config::{self, Config};
use crate::console::{print_error, print_stderr, usage_error, written};
use crate::exit;
use crate::lookup;
use crate::tools::config_file;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashSet;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The config of the README's quick start, whose backends are on this host.
const EXAMPLE: &str = include_str!("../../../exampleConfig.json");

/// A backend to stand in for.
#[derive(Debug, PartialEq, Eq)]
struct Backend {
    /// As the config, and so the proxy, names it.
    name: String,
    data: Vec<SocketAddr>,
    health: Vec<SocketAddr>,
}

/// A socket and the backend that it stands in for.
struct Printed {
    name: String,
    socket: UdpSocket,
}

/// Prints what arrives until it is interrupted; the exit code.
pub fn run(options: &Options) -> u8 {
    let backends = match usage(options) {
        Err(text) => return usage_error(&text),
        Ok(()) => match backends(options) {
            Ok(backends) => backends,
            Err(code) => return code,
        },
    };
    match serve(&backends, options) {
        Ok(code) => code,
        Err(text) => {
            print_error(&text);
            exit::SYSTEM
        }
    }
}

/// # Errors
/// An option that judges a load does not go with `--print`.
fn usage(options: &Options) -> Result<(), String> {
    let judging = [
        ("--expect", options.expect.is_some()),
        ("--replay", options.replay.is_some()),
        ("--placed-by", !options.placed_by.is_empty()),
        ("--down", !options.down.is_empty()),
        ("--in-order", options.in_order),
        ("--json", options.json),
    ];
    if let Some((option, _)) = judging.into_iter().find(|(_, is_given)| *is_given) {
        return Err(format!("{option} cannot be combined with --print"));
    }
    if options.file.is_some() && options.listen.is_some() {
        return Err("-f and --listen cannot be combined: both set where to listen".to_owned());
    }
    if options.health.is_some() && options.listen.is_none() {
        return Err(
            "--health requires --listen; with a config the admin ports of its backends are used".to_owned()
        );
    }
    options.seconds.map(|seconds| seconds_to_us("--seconds", seconds)).transpose()?;
    Ok(())
}

/// The backends to stand in for, or the exit code; the error has been printed.
fn backends(options: &Options) -> Result<Vec<Backend>, u8> {
    if let Some(list) = &options.listen {
        return listed(list, options.health.as_deref()).map_err(|text| usage_error(&text));
    }
    let loaded = match &options.file {
        Some(path) => config_file::load(path)?,
        None => config::parse(EXAMPLE).map_err(|error| {
            print_stderr(&config_file::unloaded(&error));
            error.exit_code()
        })?,
    };
    of_config(&loaded.config).map_err(|text| {
        print_error(&text);
        exit::SYSTEM
    })
}

fn listed(list: &str, health: Option<&str>) -> Result<Vec<Backend>, String> {
    let addresses = parse_addresses(list).map_err(|error| format!("--listen: {error}"))?;
    let mut health = health_addresses(health)?.into_iter();
    let backend = |address: SocketAddr| Backend {
        name: address.to_string(),
        data: vec![address],
        health: health.next().into_iter().collect(),
    };
    let mut backends: Vec<Backend> = addresses.into_iter().map(backend).collect();
    // More admin ports than backends are answered all the same.
    if let Some(last) = backends.last_mut() {
        last.health.extend(health);
    }
    Ok(backends)
}

fn of_config(config: &Config) -> Result<Vec<Backend>, String> {
    let resolved = |host: &str, port| {
        lookup::addresses(host, port).map_err(|error| format!("cannot resolve {host}: {error}"))
    };
    let backend = |node: &config::Node| {
        let health = node.adminport.map(|port| resolved(&node.host, port)).transpose()?;
        Ok(Backend {
            name: node.name.to_string(),
            data: resolved(&node.host, node.port)?,
            health: health.unwrap_or_default(),
        })
    };
    config.nodes.iter().map(backend).collect()
}

fn serve(backends: &[Backend], options: &Options) -> Result<u8, String> {
    let cannot = |error: io::Error| format!("cannot receive: {error}");
    let mut interrupt = Interrupt::new().map_err(cannot)?;
    let (sockets, listeners) = bind(backends, options.receive_buffer)?;
    health::spawn(listeners).map_err(cannot)?;
    let end = options.seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    Ok(written(print_all(&sockets, &mut interrupt, end)))
}

/// Opens all sockets before anything is reported.
fn bind(
    backends: &[Backend],
    receive_buffer_bytes: usize,
) -> Result<(Vec<Printed>, Vec<TcpListener>), String> {
    let (mut sockets, mut listeners, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let mut answered = HashSet::new();
    for backend in backends {
        let opened = any(&backend.data, |address| receive::bind(address, receive_buffer_bytes));
        let mut text = "listening on ".to_owned();
        let opened = opened.map_err(|(address, error)| refused(&backend.name, address, &error))?;
        text += &opened.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(" and ");
        let name = |bound: SocketAddr| {
            if backend.data.contains(&bound) { backend.name.clone() } else { bound.to_string() }
        };
        sockets.extend(opened.into_iter().map(|(address, socket)| Printed { name: name(address), socket }));
        // Several backends may share an admin port.
        let admin: Vec<SocketAddr> =
            backend.health.iter().copied().filter(|address| answered.insert(*address)).collect();
        if !admin.is_empty() {
            let opened = any(&admin, |address| {
                let listener = TcpListener::bind(address)?;
                Ok((listener.local_addr()?, listener))
            });
            let opened = opened.map_err(|(address, error)| refused(&backend.name, address, &error))?;
            let addresses: Vec<String> = opened.iter().map(|(address, _)| address.to_string()).collect();
            text += &format!(", answering health checks on {}", addresses.join(" and "));
            listeners.extend(opened.into_iter().map(|(_, listener)| listener));
        }
        texts.push(text);
    }
    texts.iter().for_each(|text| print_error(text));
    Ok((sockets, listeners))
}

/// Opens what can be opened of the addresses of one name; the first failure if none can.
fn any<T>(
    addresses: &[SocketAddr],
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>, (SocketAddr, io::Error)> {
    let mut first = None;
    let mut opened = Vec::new();
    for address in addresses {
        match open(*address) {
            Ok(socket) => opened.push(socket),
            // The other family of a name such as localhost may be missing on this host; a port in use never is.
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err((*address, error)),
            Err(error) => first = first.or(Some((*address, error))),
        }
    }
    match first {
        Some(failure) if opened.is_empty() => Err(failure),
        _ => Ok(opened),
    }
}

fn refused(name: &str, address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => "; stop the process that uses the port, or choose others with --listen",
        ErrorKind::AddrNotAvailable => "; sink --print replaces backends on this host only",
        _ => "",
    };
    format!("backend {name}: cannot listen on {address}: {error}{remedy}")
}

fn print_all(sockets: &[Printed], interrupt: &mut Interrupt, end: Option<Instant>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let timeout = end.map_or(PollTimeout::NONE, |end| {
            let ms = end.saturating_duration_since(Instant::now()).as_millis();
            PollTimeout::try_from(ms + 1).unwrap_or(PollTimeout::MAX)
        });
        if end.is_some_and(|end| Instant::now() >= end) || interrupt.asked() {
            return Ok(());
        }
        let mut polls: Vec<PollFd> =
            sockets.iter().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLIN)).collect();
        polls.push(PollFd::new(interrupt.as_fd(), PollFlags::POLLIN));
        poll(&mut polls, timeout)?;
        for one in sockets {
            for _ in 0..TURN {
                let Ok(length) = one.socket.recv(&mut buffer) else { break };
                print_datagram(&mut out, &one.name, &buffer[..length])?;
            }
        }
        out.flush()?;
    }
}

/// Empty lines are not metrics: the proxy pads packets with them (`gso`).
fn print_datagram(out: &mut impl Write, name: &str, datagram: &[u8]) -> io::Result<()> {
    for line in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        writeln!(out, "{name}\t{}", escape(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_datagram_is_printed_with_control_bytes_escaped() {
        let mut out = Vec::new();
        print_datagram(&mut out, "a:1", b"api.requests:1|c\n\n\x1b[2Jx:1|g\r\n\n").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a:1\tapi.requests:1|c\na:1\t\\x1b[2Jx:1|g\\x0d\n");
    }

    #[test]
    fn the_example_config_is_the_default() {
        let backends = of_config(&config::parse(EXAMPLE).unwrap().config).unwrap();
        let names: Vec<&str> = backends.iter().map(|backend| &*backend.name).collect();
        assert_eq!(names, ["127.0.0.1:8127", "127.0.0.1:8129", "127.0.0.1:8131"]);
        let ports = backends.iter().flat_map(|backend| &backend.health).map(SocketAddr::port);
        assert_eq!(ports.collect::<Vec<_>>(), [8128, 8130, 8132]);
    }

    #[test]
    fn admin_ports_are_assigned_to_listening_addresses_in_order() {
        let backends = listed("1,2", Some("3,4,5")).unwrap();
        let health: Vec<Vec<u16>> =
            backends.iter().map(|backend| backend.health.iter().map(SocketAddr::port).collect()).collect();
        assert_eq!(health, [vec![3], vec![4, 5]]);
    }

    #[test]
    fn a_port_in_use_and_an_address_of_another_host_are_reported_with_the_remedy() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let backend =
            |address: SocketAddr| Backend { name: "b:1".into(), data: vec![address], health: vec![] };
        let error = bind(&[backend(address)], 4096).err().unwrap();
        assert!(error.starts_with(&format!("backend b:1: cannot listen on {address}: ")), "{error}");
        assert!(error.ends_with("choose others with --listen"), "{error}");
        let error = bind(&[backend("192.0.2.7:8125".parse().unwrap())], 4096).err().unwrap();
        assert!(error.ends_with("on this host only"), "{error}");
    }

    #[test]
    fn a_name_with_an_address_that_this_host_does_not_have_is_served_at_the_others() {
        let open = |address| receive::bind(address, 4096);
        let addresses = ["192.0.2.7:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
        assert_eq!(any(&addresses, open).unwrap().len(), 1);
    }
}
