//! The effective config as JSON, and which keys of two configs differ.
//!
//! In: [`Config`]. Out: an object with every key in the file's spelling, which reads back to the same config.
//! Next: `--check`, the admin command `config`, and reload.

use super::keys::{self, KEY_NAMES, name_of};
use super::{Config, PinWorkers};
use serde_json::{Value, json};

impl Config {
    /// Every key with its effective value; parsing it gives this config again.
    ///
    /// `workers` stays `"auto"` where it was, so that the text also fits another machine.
    pub fn to_json(&self) -> Value {
        let port = |addresses: &[std::net::SocketAddr]| addresses.first().map(|address| address.port());
        json!({
            "host": self.host,
            "port": port(&self.listen),
            "freebind": self.freebind,
            "managementHost": self.management_host,
            "managementPort": port(&self.management),
            "managementNames": self.management_names,
            "managementAllowChanges": self.management_allow_changes,
            "managementDialect": self.management_dialect.name(),
            "nodes": self.shards.iter().map(|index| self.node_to_json(*index)).collect::<Vec<Value>>(),
            "addressFamily": self.address_family.name(),
            "hashing": self.hashing.name(),
            "onNodeDown": name_of(&keys::ON_NODE_DOWN, &self.on_node_down),
            "readyWithoutBackends": self.ready_without_backends,
            "checkInterval": self.check.interval_ms,
            "checkTimeout": self.check.timeout_ms,
            "checkFast": self.check.fast_ms,
            "checkFall": self.check.fall,
            "checkRise": self.check.rise,
            "engine": name_of(&keys::ENGINES, &self.engine),
            "workers": if self.workers_auto { json!("auto") } else { json!(self.workers) },
            "pinWorkers": match &self.pin_workers {
                PinWorkers::Off => json!(false),
                PinWorkers::Auto => json!(true),
                PinWorkers::Cpus(cpus) => json!(cpus),
            },
            "spread": self.spread.name(),
            "flushInterval": us_to_ms(self.flush_us),
            "maxPacketSize": if self.packet_auto { json!("auto") } else { json!(self.packet_bytes_max) },
            "maxDatagramSize": self.datagram_bytes_max,
            "receiveBuffer": self.receive_buffer_bytes,
            "sendBuffer": self.send_buffer_bytes,
            "queue": self.queue_bytes_max,
            "reopenInterval": self.reopen_ms,
            "cacheSize": self.cache_entries,
            "malformed": name_of(&keys::MALFORMED, &self.malformed),
            "gso": name_of(&keys::GSO, &self.gso),
            "gro": self.gro,
            "timestamps": self.timestamps,
            "shutdownDelay": self.shutdown_delay_ms,
            "shutdownTimeout": self.shutdown_timeout_ms,
            "handoverTimeout": self.handover_timeout_ms,
            "logFormat": name_of(&keys::LOG_FORMATS, &self.log_format),
        })
    }

    fn node_to_json(&self, index: u16) -> Value {
        let Some(node) = self.nodes.get(usize::from(index)) else { return Value::Null };
        let mut json = json!({
            "host": node.host,
            "port": node.port,
            "adminport": node.adminport,
            "weight": node.weight,
            "disabled": node.disabled,
            "gso": name_of(&keys::GSO, &node.gso),
        });
        if let Some(object) = json.as_object_mut()
            && !self.hashing.has_weights()
        {
            object.shift_remove("weight");
        }
        json
    }

    /// The keys whose values differ between two configs.
    pub fn changed_keys(&self, other: &Config) -> Vec<&'static str> {
        let (mine, theirs) = (self.to_json(), other.to_json());
        KEY_NAMES.into_iter().filter(|key| mine.get(key) != theirs.get(key)).collect()
    }

    /// Of [`Config::changed_keys`], those that a reload cannot change.
    pub fn changed_fixed_keys(&self, other: &Config) -> Vec<&'static str> {
        let mut changed = self.changed_keys(other);
        changed.retain(|key| !keys::is_reloadable(key));
        changed
    }
}

/// Whole milliseconds as a whole number, else with a fraction.
fn us_to_ms(us: u64) -> Value {
    if us.is_multiple_of(1_000) { json!(us / 1_000) } else { json!(us as f64 / 1_000.0) }
}
