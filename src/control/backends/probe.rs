//! One health check: connect to a backend's admin port, send `health`, read the answer.
//!
//! In: an address and a time limit for all of it. Out: success, or the cause of the failure. Next: `health_checker.rs` passes it to `health.rs`.

use crate::control::net::{Stream, deadline_in};
use crate::control::shortage::is_shortage;
use crate::driver::socket::source_of;
use memchr::memmem;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The request, as sent by StatsD's proxy.js.
const QUESTION: &[u8] = b"health\r\n";
/// Prefix of the answer line.
const HEALTH: &[u8] = b"health:";
/// The answer contains this if the backend is up.
const UP: &[u8] = b"up";
/// Most bytes of an answer that are examined.
const ANSWER_BYTES_MAX: usize = 4_096;
/// Bytes of an answer that an error shows.
const ANSWER_SHOWN_MAX: usize = 60;

/// Why a check failed, or why there was none.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// This process or its host lacks resources, which is not evidence about the backend.
    #[error("cannot check: {}", cause(.0))]
    NotMade(io::Error),
    /// No connection.
    #[error("connect: {}", cause(.0))]
    Connect(io::Error),
    /// No answer within the time.
    #[error("not reported up within {0} ms")]
    TimedOut(u64),
    /// It answered within the time, but neither `up` nor `health: down`; shown escaped and truncated.
    #[error("answered \"{shown}\", but not reported up within {limit_ms} ms")]
    Undecided {
        /// What it answered.
        shown: String,
        /// The time, in ms.
        limit_ms: u64,
    },
    /// The connection broke.
    #[error("{}", cause(.0))]
    Broken(io::Error),
    /// It ended the connection first.
    #[error("closed the connection without an answer")]
    Closed,
    /// It answered something else; shown escaped and truncated.
    #[error("answered \"{0}\"")]
    NotUp(String),
    /// The answer is too long.
    #[error("answered more than {ANSWER_BYTES_MAX} bytes without `up`")]
    TooLong,
}

/// The system's message without Rust's "(os error N)".
fn cause(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |errno| nix::errno::Errno::from_raw(errno).desc().to_lowercase())
}

/// Checks the backend whose admin port is at `address`; connecting, asking and answering share `limit_ms`.
pub async fn probe(address: SocketAddr, limit_ms: u64) -> Result<(), ProbeError> {
    let deadline = deadline_in(Duration::from_millis(limit_ms));
    let in_time = |error: io::Error, other: fn(io::Error) -> ProbeError| match error.kind() {
        io::ErrorKind::TimedOut if error.raw_os_error().is_none() => ProbeError::TimedOut(limit_ms),
        _ if is_shortage(&error) || is_out_of_ports(address, &error) => ProbeError::NotMade(error),
        _ => other(error),
    };
    let stream =
        Stream::connect(address, deadline).await.map_err(|error| in_time(error, ProbeError::Connect))?;
    let (written, _) = stream.write_all_until(QUESTION.to_vec(), deadline).await;
    written.map_err(|error| in_time(error, ProbeError::Broken))?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    loop {
        let (read, filled) = stream.read_until(answer, deadline).await;
        answer = filled;
        let ended = match read.map_err(|error| in_time(error, ProbeError::Broken)) {
            Ok(length) => length == 0,
            Err(ProbeError::TimedOut(limit_ms)) if !answer.trim_ascii().is_empty() => {
                return Err(ProbeError::Undecided { shown: shown(&answer), limit_ms });
            }
            Err(error) => return Err(error),
        };
        if let Some(verdict) = judge(&answer, ended) {
            stream.shutdown();
            return verdict;
        }
    }
}

/// Whether a connection failed because the host has no free local port, and not because it has no address to come from.
fn is_out_of_ports(address: SocketAddr, error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL) && source_of(address).is_ok()
}

/// The verdict on the bytes so far; `None` while undecided.
///
/// As in proxy.js, `up` anywhere means up. A line `health: ...` without it decides too; any other line may be a banner, and the
/// answer may follow it.
pub fn judge(answer: &[u8], ended: bool) -> Option<Result<(), ProbeError>> {
    if memmem::find(answer, UP).is_some() {
        return Some(Ok(()));
    }
    match () {
        _ if answer.len() >= ANSWER_BYTES_MAX => Some(Err(ProbeError::TooLong)),
        _ if ended && answer.is_empty() => Some(Err(ProbeError::Closed)),
        _ if ended || has_health_line(answer) => Some(Err(ProbeError::NotUp(shown(answer)))),
        _ => None,
    }
}

/// Whether one of the complete lines is the answer to `health`.
fn has_health_line(answer: &[u8]) -> bool {
    let complete = memchr::memrchr(b'\n', answer).map_or(&[][..], |end| &answer[..end]);
    complete.split(|byte| *byte == b'\n').any(|line| {
        line.trim_ascii_start().get(..HEALTH.len()).is_some_and(|start| start.eq_ignore_ascii_case(HEALTH))
    })
}

