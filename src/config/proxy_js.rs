//! The keys of StatsD's `proxy.js`, with the meaning in its code, which sometimes differs from its comments and docs.
//!
//! In: a file's entries. Out: a [`RawConfig`] with the behavior of `proxy.js`: its placement, its health checks (one result
//! decides), its addresses, its admin dialect. A file may also have statsring's own keys if it sets `hashing`;
//! `proxy.js` ignores unknown keys. Source, read for its behaviour: `proxy.js`, `lib/config.js`,
//! `lib/mgmt_server.js` and `servers/udp.js` of StatsD 0.9.0. Next: `validate.rs`.

use super::fields::{Dialect, Field, Fields};
use super::host;
use super::json::{Json, quoted};
use super::keys::{KEY_NAMES, Known, NODE_KEY_NAMES, PROXY_JS_KEYS};
use super::positions::{PLACE_END, Place};
use super::raw::RawConfig;
use super::report::Report;
use super::{AddressFamily, AdminDialect};
use crate::placement::Hashing;
use crate::relay::Malformed;
use std::net::Ipv6Addr;

/// The keys that it shares with statsring's own format.
pub(super) const SHARED_KEYS: [&str; 5] = ["nodes", "host", "port", "checkInterval", "cacheSize"];
/// The keys that a node has in both formats.
const SHARED_NODE_KEYS: [&str; 3] = ["host", "port", "adminport"];
/// Pairs of equivalent keys.
const RIVALS: [(&str, &str); 3] =
    [("mgmt_port", "managementPort"), ("mgmt_address", "managementHost"), ("forkCount", "workers")];
/// Where `proxy.js` writes `config.key || default`.
const WITH_DEFAULTS: [&str; 8] =
    ["port", "address", "mgmt_port", "mgmt_address", "cacheSize", "checkInterval", "server", "forkCount"];
const CHECK_INTERVAL_MS_DEFAULT: u64 = 10_000;
/// Sorts after everything in the file: for missing keys.
const NOWHERE: Place = [PLACE_END; 3];

/// The keys of a file that only `proxy.js` has, in its order.
pub(super) fn own_keys(object: &[(String, Json)]) -> Vec<&'static str> {
    let known = |key: &str| PROXY_JS_KEYS.into_iter().find(|known| *known == key);
    let mut keys: Vec<&'static str> = object.iter().filter_map(|(key, _)| known(key)).collect();
    keys.dedup();
    keys
}

/// Reads a file's keys; errors go to `report`.
pub(super) fn read(object: Vec<(String, Json)>, report: &mut Report) -> RawConfig {
    let mixed = first_of_statsrings(&object);
    let proxy_js = own_keys(&object).first().copied().unwrap_or_default();
    let place = |position| [position, 0, 0];
    let mut fields =
        Fields::new(Dialect::ProxyJs, String::new(), object, Known::PROXY_JS_FILE, place, report);
    if let Some((place, key)) = mixed.filter(|_| fields.place("hashing").is_none()) {
        fields.wrong::<()>(
            place,
            &key,
            format!(
                "is a statsring key and {proxy_js} is a proxy.js key, so the placement is ambiguous: set \"hashing\" to \
                 \"hashring-3\" (as proxy.js of StatsD 0.8 and later) or \"jump\" (the default of statsring configs)"
            ),
        );
    }
    for (theirs, ours) in RIVALS {
        if let (Some(place), Some(_)) = (fields.place(theirs), fields.place(ours)) {
            fields.wrong::<()>(
                place,
                theirs,
                format!("is equivalent to {ours}, which is given too; remove one"),
            );
        }
    }
    fields.drop_falsy(&WITH_DEFAULTS);
    note_idle_keys(&mut fields);
    read_server(&mut fields);
    let is_v6 = fields.take("address_ipv6").is_some_and(|(_, value)| value.is_truthy());
    let listening = read_listening(&mut fields, is_v6);
    let management = fields.text("mgmt_address");
    note_open_admin_port(&management, &mut fields);
    let management_port = fields.whole("mgmt_port");
    let workers = read_workers(&mut fields);
    let raw = RawConfig::of(&mut fields);
    #[cfg(test)]
    assert!(fields.left().is_empty(), "known but not read: {:?}", fields.left());
    implied(RawConfig {
        host: listening,
        management_host: given_or(every_if_v6(management), raw.management_host),
        management_port: given_or(management_port, raw.management_port),
        workers: given_or(workers, raw.workers),
        host_keys: ["address", "mgmt_address"],
        may_double_nodes: true,
        // It sends from one socket of Node's, `udp4` or `udp6`, which resolves names in its family only.
        address_family: or_implied(
            raw.address_family,
            if is_v6 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 },
        ),
        ..raw
    })
}

/// The first key that `proxy.js` does not have and statsring has, of the file or of a node, with its place.
fn first_of_statsrings(object: &[(String, Json)]) -> Option<(Place, String)> {
    for (top, (key, value)) in object.iter().enumerate() {
        let is_own = KEY_NAMES.contains(&key.as_str()) && !SHARED_KEYS.contains(&key.as_str());
        if is_own && key != "hashing" {
            return Some(([top, 0, 0], key.clone()));
        }
        let Json::List(nodes) = value else { continue };
        for (index, node) in nodes.iter().enumerate() {
            let Json::Object(entries) = node else { continue };
            let own = entries.iter().position(|(key, _)| {
                NODE_KEY_NAMES.contains(&key.as_str()) && !SHARED_NODE_KEYS.contains(&key.as_str())
            });
            if let Some(position) = own.filter(|_| key == "nodes") {
                let key = format!("nodes[{index}].{}", entries[position].0);
                return Some(([top, index + 1, position + 1], key));
            }
        }
    }
    None
}

