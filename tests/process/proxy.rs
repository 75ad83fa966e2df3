//! The program under test as a child process: config, log, admin port, exit code.

#[path = "log.rs"]
mod log;

use crate::backend::Backend;
use crate::patience::{PATIENCE, wait_until};
use log::Log;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_statsring");
/// Attempts to start, in case a chosen port is taken meanwhile.
const STARTS: usize = 5;
/// Datagrams in flight to the proxy: fewer than fit into the smallest receive buffer.
const WINDOW: u64 = 64;

pub struct Proxy {
    child: Child,
    /// Processes that took over, in order.
    successors: Vec<i32>,
    pub config: ConfigFile,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    log: Log,
    sender: UdpSocket,
    /// Datagrams sent by [`Proxy::send`].
    sent: u64,
}

/// A config file in a temporary directory.
pub struct ConfigFile {
    folder: PathBuf,
    pub path: PathBuf,
    pub json: Value,
}

impl ConfigFile {
    pub fn new(json: Value) -> ConfigFile {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("statsring-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = ConfigFile { path: folder.join("config.json"), folder, json };
        file.write();
        file
    }

    pub fn write(&self) {
        self.write_text(&self.json.to_string());
    }

    pub fn write_text(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whether this binary tests the portable engine: the same files are compiled under another name.
pub fn is_portable() -> bool {
    env!("CARGO_CRATE_NAME").ends_with("_portable")
}

/// The nodes of a config for these backends.
pub fn nodes(backends: &[&Backend]) -> Value {
    backends
        .iter()
        .map(|backend| json!({"host": "127.0.0.1", "port": backend.port, "adminport": backend.adminport}))
        .collect()
}

/// A config for these backends with short check intervals and `extra` keys.
pub fn config(backends: &[&Backend], extra: Value) -> Value {
    let mut config = json!({
        "host": "127.0.0.1",
        "managementHost": "127.0.0.1",
        "nodes": nodes(backends),
        "workers": 1,
        "checkInterval": 2000,
        "checkTimeout": 2000,
        "checkFast": 100,
    });
    if is_portable() {
        config["engine"] = json!("portable");
    }
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A UDP and a TCP port that are free, outside the range from which the kernel takes ports for sockets that ask for none, such as
/// those of other tests: nothing else takes them before they are used. Another pair for each call.
pub fn free_ports() -> (u16, u16) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 20_000;
    loop {
        let number = NEXT.fetch_add(2, Ordering::Relaxed).wrapping_add(std::process::id() * 501);
        let [data, admin] = [0, 1].map(|port| (FIRST + (number + port) % PORTS) as u16);
        let is_free = UdpSocket::bind((Ipv4Addr::LOCALHOST, data)).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, admin)).is_ok();
        if is_free {
            return (data, admin);
        }
    }
}

/// Runs the program to completion.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Copies a program in a child process: if this process had it open for writing, a process forked by another test would have it
/// open too until its exec, and the kernel would refuse to execute it (ETXTBSY of execve(2)).
pub fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

impl Proxy {
    /// Starts the proxy and waits until it is ready.
    pub fn start(config: Value) -> Proxy {
        Proxy::start_with(config, &[])
    }

    pub fn start_with(config: Value, arguments: &[&str]) -> Proxy {
        Proxy::start_by(config, |path| {
            let mut command = Command::new(PROGRAM);
            command.arg("-f").arg(path).args(arguments);
            command
        })
    }

    /// Starts the proxy by a command built from the config's path; waits until it is ready.
    pub fn start_by(config: Value, command: impl Fn(&Path) -> Command) -> Proxy {
        for _ in 0..STARTS {
            let (port, admin_port) = free_ports();
            let mut config = config.clone();
            config["port"] = port.into();
            config["managementPort"] = admin_port.into();
            let config = ConfigFile::new(config);
            let command = command(&config.path);
            let mut proxy = Proxy::spawn(config, port, admin_port, command);
            match proxy.wait_until_ready() {
                None => return proxy,
                // Another process took the port before the start.
                Some(71) if proxy.log().contains("is in use") => {}
                Some(code) => panic!("the start failed with exit code {code}: {}", proxy.log()),
            }
        }
        panic!("no free ports in {STARTS} starts");
    }

