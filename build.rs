//! Tells the program which commit it is built from.
//!
//! In: `STATSRING_COMMIT` of the environment (a build in a container has no checkout), else git, else the file that
//! `cargo package` leaves in a crate. Out: `STATSRING_COMMIT` for `version.rs`, empty if nobody knows. Runs again only when
//! one of these changes.

use std::path::Path;
use std::process::Command;

/// So much of a commit's name is shown.
const SHOWN_BYTES: usize = 10;
/// What `cargo package` writes beside the sources.
const PACKAGED: &str = ".cargo_vcs_info.json";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=STATSRING_COMMIT");
    let told = std::env::var("STATSRING_COMMIT").ok().filter(|commit| is_commit(commit));
    let commit = told.or_else(checkout).or_else(packaged).unwrap_or_default();
    println!("cargo:rustc-env=STATSRING_COMMIT={}", &commit[..commit.len().min(SHOWN_BYTES)]);
}

/// The commit of the checkout whose top folder this is; not that of a checkout around an unpacked archive.
fn checkout() -> Option<String> {
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"]).filter(|commit| is_commit(commit))?;
    // HEAD changes with the branch, its log and the branch with each commit; what does not exist would be taken for changed
    // every time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for watched in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", watched])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The commit that a packaged crate was made of.
fn packaged() -> Option<String> {
    let text = std::fs::read_to_string(PACKAGED).ok()?;
    println!("cargo:rerun-if-changed={PACKAGED}");
    let (_, behind) = text.split_once("\"sha1\"")?;
    behind.split('"').find(|part| is_commit(part)).map(str::to_owned)
}

fn is_commit(text: &str) -> bool {
    text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
