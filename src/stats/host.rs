//! Figures of the host about UDP and about this process: losses that the proxy's own sockets do not show.
//!
//! In: `/proc`. Out: numbers for `stats`, `backends` and `memstats`. The parsers are pure; a file that is missing or
//! in another form gives `None`, never an error, because the proxy runs without these figures. Next: `admin/`.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// UDP errors of this network namespace since its start, IPv4 and IPv6 together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostUdp {
    /// Datagrams dropped because a socket's receive buffer was full, at any socket of the host.
    pub rcvbuf_errors: u64,
    /// Datagrams dropped because a socket's send buffer was full.
    pub sndbuf_errors: u64,
}

/// One UDP socket of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whether it is connected, and so takes datagrams from one peer only.
    pub connected: bool,
    /// Datagrams that it dropped since it was made.
    pub drops: u64,
}

/// This process as the kernel counts it; what it does not show is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Process {
    /// CPU time of all its threads, kernel and user, in seconds.
    pub cpu_s: Option<f64>,
    /// Bytes of its address space.
    pub virtual_bytes: Option<u64>,
    /// Its threads.
    pub threads: Option<u64>,
    /// Its open files.
    pub open_files: Option<u64>,
    /// Its limit of open files.
    pub files_max: Option<u64>,
}

/// The host's UDP errors; `None` if the kernel does not show them.
pub fn udp_errors() -> Option<HostUdp> {
    let ipv6 = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    parse_udp_errors(&fs::read_to_string("/proc/net/snmp").ok()?, &ipv6)
}

/// The host's UDP sockets, IPv4 and IPv6; empty if the kernel does not show them.
pub fn udp_sockets() -> Vec<HostSocket> {
    let mut sockets = Vec::new();
    for path in ["/proc/net/udp", "/proc/net/udp6"] {
        sockets.extend(parse_udp_sockets(&fs::read_to_string(path).unwrap_or_default()));
    }
    sockets
}

/// Resident size of this process in bytes; `None` if the kernel does not show it.
pub fn resident_bytes() -> Option<u64> {
    parse_resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)
}

/// CPU time that a thread of this process has used, in ns; `None` if it has ended, or if the kernel does not show it.
pub fn thread_cpu_ns(thread: i32) -> Option<u64> {
    parse_schedstat(&fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
}

/// The hostname; `None` if the kernel does not show it, or if there is none.
pub fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// The kernel's figures of this process.
pub fn process() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cpu = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok();
    Process {
        cpu_s: cpu.map(|cpu| Duration::from(cpu).as_secs_f64()),
        virtual_bytes: parse_kib(&status, "VmSize:"),
        threads: parse_status(&status, "Threads:").and_then(|threads| threads.trim().parse().ok()),
        // The folder itself is open while it is read.
        open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as u64),
        files_max: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
    }
}

/// Whether `address` is one of this host's, so that [`drops_at`] can tell of a server behind it.
///
/// # Errors
/// It cannot be determined, e.g. without a free descriptor.
pub fn is_on_this_host(address: IpAddr) -> io::Result<bool> {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        return Ok(address.is_loopback());
    }
    // Binding needs no list of interfaces, and works for the host's own addresses only, unless the host lets everybody
    // bind any address, as those do that take over others' addresses.
    match UdpSocket::bind((address, 0)) {
        Ok(_) if binds_any_address(address) => is_its_own_source(address),
        Ok(_) => Ok(true),
        Err(error) if is_not_bindable(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the kernel refuses to bind an address because of the address: it is not the host's, or of a family or a kind that
/// cannot be bound.
fn is_not_bindable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::EINVAL | Errno::EACCES | Errno::ENODEV)
    )
}

/// Whether `ip_nonlocal_bind` is set, or cannot be read.
fn binds_any_address(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.ok().is_none_or(|setting| setting.trim() != "0")
}

/// Whether packets to `address` have it as source, which is so for the host's own addresses only; a second one of the
/// same network has the first as source, and is missed. Nothing is sent.
fn is_its_own_source(address: IpAddr) -> io::Result<bool> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Any port will do, as nothing is sent.
    let source = socket.connect((address, 9)).and_then(|()| socket.local_addr());
    Ok(source.is_ok_and(|source| source.ip() == address))
}

