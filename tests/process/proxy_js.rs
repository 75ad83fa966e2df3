//! Configs of StatsD's `proxy.js`: admin commands, placement, reload and restart; and chains of proxies.

use super::proxy::{self, PROGRAM};
use super::*;
use std::process::Command;

/// Starts with a config in which `PORT` and `MGMT` are replaced by ports; waits until it is ready.
fn start(text: &str) -> Proxy {
    for _ in 0..5 {
        let (port, admin_port) = proxy::free_ports();
        let config = ConfigFile::new(json!({}));
        config.write_text(&text.replace("PORT", &port.to_string()).replace("MGMT", &admin_port.to_string()));
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(&config.path);
        let mut proxy = Proxy::spawn(config, port, admin_port, command);
        match proxy.wait_until_ready() {
            None => return proxy,
            Some(71) if proxy.log().contains("is in use") => {}
            Some(code) => panic!("the start failed with exit code {code}: {}", proxy.log()),
        }
    }
    panic!("no free ports");
}

fn text(backends: &[&Backend], more: &str) -> String {
    let nodes: Vec<String> = backends
        .iter()
        .map(|backend| {
            format!("{{host: '127.0.0.1', port: {}, adminport: {}}}", backend.port, backend.adminport)
        })
        .collect();
    format!(
        "// ours\n{{\n  nodes: [{}],\n  address: '127.0.0.1',\n  port: PORT,\n  mgmt_address: '127.0.0.1',\n  mgmt_port: MGMT,\n  \
         checkInterval: 200,{more}\n}}\n",
        nodes.join(", ")
    )
}

#[test]
fn port_in_use_error_uses_the_key_of_the_file() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ConfigFile::new(json!({}));
    let admin_port = taken.local_addr().unwrap().port();
    config.write_text(&format!(
        "{{nodes: [{{host: '127.0.0.1', port: 9}}], address: '127.0.0.1', port: {}, mgmt_address: '127.0.0.1', mgmt_port: {admin_port}}}",
        proxy::free_ports().0
    ));
    let output = proxy::run(&["-f", config.path.to_str().unwrap()]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{words}");
    assert!(words.contains("`mgmt_port`") && !words.contains("managementPort"), "{words}");
}

#[test]
fn restart_needed_message_uses_the_keys_of_the_file() {
    let backends = three();
    let proxy = start(&text(&refs(&backends), ""));
    let changed = |from: &str, to: &str| {
        let before = std::fs::read_to_string(proxy.config_path()).unwrap();
        assert!(before.contains(from), "{before}");
        proxy.config.write_text(&before.replace(from, to));
    };
    changed("  address: '127.0.0.1'", "  address: '127.0.0.9', forkCount: 2");
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change address, forkCount"), "{answer}");
}

/// A client with a persistent connection.
struct Client(TcpStream);

