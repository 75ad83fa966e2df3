//! Service manager integration: notifications, and passed sockets.

use super::proxy::{self, PROGRAM};
use super::*;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The notification socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl Manager {
    fn start(name: &str) -> Manager {
        let socket = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Manager { socket, received: Vec::new() }
    }

    /// Waits for a message that satisfies `is_it`; earlier ones are discarded.
    #[track_caller]
    fn wait_for(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.received.iter().position(|message| is_it(message)) {
                return self.received.drain(..=at).next_back().unwrap();
            }
            assert!(Instant::now() < end, "timed out: {what}; received {:?}", self.received);
            let mut bytes = [0; 1024];
            if let Ok(length) = self.socket.recv(&mut bytes) {
                self.received.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
            }
        }
    }
}

#[test]
fn service_manager_is_notified_of_every_stage() {
    let backends = three();
    let name = format!("statsring-test-{}", std::process::id());
    let mut manager = Manager::start(&name);
    let mut proxy = Proxy::start_by(config(&refs(&backends), json!({})), |path| {
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(path).env("NOTIFY_SOCKET", format!("@{name}"));
        command
    });
    manager.wait_for("READY=1", |message| message == "READY=1");
    manager.wait_for("the status", |message| message == "STATUS=serving: 3 of 3 backends up, 1 worker");
    proxy.signal(Signal::SIGHUP);
    let reloading = manager.wait_for("RELOADING=1", |message| message.starts_with("RELOADING=1\n"));
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    manager.wait_for("READY=1 after the reload", |message| message == "READY=1");
    let before = proxy.pid();
    proxy.signal(Signal::SIGUSR2);
    manager.wait_for("RELOADING=1 of the restart", |message| message.starts_with("RELOADING=1\n"));
    let moved = manager.wait_for("MAINPID", |message| message.starts_with("MAINPID="));
    proxy.wait_for_successor(before);
    assert_eq!(moved, format!("MAINPID={}\nREADY=1", proxy.pid()));
    manager.wait_for("READY=1 of the new process", |message| message == "READY=1");
    proxy.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1", |message| message == "STOPPING=1");
    proxy.wait_for_end();
}

/// A command that runs the proxy with one or two passed sockets, like a service manager.
pub fn activated(config: &std::path::Path, sockets: Vec<OwnedFd>) -> Command {
    // Descriptors 3 and 4, and the PID of the process.
    let script = r#"exec 3<&0 4<&1 </dev/null >/dev/null
        [ "$LISTEN_FDS" = 2 ] || exec 4<&-
        LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM, "-f"]).arg(config).env("LISTEN_FDS", sockets.len().to_string());
    let mut sockets = sockets.into_iter();
    command.stdin(Stdio::from(sockets.next().unwrap()));
    command.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from));
    command
}

pub fn udp_twins() -> (Vec<UdpSocket>, SocketAddr) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listeners = statsring::driver::socket::bind_listeners(
        &[any],
        2,
        statsring::driver::socket::ListenOptions::here(1 << 20),
    )
    .unwrap();
    (listeners.workers.into_iter().flatten().collect(), listeners.addresses[0])
}