/// Reads `/proc/net/snmp` (a line of names, then one of values) and `/proc/net/snmp6` (a name and a value a line).
fn parse_udp_errors(snmp: &str, snmp6: &str) -> Option<HostUdp> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let ipv4 = |wanted: &str| -> Option<u64> {
        let mut columns = names.split_whitespace().zip(values.split_whitespace());
        columns.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    let ipv6 = |wanted: &str| -> u64 {
        let mut rows = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
        rows.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
    };
    Some(HostUdp {
        rcvbuf_errors: ipv4("RcvbufErrors")?.saturating_add(ipv6("Udp6RcvbufErrors")),
        sndbuf_errors: ipv4("SndbufErrors")?.saturating_add(ipv6("Udp6SndbufErrors")),
    })
}

/// Reads `/proc/net/udp` or `/proc/net/udp6`; rows in another form are skipped.
fn parse_udp_sockets(table: &str) -> Vec<HostSocket> {
    table.lines().skip(1).filter_map(parse_udp_socket).collect()
}

fn parse_udp_socket(row: &str) -> Option<HostSocket> {
    let mut columns = row.split_whitespace();
    let local = parse_address(columns.nth(1)?)?;
    let remote = parse_address(columns.next()?)?;
    // Drops are the last column, the 13th.
    let drops = columns.nth(9)?.parse().ok()?;
    Some(HostSocket { local, connected: remote.port() != 0, drops })
}

