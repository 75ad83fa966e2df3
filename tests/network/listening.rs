//! Listening addresses: hosts without an address family, and addresses added after the start.

use crate::lab::{Lab, with_each_engine};
use crate::patience::{PATIENCE, wait_until};
use crate::proxy::{ConfigFile, PROGRAM};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// The proxy on its default ports.
struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    _config: ConfigFile,
}

impl Daemon {
    fn spawn(config: Value) -> Daemon {
        let config = ConfigFile::new(config);
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(&config.path).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn({
            let log = log.clone();
            move || lines.for_each(|line| log.lock().unwrap().push_str(&(line + "\n")))
        });
        Daemon { child, log, _config: config }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Stops it; nothing received meanwhile may be lost.
    #[track_caller]
    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
        self.wait_for("final counters: ");
        assert!(!self.log().contains("cannot fence"), "{}", self.log());
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        wait_until(&format!("the log contains {words:?}"), || self.log().contains(words));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log:\n{}", self.log());
        }
    }
}

fn config(engine: Value, extra: Value) -> Value {
    let mut config = engine;
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config["workers"] = json!(1);
    config
}

fn ask(admin: SocketAddr, command: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn host_without_ipv4_serves_localhost_and_wildcard() {
    with_each_engine(|lab: &Lab, engine| {
        lab.proxy().ip("addr del 127.0.0.1/8 dev lo");
        for host in [json!("localhost"), json!("*")] {
            let backend = UdpSocket::bind((Ipv6Addr::LOCALHOST, 9_125)).unwrap();
            backend.set_read_timeout(Some(PATIENCE)).unwrap();
            let nodes = json!([{"host": "::1", "port": 9_125}]);
            let mut proxy = Daemon::spawn(config(engine.clone(), json!({"host": host, "nodes": nodes})));
            proxy.wait_for("ready: ");
            let sender = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            sender.send_to(b"gorets:1|c", (Ipv6Addr::LOCALHOST, 8_125)).unwrap();
            let mut line = [0; 64];
            let length = backend.recv(&mut line).unwrap();
            assert_eq!(&line[..length], b"gorets:1|c");
            let status = ask(SocketAddr::from((Ipv6Addr::LOCALHOST, 8_126)), "status");
            assert!(host != "localhost" || status.contains("127.0.0.1:8125 skipped: "), "{status}");
            proxy.stop();
        }
    });
}

#[test]
fn missing_address_needs_freebind_and_the_error_says_so() {
    with_each_engine(|lab: &Lab, engine| {
        let later = json!({"host": "10.9.9.9", "managementHost": "10.9.9.9",
                           "nodes": [{"host": "127.0.0.1", "port": 9_125}]});
        let mut refused = Daemon::spawn(config(engine.clone(), later.clone()));
        assert_eq!(refused.child.wait().unwrap().code(), Some(71), "{}", refused.log());
        refused.wait_for("\"freebind\": true");
        let mut config = config(engine, later);
        config["freebind"] = json!(true);
        let mut proxy = Daemon::spawn(config);
        proxy.wait_for("ready: ");
        let backend = UdpSocket::bind("127.0.0.1:9125").unwrap();
        backend.set_read_timeout(Some(PATIENCE)).unwrap();
        // Like keepalived on the new active host.
        lab.proxy().ip("addr add 10.9.9.9/32 dev lo");
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"gorets:1|c", "10.9.9.9:8125").unwrap();
        let mut line = [0; 64];
        assert_eq!(backend.recv(&mut line).unwrap(), 10);
        assert_eq!(ask("10.9.9.9:8126".parse().unwrap(), "ping"), "pong\n");
        // Like keepalived on the previous active host.
        lab.proxy().ip("addr del 10.9.9.9/32 dev lo");
        proxy.stop();
    });
}