/// Sends before the start, while it runs, while it is stopped, and across a restart: everything arrives.
fn nothing_is_lost(sockets: Vec<OwnedFd>, address: SocketAddr, admin: Option<SocketAddr>, workers: usize) {
    let backends = three();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |numbers: std::ops::Range<usize>| {
        for datagram in datagrams(numbers) {
            sender.send_to(datagram.as_bytes(), address).unwrap();
        }
    };
    let started = |count: usize| {
        send(count - 50..count);
        let (port, admin_port) = proxy::free_ports();
        let admin_port = admin.map_or(admin_port, |admin| admin.port());
        // The sockets, not the config, determine the number of workers.
        let config =
            config(&refs(&backends), json!({"port": port, "managementPort": admin_port, "workers": 4}));
        let config = ConfigFile::new(config);
        let passed = sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
        let command = activated(&config.path, passed);
        let mut proxy = Proxy::spawn(config, address.port(), admin_port, command);
        assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
        wait_until("queued datagrams have arrived", || total(&backends) == 3 * count as u64);
        proxy
    };
    for round in 0..2 {
        let mut proxy = started(100 * round + 50);
        let status = proxy.ask("status");
        assert!(status.contains(&format!("listen: {address}\n")), "{status}");
        assert!(status.contains(&format!("workers: {workers}\n")), "{status}");
        assert!(status.contains("passed by the service manager"), "{status}");
        let overridden = format!(
            "degraded: host, port: the config has {}, but the sockets",
            proxy.config.json["port"].as_u64().map(|port| format!("127.0.0.1:{port}")).unwrap()
        );
        assert!(status.contains(&overridden) && proxy.logged(&overridden[10..]), "{status}");
        assert!(status.contains("degraded: workers: "), "{status}");
        assert!(!status.contains("degraded: managementHost"), "{status}");
        let answer = proxy.ask("reload");
        assert!(answer.starts_with("reloaded: nothing changed"), "{answer}");
        proxy.restart();
        assert!(proxy.ask("status").contains(&overridden), "{}", proxy.ask("status"));
        send(100 * round + 50..100 * round + 100);
        wait_until("it still forwards", || total(&backends) == 300 * (round + 1) as u64);
        proxy.signal(Signal::SIGTERM);
        proxy.wait_for_end();
    }
    if let Some(admin) = admin {
        // The service manager keeps the socket: clients wait for the next process instead of being refused.
        drop(TcpStream::connect(admin).unwrap());
    }
}

#[test]
fn stop_and_start_with_a_passed_socket_lose_nothing() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    nothing_is_lost(vec![socket.into()], address, None, 1);
}

#[test]
fn two_passed_sockets_are_two_workers() {
    let (sockets, address) = udp_twins();
    nothing_is_lost(sockets.into_iter().map(OwnedFd::from).collect(), address, None, 2);
}

#[test]
fn admin_socket_may_be_passed() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, admin_address) = (socket.local_addr().unwrap(), admin.local_addr().unwrap());
    nothing_is_lost(vec![socket.into(), admin.into()], address, Some(admin_address), 1);
}

/// Stops one thread of another process until dropped, like a debugger (ptrace(2)).
struct Hold(i32);

