//! Network namespaces for one test, joined by veth pairs, removed at its end, even if it panics.
//!
//! In: the body of a test. Out: the body runs in a thread in the namespace `proxy`, so that the helpers of `tests/process` work
//! unmodified: ports are free, and 127.0.0.1 is that namespace's own. Other hosts are further namespaces;
//! [`Namespace::within`] opens their sockets.

use crate::proxy::{PROGRAM, Proxy};
use crate::skip::{is_privileged, skip};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Prefix of all namespace names, followed by the PID and a number.
const PREFIX: &str = "statsring-test";

/// The namespaces of one test.
pub struct Lab {
    /// Prefix of the names of this lab.
    prefix: String,
    made: RefCell<Vec<String>>,
    /// Directory of files mounted over those in /etc.
    folder: PathBuf,
}

/// A network namespace, which represents a host.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// The name for `ip netns`.
    pub name: String,
}

/// An address whose packets are rewritten by conntrack: each flow keeps its initial pod.
pub struct Service {
    host: Namespace,
    ip: String,
}

/// Runs `test` in the namespace `proxy` of a new lab. Skipped without root.
pub fn in_lab(test: impl FnOnce(&Lab) + Send) {
    if !is_privileged() {
        return skip("network namespaces need root");
    }
    let lab = Lab::new();
    let proxy = lab.host("proxy");
    // Owned by this thread: dropped whenever the body ends.
    let lab = std::sync::Mutex::new(lab);
    proxy.within(|| test(&lab.lock().unwrap()));
}

/// Runs `test` once per engine, each time in a new lab, with the config keys that select it.
pub fn with_each_engine(test: impl Fn(&Lab, Value) + Sync) {
    for engine in ["io_uring", "portable"] {
        in_lab(|lab| test(lab, json!({"engine": engine})));
    }
}

impl Lab {
    fn new() -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_orphans);
        let prefix = format!("{PREFIX}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Differs from the name of a config's folder, which begins with the prefix.
        let folder = std::env::temp_dir().join(format!("{prefix}-lab"));
        std::fs::create_dir_all(&folder).unwrap();
        Lab { prefix, made: RefCell::default(), folder }
    }

    /// A new namespace with loopback up. IPv6 addresses are usable as soon as they are added.
    pub fn host(&self, name: &str) -> Namespace {
        let host = Namespace { name: format!("{}-{name}", self.prefix) };
        run("ip", &["netns", "add", &host.name]);
        self.made.borrow_mut().push(host.name.clone());
        host.ip("link set lo up");
        for scope in ["all", "default"] {
            // Absent if IPv6 is disabled.
            let path = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
            host.within(|| drop(std::fs::write(path, "0")));
        }
        host
    }

    /// The namespace of the test's body and of the proxy.
    pub fn proxy(&self) -> Namespace {
        Namespace { name: format!("{}-proxy", self.prefix) }
    }

    /// Joins two hosts by a veth pair; each end has a device name, and an address with prefix length.
    pub fn join(&self, (one, device, address): (&Namespace, &str, &str), other: (&Namespace, &str, &str)) {
        let (peer, peer_device, peer_address) = other;
        one.ip(&format!("link add {device} type veth peer name {peer_device} netns {}", peer.name));
        for (host, device, address) in [(one, device, address), (peer, peer_device, peer_address)] {
            host.ip(&format!("link set {device} up"));
            // Without nodad an IPv6 address is tentative at first, even where duplicate detection is off.
            let family = if address.contains(':') { " nodad" } else { "" };
            host.ip(&format!("address add {address} dev {device}{family}"));
        }
    }

    /// A service address like kube-proxy's, for processes in the proxy's namespace: no host has it, and packets to it are
    /// rewritten to a pod.
    pub fn service(&self, ip: &str) -> Service {
        let host = self.proxy();
        host.shell("nft add table ip service");
        host.shell("nft 'add chain ip service output { type nat hook output priority -100; }'");
        host.ip(&format!("route replace {ip} dev lo"));
        Service { host, ip: ip.to_owned() }
    }

    /// A file to be mounted over one in /etc; it can be rewritten later.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the proxy with `files` (source, target) bind-mounted for this process only.
    pub fn start_with_files(&self, config: Value, files: &[(&Path, &str)]) -> Proxy {
        let mounts = files.iter().map(|(file, place)| format!("mount --bind {} {place} && ", file.display()));
        let script = mounts.collect::<String>() + "exec \"$@\"";
        Proxy::start_by(config, |path| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script, "sh", PROGRAM, "-f"]).arg(path);
            command
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.made.borrow().iter() {
            let removed = Command::new("ip").args(["netns", "delete", name]).stdin(Stdio::null()).output();
            if !removed.is_ok_and(|output| output.status.success()) {
                eprintln!("failed to remove namespace {name}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Namespace {
    /// Runs `ip -n NAME` with these arguments, separated by spaces. Panics on failure.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Runs a shell command in the namespace; returns its stdout. Panics on failure.
    #[track_caller]
    pub fn shell(&self, command: &str) -> String {
        run("ip", &["netns", "exec", &self.name, "sh", "-c", command])
    }

    /// Runs `act` in a thread in this namespace. Sockets, processes and threads created there stay there.
    #[track_caller]
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(test).spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            thread.unwrap().join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Service {
    /// Redirects new flows to the pod at this address, with unchanged ports.
    pub fn lead_to(&self, pod: &str) {
        let Service { host, ip } = self;
        host.shell(&format!(
            "printf 'flush chain ip service output\nadd rule ip service output ip daddr {ip} dnat to {pod}\n' | nft -f -"
        ));
    }
}

/// Removes namespaces of killed test processes.
fn remove_orphans() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

/// Runs a program; returns its stdout. Panics with its stderr on failure.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {message}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