    /// Returns the exit code if the process exits instead.
    pub fn wait_until_ready(&mut self) -> Option<i32> {
        let mut ended = None;
        wait_until("it is ready or has exited", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some() || self.logged("ready: ")
        });
        ended.and_then(|status| status.code())
    }

    /// Starts a command with this config at these ports; does not wait.
    pub fn spawn(config: ConfigFile, port: u16, admin_port: u16, command: Command) -> Proxy {
        Proxy::spawn_with(Log::new(), config, port, admin_port, command)
    }

    /// Starts a command whose log is not read, at arbitrary ports.
    pub fn spawn_stalled(config: ConfigFile, command: Command) -> Proxy {
        let (mut log, stderr) = Log::new();
        log.stall();
        Proxy::spawn_with((log, stderr), config, 0, 0, command)
    }

    fn spawn_with(
        (log, stderr): (Log, Stdio),
        config: ConfigFile,
        port: u16,
        admin_port: u16,
        mut command: Command,
    ) -> Proxy {
        command.stderr(stderr);
        if !command.get_envs().any(|(name, _)| name == "LISTEN_FDS") {
            command.stdin(Stdio::null());
        }
        let child = command.spawn().unwrap();
        // Closes the write end here, so that the log ends with the process.
        drop(command);
        Proxy {
            child,
            successors: Vec::new(),
            config,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port)),
            log,
            sender: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            sent: 0,
        }
    }

    /// The PID of the serving process, as last determined.
    pub fn pid(&self) -> i32 {
        self.successors.last().copied().unwrap_or(self.child.id() as i32)
    }

    /// Restarts it without loss and waits for completion.
    #[track_caller]
    pub fn restart(&mut self) {
        let before = self.pid();
        self.signal(nix::sys::signal::Signal::SIGUSR2);
        self.wait_for_successor(before);
    }

    /// Waits until another process than `before` serves, and `before` has exited.
    #[track_caller]
    pub fn wait_for_successor(&mut self, before: i32) {
        wait_until("another process has taken over", || {
            let status = self.try_ask("status").unwrap_or_default();
            let value =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            let pid: Option<i32> = value("pid: ").and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid != before && self.pid() != *pid) {
                self.successors.push(pid);
            }
            pid.is_some_and(|pid| pid != before)
                && value("last_restart: ").is_some_and(|words| words.contains("complete"))
        });
        // Earlier datagrams are in the old process's counters.
        self.sent = 0;
    }

    /// PIDs of the processes started for restarts, in order.
    pub fn started(&self) -> Vec<i32> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains("restart: started process "));
        let pid =
            |line: &str| line.split("restart: started process ").nth(1)?.split(':').next()?.parse().ok();
        lines.filter_map(pid).collect()
    }

    /// Waits for the exit of the first process, whichever serves now; returns its exit code.
    #[track_caller]
    pub fn first_exit_code(&mut self) -> i32 {
        let mut status = None;
        wait_until("the first process has exited", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap_or_else(|| panic!("ended by {status:?}"))
    }

    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    pub fn logged(&self, text: &str) -> bool {
        self.log.lines().iter().any(|line| line.contains(text))
    }

    /// Stops reading the log, so that writes to it block.
    pub fn stall_log(&mut self) {
        self.log.stall();
    }

    /// Resumes reading the log.
    pub fn resume_log(&self) {
        self.log.resume();
    }

    /// The reply to an admin command.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// The reply to an admin command, unless the process exits meanwhile.
    pub fn try_ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A snapshot of `stats`.
    pub fn stats(&self) -> HashMap<String, u64> {
        let parse = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse::<f64>().ok()? as u64))
        };
        self.ask("stats").lines().filter_map(parse).collect()
    }

    pub fn stat(&self, name: &str) -> u64 {
        *self.stats().get(name).unwrap_or_else(|| panic!("stats has no {name}"))
    }

    /// A backend's state in `backends`.
    pub fn state(&self, backend: &str) -> String {
        self.column(backend, "state")
    }

    /// A column of a backend in `backends`.
    pub fn column(&self, backend: &str, column: &str) -> String {
        let table = self.ask("backends");
        let mut rows = table.lines();
        let index = rows.next().unwrap().split('\t').position(|name| name == column).unwrap();
        let row = rows.find(|row| row.split('\t').next() == Some(backend));
        row.unwrap_or_else(|| panic!("{backend} is missing in {table}"))
            .split('\t')
            .nth(index)
            .unwrap()
            .to_owned()
    }

    /// A line of `status`.
    pub fn status(&self, name: &str) -> String {
        let text = self.ask("status");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name} is missing in {text}")).to_owned()
    }

    #[track_caller]
    pub fn wait_for_state(&self, backend: &str, state: &str) {
        wait_until(&format!("{backend} is {state}"), || self.state(backend) == state);
    }

    /// Sends datagrams, limiting those in flight so that no receive buffer overflows; returns when the proxy has received them
    /// all.
    pub fn send(&mut self, datagrams: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        for datagram in datagrams {
            self.sender.send_to(datagram.as_ref(), self.address).unwrap();
            self.sent += 1;
            if self.sent.is_multiple_of(WINDOW) {
                self.wait_until_received();
            }
        }
        self.wait_until_received();
    }

    /// Sends datagrams without waiting for them; at most as many as fit into every receive buffer.
    pub fn send_burst(&mut self, datagrams: &[String]) {
        assert!(datagrams.len() as u64 <= WINDOW);
        for datagram in datagrams {
            self.sender.send_to(datagram.as_bytes(), self.address).unwrap();
            self.sent += 1;
        }
    }

    #[track_caller]
    fn wait_until_received(&self) {
        let sent = self.sent;
        wait_until("every datagram is received", || self.stat("datagrams_received") >= sent);
    }

    /// Waits until nothing is pending, and checks that the counters balance.
    #[track_caller]
    pub fn settle(&self) -> HashMap<String, u64> {
        wait_until("nothing is pending", || self.stat("metrics_pending") == 0);
        let stats = self.stats();
        assert_balanced(&stats);
        stats
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The exit status, if it has exited; the log need not be read.
    pub fn try_exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its exit.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it has exited", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.log.wait_for_end();
        status.unwrap()
    }

    /// Waits for its exit; returns the exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = self.wait_for_end();
        status.code().unwrap_or_else(|| panic!("ended by {status:?}"))
    }

    /// Starts the program with the same config after its exit; waits until it is ready.
    #[track_caller]
    pub fn start_again(self) -> Proxy {
        let config = ConfigFile::new(self.config.json.clone());
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(&config.path);
        let mut again = Proxy::spawn(config, self.address.port(), self.admin.port(), command);
        let ended = again.wait_until_ready();
        assert!(ended.is_none(), "the second start failed: {}", again.log());
        again
    }

    /// Sets the admin port to be used after a restart.
    pub fn move_admin(&mut self, port: u16) {
        self.admin.set_port(port);
    }

    pub fn config_path(&self) -> &Path {
        &self.config.path
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in self.successors.iter().copied().chain(self.started()) {
            // The PID may have been reused; processes of this proxy log to its pipe.
            if std::fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|pipe| pipe == self.log.pipe()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the proxy's log:\n{}", self.log());
        }
    }
}

/// `metrics_received = metrics_sent + Σ metrics_dropped_<reason> + metrics_pending`, in one reply.
#[track_caller]
pub fn assert_balanced(stats: &HashMap<String, u64>) {
    let dropped: u64 =
        stats.iter().filter(|(name, _)| name.starts_with("metrics_dropped_")).map(|(_, value)| value).sum();
    assert_eq!(
        stats["metrics_received"],
        stats["metrics_sent"] + dropped + stats["metrics_pending"],
        "counters do not balance: {stats:?}"
    );
}
