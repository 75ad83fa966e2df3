//! The proxy's own figures, from the `stats` command of its admin port.
//!
//! In: an address. Out: numbers by name, of statsring or of any proxy that answers `name: number` lines.
//! Next: `reconcile.rs` compares them before and after.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For the connection, and for the whole answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer that pauses for so long is over: some proxies keep the connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Figures by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats(HashMap<String, u64>);

impl ProxyStats {
    /// Asks the proxy.
    ///
    /// # Errors
    /// It cannot be reached, or has no figures to tell.
    pub fn ask(address: SocketAddr) -> io::Result<ProxyStats> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PAUSE))?;
        stream.write_all(b"stats\n")?;
        stream.shutdown(Shutdown::Write)?;
        let begin = Instant::now();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while begin.elapsed() < PATIENCE && answer.len() < ANSWER_BYTES_MAX {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => answer.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The pause: before the first byte a busy proxy is waited for.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !answer.is_empty() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let stats = ProxyStats::parse(&String::from_utf8_lossy(&answer));
        if stats.0.is_empty() {
            return Err(io::Error::other(
                "unexpected reply to stats: expected lines of the form name: number",
            ));
        }
        Ok(stats)
    }

    /// Takes the lines of the form `name: number`; fractions are cut off.
    pub fn parse(text: &str) -> ProxyStats {
        let figure = |line: &str| {
            let (name, number) = line.split_once(": ")?;
            let number = number.trim().split('.').next()?.parse().ok()?;
            Some((name.trim().to_owned(), number))
        };
        ProxyStats(text.lines().filter_map(figure).collect())
    }

    /// A figure.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// How much a figure has grown since `before`; `None` if one of the two does not have it.
    pub fn growth(&self, before: &ProxyStats, name: &str) -> Option<u64> {
        Some(self.get(name)?.saturating_sub(before.get(name)?))
    }

    /// Names of figures that begin with `prefix`, in order.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0.keys().map(String::as_str).filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn figures_of_the_known_forms() {
        let stats =
            ProxyStats::parse("time running in seconds: 51\npackets_received: 30.000000\nname: x\njunk\n");
        assert_eq!(
            (stats.get("time running in seconds"), stats.get("packets_received")),
            (Some(51), Some(30))
        );
        assert_eq!((stats.get("name"), stats.get("junk")), (None, None));
        let later = ProxyStats::parse("packets_received: 42.000000");
        assert_eq!(later.growth(&stats, "packets_received"), Some(12));
        assert_eq!(later.growth(&stats, "time running in seconds"), None);
        assert_eq!(stats.names("pack"), ["packets_received"]);
    }

    fn answering(answer: &'static [u8], keeps_open: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut command = String::new();
            stream.read_to_string(&mut command).unwrap();
            assert_eq!(command, "stats\n");
            stream.write_all(answer).unwrap();
            if keeps_open {
                // Until the other side has gone.
                while stream.write_all(b"").is_ok() && stream.read(&mut [0]).is_ok_and(|length| length > 0) {}
                thread::sleep(Duration::from_secs(2));
            }
        });
        address
    }

    #[test]
    fn it_asks_proxies_that_close_and_proxies_that_do_not() {
        for keeps_open in [false, true] {
            let stats = ProxyStats::ask(answering(b"metrics_sent: 7.000000\n", keeps_open)).unwrap();
            assert_eq!(stats.get("metrics_sent"), Some(7));
        }
        let error =
            ProxyStats::ask(answering(b"unknown command; help lists the commands\n", false)).unwrap_err();
        assert!(error.to_string().contains("name: number"), "{error}");
    }
}
