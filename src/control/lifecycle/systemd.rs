//! Notifies the service manager of the state of this process: systemd's notification protocol, sd_notify(3).
//!
//! In: ready, reloading, stopping, a line for `systemctl status`. Out: datagrams to the socket that NOTIFY_SOCKET names,
//! nothing without it. The service manager reads them.

use nix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager; does nothing where there is none.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Within which time the manager expects a sign of life, if it does.
    watchdog: Option<Duration>,
    /// The last line sent.
    status: RefCell<String>,
}

impl Notifier {
    /// For the socket that the environment names. An error goes to the log: the notification has no reply.
    pub fn from_environment() -> Result<Notifier, String> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Notifier::default()) };
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref());
        Ok(Notifier { watchdog, ..Notifier::to(&name)? })
    }

    /// The time within which the manager expects [`Notifier::watchdog`]; `None` if it does not.
    pub fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The service is alive.
    pub fn watchdog(&self) {
        // The next one is due soon; a log line for each that is lost would be too many.
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(b"WATCHDOG=1")
        {
            tracing::debug!("cannot notify the service manager's watchdog: {error}");
        }
    }

    /// For the socket of this name: a path, or `@` and the name of an abstract socket.
    pub fn to(name: &OsStr) -> Result<Notifier, String> {
        let connected = || {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                [b'/', ..] => SocketAddr::from_pathname(name)?,
                _ => return Err(std::io::Error::other("expected a path or an abstract name (@…)")),
            };
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold this process up.
            socket.set_nonblocking(true)?;
            socket.connect_addr(&address)?;
            Ok(socket)
        };
        match connected() {
            Ok(socket) => Ok(Notifier { socket: Some(socket), ..Notifier::default() }),
            Err(error) => {
                Err(format!("NOTIFY_SOCKET={}: {error}; the service manager is not notified", name.display()))
            }
        }
    }

    /// The service is up, or up again after a reload.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The config is being read again, or a new process is being started; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
        let now_us = now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Another process is the service now, and it is up.
    pub fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\nREADY=1"));
    }

    /// One line for people; it is not sent again if unchanged.
    pub fn status(&self, line: &str) {
        if self.socket.is_none() || *self.status.borrow() == line {
            return;
        }
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.send(&format!("STATUS={line}"));
        *self.status.borrow_mut() = line;
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::warn!("cannot notify the service manager of {message:?}: {error}");
        }
    }
}

/// The watchdog's period, if it is this process that is watched: sd_watchdog_enabled(3).
fn watchdog(period_us: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    period_us?.parse().ok().filter(|us| is_meant && *us > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_watchdog_of_this_process_counts() {
        let own = std::process::id().to_string();
        let period = Some(Duration::from_secs(3));
        assert_eq!(watchdog(Some("3000000"), Some(&own)), period);
        assert_eq!(watchdog(Some("3000000"), None), period, "a process that took over");
        assert_eq!(watchdog(Some("3000000"), Some("1")), None);
        assert_eq!([watchdog(None, None), watchdog(Some("0"), None), watchdog(Some("x"), None)], [None; 3]);
    }

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn it_sends_to_paths_and_abstract_names() {
        let folder = std::env::temp_dir().join(format!("statsring-notify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("statsring-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let names = [path.into_os_string(), format!("@{name}").into()];
        for (socket, name) in [by_path, by_name].into_iter().zip(names) {
            let notifier = Notifier::to(&name).unwrap();
            notifier.ready();
            assert_eq!(heard(&socket), "READY=1");
            notifier.reloading();
            let reloading = heard(&socket);
            let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(at.parse::<u64>().unwrap() > 0, "{reloading}");
            notifier.status("2 of 3\nbackends");
            notifier.main_process(77);
            notifier.stopping();
            assert_eq!(heard(&socket), "STATUS=2 of 3 backends");
            assert_eq!(heard(&socket), "MAINPID=77\nREADY=1");
            assert_eq!(heard(&socket), "STOPPING=1");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_a_manager_nothing_is_sent_and_a_wrong_name_is_an_error() {
        Notifier::default().ready();
        for name in ["vsock:2:1", "", "/no/such/socket"] {
            assert!(Notifier::to(name.as_ref()).unwrap_err().contains("NOTIFY_SOCKET"), "{name}");
        }
    }
}
