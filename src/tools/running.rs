//! A running proxy found by its config file: where its admin port actually listens, even if the file has changed since.
//!
//! In: the path of a config, /proc. Out: listening TCP addresses. Next: `check_ready.rs` queries them.

use super::config_file::DEFAULT_CONFIG;
use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};
use procfs::process::{FDTarget, Process, all_processes};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where proxies listen that were started with the config at `config` and can be seen from here: processes of this user, or of
/// all for root. Empty if there are none.
pub fn admin_addresses(config: &Path) -> Vec<SocketAddr> {
    let Ok(own) = Process::myself() else { return Vec::new() };
    let Ok(program) = own.stat().map(|stat| stat.comm) else { return Vec::new() };
    let config = canonical(config);
    let runs_it = |process: &Process| {
        process.pid != own.pid
            && process.stat().is_ok_and(|stat| stat.comm == program)
            && config_of(process).is_some_and(|path| path == config)
    };
    let processes = all_processes().into_iter().flatten().flatten().filter(runs_it);
    let sockets: HashSet<u64> = processes.flat_map(|process| sockets(&process)).collect();
    let tables = [tcp(), tcp6()].into_iter().flatten().flatten();
    let is_theirs = |entry: &TcpNetEntry| entry.state == TcpState::Listen && sockets.contains(&entry.inode);
    tables.filter(is_theirs).map(|entry| entry.local_address).collect()
}

fn sockets(process: &Process) -> Vec<u64> {
    let descriptors = process.fd().into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect()
}

/// The config that a process was started with, if it is a proxy: its arguments have no command.
fn config_of(process: &Process) -> Option<PathBuf> {
    let file = file_argument(&process.cmdline().ok()?)?;
    let folder = process.cwd().unwrap_or_default();
    Some(canonical(&folder.join(file)))
}

/// The file of a command line without a command, its default included; `None` where there is a command.
fn file_argument(command_line: &[String]) -> Option<PathBuf> {
    let mut file = None;
    let mut arguments = command_line.iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-f" | "--file" => file = Some(PathBuf::from(arguments.next()?)),
            option if option.starts_with('-') => {}
            _ => return None,
        }
    }
    Some(file.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)))
}

/// The same form for all spellings of a path; where it does not exist, an absolute path with its symbolic links.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_read_off_the_command_line() {
        let file = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            file_argument(&arguments).map(|path| path.display().to_string())
        };
        assert_eq!(file("/statsring"), Some(DEFAULT_CONFIG.to_owned()));
        assert_eq!(file("statsring -d -f a.json"), Some("a.json".to_owned()));
        assert_eq!(file("statsring --file a.json"), Some("a.json".to_owned()));
        assert_eq!(file("statsring check-ready -f a.json"), None);
        assert_eq!(file("statsring -f a.json where"), None);
    }
}