impl Hold {
    fn thread(pid: i32, name: &str) -> Hold {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let is_it =
            |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).unwrap().trim() == name;
        let task = tasks.map(|task| task.unwrap().path()).find(|path| is_it(path)).unwrap();
        let thread = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Hold::ptrace(libc::PTRACE_SEIZE, thread);
        Hold::ptrace(libc::PTRACE_INTERRUPT, thread);
        let mut status = 0;
        // SAFETY: the status is a local variable.
        assert_eq!(unsafe { libc::waitpid(thread, &mut status, libc::__WALL) }, thread);
        Hold(thread)
    }

    fn ptrace(request: libc::c_uint, thread: i32) {
        // SAFETY: none of the requests used here accesses memory of this process.
        let result = unsafe { libc::ptrace(request, thread, 0, 0) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        Hold::ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn healthz(proxy: &Proxy) -> String {
    let mut client = TcpStream::connect(proxy.admin).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

/// The keys that `status` reports as overridden by a passed wildcard socket of a family.
fn overridden(socket: &UdpSocket, keys: serde_json::Value) -> Vec<String> {
    let backends = three();
    let (_, admin_port) = proxy::free_ports();
    let port = socket.local_addr().unwrap().port();
    let mut config = config(&refs(&backends), json!({"port": port, "managementPort": admin_port}));
    config.as_object_mut().unwrap().remove("host");
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let config = ConfigFile::new(config);
    let command = activated(&config.path, vec![socket.try_clone().unwrap().into()]);
    let mut proxy = Proxy::spawn(config, port, admin_port, command);
    assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
    let status = proxy.ask("status");
    let of_host = status.lines().filter(|line| line.starts_with("degraded: host"));
    of_host.map(str::to_owned).collect()
}

#[test]
fn passed_socket_of_another_family_is_reported() {
    let at = |address: &str, only_v6: bool| {
        let address: SocketAddr = address.parse().unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(only_v6).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        UdpSocket::from(socket)
    };
    let [ipv4, ipv6, both] = [at("0.0.0.0:0", false), at("[::]:0", true), at("[::]:0", false)];
    for (socket, keys, is_reported) in [
        (&both, json!({"host": "0.0.0.0"}), false),
        (&both, json!({"host": "::"}), false),
        (&both, json!({}), false),
        (&ipv4, json!({"host": "0.0.0.0"}), false),
        (&ipv4, json!({"host": "::"}), true),
        (&ipv6, json!({"host": "0.0.0.0"}), true),
        // Without `host` the file does not specify a family.
        (&ipv4, json!({}), false),
        (&ipv6, json!({}), false),
    ] {
        let reported = overridden(socket, keys.clone());
        assert_eq!(reported.len(), usize::from(is_reported), "{socket:?} {keys}: {reported:?}");
    }
}

#[test]
fn stuck_time_of_a_worker_is_not_overstated() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({"workers": 1})));
    // No query in the meantime.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let before = std::time::Instant::now();
    let _held = Hold::thread(proxy.pid(), "worker-0");
    let answer = healthz(&proxy);
    let (_, stuck) = answer.split_once("worker 0 has made no progress for ").unwrap();
    let stuck_s: u64 = stuck.split_once(" s").unwrap().0.parse().unwrap();
    assert!(stuck_s <= before.elapsed().as_secs(), "{stuck_s} s after {:?}", before.elapsed());
}

#[test]
fn stuck_worker_fails_healthz_and_the_watchdog() {
    let backends = three();
    let name = format!("statsring-watchdog-{}", std::process::id());
    let mut manager = Manager::start(&name);
    let mut proxy = Proxy::start_by(config(&refs(&backends), json!({"workers": 2})), |path| {
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(path).env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "200000");
        command
    });
    let is_alive = |message: &str| message == "WATCHDOG=1";
    manager.wait_for("WATCHDOG=1", is_alive);
    manager.wait_for("WATCHDOG=1 again", is_alive);
    assert!(healthz(&proxy).starts_with("HTTP/1.1 200 "), "{}", healthz(&proxy));
    let held = Hold::thread(proxy.pid(), "worker-1");
    let answer = healthz(&proxy);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("stuck: worker 1 has made no progress"),
        "{answer}"
    );
    wait_until("it is logged", || proxy.logged("worker 1 has made no progress"));
    manager.received.clear();
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    assert!(healthz(&proxy).starts_with("HTTP/1.1 503 "));
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "the watchdog was notified");
    drop(held);
    manager.wait_for("WATCHDOG=1 when the worker continues", is_alive);
    assert!(healthz(&proxy).starts_with("HTTP/1.1 200 "));
    // The watchdog belongs to the service, whichever process serves.
    proxy.restart();
    manager.received.clear();
    manager.wait_for("WATCHDOG=1 of the new process", is_alive);
}

#[test]
fn passed_sockets_of_the_wrong_kind_are_refused() {
    let config = ConfigFile::new(config(&[], json!({"nodes": [{"host": "127.0.0.1", "port": 9}]})));
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let output = activated(&config.path, vec![stream.into()]).stderr(Stdio::piped()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{words}");
    assert!(words.contains("passed socket 3: expected TCP over IPv4 or IPv6"), "{words}");
    let output = Command::new("sh")
        .args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=9 exec "$0" -f "$1""#, PROGRAM])
        .arg(&config.path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{words}");
    assert!(words.contains("descriptor 3"), "{words}");
}
