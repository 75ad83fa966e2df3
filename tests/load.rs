//! `statsring load` and `statsring sink`: directly, through a faulty forwarder, and through the proxy. All traffic fits into the
//! smallest common socket buffer, so that a stall of the machine loses nothing.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statsring"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("exited normally")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// The JSON report of a run that exited with `expected`.
fn json(output: &Output, expected: i32) -> Value {
    let text = String::from_utf8(output.stdout.clone()).expect("output is UTF-8");
    assert_eq!(code(output), expected, "{text}\n{}", stderr(output));
    serde_json::from_str(&text).expect("the result is JSON")
}

/// Free ports; all were bound at once, so they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    held.map(|socket| socket.local_addr().unwrap().port())
}

/// Runs a load with sinks on free ports; retries if another process takes one.
fn load_with_sinks<const N: usize>(arguments: impl Fn([u16; N]) -> Vec<String>) -> Output {
    for _ in 0..5 {
        let ports = free_ports::<N>();
        let mut all =
            vec!["load".to_owned(), "--sink".to_owned(), ports.map(|port| port.to_string()).join(",")];
        all.extend(arguments(ports));
        let output = run(&all.iter().map(String::as_str).collect::<Vec<_>>());
        if code(&output) != 71 {
            return output;
        }
        eprintln!("retrying: {}", stderr(&output));
    }
    panic!("no free ports");
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn direct(options: &str) -> Output {
    load_with_sinks(|[port]| words(&format!("--to 127.0.0.1:{port} {options}")))
}

#[test]
fn load_to_sink_loses_nothing() {
    for options in [
        "",
        "--metrics 30 --names 100 --skew 1.0 --types c=3,g,ms,s,h --tags env:prod,x",
        "--flows 4 --names 10 --name-length 60 --burst 50 --in-order",
    ] {
        let output = direct(&format!("--json --rate 1000 --datagrams 100 --settle 5 {options}"));
        let result = json(&output, 0);
        let metrics = if options.contains("--metrics 30") { 3000 } else { 100 };
        assert_eq!(result["verdict"]["passed"], true);
        assert_eq!(
            (&result["sent"]["datagrams"], &result["sent"]["metrics"]),
            (&100.into(), &metrics.into())
        );
        let arrived = &result["arrived"];
        assert_eq!((&arrived["metrics"], &arrived["unique"]), (&metrics.into(), &metrics.into()));
        for defect in
            ["lost", "duplicated", "reordered", "misplaced", "undecided", "foreign", "dropped_at_sinks"]
        {
            assert_eq!(arrived[defect], 0, "{defect}: {result}");
        }
        assert_eq!(
            (&arrived["latency_us"]["count"], &arrived["bytes"]),
            (&metrics.into(), &result["sent"]["bytes"])
        );
        assert!(arrived["latency_us"]["p50"].as_u64().is_some_and(|us| us < 30_000_000), "{result}");
    }
}

#[test]
fn progress_is_printed_every_second_and_the_verdict_last() {
    let output = direct("--rate 200 --seconds 1.5");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 0, "{text}");
    assert!(text.lines().last().is_some_and(|line| line.starts_with("PASS: all ")), "{text}");
    assert!(text.starts_with("sent  ") && text.contains("p99.9"), "{text}");
    let progress = stderr(&output);
    assert!(progress.contains("1 s  sent ") && progress.contains("lost or in transit"), "{progress}");
    let quiet = direct("--rate 200 --seconds 1.5 --quiet");
    assert_eq!((code(&quiet), stderr(&quiet).as_str()), (0, ""));
}

#[test]
fn the_rate_is_kept() {
    let result = json(&direct("--json --quiet --rate 400 --seconds 1"), 0);
    let (sent, given_up) = (result["sent"]["datagrams"].as_u64(), result["sent"]["given_up"].as_u64());
    // Datagrams that a busy machine could not send are counted; the last moments may be missing.
    let total = sent.unwrap() + given_up.unwrap();
    assert!((100..=401).contains(&total), "{result}");
}

type Alter = fn(&[u8]) -> Vec<u8>;

#[derive(Default)]
struct Harm {
    /// Drop every n-th line.
    drop_every: Option<u64>,
    /// Duplicate every n-th line.
    duplicate_every: Option<u64>,
    /// Misplace every n-th line.
    misplace_every: Option<u64>,
    /// Delay every n-th line until after the next one.
    swap_every: Option<u64>,
    /// Applied to each line.
    alter: Option<Alter>,
}

