//! `statsring check-ready`: checks whether a running proxy is ready for metrics, for a container's HEALTHCHECK and for
//! scripts.
//!
//! In: the address of an admin port, or a config with it. Out: a line of text, and exit code 0 if it is ready, 1 if
//! it is not or does not answer, for Docker or a script.

use super::config_file::{DEFAULT_CONFIG, load};
use super::running;
use crate::console::{print, usage_error};
use crate::exit;
use crate::lookup;
use argh::FromArgs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Default time limit of the answer.
const TIMEOUT_MS: u64 = 2_000;
/// Longest answer: a head and a line of text.
const ANSWER_BYTES_MAX: usize = 16_384;
/// Most fields of its head.
const FIELDS_MAX: usize = 32;

/// Checks whether a running proxy is ready for metrics and prints the answer; exits with 0 if it is ready, otherwise with 1.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(
    subcommand,
    name = "check-ready",
    help_triggers("-h", "--help"),
    note = "Queries the running proxy that was started with this config, wherever it\n  \
            listens; if there is none, the admin port set in the config, or localhost if\n  \
            that is a wildcard address.",
    error_code(1, "not ready, or no answer"),
    error_code(64, "wrong usage, or an invalid config"),
    error_code(66, "the config cannot be read")
)]
pub struct Options {
    /// config file that the proxy was started with (default /etc/statsdproxy.json)
    #[argh(option, short = 'f', arg_name = "FILE")]
    pub file: Option<PathBuf>,

    /// address of the admin port, instead of a config
    #[argh(option, arg_name = "HOST:PORT")]
    pub address: Option<String>,

    /// time limit of the answer, in ms, 1 to 60000 (default 2000)
    #[argh(option, arg_name = "MS")]
    pub timeout: Option<u64>,
}

/// Checks readiness; the exit code.
pub fn run(options: &Options) -> u8 {
    let timeout_ms = options.timeout.unwrap_or(TIMEOUT_MS);
    if !(1..=60_000).contains(&timeout_ms) {
        return usage_error(&format!("--timeout {timeout_ms} is not in range (1 to 60000 ms)"));
    }
    let addresses = match (&options.address, &options.file) {
        (Some(_), Some(_)) => {
            return usage_error("--address and -f cannot be combined: both set the admin port");
        }
        (Some(address), None) => match resolved(address) {
            Ok(addresses) => addresses,
            Err(message) => return usage_error(&message),
        },
        (None, file) => match configured(file.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))) {
            Ok(addresses) => addresses,
            Err(code) => return code,
        },
    };
    match ask_any(&addresses, Duration::from_millis(timeout_ms)) {
        Ok(Answer { is_ready: true, message }) => print(&format!("{message}\n")),
        Ok(Answer { is_ready: false, message }) => not_ready(&message),
        Err(message) => not_ready(&format!("not ready: {message}")),
    }
}

/// Where the proxy with this config has its admin port: where a running one listens, since the file may have changed since it
/// was started, and may even be wrong by now; otherwise the address in the file.
fn configured(file: &Path) -> Result<Vec<SocketAddr>, u8> {
    let mut addresses = running::admin_addresses(file);
    if addresses.is_empty() {
        addresses = load(file)?.config.management;
    }
    Ok(addresses.into_iter().map(reachable).collect())
}

/// Prints the reason on stdout, where Docker reads it.
fn not_ready(message: &str) -> u8 {
    match print(&format!("{message}\n")) {
        exit::OK => exit::FAILED,
        code => code,
    }
}

fn resolved(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found = lookup::endpoint(address).map_err(|error| format!("--address {address:?}: {error}"))?;
    Ok(found.into_iter().map(reachable).collect())
}

/// The address to connect to for a listening address.
fn reachable(mut listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listening.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listening.set_ip(Ipv6Addr::LOCALHOST.into()),
        // As it is, with the link that it belongs to.
        _ => {}
    }
    listening
}

/// The proxy's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    is_ready: bool,
    message: String,
}

/// Asks the first address that takes a connection; the time is for all of them together, and one that swallows everything
/// leaves the others their share.
fn ask_any(addresses: &[SocketAddr], timeout: Duration) -> Result<Answer, String> {
    let deadline = Instant::now() + timeout;
    let mut failures = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let share = left(deadline).map(|left| left / (addresses.len() - index) as u32);
        let connected = share.and_then(|share| TcpStream::connect_timeout(address, share));
        match connected {
            Ok(stream) => {
                return ask(stream, *address, deadline)
                    .map_err(|error| format!("{address}: {}", error_text(&error, timeout)));
            }
            Err(error) => failures.push(format!("{address}: {}", error_text(&error, timeout))),
        }
    }
    Err(failures.join("; "))
}

