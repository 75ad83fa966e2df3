//! The program under test, as its own process: its config, its log, its admin port, its exit code.

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
/// Starts that may find a chosen port taken meanwhile.
const STARTS: usize = 5;
/// Datagrams that may be on their way into the proxy at once: fewer than the smallest receive buffer holds.
const WINDOW: u64 = 64;

pub struct Proxy {
    child: Child,
    /// Processes that took over, the last one last.
    successors: Vec<i32>,
    pub config: ConfigFile,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    log: Log,
    sender: UdpSocket,
    /// Datagrams sent by [`Proxy::send`].
    sent: u64,
}

/// A config file in a folder of its own, removed in the end.
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

/// Whether these tests are of the portable engine: the same files are compiled once more under another name, which says so.
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

/// A config for these backends, with quick checks, and with `extra` keys.
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

pub fn free_ports() -> (u16, u16) {
    let data = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    (data.local_addr().unwrap().port(), admin.local_addr().unwrap().port())
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Copies a program, by another process: were it open for writing here, a process that another test forks meanwhile would
/// have it open too until it runs its own program, and the kernel runs no such file (ETXTBSY of execve(2)).
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

    /// Starts the proxy by a command of the caller's, which is told the config's path; waits until it is ready.
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
                // Somebody took a port between its choice and the start.
                Some(71) if proxy.log().contains("is in use") => {}
                Some(code) => panic!("the start failed with exit code {code}: {}", proxy.log()),
            }
        }
        panic!("no free ports in {STARTS} starts");
    }

    /// The exit code, if it ended instead.
    pub fn wait_until_ready(&mut self) -> Option<i32> {
        let mut ended = None;
        wait_until("it is ready or has ended", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some() || self.logged("ready: ")
        });
        ended.and_then(|status| status.code())
    }

    /// Starts a command with this config at these ports; it need not be ready.
    pub fn spawn(config: ConfigFile, port: u16, admin_port: u16, command: Command) -> Proxy {
        Proxy::spawn_with(Log::new(), config, port, admin_port, command)
    }

    /// Starts a command whose log nobody reads from the start on, at no port that matters.
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
        // Its end of the pipe is closed here, so that the log ends with the process.
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

    /// The process that serves, as far as it was looked at.
    pub fn pid(&self) -> i32 {
        self.successors.last().copied().unwrap_or(self.child.id() as i32)
    }

    /// Has it start itself again without loss, and waits until that is complete.
    #[track_caller]
    pub fn restart(&mut self) {
        let before = self.pid();
        self.signal(nix::sys::signal::Signal::SIGUSR2);
        self.wait_for_successor(before);
    }

    /// Waits until another process than `before` has taken over, and `before` has ended.
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
        // What it had received before is in the old process's account.
        self.sent = 0;
    }

    /// The processes that were started for restarts, in order.
    pub fn started(&self) -> Vec<i32> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains("restart: started process "));
        let pid =
            |line: &str| line.split("restart: started process ").nth(1)?.split(':').next()?.parse().ok();
        lines.filter_map(pid).collect()
    }

    /// Waits until the first process has ended, whoever serves now; its exit code.
    #[track_caller]
    pub fn first_exit_code(&mut self) -> i32 {
        let mut status = None;
        wait_until("the first process has ended", || {
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

    /// Stops reading the log, and lets every write to it wait.
    pub fn stall_log(&mut self) {
        self.log.stall();
    }

    /// Reads the log again.
    pub fn resume_log(&self) {
        self.log.resume();
    }

    /// The answer to one admin command.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// The answer to one admin command, if the process that took the question does not end meanwhile.
    pub fn try_ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// All figures of `stats`, of one moment.
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

    /// One column of a backend's line in `backends`.
    pub fn column(&self, backend: &str, column: &str) -> String {
        let table = self.ask("backends");
        let mut rows = table.lines();
        let index = rows.next().unwrap().split('\t').position(|name| name == column).unwrap();
        let row = rows.find(|row| row.split('\t').next() == Some(backend));
        row.unwrap_or_else(|| panic!("no {backend} in {table}")).split('\t').nth(index).unwrap().to_owned()
    }

    /// A line of `status`.
    pub fn status(&self, name: &str) -> String {
        let text = self.ask("status");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    #[track_caller]
    pub fn wait_for_state(&self, backend: &str, state: &str) {
        wait_until(&format!("{backend} is {state}"), || self.state(backend) == state);
    }

    /// Sends datagrams, never more at once than every receive buffer holds, so that the kernel has no reason to drop
    /// one; returns when the proxy has received them all.
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

    /// Sends datagrams and does not look whether they arrive; at most as many as every receive buffer holds.
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

    /// Waits until nothing is on its way, and checks the account then.
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

    /// How it has ended, if it has; the log need not be read.
    pub fn try_exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end, however it comes.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.log.wait_for_end();
        status.unwrap()
    }

    /// Waits for its end; the exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = self.wait_for_end();
        status.code().unwrap_or_else(|| panic!("ended by {status:?}"))
    }

    /// Starts the program again with the same config, after it has ended; waits until it is ready.
    #[track_caller]
    pub fn start_again(self) -> Proxy {
        let config = ConfigFile::new(self.config.json.clone());
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(&config.path);
        let mut again = Proxy::spawn(config, self.address.port(), self.admin.port(), command);
        let ended = again.wait_until_ready();
        assert!(ended.is_none(), "the start after the end failed: {}", again.log());
        again
    }

    /// Its admin port will be another one.
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
            // Its number may be another program's by now; a process of this proxy logs to its pipe.
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