/// An address as the kernel prints it: 32-bit words in the machine's byte order, then the port, all hexadecimal.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = [0u8; 16];
    if !address.is_ascii() || !matches!(address.len(), 8 | 32) {
        return None;
    }
    for (index, word) in bytes.chunks_exact_mut(4).enumerate().take(address.len() / 8) {
        let digits = &address[index * 8..index * 8 + 8];
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip = match bytes {
        [a, b, c, d, ..] if address.len() == 8 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        bytes => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// What the sockets that serve `server` have dropped; `None` if there is none.
///
/// Those bound to the address itself, and those bound to all addresses: `[::]` takes IPv4 too. A connected socket
/// serves one peer and does not count. Only for addresses of this host ([`is_on_this_host`]).
pub fn drops_at(sockets: &[HostSocket], server: SocketAddr) -> Option<u64> {
    let address = server.ip().to_canonical();
    let serves = |socket: &&HostSocket| {
        let bound = socket.local.ip().to_canonical();
        let wildcard = match bound {
            IpAddr::V4(bound) => bound.is_unspecified() && address.is_ipv4(),
            IpAddr::V6(bound) => bound.is_unspecified(),
        };
        !socket.connected && socket.local.port() == server.port() && (wildcard || bound == address)
    };
    sockets.iter().filter(serves).map(|socket| socket.drops).reduce(u64::saturating_add)
}

/// Reads the first of `schedstat`'s three numbers: ns on a CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Reads `VmRSS` of `/proc/self/status`.
pub fn parse_resident_bytes(status: &str) -> Option<u64> {
    parse_kib(status, "VmRSS:")
}

/// What follows `name` in `/proc/self/status`.
fn parse_status<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Bytes of a line of `/proc/self/status`, which is in KiB.
fn parse_kib(status: &str, name: &str) -> Option<u64> {
    parse_status(status, name)?.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 2 64\n\
        Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
        Udp: 145 3 0 146 12 7 0 0 0\n\
        UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdpLite: 0 0 0 0 99 99\n";
    const SNMP6: &str = "Ip6InReceives                   \t0\nUdp6RcvbufErrors                \t30\n\
        Udp6SndbufErrors                \t5\nUdpLite6RcvbufErrors            \t1000\n";

    #[test]
    fn errors_of_both_families_are_added_up() {
        assert_eq!(parse_udp_errors(SNMP, SNMP6), Some(HostUdp { rcvbuf_errors: 42, sndbuf_errors: 12 }));
        // A host without IPv6.
        assert_eq!(parse_udp_errors(SNMP, ""), Some(HostUdp { rcvbuf_errors: 12, sndbuf_errors: 7 }));
    }

    #[test]
    fn another_form_is_no_figure() {
        for snmp in [
            "",
            "Udp: RcvbufErrors SndbufErrors\n",
            "Udp: InDatagrams\nUdp: 1\n",
            "Udp: RcvbufErrors\nUdp: x\n",
        ] {
            assert_eq!(parse_udp_errors(snmp, SNMP6), None, "{snmp}");
        }
        assert_eq!((parse_schedstat(""), parse_schedstat("x 1 2")), (None, None));
        assert_eq!(parse_schedstat("1234 5 6\n"), Some(1234));
        assert_eq!(parse_resident_bytes("VmSize: 10 kB\n"), None);
        assert_eq!(parse_resident_bytes("VmRSS: much\n"), None);
        for row in [
            "",
            "1:",
            "1: 0100007F:1FBD",
            "1: é100007:1FBD 0:0 0 0 0 0 0 0 0 0 0 0 1",
            "1: 00000000:FFFFF 0:0",
        ] {
            assert_eq!(parse_udp_sockets(&format!("head\n{row}\n")), [], "{row}");
        }
    }

    #[test]
    fn resident_size_is_in_bytes() {
        assert_eq!(
            parse_resident_bytes("Name:\tx\nVmRSS:\t    5432 kB\nRssAnon:\t 1 kB\n"),
            Some(5432 * 1024)
        );
    }

    #[cfg(target_endian = "little")]
    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        \x20 253: 0100007F:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 34521 2 0000000000000000 17\n\
        \x20 254: 00000000:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 34522 2 0000000000000000 4\n\
        \x20 255: 0100007F:1FBD 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 34523 2 0000000000000000 900\n\
        \x20 256: 0200000A:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 34524 2 0000000000000000 50\n";
    #[cfg(target_endian = "little")]
    const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        \x20 99: 00000000000000000000000000000000:1FBD 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1 2 0000000000000000 100\n\
        \x20 98: 00000000000000000000000001000000:1FBD 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 2 2 0000000000000000 3000\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn a_servers_drops_are_those_of_every_socket_that_serves_it() {
        let mut sockets = parse_udp_sockets(UDP);
        assert_eq!(sockets.len(), 4);
        assert_eq!(
            sockets[0],
            HostSocket { local: "127.0.0.1:8125".parse().unwrap(), connected: false, drops: 17 }
        );
        let local = "127.0.0.1:8125".parse().unwrap();
        // Its own and the wildcard's; neither the connected one nor another address's.
        assert_eq!(drops_at(&sockets, local), Some(21));
        assert_eq!(drops_at(&sockets, "127.0.0.1:8126".parse().unwrap()), None);
        assert_eq!(drops_at(&sockets, "[::1]:8125".parse().unwrap()), None);
        sockets.extend(parse_udp_sockets(UDP6));
        assert_eq!(drops_at(&sockets, local), Some(121));
        assert_eq!(drops_at(&sockets, "[::1]:8125".parse().unwrap()), Some(3100));
    }

    #[test]
    fn this_kernel_is_understood() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(drops_at(&udp_sockets(), address), Some(0), "{address}");
        assert!(udp_errors().is_some());
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100 << 10));
        let process = process();
        assert!(process.cpu_s > Some(0.0) && process.virtual_bytes > resident_bytes());
        assert!(
            process.threads > Some(0)
                && process.open_files > Some(2)
                && process.files_max >= process.open_files
        );
        assert!(name().is_none_or(|name| !name.contains('\n')));
        assert!(is_on_this_host(address.ip()).unwrap() && is_on_this_host("::1".parse().unwrap()).unwrap());
        // 192.0.2.0/24 is for documentation: no host has it.
        for elsewhere in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_on_this_host(elsewhere.parse().unwrap()).unwrap(), "{elsewhere}");
        }
        assert!(!is_its_own_source("192.0.2.1".parse().unwrap()).unwrap());
        assert!(is_its_own_source(address.ip()).unwrap());
        assert_eq!(binds_any_address(address.ip()), UdpSocket::bind("192.0.2.1:0").is_ok());
    }
}