/// The end of an answer, where the decision is, as an error shows it.
fn shown(answer: &[u8]) -> String {
    let answer = answer.trim_ascii();
    answer[answer.len().saturating_sub(ANSWER_SHOWN_MAX)..].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::net::tests::run_on_both;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread::JoinHandle;

    /// A limit that no test should reach.
    const AMPLE_MS: u64 = 10_000;

    /// A backend that reads the question, then does this.
    fn backend(act: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; QUESTION.len()];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(question, QUESTION);
            act(stream);
        });
        (address, thread)
    }

    fn check(limit_ms: u64, act: impl FnOnce(TcpStream) + Clone + Send + 'static, expected: &'static str) {
        let check = async |act| {
            let (address, thread) = backend(act);
            let verdict = probe(address, limit_ms).await;
            thread.join().unwrap();
            match verdict {
                Ok(()) => assert_eq!("up", expected),
                Err(error) => assert_eq!(error.to_string(), expected),
            }
        };
        run_on_both(|| check(act.clone()));
    }

    #[test]
    fn the_answers_of_statsd() {
        check(AMPLE_MS, |mut stream| stream.write_all(b"health: up\n").unwrap(), "up");
        check(
            AMPLE_MS,
            |mut stream| stream.write_all(b"health: down\n").unwrap(),
            r#"answered "health: down""#,
        );
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let pieces = |mut stream: TcpStream| {
            stream.set_nodelay(true).unwrap();
            for piece in ["health: u", "p"] {
                stream.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        check(AMPLE_MS, pieces, "up");
    }

    #[test]
    fn an_answer_may_follow_a_banner_line() {
        let banner = |answer: &'static [u8]| {
            move |mut stream: TcpStream| {
                stream.set_nodelay(true).unwrap();
                stream.write_all(b"StatsD 0.10.2\r\n").unwrap();
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(answer).unwrap();
                let _ = stream.read(&mut [0; 1]);
            }
        };
        check(AMPLE_MS, banner(b"health: up\r\n"), "up");
        check(AMPLE_MS, banner(b"health: down\n"), r#"answered "StatsD 0.10.2\r\nhealth: down""#);
        check(
            200,
            banner(b"what?\n"),
            r#"answered "StatsD 0.10.2\r\nwhat?", but not reported up within 200 ms"#,
        );
    }

    #[test]
    fn a_silent_backend_and_a_trickling_one_fail_at_the_limit() {
        let until_closed = |mut stream: TcpStream| {
            let _ = stream.read(&mut [0; 1]);
        };
        check(50, until_closed, "not reported up within 50 ms");
        let trickle = |mut stream: TcpStream| while stream.write_all(b"x").is_ok() {};
        run_on_both(|| async move {
            let (address, thread) = backend(trickle);
            let error = probe(address, 300).await.unwrap_err();
            thread.join().unwrap();
            assert!(matches!(error, ProbeError::TooLong | ProbeError::TimedOut(300)), "{error}");
        });
    }

    #[test]
    fn answers_are_bounded_and_shown_escaped() {
        check(
            AMPLE_MS,
            |mut stream| drop(stream.write_all(&[b'x'; 100_000])),
            "answered more than 4096 bytes without `up`",
        );
        check(AMPLE_MS, |mut stream| stream.write_all(b"\x1b[2Jno\r\n").unwrap(), r#"answered "\x1b[2Jno""#);
        assert_eq!(shown(&[b'x'; 100]), "x".repeat(ANSWER_SHOWN_MAX));
    }

    #[test]
    fn a_closed_and_a_reset_connection_fail() {
        check(AMPLE_MS, drop, "closed the connection without an answer");
        let reset = |stream: TcpStream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        check(AMPLE_MS, reset, "connection reset by peer");
    }

    #[test]
    fn a_refused_connection_fails_with_its_cause() {
        run_on_both(|| async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            drop(listener);
            let error = probe(address, AMPLE_MS).await.unwrap_err();
            assert_eq!(error.to_string(), "connect: connection refused");
        });
    }

    #[test]
    fn only_a_finished_answer_is_judged() {
        assert!(judge(b"", false).is_none());
        assert!(judge(b"health: ", false).is_none());
        assert!(judge(b"health: down", false).is_none(), "the line may go on");
        assert!(judge(b"banner\n", false).is_none());
        assert!(matches!(judge(b"Health: down\n", false), Some(Err(ProbeError::NotUp(_)))));
        assert!(matches!(judge(b"banner\r\n health: no\n>", false), Some(Err(ProbeError::NotUp(_)))));
        assert!(matches!(judge(b"health: up", false), Some(Ok(()))));
        assert!(matches!(judge(b"health: ", true), Some(Err(ProbeError::NotUp(_)))));
        assert!(matches!(judge(b"", true), Some(Err(ProbeError::Closed))));
    }
}