#[derive(Debug, Default, PartialEq)]
struct Done {
    lines: u64,
    dropped: u64,
    duplicated: u64,
    misplaced: HashSet<Vec<u8>>,
    swapped: u64,
}

/// A proxy that forwards each line by the sum of its name's bytes, with the given faults.
struct Forwarder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Done>,
}

impl Forwarder {
    fn start(backends: Vec<String>, harm: Harm, socket: UdpSocket) -> Forwarder {
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut done = Done::default();
            let mut buffer = vec![0; 65_536];
            let mut held: Option<(Vec<u8>, usize)> = None;
            let mut seen = HashSet::new();
            loop {
                let Ok(length) = socket.recv(&mut buffer) else {
                    if stopped.load(Ordering::Relaxed) {
                        return done;
                    }
                    continue;
                };
                for line in buffer[..length].split(|byte| *byte == b'\n') {
                    forward(&socket, line, &backends, &harm, &mut done, &mut held, &mut seen);
                }
            }
        });
        Forwarder { address, stop, thread }
    }

    fn end(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn forward(
    socket: &UdpSocket,
    line: &[u8],
    backends: &[String],
    harm: &Harm,
    done: &mut Done,
    held: &mut Option<(Vec<u8>, usize)>,
    seen: &mut HashSet<Vec<u8>>,
) {
    done.lines += 1;
    let is_due = |every: Option<u64>| every.is_some_and(|every| done.lines.is_multiple_of(every));
    let send = |line: &[u8], backend: usize| {
        socket.send_to(line, &backends[backend % backends.len()]).unwrap();
    };
    let name = line.split(|byte| *byte == b':').next().unwrap();
    let home = name.iter().map(|byte| usize::from(*byte)).sum::<usize>() % backends.len();
    if is_due(harm.drop_every) {
        done.dropped += 1;
        return;
    }
    let altered = harm.alter.map_or_else(|| line.to_vec(), |alter| alter(line));
    if is_due(harm.swap_every) {
        *held = Some((altered, home));
        return;
    }
    // The first metric of a name is placed correctly, so that a misplaced one is at a second sink.
    let is_known = !seen.insert(name.to_vec());
    if is_due(harm.misplace_every) && is_known {
        done.misplaced.insert(name.to_vec());
        return send(&altered, home + 1);
    }
    send(&altered, home);
    if is_due(harm.duplicate_every) {
        done.duplicated += 1;
        send(&altered, home);
    }
    if let Some((line, home)) = held.take() {
        done.swapped += 1;
        send(&line, home);
    }
}

/// Sends a load through a forwarder to two sinks; returns the report and the injected faults.
fn through(harm: impl Fn() -> Harm, options: &str, expected: i32) -> (Value, Done) {
    let last = std::cell::Cell::new(None);
    let output = load_with_sinks(|[first, second]| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let backends = [first, second].map(|port| format!("127.0.0.1:{port}")).to_vec();
        let forwarder = Forwarder::start(backends, harm(), socket);
        let arguments = format!(
            "--to {} --json --quiet --rate 200 --datagrams 50 --metrics 12 --settle 3 {options}",
            forwarder.address
        );
        if let Some(unused) = last.replace(Some(forwarder)) {
            unused.end();
        }
        words(&arguments)
    });
    let done = last.take().expect("the load ran").end();
    (json(&output, expected), done)
}

#[test]
fn faultless_forwarder_gets_a_good_verdict() {
    let (result, done) = through(Harm::default, "--names 50 --in-order", 0);
    assert_eq!(done, Done { lines: 600, ..Done::default() });
    assert_eq!(result["arrived"]["unique"], 600);
    assert_eq!(result["arrived"]["names"], 50);
}

