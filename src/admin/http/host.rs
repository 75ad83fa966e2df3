//! Validates the `Host` header: a foreign web page may have its own name resolve to this host (DNS rebinding), and
//! could then read the replies. Pure.
//!
//! In: the value of `Host`. Out: whether the request is answered. Next: `connection.rs`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether the request means this host: by an address, by `localhost`, or by a name that `is_own_name` knows. A port may
/// follow; it is ignored, since ports may be mapped.
pub fn is_this_host(host: &str, is_own_name: impl Fn(&str) -> bool) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let (address, zone) = address.split_once('%').unwrap_or((address, ""));
        return address.parse::<Ipv6Addr>().is_ok()
            && is_zone(zone)
            && port.strip_prefix(':').map_or(port.is_empty(), is_port);
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (!name.is_empty() && is_own_name(name))
}

/// Which of this host's links an address belongs to, as RFC 6874 writes it: `25eth0` behind the percent sign.
fn is_zone(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte))
}

/// Digits, or none at all, as RFC 3986 has it.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_own(name: &str) -> bool {
        name.eq_ignore_ascii_case("proxy.example")
    }

    #[test]
    fn addresses_localhost_and_own_names_are_this_host() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8126",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:8126",
            "[fe80::1%25eth0]:1",
            "localhost",
            "LocalHost:8126",
            "localhost.:1",
            "localhost:",
            "proxy.example",
            "PROXY.example.:8126",
        ] {
            assert!(is_this_host(host, is_own), "{host}");
        }
    }

    #[test]
    fn other_names_and_invalid_ones_are_not() {
        for host in [
            "",
            ":8126",
            "evil.example",
            "evil.example:8126",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "proxy.example.evil",
            "[::1",
            "[::1]x",
            "[::1%a b]",
            "[::%t: [::1]%1]",
            "[::1]:x",
            "[evil]",
            "[]",
            "127.0.0.1:x",
            "127.0.0.1:8126:1",
            "127.0.0.1:123456",
            "127.1",
            "a b",
            " localhost",
            "localhost:80@evil.example",
        ] {
            assert!(!is_this_host(host, is_own), "{host}");
        }
    }
}
