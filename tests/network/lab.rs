//! Network namespaces for one test: named, joined by veth pairs, removed at its end, also when it panics.
//!
//! In: a test's body. Out: the body runs in a thread whose network is the namespace `proxy`, so that the helpers of
//! `tests/process` work there as they are: ports are free, and 127.0.0.1 is that namespace's own. Other hosts are further
//! namespaces; [`Namespace::within`] opens their sockets.

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

/// How the names of all labs' namespaces begin; the process's id and a number follow.
const PREFIX: &str = "statsring-test";

/// The namespaces of one test.
pub struct Lab {
    /// How the names of this lab's namespaces begin.
    prefix: String,
    made: RefCell<Vec<String>>,
    /// For files that are put in place of those in /etc.
    folder: PathBuf,
}

/// One network namespace: a host of its own.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name for `ip netns`.
    pub name: String,
}

/// An address whose packets are rewritten, by conntrack, so each flow keeps the pod that it began with.
pub struct Service {
    host: Namespace,
    ip: String,
}

/// Runs `test` in the namespace `proxy` of a new lab. Without root's rights the test is skipped.
pub fn in_lab(test: impl FnOnce(&Lab) + Send) {
    if !is_privileged() {
        return skip("network namespaces need root");
    }
    let lab = Lab::new();
    let proxy = lab.host("proxy");
    // `lab` lives in this thread: it is dropped when the body has ended, in whatever way.
    let lab = std::sync::Mutex::new(lab);
    proxy.within(|| test(&lab.lock().unwrap()));
}

/// The same once with each engine, each time in a new lab; `test` also gets what belongs into the config.
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
        // Not the name of a config's folder, which is as the prefix.
        let folder = std::env::temp_dir().join(format!("{prefix}-lab"));
        std::fs::create_dir_all(&folder).unwrap();
        Lab { prefix, made: RefCell::default(), folder }
    }

    /// A new namespace, with its loopback up. IPv6 addresses can be used as soon as they are added.
    pub fn host(&self, name: &str) -> Namespace {
        let host = Namespace { name: format!("{}-{name}", self.prefix) };
        run("ip", &["netns", "add", &host.name]);
        self.made.borrow_mut().push(host.name.clone());
        host.ip("link set lo up");
        for scope in ["all", "default"] {
            // Absent where IPv6 is switched off.
            let path = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
            host.within(|| drop(std::fs::write(path, "0")));
        }
        host
    }

    /// The namespace that the test's body runs in, which is the proxy's.
    pub fn proxy(&self) -> Namespace {
        Namespace { name: format!("{}-proxy", self.prefix) }
    }

    /// Joins two hosts by a cable, each end named, with an address and its prefix length; both are up.
    pub fn join(&self, (one, device, address): (&Namespace, &str, &str), other: (&Namespace, &str, &str)) {
        let (peer, peer_device, peer_address) = other;
        one.ip(&format!("link add {device} type veth peer name {peer_device} netns {}", peer.name));
        for (host, device, address) in [(one, device, address), (peer, peer_device, peer_address)] {
            host.ip(&format!("link set {device} up"));
            // Even where duplicates are not looked for, an IPv6 address is tentative for a moment without this.
            let family = if address.contains(':') { " nodad" } else { "" };
            host.ip(&format!("address add {address} dev {device}{family}"));
        }
    }

    /// A service address as kube-proxy makes it, for processes in the proxy's namespace: an address that no host has, whose
    /// packets are rewritten to a pod's.
    pub fn service(&self, ip: &str) -> Service {
        let host = self.proxy();
        host.shell("nft add table ip service");
        host.shell("nft 'add chain ip service output { type nat hook output priority -100; }'");
        host.ip(&format!("route replace {ip} dev lo"));
        Service { host, ip: ip.to_owned() }
    }

    /// A file that can take the place of one in /etc, and be written again later.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the proxy with `files` (where it lies, what it is seen as) bound over others for this process only.
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
                eprintln!("the namespace {name} could not be removed");
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Namespace {
    /// `ip -n NAME` with these arguments, separated by spaces; panics with its message if it fails.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Runs a shell command inside; its standard output. Panics if it fails.
    #[track_caller]
    pub fn shell(&self, command: &str) -> String {
        run("ip", &["netns", "exec", &self.name, "sh", "-c", command])
    }

    /// Runs `act` in a thread whose network is this namespace. Sockets opened there, processes and threads started there
    /// stay there.
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
    /// Flows that begin from now on go to the pod at this address, at the same ports.
    pub fn lead_to(&self, pod: &str) {
        let Service { host, ip } = self;
        host.shell(&format!(
            "printf 'flush chain ip service output\nadd rule ip service output ip daddr {ip} dnat to {pod}\n' | nft -f -"
        ));
    }
}

/// Removes namespaces of test processes that were killed.
fn remove_orphans() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

/// Runs a program to its end; its standard output. Panics with its message if it fails.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {message}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