fn error_text(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {} ms", timeout.as_millis()),
        _ => error.to_string(),
    }
}

/// The time left, or the timeout error.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn ask(mut stream: TcpStream, address: SocketAddr, deadline: Instant) -> io::Result<Answer> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    // By its address, which is always an accepted Host, whatever name led here.
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    // The end of the connection may come later than that of the answer, and is not waited for.
    while bytes.len() < ANSWER_BYTES_MAX && !is_whole(&bytes) {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    answer(&bytes)
}

/// Whether an answer is complete; one without a length ends with the connection.
fn is_whole(bytes: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head_bytes)) = parsed.parse(bytes) else { return false };
    let length = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() - head_bytes >= length)
}

/// Parses the proxy's answer; anything else is an error.
fn answer(bytes: &[u8]) -> io::Result<Answer> {
    let not_ours = || {
        let beginning = bytes[..bytes.len().min(60)].escape_ascii();
        io::Error::other(format!(
            "unexpected answer: expected statsring of this version, found \"{beginning}\""
        ))
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head_bytes)) = parsed.parse(bytes) else { return Err(not_ours()) };
    let message = String::from_utf8_lossy(&bytes[head_bytes..]).trim_end().to_owned();
    let is_ready = match parsed.code {
        Some(200) => true,
        Some(503) => false,
        _ => return Err(not_ours()),
    };
    let is_known = message.starts_with(if is_ready { "ready" } else { "not ready" });
    if is_known {
        Ok(Answer { is_ready, message: crate::admin::escape(message.as_bytes()) })
    } else {
        Err(not_ours())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server that answers one connection so, and then keeps it for a while.
    fn answering(answer: &'static str, keep: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1_024];
            let length = stream.read(&mut request).unwrap();
            let request = std::str::from_utf8(&request[..length]).unwrap();
            assert!(request.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
            stream.write_all(answer.as_bytes()).unwrap();
            thread::sleep(keep);
        });
        address
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_proxys_answer_is_printed() {
        let ready = answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n", Duration::ZERO);
        assert_eq!(ask_any(&[ready], LONG), Ok(Answer { is_ready: true, message: "ready".to_owned() }));
        let stopping =
            answering("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: a stop\n", Duration::ZERO);
        assert_eq!(
            ask_any(&[stopping], LONG),
            Ok(Answer { is_ready: false, message: "not ready: a stop".to_owned() })
        );
    }

    #[test]
    fn a_complete_answer_is_accepted_while_the_connection_stays_open() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n";
        let kept = answering(whole, LONG);
        let asked = Instant::now();
        assert!(ask_any(&[kept], LONG).unwrap().is_ready);
        assert!(asked.elapsed() < LONG / 2);
        assert!(is_whole(whole.as_bytes()));
        for length in 0..whole.len() {
            assert!(!is_whole(&whole.as_bytes()[..length]), "{length} bytes");
        }
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nready\n"));
    }

    #[test]
    fn no_answer_and_a_foreign_answer_mean_not_ready() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask_any(&[free], LONG).unwrap_err().contains("refused"));
        let silent = answering("", LONG);
        let error = ask_any(&[silent], Duration::from_millis(50)).unwrap_err();
        assert!(error.ends_with("no answer within 50 ms"), "{error}");
        for other in
            ["pong\n", "HTTP/1.1 200 OK\r\n\r\nwelcome to nginx\n", "HTTP/1.1 404 Not Found\r\n\r\n", ""]
        {
            let error = ask_any(&[answering(other, Duration::ZERO)], LONG).unwrap_err();
            assert!(error.contains("expected statsring"), "{other:?}: {error}");
        }
    }

    #[test]
    fn the_next_address_is_tried_if_one_refuses() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ready = answering("HTTP/1.1 200 OK\r\n\r\nready: yes\n", Duration::ZERO);
        assert!(ask_any(&[free, ready], LONG).unwrap().is_ready);
    }

    #[test]
    fn one_that_swallows_connections_leaves_time_for_the_next() {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        // Nobody accepts, so the queue is full soon, and further connections are not answered.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let _held: Vec<TcpStream> = std::iter::from_fn(connect).collect();
        let ready = answering("HTTP/1.1 200 OK\r\n\r\nready: yes\n", Duration::ZERO);
        assert!(ask_any(&[address, ready], Duration::from_secs(4)).unwrap().is_ready);
    }

    #[test]
    fn a_port_that_listens_everywhere_is_asked_on_this_host() {
        for (listening, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("[fe80::1%7]:3", "[fe80::1%7]:3")]
        {
            assert_eq!(reachable(listening.parse().unwrap()), asked.parse().unwrap());
        }
        assert_eq!(resolved("0.0.0.0:7").unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert!(resolved("nowhere").unwrap_err().contains("HOST:PORT"));
    }
}
