//! Hosts: validation, and the addresses of a listening host.
//!
//! In: a string of the file. Out: the host in its plain form, or an error. Next: `validate.rs`.

use super::json::quoted;
use crate::lookup;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest name in DNS.
const NAME_BYTES_MAX: usize = 253;
/// Every address of this host, in both families.
pub(super) const EVERY: &str = "*";
/// The loopback addresses of both families.
pub(super) const LOOPBACK: &str = "localhost";

/// The host without brackets, if it is a name or an address; else the reason why not.
pub(super) fn plain(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = bare.unwrap_or(text);
    let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
    if address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_name_byte) {
        return Ok(host.to_owned());
    }
    let shown = quoted(text);
    if host.is_empty() {
        return Err(format!("{shown} is empty; expected a hostname or IP address"));
    }
    if bare.is_some() {
        return Err(format!("{shown} is not an IPv6 address; brackets are for IPv6 addresses only"));
    }
    if let Some((before, port)) = host.rsplit_once(':')
        && !before.is_empty()
        && port.parse::<u16>().is_ok()
    {
        return Err(format!("{shown} includes a port, which is a separate key"));
    }
    if host.len() > NAME_BYTES_MAX || !host.bytes().all(is_name_byte) {
        return Err(format!("{shown} is not a hostname or IP address"));
    }
    // The resolver would read 127.1 as 127.0.0.1, and 010.0.0.1 as 8.0.0.1: never intended.
    let like_an_address = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if like_an_address && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!("{shown} is not an IPv4 address (four numbers from 0 to 255)"));
    }
    Ok(host.to_owned())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// A backend's identity: `host:port`, IPv6 addresses in brackets.
pub(super) fn identity(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The host in the one form that equal hosts share, whatever their spelling.
pub(super) fn canonical(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// A listening host: its text, normalised, and the addresses to listen on, at most one of each family.
///
/// Names are resolved, which may take seconds.
pub(super) fn listening(text: &str, port: u16) -> Result<(String, Vec<SocketAddr>), String> {
    let both = |v4: Ipv4Addr, v6: Ipv6Addr| vec![SocketAddr::from((v4, port)), SocketAddr::from((v6, port))];
    // An empty host meant every address in go-statsd-proxy.
    if text.is_empty() || text == EVERY {
        return Ok((EVERY.to_owned(), both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)));
    }
    if text.eq_ignore_ascii_case(LOOPBACK) {
        return Ok((LOOPBACK.to_owned(), both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)));
    }
    let host = plain(text)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok((address.to_string(), vec![SocketAddr::from((address, port))]));
    }
    let resolved = lookup::addresses(&host, port)
        .map_err(|error| format!("{} does not resolve ({error})", quoted(text)))?;
    let v4 = resolved.iter().find(|address| address.is_ipv4());
    let v6 = resolved.iter().find(|address| address.is_ipv6());
    let addresses = v4.into_iter().chain(v6).copied().collect();
    Ok((host, addresses))
}

/// Whether packets for a backend would loop to one of the listening addresses.
///
/// Detected for addresses and `localhost`; a name only when it is resolved.
pub(super) fn leads_back(host: &str, port: u16, listen: &[SocketAddr]) -> bool {
    let targets: Vec<IpAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![address.to_canonical()],
        Err(_) if host.eq_ignore_ascii_case(LOOPBACK) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => Vec::new(),
    };
    listen.iter().filter(|address| address.port() == port).any(|address| {
        targets.iter().any(|target| {
            let to_this_host = target.is_loopback() || target.is_unspecified();
            let same_family = target.is_ipv4() == address.is_ipv4();
            *target == address.ip() || (address.ip().is_unspecified() && same_family && to_this_host)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_hosts() {
        for host in
            ["127.0.0.1", "statsd-1.example.org", "a_b", "::1", "fe80::1%eth0", "localhost.", "1e100.net"]
        {
            assert_eq!(plain(host).as_deref(), Ok(host));
        }
        assert_eq!(plain("[2001:db8::1]").as_deref(), Ok("2001:db8::1"));
    }

    #[test]
    fn an_invalid_host_is_explained() {
        for (host, reason) in [
            ("", "is empty"),
            ("[]", "is empty"),
            ("127.0.0.1:8125", "includes a port"),
            ("statsd:8125", "includes a port"),
            ("[::1]:8125", "includes a port"),
            ("[statsd]", "brackets are for IPv6 addresses only"),
            ("http://statsd", "not a hostname or IP address"),
            ("a b", "not a hostname"),
            ("a\nb", r#""a\nb" is not a hostname"#),
            ("fe80::1%", "not a hostname"),
            ("256.1.1.1", "not an IPv4 address"),
            ("127.1", "not an IPv4 address"),
            ("010.0.0.1", "not an IPv4 address"),
            (&"a".repeat(254), "not a hostname"),
        ] {
            let error = plain(host).unwrap_err();
            assert!(error.contains(reason), "{host:?}: {error}");
        }
    }

    #[test]
    fn listening_hosts_mean_addresses() {
        let addresses = |text| {
            listening(text, 9)
                .map(|(host, list)| (host, list.iter().map(|a| a.to_string()).collect::<Vec<_>>()))
        };
        let both = vec!["0.0.0.0:9".to_owned(), "[::]:9".to_owned()];
        assert_eq!(addresses("*"), Ok(("*".to_owned(), both.clone())));
        assert_eq!(addresses(""), Ok(("*".to_owned(), both)));
        assert_eq!(
            addresses("LocalHost"),
            Ok(("localhost".to_owned(), vec!["127.0.0.1:9".to_owned(), "[::1]:9".to_owned()]))
        );
        assert_eq!(addresses("[::]"), Ok(("::".to_owned(), vec!["[::]:9".to_owned()])));
        assert_eq!(
            addresses("::ffff:127.0.0.1"),
            Ok(("127.0.0.1".to_owned(), vec!["127.0.0.1:9".to_owned()]))
        );
        // Reserved by RFC 6761: it never resolves.
        assert!(addresses("nowhere.invalid").unwrap_err().contains("does not resolve"));
    }

    #[test]
    fn a_loop_is_seen() {
        let every = [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8125)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8125)),
        ];
        for host in ["127.0.0.1", "localhost", "::1", "127.9.9.9", "0.0.0.0", "::"] {
            assert!(leads_back(host, 8125, &every), "{host}");
            assert!(!leads_back(host, 8126, &every), "{host}");
        }
        for host in ["192.0.2.1", "statsd", "2001:db8::1"] {
            assert!(!leads_back(host, 8125, &every), "{host}");
        }
        assert!(!leads_back("::1", 8125, &every[..1]));
        assert!(leads_back("192.0.2.1", 8125, &[SocketAddr::from(([192, 0, 2, 1], 8125))]));
    }

    #[test]
    fn equal_hosts_have_one_form() {
        assert_eq!(canonical("0:0::1"), canonical("::1"));
        assert_eq!(canonical("StatsD.example."), canonical("statsd.example"));
        assert_eq!(canonical("::ffff:10.0.0.1"), canonical("10.0.0.1"));
        assert_eq!(identity("::1", 5), "[::1]:5");
    }
}
