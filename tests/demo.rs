//! The demo: its output, that its summary adds up, and how it ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statsring"));
    command.arg("demo").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running demo, killed with the test.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut child = demo(arguments).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    /// The lines up to one that contains `part`.
    fn lines_to(&mut self, part: &str) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            let length = self.stdout.read_line(&mut text).unwrap();
            assert!(length > 0, "exited before {part:?}: {text}");
            if text[start..].contains(part) {
                return text;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its exit; returns the remaining output.
    fn end(mut self) -> Output {
        let mut stdout = Vec::new();
        self.stdout.read_to_end(&mut stdout).unwrap();
        let mut stderr = Vec::new();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Still running only if the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port after `words` in the header.
fn port_after(opening: &str, words: &str) -> u16 {
    let rest = opening.split_once(words).unwrap_or_else(|| panic!("{words}\n{opening}")).1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn ask_admin(port: u16, question: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{question}\nquit\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The rows of the summary: label and number; a second number, of datagrams, gets its own label.
fn summary(stdout: &str) -> HashMap<String, u64> {
    let summary =
        stdout.split_once("Summary of ").unwrap_or_else(|| panic!("the summary is missing\n{stdout}")).1;
    let mut rows = HashMap::new();
    for line in summary.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.replace(',', "").parse::<u64>().ok();
        let Some(at) = words.iter().position(|word| number(word).is_some()) else { continue };
        let name = words[..at].join(" ");
        if let Some(value) = number(words[at]) {
            rows.insert(name.clone(), value);
        }
        if let ["metrics", "in", datagrams, "datagrams"] = words[at + 1..] {
            rows.insert(format!("{name}: datagrams"), number(datagrams).unwrap());
        }
    }
    rows
}

/// Checks a summary of only the built-in traffic.
fn assert_balanced(output: &Output) -> HashMap<String, u64> {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let rows = summary(&stdout);
    let get = |name: &str| *rows.get(name).unwrap_or_else(|| panic!("row `{name}` is missing\n{stdout}"));
    assert!(get("sent to the proxy") > 1_000, "{stdout}");
    assert_eq!(get("sent by the proxy"), get("received by the proxy"), "{stdout}");
    // After a long stall of the machine the kernel may have dropped datagrams, which the summary reports.
    if !stdout.contains("dropped by the kernel") {
        assert_eq!(get("received by the proxy"), get("sent to the proxy"), "{stdout}");
        assert_eq!(get("received by the backends"), get("sent by the proxy"), "{stdout}");
        assert_eq!(get("lost"), 0, "{stdout}");
        assert!(stdout.contains("Every metric arrived, each at the backend that owns its name"), "{stdout}");
    }
    // The proxy batches metrics.
    assert!(get("sent by the proxy: datagrams") < get("received by the proxy: datagrams"), "{stdout}");
    rows
}

#[test]
fn metrics_flow_to_three_backends_and_the_summary_adds_up() {
    let output = demo(&["--seconds", "2"]).output().unwrap();
    let rows = assert_balanced(&output);
    let shares: Vec<u64> =
        rows.iter().filter(|(name, _)| name.starts_with("127.0.0.1:")).map(|(_, metrics)| *metrics).collect();
    let sum: u64 = shares.iter().sum();
    assert_eq!((shares.len(), sum), (3, rows["received by the backends"]));
    assert!(shares.iter().all(|share| *share > sum / 5), "{shares:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    for second in ["1 s   in ", "2 s   in "] {
        assert!(stdout.contains(second), "{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "a pipe is not a terminal\n{stdout}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn other_ports_are_used_if_the_defaults_are_taken() {
    let (mut udp, mut tcp) = (HashMap::new(), HashMap::new());
    for port in [8125, 8127, 8129, 8131] {
        // If this fails, another process has the port.
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map(|socket| udp.insert(port, socket)).ok();
    }
    for port in [8126, 8128, 8130, 8132] {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|socket| tcp.insert(port, socket)).ok();
    }
    let output = demo(&["--seconds", "1"]).output().unwrap();
    assert_balanced(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    for port in udp.keys().chain(tcp.keys()) {
        assert!(stdout.contains(&format!("port {port} is in use: ")), "{port}\n{stdout}");
        assert!(!stdout.contains(&format!("127.0.0.1:{port} ")), "{port}\n{stdout}");
    }
}

#[test]
fn names_move_during_an_outage_and_other_clients_are_served() {
    let mut running = Running::start(&["--seconds", "12"]);
    let opening = running.lines_to("echo config");
    let proxy = port_after(&opening, "metrics at 127.0.0.1:");
    let admin = port_after(&opening, ", admin port ");
    let visitor = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    visitor.send_to(b"foo:1|c\nfoo:2|c\njunk", (Ipv4Addr::LOCALHOST, proxy)).unwrap();
    // Latencies remain available at the admin port, although the table shows them too.
    running.lines_to("2 s   in ");
    let stats = ask_admin(admin, "stats");
    let p99 = stats.lines().find_map(|line| line.strip_prefix("latency_p99_us: ")).unwrap();
    assert!(p99.parse::<f64>().unwrap() > 0.0, "{stats}");
    let output = running.end();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    for part in [
        r#"answers its checks "health: down""#,
        " is down",
        r#"answers "health: up" again"#,
        " is up",
        "except ",
    ] {
        assert!(stdout.contains(part), "{part}\n{stdout}");
    }
    assert!(!stdout.contains("state="), "events are shown without structured fields\n{stdout}");
    let rows = summary(&stdout);
    assert_eq!((rows["from other senders"], rows["dropped by the proxy"]), (2, 1), "{stdout}");
    assert!(rows["lost"] == 0 || stdout.contains("dropped by the kernel"), "{stdout}");
}

#[test]
fn signal_ends_the_demo_with_its_summary() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut running = Running::start(&[]);
        running.lines_to("1 s   in ");
        running.signal(signal);
        assert_balanced(&running.end());
    }
}

#[test]
fn closed_output_ends_the_demo_quietly() {
    let mut child = demo(&[]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running with a closed output; first line: {line}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut stderr = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    let output = Output { status, stdout: Vec::new(), stderr };
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn invalid_duration_is_refused() {
    for seconds in ["0", "86401", "-1", "1.5", "soon"] {
        let output = demo(&["--seconds", seconds]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{seconds}: {stderr}");
        assert!(stderr.contains(seconds), "{seconds}: {stderr}");
        assert_eq!(output.stdout, b"");
    }
}