/// Defaults of this format.
fn implied(raw: RawConfig) -> RawConfig {
    let interval_ms = match raw.check_interval_ms {
        Field::Given(_, ms) => ms,
        Field::Absent | Field::Wrong => CHECK_INTERVAL_MS_DEFAULT,
    };
    RawConfig {
        management_host: or_implied(raw.management_host, host::EVERY.to_owned()),
        management_dialect: or_implied(raw.management_dialect, AdminDialect::ProxyJs),
        hashing: or_implied(raw.hashing, Hashing::Hashring3),
        malformed: or_implied(raw.malformed, Malformed::Forward),
        check_timeout_ms: or_implied(raw.check_timeout_ms, interval_ms),
        check_fall: or_implied(raw.check_fall, 1),
        check_rise: or_implied(raw.check_rise, 1),
        workers: or_implied(raw.workers, Some(1)),
        ..raw
    }
}

fn or_implied<T>(slot: Field<T>, value: T) -> Field<T> {
    match slot {
        Field::Absent => Field::Given(NOWHERE, value),
        slot => slot,
    }
}

fn given_or<T>(theirs: Field<T>, ours: Field<T>) -> Field<T> {
    match theirs {
        Field::Absent => ours,
        theirs => theirs,
    }
}

/// The listening address. `proxy.js` listens in one family, but Node's `::` accepts IPv4 too.
fn read_listening(fields: &mut Fields<'_>, is_v6: bool) -> Field<String> {
    match fields.text("address") {
        Field::Absent if is_v6 => Field::Given(NOWHERE, host::EVERY.to_owned()),
        Field::Absent => Field::Given(NOWHERE, "0.0.0.0".to_owned()),
        address => every_if_v6(address),
    }
}

/// `::` as in Node: every address of both families.
fn every_if_v6(address: Field<String>) -> Field<String> {
    match address {
        Field::Given(place, text) if text.parse() == Ok(Ipv6Addr::UNSPECIFIED) => {
            Field::Given(place, host::EVERY.to_owned())
        }
        address => address,
    }
}

fn read_workers(fields: &mut Fields<'_>) -> Field<Option<u64>> {
    match fields.whole_or_auto("forkCount") {
        Field::Given(place, Some(forks)) => Field::Given(place, Some(forks.max(1))),
        slot => slot,
    }
}

/// The server that `proxy.js` would load: the one for UDP, or an unsupported one.
fn read_server(fields: &mut Fields<'_>) {
    let Field::Given(place, server) = fields.text("server") else { return };
    let name = server.strip_suffix(".js").unwrap_or(&server);
    let name = name.rsplit_once("servers/").map_or(name, |(_, name)| name);
    let reason = match name {
        "udp" => return,
        "tcp" => {
            "receives metrics over TCP, which is not supported: send UDP from the clients, and omit server"
        }
        _ => "is a custom server (code), which is not supported: only './servers/udp' is",
    };
    fields.wrong::<()>(place, "server", format!("{} {reason}", quoted(&server)));
}

/// Reports keys without effect, with the alternative.
fn note_idle_keys(fields: &mut Fields<'_>) {
    const NOR_THERE: &str = "as in proxy.js";
    for key in ["udp_version", "healthStatus"] {
        if fields.take(key).is_some() {
            fields.report.idle(key.to_owned(), NOR_THERE);
        }
    }
    if fields.take("host").is_some() {
        let reason = "as in proxy.js since StatsD 0.8: set address, or omit it to listen on all addresses";
        fields.report.idle("host".to_owned(), reason);
    }
    if fields.take("log").is_some() {
        fields.report.idle("log".to_owned(), "logs go to stderr; see logFormat");
    }
    if fields.take("automaticConfigReload").is_some_and(|(_, value)| value.is_truthy()) {
        let reason = "proxy.js never applied a changed file to its ring; to reload, use SIGHUP or the admin command reload";
        fields.report.idle("automaticConfigReload".to_owned(), reason);
    }
}

/// The admin port of `proxy.js` is open to all hosts by default, and so is statsring's; but not for changes.
fn note_open_admin_port(address: &Field<String>, fields: &mut Fields<'_>) {
    let is_local = match address {
        Field::Given(_, text) => ["127.0.0.1", "localhost", "::1"].contains(&text.as_str()),
        Field::Absent => fields.place("managementHost").is_some(),
        Field::Wrong => true,
    };
    if !is_local && fields.place("managementAllowChanges").is_none() {
        fields.report.notice(
            "the admin port listens on all addresses, as that of proxy.js does, but accepts commands that change something \
             (such as health down) from this host only; set mgmt_address: 'localhost' to listen on this host only, or \
             managementAllowChanges: true and hashing: 'hashring-3' to accept such commands from any host"
                .to_owned(),
        );
    }
}