#[test]
fn each_fault_is_counted_and_gets_a_bad_verdict() {
    let harm = || Harm { drop_every: Some(100), ..Harm::default() };
    let (result, done) = through(harm, "--names 50", 1);
    assert_eq!((done.dropped, &result["arrived"]["lost"]), (6, &6.into()));
    assert_eq!(result["verdict"]["reasons"][0], "6 metrics lost (1.0000 % of 600)");
    let (result, _) = through(harm, "--names 50 --allow-loss 0.01", 0);
    assert_eq!(result["verdict"]["notes"][0], "6 metrics lost, within the allowed loss");

    let harm = || Harm { duplicate_every: Some(90), ..Harm::default() };
    let (result, done) = through(harm, "--names 50", 1);
    assert_eq!((done.duplicated, &result["arrived"]["duplicated"]), (6, &6.into()));
    assert_eq!((&result["arrived"]["lost"], &result["arrived"]["unique"]), (&0.into(), &600.into()));

    let harm = || Harm { misplace_every: Some(7), ..Harm::default() };
    let (result, done) = through(harm, "--names 50", 1);
    assert!(done.misplaced.len() > 20, "{done:?}");
    // After a stall the number of misplaced metrics depends on which sink is read first; the names do not.
    assert_eq!(result["arrived"]["names_misplaced"], done.misplaced.len());
    assert!(result["arrived"]["misplaced"].as_u64() >= Some(done.misplaced.len() as u64), "{result}");
    assert!(result["verdict"]["reasons"][0].as_str().unwrap().contains("misplaced"), "{result}");
}

#[test]
fn reordering_is_bad_only_with_in_order() {
    // One name, so that neighbours share it.
    let harm = || Harm { swap_every: Some(7), ..Harm::default() };
    let (result, done) = through(harm, "--names 1", 0);
    assert_eq!((done.swapped, &result["arrived"]["reordered"]), (85, &85.into()));
    assert_eq!(result["arrived"]["lost"], 0);
    let (result, _) = through(harm, "--names 1 --in-order", 1);
    assert_eq!(result["verdict"]["reasons"][0], "85 metrics arrived out of order within their name");
}

/// A temporary file.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("statsring-load-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const CAPTURE: &str = "api.hits:1|c\napi.time:320|ms|@0.1\nnot a metric\napi.users:u17|s|#env:prod,x:y\n\
    api.hits:1|c\n_e{5,4}:title|text\napi.temp:-3.5|g\r\n\napi.multi:1:2:3|h\n";

#[test]
fn replayed_lines_are_compared_byte_for_byte() {
    let file = File::new("capture", CAPTURE);
    let options = format!("--replay {}", file.path());
    let (result, done) = through(Harm::default, &options, 0);
    assert_eq!(done.lines, 600);
    assert_eq!((&result["arrived"]["unique"], &result["arrived"]["latency_us"]), (&600.into(), &Value::Null));
    assert_eq!((&result["sent"]["lines_skipped"], &result["sent"]["names"]), (&1.into(), &6.into()));

    // A proxy that rewrites numbers.
    let alter: Alter = |line| String::from_utf8(line.to_vec()).unwrap().replace("-3.5", "-3.50").into_bytes();
    let harm = || Harm { alter: Some(alter), ..Harm::default() };
    let (result, _) = through(harm, &options, 1);
    let altered = result["arrived"]["foreign"].as_u64().unwrap();
    assert!(altered > 60 && result["arrived"]["lost"] == altered, "{result}");

    let harm = || Harm { drop_every: Some(100), duplicate_every: Some(150), ..Harm::default() };
    let (result, done) = through(harm, &options, 1);
    // A lost line and a duplicate of equal text cancel out.
    let net = |what: &str| result["arrived"][what].as_u64().unwrap();
    assert_eq!(net("lost") as i64 - net("duplicated") as i64, done.dropped as i64 - done.duplicated as i64);
    assert!(net("lost") > 0, "{result}");
}

/// Starts a sink process; returns its addresses.
fn start_sink(arguments: &[&str], count: usize) -> (Child, Vec<String>, JoinHandle<()>) {
    let mut child = program(&[&["sink", "--json"], arguments].concat()).spawn().unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let addresses = (0..count)
        .map(|_| {
            let mut line = String::new();
            messages.read_line(&mut line).unwrap();
            line.trim().strip_prefix("statsring: listening on ").expect(&line).to_owned()
        })
        .collect();
    let reader = thread::spawn(move || {
        let _ = messages.read_to_end(&mut Vec::new());
    });
    (child, addresses, reader)
}

fn end(child: Child, reader: JoinHandle<()>) -> Output {
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    output
}

