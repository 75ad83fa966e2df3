//! Hostnames → addresses without the system's resolver, for static builds: `/etc/hosts` first, then the name servers of
//! `/etc/resolv.conf`, by the crate `hickory-resolver`. Other sources of `/etc/nsswitch.conf` are not asked.
//!
//! In: a host and a port. Out: addresses, those first to which this host has a way. Next: `mod.rs`.
//!
//! Both files are re-read for each lookup, so that changes apply immediately.

use super::reachable::is_reachable;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use nix::net::if_::if_nametoindex;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

const HOSTS_FILE: &str = "/etc/hosts";
const SERVERS_FILE: &str = "/etc/resolv.conf";

/// The addresses of `host`, the preferred one first.
pub(super) fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = literal(host, port) {
        return Ok(vec![address?]);
    }
    let listed = Hosts::from_system().map(|hosts| listed(&hosts, host)).unwrap_or_default();
    let found = if listed.is_empty() { Servers::of_this_host().ask(host)? } else { listed };
    let mut found: Vec<SocketAddr> = found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    found.sort_by_key(|address| (!is_reachable(*address), address.is_ipv4()));
    found.dedup();
    Ok(found)
}

/// The address that `host` is, if it is one: with an interface after `%` if need be, as link-local addresses have it.
fn literal(host: &str, port: u16) -> Option<io::Result<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Ok(SocketAddr::new(ip, port)));
    }
    let (ip, zone) = host.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let index = zone.parse::<u32>().or_else(|_| if_nametoindex(zone));
    let index =
        index.map_err(|error| io::Error::new(ErrorKind::NotFound, format!("interface {zone}: {error}")));
    Some(index.map(|index| SocketAddrV6::new(ip, port, 0, index).into()))
}

/// The entries of the hosts file for a name. If there are any, no name server is queried, not for the other family either.
fn listed(hosts: &Hosts, host: &str) -> Vec<IpAddr> {
    let Ok(name) = Name::from_str_relaxed(host.to_ascii_lowercase()) else { return Vec::new() };
    [RecordType::AAAA, RecordType::A]
        .into_iter()
        .filter_map(|family| hosts.lookup_static_host(&Query::query(name.clone(), family)))
        .flat_map(|lookup| {
            lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        })
        .collect()
}

/// The name servers, and how they are asked.
struct Servers {
    config: ResolverConfig,
    options: ResolverOpts,
    /// Why they are not those of the file.
    unread: Option<String>,
}

impl Servers {
    /// Those of the file; without one, a server on this host, as glibc has it.
    fn of_this_host() -> Servers {
        let read =
            std::fs::read(SERVERS_FILE).map_err(NetError::from).and_then(system_conf::parse_resolv_conf);
        match read {
            Ok((config, options)) => Servers { config, options, unread: None },
            Err(error) => {
                let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
                Servers { config, options: ResolverOpts::default(), unread: Some(error.to_string()) }
            }
        }
    }

    /// Asks for both families.
    fn ask(mut self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        // They have been looked at, and one family's silence there must not lead to a server.
        self.options.use_hosts_file = ResolveHosts::Never;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            let config = self.config.clone();
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(self.options.clone()).build()?.lookup_ip(host).await
        });
        answer.map(|found| found.iter().collect()).map_err(|error| self.explain(&error))
    }

    /// The error for the operator: the name servers and their answer.
    fn explain(&self, error: &NetError) -> io::Error {
        let servers: Vec<String> =
            self.config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        let servers = servers.join(", ");
        let (kind, what) = match error {
            _ if error.is_nx_domain() => (ErrorKind::NotFound, "no such name".to_owned()),
            _ if error.is_no_records_found() => (ErrorKind::NotFound, "the name has no address".to_owned()),
            NetError::Timeout => (ErrorKind::TimedOut, "no answer".to_owned()),
            _ => (ErrorKind::Other, error.to_string()),
        };
        let unread = self.unread.as_ref().map(|why| format!("; {SERVERS_FILE}: {why}")).unwrap_or_default();
        io::Error::new(kind, format!("not in {HOSTS_FILE}; name server {servers}: {what}{unread}"))
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
