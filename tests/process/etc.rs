//! Runs the program with private `/etc/hosts`, `/etc/resolv.conf` and `/etc/nsswitch.conf` in a mount namespace; the host's
//! files are not touched.

use crate::proxy::PROGRAM;
use crate::skip::skip_unprivileged;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The files, removed at the end.
pub struct Etc {
    folder: PathBuf,
    /// The command that creates the namespace: `unshare` with arguments.
    namespace: Vec<String>,
}

impl Etc {
    /// Files with this `/etc/hosts` and no name server. `None` where no namespace can be created; the test is skipped then.
    pub fn new(hosts: &str) -> Option<Etc> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("statsring-etc-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut etc = Etc { folder, namespace: Vec::new() };
        etc.set_hosts(hosts);
        std::fs::write(etc.path("nsswitch.conf"), "hosts: files dns\n").unwrap();
        // No name server: the kernel refuses at once.
        etc.set_name_server("127.255.255.254");
        // As root, or in a user namespace.
        for namespace in ["-m", "-rm"] {
            etc.namespace = vec![namespace.to_owned()];
            if etc.command("true").output().is_ok_and(|output| output.status.success()) {
                return Some(etc);
            }
        }
        skip_unprivileged("cannot create a mount namespace");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Sets the text of `/etc/hosts`. Written in place, because the file is mounted.
    pub fn set_hosts(&self, text: &str) {
        std::fs::write(self.path("hosts"), text).unwrap();
    }

    /// Sets the name server; an unanswered lookup takes minutes.
    pub fn set_name_server(&self, address: &str) {
        self.set_resolver(&format!("nameserver {address}\noptions timeout:30 attempts:5\n"));
    }

    /// Sets the text of `/etc/resolv.conf`.
    pub fn set_resolver(&self, text: &str) {
        std::fs::write(self.path("resolv.conf"), text).unwrap();
    }

    /// A command that runs with these files.
    pub fn command(&self, program: &str) -> Command {
        let mount = |name: &str| {
            // systemd-resolved's is a link whose target may not exist.
            format!("mount --bind {} \"$(readlink -f /etc/{name})\"", self.path(name).display())
        };
        let mounts = ["hosts", "resolv.conf", "nsswitch.conf"].map(mount).join(" && ");
        let mut command = Command::new("unshare");
        command.args(&self.namespace).args(["sh", "-c", &format!("{mounts} && exec \"$0\" \"$@\"")]);
        command.arg(program);
        command
    }

    /// Starts the proxy with these files.
    pub fn proxy(&self, path: &Path) -> Command {
        let mut command = self.command(PROGRAM);
        command.arg("-f").arg(path);
        command
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