#[test]
fn separate_sink_process_learns_the_expected_count() {
    let (sink, addresses, reader) = start_sink(&["--listen", "0,0"], 2);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let forwarder = Forwarder::start(addresses, Harm::default(), socket);
    let to = forwarder.address.to_string();
    let load = run(&["load", "--json", "--quiet", "--to", &to, "--rate", "500", "--datagrams", "200"]);
    let result = json(&load, 0);
    assert_eq!((&result["measured"], &result["arrived"]), (&false.into(), &Value::Null));
    let result = json(&end(sink, reader), 0);
    assert_eq!((&result["arrived"]["expected"], &result["arrived"]["unique"]), (&200.into(), &200.into()));
    assert!(
        result["arrived"]["latency_us"]["count"] == 200,
        "latency is measured on the same host: {result}"
    );
    forwarder.end();
}

#[test]
fn separate_sink_process_detects_losses() {
    for options in
        [&["--listen", "0", "--idle", "2"][..], &["--listen", "0", "--expect", "201", "--idle", "1"]]
    {
        let (sink, addresses, reader) = start_sink(options, 1);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let drop_every = options.len() == 4;
        let harm = Harm { drop_every: drop_every.then_some(100), ..Harm::default() };
        let forwarder = Forwarder::start(addresses, harm, socket);
        let to = forwarder.address.to_string();
        json(&run(&["load", "--json", "--quiet", "--to", &to, "--rate", "500", "--datagrams", "200"]), 0);
        let result = json(&end(sink, reader), 1);
        let lost = if drop_every { 2 } else { 1 };
        assert_eq!(result["arrived"]["lost"], lost, "{result}");
        forwarder.end();
    }
}

#[test]
fn sink_stops_on_signal() {
    let (sink, _, reader) = start_sink(&["--listen", "0", "--seconds", "0.2"], 1);
    let result = json(&end(sink, reader), 1);
    assert_eq!(result["verdict"]["reasons"][0], "nothing arrived");
    let (sink, _, reader) = start_sink(&["--listen", "0"], 1);
    kill(Pid::from_raw(sink.id() as i32), Signal::SIGTERM).unwrap();
    json(&end(sink, reader), 1);
}

#[test]
fn sinks_answer_health_checks_during_the_delay() {
    let [port, health] = free_ports();
    let (to, sink, health_list) = (format!("127.0.0.1:{port}"), port.to_string(), health.to_string());
    let arguments = ["--health", &health_list, "--delay", "600", "--datagrams", "5", "--json"];
    let load = program(&[&["load", "--to", &to, "--sink", &sink][..], &arguments].concat()).spawn().unwrap();
    let begin = Instant::now();
    let answer = loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", health)) {
            let mut answer = String::new();
            stream.write_all(b"health\r\nquit\r\n").unwrap();
            stream.read_to_string(&mut answer).unwrap();
            break answer;
        }
        assert!(begin.elapsed() < PATIENCE, "nobody answers");
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(answer, "health: up\n");
    // It still waits; a signal ends the wait, and nothing is sent.
    kill(Pid::from_raw(load.id() as i32), Signal::SIGINT).unwrap();
    let result = json(&load.wait_with_output().unwrap(), 1);
    assert_eq!(
        (&result["sent"]["datagrams"], &result["verdict"]["reasons"][0]),
        (&0.into(), &"nothing was sent".into())
    );
}

#[test]
fn interrupted_load_prints_its_verdict() {
    let [port] = free_ports::<1>();
    let (to, sink) = (format!("127.0.0.1:{port}"), port.to_string());
    let mut load =
        program(&["load", "--json", "--to", &to, "--sink", &sink, "--seconds", "600", "--rate", "100"])
            .spawn()
            .unwrap();
    let mut messages = BufReader::new(load.stderr.take().unwrap());
    let mut line = String::new();
    messages.read_line(&mut line).unwrap();
    assert!(line.contains("1 s  sent "), "{line}");
    kill(Pid::from_raw(load.id() as i32), Signal::SIGINT).unwrap();
    let reader = thread::spawn(move || {
        let _ = messages.read_to_end(&mut Vec::new());
    });
    let result = json(&end(load, reader), 0);
    assert!(result["sent"]["seconds"].as_f64().is_some_and(|seconds| seconds < 500.0), "{result}");
    assert_eq!(result["arrived"]["lost"], 0);
}

