//! Enters the README's quick start, and the book's commands for a running proxy, line by line into a fresh shell in a network
//! namespace.
//!
//! Only `cargo build` is replaced: the program is built already.

use crate::book::{Block, Page, folder, page, pages, root};
use crate::lab::{Lab, in_lab};
use crate::patience::PATIENCE;
use crate::proxy::PROGRAM;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most hosts: IPv6 comes first when a name is resolved.
const BOTH_FAMILIES: &str = "127.0.0.1 localhost\n::1 localhost\n";
const IPV4_ONLY: &str = "127.0.0.1 localhost\n";

/// A shell, and the output of it and its children.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    printed: Arc<Mutex<Vec<u8>>>,
    folder: PathBuf,
    /// Number of entered lines.
    lines: usize,
}

impl Shell {
    /// In a checkout with a built program, on a host with these names.
    fn new(lab: &Lab, hosts: &str) -> Shell {
        let folder = checkout();
        let hosts = lab.file("hosts", hosts);
        let script =
            format!("mount --bind {} /etc/hosts && exec bash --norc --noprofile 2>&1", hosts.display());
        let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .current_dir(&folder)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let printed = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&printed);
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Shell { child, stdin, printed, folder, lines: 0 }
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    /// Enters a line and waits until it is finished, or has started its background process; returns the output.
    fn enter(&mut self, line: &str) -> String {
        let before = self.printed().len();
        self.lines += 1;
        let marker = format!("(line {} of the test is complete)\n", self.lines);
        writeln!(self.stdin, "{line}\nprintf '%s' '{marker}'").unwrap();
        let goes_on = if line.contains("sink --print") {
            "health checks on 127.0.0.1:8132\n"
        } else if line.contains("-f exampleConfig.json &") {
            " ready: "
        } else {
            ""
        };
        self.wait_for(line, |printed| {
            printed[before..].contains(&marker) && printed[before..].contains(goes_on)
        });
        self.printed()[before..].replace(&marker, "")
    }

    /// Waits for the output of a page, ignoring white space.
    fn expect(&self, shown: &str) {
        let one_blank = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.wait_for(shown, |printed| one_blank(printed).contains(&one_blank(shown)));
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_printed: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_printed(&self.printed()) {
            assert!(Instant::now() < end, "timed out: {what}\nprinted:\n{}", self.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Enters the lines of a page's blocks in sequence; the shown output must be printed.
    fn follow(&mut self, blocks: &[Block]) {
        for block in blocks {
            if block.language == "text" {
                self.expect(&block.text);
            }
            for entered in block.entered() {
                let printed = self.enter(&entered.command);
                if block.language == "console" {
                    assert_eq!(
                        mask_numbers(&without_log(&printed)),
                        mask_numbers(&entered.output),
                        "{}",
                        entered.command
                    );
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Ends its background processes, too.
        let _ = self.stdin.write_all(b"kill $(jobs -p) 2>/dev/null; wait; exit\n");
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A directory that looks like a checkout after `cargo build --release`.
fn checkout() -> PathBuf {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = folder(&format!("checkout.{number}"));
    for part in ["target/release", "bin"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    symlink(PROGRAM, folder.join("target/release/statsring")).unwrap();
    fs::copy(root().join("exampleConfig.json"), folder.join("exampleConfig.json")).unwrap();
    let cargo = folder.join("bin/cargo");
    fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = 'build --release' ]\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Removes the proxy's log lines.
fn without_log(text: &str) -> String {
    let is_logged = |line: &&str| line.contains("Z  INFO ") || line.contains("Z  WARN ");
    text.lines().filter(|line| !is_logged(line)).map(|line| format!("{line}\n")).collect()
}

/// Replaces every number by N: times and counters vary.
fn mask_numbers(text: &str) -> String {
    let mut aside = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if aside.ends_with('N') => {}
            '0'..='9' => aside.push('N'),
            character => aside.push(character),
        }
    }
    aside
}

/// A page up to a heading.
fn up_to(page: Page, heading: &str) -> Page {
    let (before, _) = page
        .text
        .split_once(heading)
        .unwrap_or_else(|| panic!("{}: heading {heading} is missing", page.path));
    Page { text: before.to_owned(), ..page }
}

/// The blocks of the README's quick start.
fn quick_start() -> Vec<Block> {
    let readme = page("README.md");
    let (_, after) = readme.text.split_once("\n## Quick start\n").unwrap();
    let text = after.split("\nThe config of a real installation").next().unwrap().to_owned();
    Page { text, ..readme }.blocks()
}

#[test]
fn quick_start_shows_an_arriving_metric() {
    let blocks = quick_start();
    assert!(blocks.iter().any(|block| block.text.contains("| nc -u -w1 localhost 8125")), "{blocks:?}");
    for hosts in [IPV4_ONLY, BOTH_FAMILIES] {
        in_lab(|lab| {
            let mut shell = Shell::new(lab, hosts);
            shell.follow(&blocks);
            let printed = shell.printed();
            assert!(printed.contains("\nmetrics_received: 1.000000\n"), "{hosts}{printed}");
            assert!(printed.contains("\nmetrics_sent: 1.000000\n"), "{hosts}{printed}");
        });
    }
}

#[test]
fn getting_started_works_as_printed() {
    let page = up_to(page("docs/src/getting-started.md"), "\n## Use your own backends\n");
    in_lab(|lab| Shell::new(lab, BOTH_FAMILIES).follow(&page.blocks()));
}

/// Whether a program is installed; assumed with CI=true.
fn is_installed(program: &str) -> bool {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let folders = std::env::var("PATH").unwrap();
    is_ci || folders.split(':').any(|folder| Path::new(folder).join(program).exists())
}

#[test]
fn queries_to_a_running_proxy_match_the_pages() {
    let mut asked = 0;
    for page in pages().into_iter().filter(|page| page.path != "docs/src/getting-started.md") {
        let asks = |block: &Block| block.text.contains("| nc ") || block.text.contains("$ curl ");
        let blocks: Vec<Block> = page.blocks_of("console").into_iter().filter(asks).collect();
        if blocks.is_empty() || !is_installed("curl") && page.text.contains("$ curl ") {
            continue;
        }
        in_lab(|lab| {
            let mut shell = Shell::new(lab, BOTH_FAMILIES);
            for line in quick_start()[0].text.lines() {
                shell.enter(line);
            }
            shell.expect("api.requests:1|c");
            shell.follow(&blocks);
        });
        asked += blocks.len();
    }
    assert!(asked >= 3, "{asked}");
}
