//! The command line: arguments in; output, messages and exit codes out.

#[path = "process/skip.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod skip;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use statsring::config::LogFormat;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Set for a test that runs itself again as a child process.
const CHILD: &str = "STATSRING_TEST_CHILD";

const NODES: &str = r#"[
    {"host": "127.0.0.1", "port": 8127, "adminport": 8128},
    {"host": "127.0.0.1", "port": 8129, "adminport": 8130},
    {"host": "127.0.0.1", "port": 8131, "adminport": 8132}
]"#;

/// A temporary config file.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("statsring-{}-{name}.json", std::process::id()));
        std::fs::write(&path, text).expect("write a temporary file");
        File(path)
    }

    fn nodes(name: &str) -> File {
        File::new(name, &format!(r#"{{"nodes": {NODES}}}"#))
    }

    fn hashed(hashing: &str, name: &str) -> File {
        File::new(name, &format!(r#"{{"hashing": "{hashing}", "nodes": {NODES}}}"#))
    }
}

impl AsRef<OsStr> for File {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statsring"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    program().args(arguments).output().expect("the program starts")
}

/// Runs the program with this standard input.
fn run_with_input(arguments: &[&OsStr], input: &[u8]) -> Output {
    let mut child = program().args(arguments).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // The program may exit before it has read everything.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("the program ends")
    })
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("exited normally")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

fn args<'a>(list: &'a [&'a str]) -> impl Iterator<Item = &'a OsStr> {
    list.iter().map(OsStr::new)
}

#[test]
fn version_is_one_line_with_commit_and_features() {
    let output = run(["--version"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let line = stdout(&output);
    let inside = line.strip_prefix(concat!("statsring ", env!("CARGO_PKG_VERSION"), " ("));
    let inside = inside.and_then(|rest| rest.strip_suffix(")\n")).unwrap_or_else(|| panic!("{line:?}"));
    let mut parts: Vec<&str> = inside.split(", ").collect();
    // A build from an archive has no commit; one from this checkout prints its own.
    let commit = env!("STATSRING_COMMIT");
    if !commit.is_empty() {
        assert_eq!(parts.remove(0), commit);
        assert!(commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{commit}");
    }
    assert_eq!(parts[..2], ["io_uring", "portable"]);
    assert_eq!(parts.contains(&"static"), cfg!(target_feature = "crt-static"));
}

#[test]
fn help_goes_to_stdout_and_usage_errors_to_stderr() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["where", "--help"],
        &["plan", "--help"],
        &["demo", "--help"],
        &["check-ready", "--help"],
    ] {
        let output = run(arguments);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{arguments:?}");
        assert!(stdout(&output).starts_with("Usage: statsring"), "{arguments:?}");
    }
    for (arguments, reason) in [
        (&["--chek"][..], "Unrecognized argument: --chek"),
        (&["stop"], "Unrecognized argument: stop"),
        (&["-f"], "No value provided for option '-f'"),
        (&["-f", "a", "-f", "b"], "duplicate values"),
        (&["demo", "--seconds", "soon"], "soon"),
        (&["--check", "where", "foo"], "--check cannot be combined with a command"),
        (&["-f", "a", "demo"], "omit -f"),
        (&["-f", "a", "plan", "b", "c"], "omit -f"),
        (&["check-ready", "--timeout", "0"], "1 to 60000 ms"),
        (&["check-ready", "--address", "localhost"], "expected HOST:PORT"),
        (&["check-ready", "-f", "a", "--address", "localhost:1"], "cannot be combined"),
    ] {
        let output = run(arguments);
        assert_eq!((code(&output), stdout(&output).as_str()), (64, ""), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn non_utf8_arguments_are_usage_errors() {
    use std::os::unix::ffi::OsStrExt;
    let output = run([OsStr::from_bytes(b"\xff\n")]);
    assert_eq!(code(&output), 64);
    assert_eq!(stderr(&output).lines().next(), Some(r#"statsring: "\xFF\n" is not UTF-8"#));
}

#[test]
fn unreadable_config_error_suggests_remedies() {
    for arguments in [
        &["-f", "/nowhere/x.json"][..],
        &["--check", "-f", "/nowhere/x.json"],
        &["where", "-f", "/nowhere/x.json"],
        &["check-ready", "-f", "/nowhere/x.json"],
    ] {
        let output = run(arguments);
        assert_eq!((code(&output), stdout(&output).as_str()), (66, ""));
        let text = stderr(&output);
        for part in ["cannot read the config /nowhere/x.json: No such file", "-f FILE", "statsring demo"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn default_config_path_is_used() {
    if Path::new(statsring::tools::config_file::DEFAULT_CONFIG).exists() {
        return skip::skip(format_args!("this host has a {}", statsring::tools::config_file::DEFAULT_CONFIG));
    }
    let output = run::<&str>([]);
    assert_eq!(code(&output), 66);
    assert!(stderr(&output).contains("cannot read the config /etc/statsdproxy.json"));
}

#[test]
fn all_five_config_errors_are_listed() {
    let file = File::new(
        "five",
        r#"{"hosst": "::", "port": 0, "nodes": [{"host": "a b", "port": 1}, {"port": "1"}]}"#,
    );
    for first in [&["--check"][..], &[], &["where"]] {
        let output = run(args(first).chain([OsStr::new("-f"), file.as_ref()]));
        assert_eq!((code(&output), stdout(&output).as_str()), (64, ""));
        let text = stderr(&output);
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.ends_with("has 5 errors:")), "{text}");
        let paths: Vec<&str> = lines.filter_map(|line| line.trim().split(": ").nth(1)).collect();
        assert_eq!(paths, ["hosst", "port", "nodes[0].host", "nodes[1].port", "nodes[1].host"], "{text}");
    }
}

#[test]
fn check_prints_a_config_on_stdout_and_the_rest_on_stderr() {
    let file = File::new("check", &format!(r#"{{"Nodes": {NODES}, "workers": 2, "timestamps": true}}"#));
    let output = run([OsStr::new("--check"), OsStr::new("-f"), file.as_ref()]);
    assert_eq!(code(&output), 0);
    let shown: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("it is JSON");
    assert_eq!((&shown["workers"], &shown["checkInterval"]), (&2.into(), &10_000.into()));
    let text = stderr(&output);
    for part in [
        "Nodes is read as nodes",
        "arrival times of packed metrics",
        "memory bound: ",
        " per worker), plus up to ",
        "receive buffers",
    ] {
        assert!(text.contains(part), "{text}");
    }

    let again = File::new("check-again", &stdout(&output));
    let second = run([OsStr::new("-f"), again.as_ref(), OsStr::new("--check")]);
    assert_eq!((code(&second), stdout(&second)), (0, stdout(&output)));
    assert!(!stderr(&second).contains("is read as"), "{}", stderr(&second));
}

#[test]
fn check_prints_the_format_and_the_equivalent_json() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exampleProxyConfig.js");
    let output = run([OsStr::new("--check"), OsStr::new("-f"), example.as_os_str()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let first = "statsring: config format: proxy.js (it has address, mgmt_address, mgmt_port, server, forkCount); placement: \
                 hashring-3 (as in StatsD 0.8 and later)";
    assert_eq!(stderr(&output).lines().next(), Some(first));
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("it is JSON");
    assert_eq!((&json["hashing"], &json["managementDialect"]), (&"hashring-3".into(), &"proxy.js".into()));
    assert_eq!((&json["checkFall"], &json["checkTimeout"]), (&1.into(), &1_000.into()));
    let equivalent = File::new("equivalent", &stdout(&output));
    let again = run([OsStr::new("--check"), OsStr::new("-f"), equivalent.as_ref()]);
    assert_eq!((code(&again), stdout(&again)), (0, stdout(&output)));
    assert!(stderr(&again).contains("config format: statsring"), "{}", stderr(&again));

    // The tools accept both formats: the two are equivalent, while jump moves names.
    let plan = run([OsStr::new("plan"), example.as_os_str(), equivalent.as_ref()]);
    assert!(stdout(&plan).starts_with("0 of 100,000 made-up names move: 0.0 %\n"), "{}", stderr(&plan));
    let jump = File::nodes("from-proxy-js");
    let plan = run([OsStr::new("plan"), example.as_os_str(), jump.as_ref()]);
    assert_eq!((code(&plan), stdout(&plan).starts_with("0 of")), (0, false));
    for (down, port) in [(None, 8127), (Some("127.0.0.1:8127"), 8129)] {
        let mut arguments =
            vec![OsStr::new("where"), OsStr::new("-f"), example.as_os_str(), OsStr::new("foo")];
        arguments.extend(down.iter().flat_map(|node| [OsStr::new("--down"), OsStr::new(node)]));
        assert_eq!(stdout(&run(arguments)), format!("foo\t127.0.0.1:{port}\n"));
    }
}

#[test]
fn proxy_js_errors_have_line_and_column() {
    let file =
        File::new("proxy-js", "{\n  nodes: [{host: 'a', port: 0}],\n  mgmt_prot: 1,\n  mgmt_port: 1,\n}\n");
    let output = run([OsStr::new("--check"), OsStr::new("-f"), file.as_ref()]);
    assert_eq!((code(&output), stdout(&output).as_str()), (64, ""));
    for line in [
        "  line 2, column 23: nodes[0].port: 0 is not a port (1 to 65535)",
        "  line 3, column 3: mgmt_prot: unknown key; did you mean mgmt_port?",
    ] {
        assert!(stderr(&output).lines().any(|found| found == line), "{}", stderr(&output));
    }
}

#[test]
fn where_prints_the_golden_owners() {
    let file = File::nodes("golden");
    for (down, expected) in [
        (None, "foo\t127.0.0.1:8131\nglork\t127.0.0.1:8127\napi.requests\t127.0.0.1:8129\n"),
        (
            Some("127.0.0.1:8131"),
            "foo\t127.0.0.1:8129\nglork\t127.0.0.1:8127\napi.requests\t127.0.0.1:8129\n",
        ),
        (
            Some("127.0.0.1:8129"),
            "foo\t127.0.0.1:8131\nglork\t127.0.0.1:8127\napi.requests\t127.0.0.1:8127\n",
        ),
    ] {
        let mut arguments = vec![OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
        arguments.extend(down.iter().flat_map(|node| [OsStr::new("--down"), OsStr::new(node)]));
        let by_input = run_with_input(&arguments, b"foo\nglork\r\n\napi.requests");
        arguments.extend(args(&["foo", "glork", "api.requests"]));
        let by_arguments = run(&arguments);
        for output in [by_arguments, by_input] {
            assert_eq!(
                (code(&output), stdout(&output).as_str(), stderr(&output).as_str()),
                (0, expected, "")
            );
        }
    }
}

#[test]
fn where_supports_the_placements_of_other_proxies() {
    // Owners of foo, foo.bar, gorets and uniques by port, and the owner of foo with 127.0.0.1:8127 down.
    for (hashing, ports, diverted) in [
        ("hashring-3", [8127, 8129, 8127, 8131], Some(8129)),
        ("hashring-1", [8127, 8127, 8131, 8127], Some(8129)),
        ("ketama", [8127, 8127, 8131, 8127], None),
        ("murmur3", [8131, 8127, 8127, 8129], Some(8131)),
        ("jump-fnv1a", [8129, 8129, 8129, 8127], Some(8129)),
    ] {
        let file = File::hashed(hashing, &format!("placed-{hashing}"));
        let base = [OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
        let output = run(base.into_iter().chain(args(&["foo", "foo.bar", "gorets", "uniques"])));
        let found: Vec<String> =
            stdout(&output).lines().map(|line| line.rsplit(':').next().unwrap().to_owned()).collect();
        assert_eq!(found, ports.map(|port| port.to_string()), "{hashing}: {}", stderr(&output));
        let output = run(base.into_iter().chain(args(&["--down", "127.0.0.1:8127", "foo"])));
        let expected = diverted.map_or("foo\t-\n".to_owned(), |port| format!("foo\t127.0.0.1:{port}\n"));
        assert_eq!(stdout(&output), expected, "{hashing}");
    }
}

#[test]
fn plan_shows_moved_names() {
    let (old, new) = (File::nodes("plan-old"), File::hashed("hashring-3", "plan-new"));
    let base = [OsStr::new("plan"), old.as_ref(), new.as_ref()];
    let output = run(base);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let text = stdout(&output);
    assert!(text.contains(" of 100,000 made-up names move: "), "{text}");
    assert!(text.contains("127.0.0.1:8131  127.0.0.1:8127"), "{text}");

    // foo: 8131 to 8127, glork: 8127 to 8129, api.requests: 8129 to 8131, uniques: 8129 to 8131.
    let names = b"foo\nglork\r\n\napi.requests\nuniques";
    let output =
        run_with_input(&base.into_iter().chain(args(&["--names", "-", "--json"])).collect::<Vec<_>>(), names);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((json["names"].as_u64(), json["moved"].as_u64()), (Some(4), Some(4)));
    assert_eq!(json["source"], "given");
    let moves: Vec<String> = json["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|way| format!("{} {} {}", way["from"], way["to"], way["names"]).replace("127.0.0.1:", ""))
        .collect();
    assert_eq!(moves, [r#""8127" "8129" 1"#, r#""8129" "8131" 2"#, r#""8131" "8127" 1"#]);

    let same = run([OsStr::new("plan"), old.as_ref(), old.as_ref()]);
    assert!(stdout(&same).starts_with("0 of 100,000 made-up names move: 0.0 %\n"), "{}", stdout(&same));
}

#[test]
fn plan_reports_unreadable_files() {
    let good = File::nodes("plan-good");
    let nowhere = OsStr::new("/nowhere/x");
    let output = run([OsStr::new("plan"), nowhere, good.as_ref()]);
    assert_eq!((code(&output), stdout(&output).as_str()), (66, ""));
    assert!(stderr(&output).contains("cannot read the config /nowhere/x"), "{}", stderr(&output));
    let output = run([OsStr::new("plan"), good.as_ref(), good.as_ref(), OsStr::new("--names"), nowhere]);
    assert_eq!(code(&output), 66);
    assert!(stderr(&output).contains("cannot read the names in /nowhere/x"), "{}", stderr(&output));
    let output = run_with_input(
        &[OsStr::new("plan"), good.as_ref(), good.as_ref(), OsStr::new("--names"), OsStr::new("-")],
        b"\n",
    );
    assert_eq!(code(&output), 64);
    assert!(stderr(&output).contains("no names in -"), "{}", stderr(&output));
}

#[test]
fn where_accepts_the_config_option_before_the_command() {
    let file = File::nodes("before");
    let output = run([OsStr::new("-f"), file.as_ref(), OsStr::new("where"), OsStr::new("foo")]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "foo\t127.0.0.1:8131\n"));
}

#[test]
fn where_prints_a_dash_for_a_name_without_backend() {
    let nodes = NODES.replacen("8128}", r#"8128, "disabled": true}"#, 1);
    let file = File::new("disabled", &format!(r#"{{"nodes": {nodes}}}"#));
    let base = [OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
    // The backend that owns glork is disabled.
    let output = run(base.into_iter().chain(args(&["glork"])));
    assert_eq!(stdout(&output), "glork\t127.0.0.1:8129\n");
    let all_down = ["--down", "127.0.0.1:8129", "--down", "127.0.0.1:8131", "glork", "foo:1|c"];
    let output = run(base.into_iter().chain(args(&all_down)));
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "glork\t-\nfoo:1|c\t-\n"));

    let file = File::new("drop", &format!(r#"{{"onNodeDown": "drop", "nodes": {nodes}}}"#));
    let base = [OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
    // Names of a dead backend are dropped, those of a disabled one are diverted.
    let output = run(base.into_iter().chain(args(&["glork", "foo"])));
    assert_eq!(stdout(&output), "glork\t127.0.0.1:8129\nfoo\t127.0.0.1:8131\n");
    let output = run(base.into_iter().chain(args(&["--down", "127.0.0.1:8131", "glork", "foo"])));
    assert_eq!(stdout(&output), "glork\t127.0.0.1:8129\nfoo\t-\n");
    let output = run(base.into_iter().chain(args(&all_down)));
    assert_eq!(stdout(&output), "glork\t-\nfoo:1|c\t-\n");
}

#[test]
fn where_refuses_unknown_backends_and_bad_names() {
    let file = File::nodes("refuses");
    let base = [OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
    let output = run(base.into_iter().chain(args(&["--down", "127.0.0.1:9", "foo"])));
    assert_eq!((code(&output), stdout(&output).as_str()), (64, ""));
    let known = "\"127.0.0.1:9\" is not a backend of the config; expected one of 127.0.0.1:8127, 127.0.0.1:8129, 127.0.0.1:8131";
    assert!(stderr(&output).contains(known), "{}", stderr(&output));
    assert_eq!(code(&run(base.into_iter().chain(args(&[""])))), 64);
}

#[test]
fn where_accepts_any_bytes_and_escapes_them() {
    let file = File::nodes("bytes");
    let arguments = [OsStr::new("where"), OsStr::new("-f"), file.as_ref()];
    let output = run_with_input(&arguments, b"a\xff\x00\x1b[31m\nfoo\\\n");
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(names, [r"a\xff\x00\x1b[31m", r"foo\\"]);
    let endless = vec![b'x'; 10 << 20];
    let output = run_with_input(&arguments, &endless);
    assert_eq!((code(&output), stdout(&output).as_str()), (64, ""));
    assert!(stderr(&output).contains("line 1 of standard input is longer than any name"));
}

#[test]
fn where_replies_before_end_of_input() {
    let file = File::nodes("open");
    let mut child = program()
        .args([OsStr::new("where"), OsStr::new("-f"), file.as_ref()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut answers = BufReader::new(child.stdout.take().expect("piped"));
    for _ in 0..3 {
        stdin.write_all(b"foo\n").expect("the program reads");
        let mut line = String::new();
        answers.read_line(&mut line).expect("the program answers");
        assert_eq!(line, "foo\t127.0.0.1:8131\n");
    }
    drop(stdin);
    assert_eq!(child.wait().expect("the program ends").code(), Some(0));
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let file = File::nodes("pipe");
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    let output = program()
        .args([OsStr::new("--check"), OsStr::new("-f"), file.as_ref()])
        .stdout(closed())
        .output()
        .expect("the program starts");
    assert_eq!(code(&output), 0);
    let names = vec!["some.name"; 20_000];
    let output = program()
        .args([OsStr::new("where"), OsStr::new("-f"), file.as_ref()])
        .args(&names)
        .stdout(closed())
        .output()
        .expect("the program starts");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    // A closed stderr does not matter either.
    let status = program().arg("--chek").stderr(closed()).status().expect("the program starts");
    assert_eq!(status.code(), Some(64));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
    let output = program().arg("--version").stdout(full).output().expect("the program starts");
    assert_eq!(code(&output), 71);
    assert!(stderr(&output).contains("cannot write to standard output"), "{}", stderr(&output));
}

/// Runs one test of this file in a child process.
fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("path of this test"));
    command.args(["--exact", test, "--nocapture"]).env(CHILD, role);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn panic_in_any_thread_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        statsring::crash::exit_on_panic();
        let worker = std::thread::Builder::new().name("worker-1".to_owned());
        let thread = worker.spawn(|| panic!("injected")).expect("a thread");
        let _ = thread.join();
        // The main thread has exited already.
        std::process::exit(0);
    }
    let output = again("panic_in_any_thread_ends_the_process", "panic").output().expect("it starts");
    let text = stderr(&output);
    assert_eq!(code(&output), 70, "{text}");
    assert!(text.contains("statsring: internal error (a bug): thread worker-1 "), "{text}");
    assert!(text.contains("injected"), "{text}");
}

#[test]
fn logs_go_to_stderr_in_the_configured_format() {
    if let Ok(role) = std::env::var(CHILD) {
        let format = if role.starts_with("json") { LogFormat::Json } else { LogFormat::Text };
        statsring::logging::init(format, role.ends_with("debug")).expect("a thread");
        for _ in 0..3 {
            tracing::info!(node = "a\u{1b}b", "hello\nyou");
            tracing::debug!("details");
        }
        statsring::logging::flush(Duration::from_secs(60));
        std::process::exit(0);
    }
    let run =
        |role: &str| again("logs_go_to_stderr_in_the_configured_format", role).output().expect("it starts");
    let text = stderr(&run("text"));
    assert_eq!(text.lines().filter(|line| line.ends_with(" INFO hello\\nyou")).count(), 3, "{text}");
    assert!(!text.contains("details") && !text.contains('\u{1b}'), "{text}");
    let text = stderr(&run("json-debug"));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"hello\nyou".into()));
    assert_eq!(lines[0]["node"], "a\u{1b}b");
    assert_eq!((&lines[1]["level"], &lines[1]["message"]), (&"DEBUG".into(), &"details".into()));

    // Logging continues after the reader has closed the pipe.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = again("logs_go_to_stderr_in_the_configured_format", "text")
        .stderr(writer)
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn sink_print_prints_received_metrics_until_a_signal() {
    let free = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = [free(), free()];
    let nodes = ports.map(|port| format!(r#"{{"host": "127.0.0.1", "port": {port}}}"#)).join(",");
    let config = File::new("sink-print", &format!(r#"{{"nodes": [{nodes}]}}"#));
    let arguments = ["sink".as_ref(), "--print".as_ref(), "-f".as_ref(), config.as_ref()];
    let mut child = program().args(arguments).spawn().expect("the program starts");
    let mut messages = BufReader::new(child.stderr.take().expect("piped")).lines();
    for port in ports {
        assert_eq!(messages.next().unwrap().unwrap(), format!("statsring: listening on 127.0.0.1:{port}"));
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"a:1|c\n\x1b[2J:2|g\n\n", ("127.0.0.1", ports[0])).unwrap();
    let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(printed.next().unwrap().unwrap(), format!("127.0.0.1:{}\ta:1|c", ports[0]));
    assert_eq!(printed.next().unwrap().unwrap(), format!("127.0.0.1:{}\t\\x1b[2J:2|g", ports[0]));
    client.send_to(b"b:3|ms", ("127.0.0.1", ports[1])).unwrap();
    assert_eq!(printed.next().unwrap().unwrap(), format!("127.0.0.1:{}\tb:3|ms", ports[1]));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sink_reports_conflicting_options() {
    for (arguments, message) in [
        (&["sink"][..], "missing --listen (to measure a load) or --print (to print what arrives)"),
        (&["sink", "--print", "--json"], "--json cannot be combined with --print"),
        (&["sink", "--print", "-f", "x", "--listen", "1"], "-f and --listen cannot be combined"),
        (&["sink", "--print", "--health", "1"], "--health requires --listen"),
        (&["sink", "--listen", "1", "-f", "x"], "-f requires --print"),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
}