#[test]
fn usage_and_os_errors_have_their_exit_codes() {
    for (arguments, part) in [
        (&["load", "--metrics", "0"][..], "--metrics 0: expected 1 to 1000"),
        (&["load", "--rate", "fast"], "--rate"),
        (&["load", "--replay", "/nowhere/x"], "/nowhere/x"),
        (&["sink"], "--listen"),
        (&["sink", "--listen", "x"], "--listen"),
        (&["sink", "--listen", "0", "--names", "0"], "--names 0"),
        (&["-f", "x", "load"], "omit -f"),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for arguments in
        [&["load", "--sink", &port][..], &["sink", "--listen", &port], &["load", "--pid", "1073741824"]]
    {
        let output = run(arguments);
        assert_eq!(code(&output), 71, "{arguments:?}");
    }
    let output = run(&["load", "--sink", &port]);
    assert!(stderr(&output).contains("already in use"), "{}", stderr(&output));
}

#[test]
fn missing_proxy_gets_a_bad_verdict() {
    let output = load_with_sinks(|[port]| {
        let [nobody] = free_ports::<1>();
        assert_ne!(port, nobody);
        words(&format!("--to 127.0.0.1:{nobody} --json --quiet --rate 1000 --datagrams 100 --settle 0.3"))
    });
    let result = json(&output, 1);
    assert_eq!(result["verdict"]["reasons"][0], "nothing arrived");
    assert!(
        result["verdict"]["notes"].to_string().contains("check that the proxy listens there"),
        "{result}"
    );
}

struct Proxy {
    child: Child,
    port: u16,
    admin: u16,
    sinks: [u16; 3],
    _config: File,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn answers(admin: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", admin)) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(b"ping\nquit\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("pong")
}

/// Starts the proxy with three free ports as backends.
fn start_proxy() -> Proxy {
    for attempt in 0..5 {
        let [port, admin, a, b, c] = free_ports();
        let config = File::new(
            &format!("proxy-{attempt}.json"),
            &format!(
                r#"{{"host": "127.0.0.1", "port": {port}, "managementHost": "127.0.0.1", "managementPort": {admin},
                "workers": 1, "nodes": [{{"host": "127.0.0.1", "port": {a}}}, {{"host": "127.0.0.1", "port": {b}}},
                {{"host": "127.0.0.1", "port": {c}}}]}}"#
            ),
        );
        let mut child = program(&["-f", config.path()]).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(71), "may exit only if a port is in use");
                break;
            }
            if answers(admin) {
                return Proxy { child, port, admin, sinks: [a, b, c], _config: config };
            }
            assert!(begin.elapsed() < PATIENCE, "the proxy does not respond");
            thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("no free ports");
}

#[test]
fn proxy_gets_a_good_verdict_with_every_stage() {
    let proxy = start_proxy();
    let to = format!("127.0.0.1:{}", proxy.port);
    let admin = format!("127.0.0.1:{}", proxy.admin);
    let sinks = proxy.sinks.map(|port| port.to_string()).join(",");
    let pid = proxy.child.id().to_string();
    let base = ["load", "--json", "--quiet", "--to", &to, "--sink", &sinks, "--admin", &admin, "--pid", &pid];
    let rest = ["--rate", "600", "--datagrams", "300", "--metrics", "5", "--flows", "3", "--in-order"];
    let result = json(&run(&[&base[..], &rest].concat()), 0);
    assert_eq!(result["arrived"]["unique"], 1_500);
    let stages = result["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["load to proxy", "load to proxy", "in the proxy", "proxy to sinks", "proxy to sinks"]);
    for stage in stages {
        assert_eq!((&stage["missing"], &stage["explained"]), (&0.into(), &Value::Array(vec![])), "{stage}");
    }
    assert_eq!(result["dropped_before_proxy"], 0);
    let used = result["arrived"]["sinks"].as_array().unwrap().iter();
    assert!(used.clone().all(|sink| sink["metrics"].as_u64() > Some(300)), "{result}");
    assert_eq!(result["process"]["datagrams"], 300);
    assert!(result["process"]["cpu_ns"].as_u64() > Some(0), "{result}");

    let file = File::new("capture-proxy", CAPTURE);
    let replay = ["--replay", file.path(), "--rate", "500", "--datagrams", "100", "--metrics", "4"];
    let result = json(&run(&[&base[..], &replay].concat()), 0);
    assert_eq!((&result["arrived"]["unique"], &result["arrived"]["foreign"]), (&400.into(), &0.into()));
}