impl Client {
    fn of(proxy: &Proxy) -> Client {
        let stream = TcpStream::connect(proxy.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// Sends bytes, and expects exactly this reply.
    #[track_caller]
    fn expect(&mut self, sent: &str, answer: &str) {
        self.0.write_all(sent.as_bytes()).unwrap();
        let mut found = vec![0; answer.len()];
        self.0.read_exact(&mut found).unwrap();
        assert_eq!(String::from_utf8_lossy(&found), answer, "the reply to {sent:?}");
    }

    /// Sends bytes, half-closes, and reads until the connection ends.
    fn rest(mut self, sent: &str) -> String {
        self.0.write_all(sent.as_bytes()).unwrap();
        self.0.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

#[test]
fn admin_port_replies_like_proxy_js() {
    let backends = three();
    let proxy = start(&text(&refs(&backends), "\n  log: {backend: 'stdout', level: 'LOG_INFO'},"));
    assert!(
        proxy.logged("config format: proxy.js (it has address, mgmt_address, mgmt_port, log)"),
        "{}",
        proxy.log()
    );
    assert!(proxy.logged("placement: hashring-3"), "{}", proxy.log());
    let mut client = Client::of(&proxy);
    client.expect("help\r\n", "Commands: config, health, status, quit\n\n");
    client.expect("health\r\n", "health: up\n");
    client.expect("health  DOWN\n", "health: up\n");
    client.expect("health DOWN\n", "health: down\n");
    client.expect("health maybe\n", "health: down\n");
    client.expect("health up now\n", "health: up\n");
    client.expect("HELP\n", "ERROR\n");
    client.expect("\r\n", "ERROR\n");
    // Without a newline, like many monitors.
    client.expect("health", "health: up\n");
    let config = format!(
        "\nnodes > 0: [object Object]\nnodes > 1: [object Object]\nnodes > 2: [object Object]\naddress: 127.0.0.1\n\
         port: {}\nmgmt_address: 127.0.0.1\nmgmt_port: {}\ncheckInterval: 200\nlog > backend: stdout\n\
         log > level: LOG_INFO\n",
        proxy.address.port(),
        proxy.admin.port()
    );
    client.expect("config\n", &config);
    client.expect("ping\n", "pong\n");
    client.expect("statsring help me\n", "ERROR\n");
    let names: Vec<String> = backends.iter().map(Backend::name).collect();
    // In proxy.js, several lines in one read are one command; not so statsring's own commands.
    client.expect("help\nhealth\n", "ERROR\n");
    client.expect("health down\nstatus\n", "health: up\n");
    client.expect("ping\nhealth\n", "pong\nhealth: up\n");
    let status = client.rest("status\n");
    let (uptime, nodes) = status.split_once('\n').unwrap();
    assert!(uptime.strip_prefix("uptime: ").is_some_and(|age| age.parse::<u32>().is_ok()), "{status}");
    assert_eq!(nodes, format!("nodes: {} \n", names.join(" ")));
    // Statsring's own commands are available as well.
    assert!(proxy.ask("statsring status").contains("\nplacement: hashring-3\n"));
    assert!(proxy.ask("statsring config").contains("\"managementDialect\": \"proxy.js\""));
    assert!(proxy.ask("statsring").contains("backends"));
    assert!(proxy.ask("stats").starts_with("time running in seconds: "));
}

#[test]
fn status_lists_the_ring_like_proxy_js() {
    let mut backends = three();
    let mut proxy = start(&text(&refs(&backends), ""));
    let names: Vec<String> = backends.iter().map(Backend::name).collect();
    let nodes = |proxy: &Proxy| proxy.ask("status").lines().nth(1).unwrap().to_owned();
    backends[0].kill();
    let left = format!("nodes: {} {} ", names[1], names[2]);
    wait_until("the dead backend is removed from the ring", || nodes(&proxy) == left);
    backends[0].restore();
    let back = format!("{left}{} ", names[0]);
    wait_until("it is back in the last place", || nodes(&proxy) == back);
    // A line that proxy.js forwards, unlike statsring by default.
    backends.iter().for_each(Backend::forget);
    proxy.send(["neither a colon nor a bar", "a:1|c\nb:2|c"]);
    wait_until("everything has arrived", || total(&backends) == 3);
}

#[test]
fn reload_applies_valid_proxy_js_files_only() {
    let backends = three();
    let proxy = start(&text(&refs(&backends[..2]), ""));
    let ports = |text: String| {
        text.replace("PORT", &proxy.address.port().to_string())
            .replace("MGMT", &proxy.admin.port().to_string())
    };
    let before = proxy.ask("config");
    proxy.config.write_text(&ports(text(&refs(&backends), "\n  port: getPort(),")));
    let answer = proxy.ask("reload");
    assert!(
        answer.contains("line 9, column 9: port: expected a value, found code \"getPort()\""),
        "{answer}"
    );
    assert_eq!(proxy.ask("config"), before);
    proxy.config.write_text(&ports(text(&refs(&backends), "")));
    let answer = proxy.ask("reload");
    assert!(answer.contains(&format!("nodes: {} added", backends[2].name())), "{answer}");
    assert!(proxy.ask("config").contains("nodes > 2: "));
    assert!(proxy.ask("status").contains(&backends[2].name()));
    // The equivalent JSON is no change, and keeps the dialect.
    let json = proxy.ask("statsring config");
    proxy.config.write_text(&json);
    assert_eq!(proxy.ask("reload"), "reloaded: nothing changed\n");
    assert_eq!(proxy.ask("help"), "Commands: config, health, status, quit\n\n");
    let other = json.replace("\"managementDialect\": \"proxy.js\"", "\"managementDialect\": \"statsring\"");
    proxy.config.write_text(&other);
    proxy.signal(Signal::SIGHUP);
    wait_until("the dialect is statsring's", || {
        proxy.ask("nonsense") == "unknown command; help lists the commands\n"
    });
}

#[test]
fn restart_rereads_the_proxy_js_file() {
    let backends = three();
    let mut proxy = start(&text(&refs(&backends), ""));
    let before = proxy.pid();
    assert_eq!(proxy.ask("health down"), "health: down\n");
    proxy.signal(Signal::SIGUSR2);
    let pid = |proxy: &Proxy| -> Option<i32> {
        let status = proxy.try_ask("statsring status").ok()?;
        status.contains("last_restart: ").then_some(())?;
        status.lines().find_map(|line| line.strip_prefix("pid: "))?.parse().ok()
    };
    wait_until("another process has taken over", || pid(&proxy).is_some_and(|pid| pid != before));
    assert_eq!(proxy.first_exit_code(), 0);
    assert_eq!(proxy.ask("health"), "health: down\n");
    assert!(proxy.ask("config").contains("mgmt_port: "));
    let taken = pid(&proxy).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(taken), Signal::SIGTERM).unwrap();
    wait_until("it has exited", || TcpStream::connect(proxy.admin).is_err());
}

#[test]
fn statsring_can_be_a_backend_of_another() {
    let backends = three();
    let inner = start(&text(&refs(&backends), ""));
    let inner_node =
        format!("{{host: '127.0.0.1', port: {}, adminport: {}}}", inner.address.port(), inner.admin.port());
    let outer_text = text(&[], "").replace("nodes: []", &format!("nodes: [{inner_node}]"));
    let mut outer = start(&outer_text);
    let name = format!("127.0.0.1:{}", inner.address.port());
    outer.wait_for_state(&name, "up");
    outer.send(datagrams(0..20));
    wait_until("everything passed through both", || total(&backends) == 60);
    // The outer one sees a health set to down.
    assert_eq!(inner.ask("health down"), "health: down\n");
    outer.wait_for_state(&name, "down");
    assert_eq!(outer.ask("status").lines().nth(1), Some("nodes: "));
    assert_eq!(inner.ask("health up"), "health: up\n");
    outer.wait_for_state(&name, "up");
}
