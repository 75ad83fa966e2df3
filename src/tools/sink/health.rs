//! The admin port of a StatsD server, as far as a proxy uses it: a proxy that checks its backends' health would
//! consider sinks without one down.
//!
//! In: TCP connections. Out: `health: up` to every `health`, or `health: down` where the demo simulates an outage. The threads end with the process.

use super::receive::listen_error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// An idle client is disconnected after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a command at most.
const LINE_BYTES_MAX: u64 = 1024;

/// Binds a listener to each address.
///
/// # Errors
/// Worded for the operator: an address is taken, or not of this host.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, String> {
    let listen = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|error| format!("--health: {}", listen_error(*address, &error)))
    };
    addresses.iter().map(listen).collect()
}

/// Answers at all of them from threads of their own, until the process ends. For each, whether it answers that it is up.
///
/// # Errors
/// The system has no thread.
pub fn spawn(listeners: Vec<TcpListener>) -> io::Result<Vec<Arc<AtomicBool>>> {
    let open = Arc::new(AtomicUsize::new(0));
    let serve = |listener: TcpListener| {
        let (open, is_up) = (Arc::clone(&open), Arc::new(AtomicBool::new(true)));
        let answers = Arc::clone(&is_up);
        let name = thread::Builder::new().name("health".into());
        name.spawn(move || accept(&listener, &open, &answers)).map(|_| is_up)
    };
    listeners.into_iter().map(serve).collect()
}

fn accept(listener: &TcpListener, open: &Arc<AtomicUsize>, is_up: &Arc<AtomicBool>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // For example out of descriptors: it must not spin.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (counted, is_up) = (Arc::clone(open), Arc::clone(is_up));
        let answering = thread::Builder::new().name("health".into()).spawn(move || {
            // A client that disconnects is not an error here.
            let _ = answer(&stream, &is_up);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if answering.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn answer(mut stream: &TcpStream, is_up: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if length == 0 || length as u64 == LINE_BYTES_MAX {
            return Ok(());
        }
        match line.trim_ascii() {
            b"health" if is_up.load(Ordering::Acquire) => stream.write_all(b"health: up\n")?,
            b"health" => stream.write_all(b"health: down\n")?,
            b"quit" => return Ok(()),
            _ => stream.write_all(b"ERROR\n")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_a_healthy_server_does() {
        let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let is_up = spawn(listeners).unwrap().remove(0);
        // One that stays does not keep others from their answer.
        let _silent = TcpStream::connect(address).unwrap();
        for (up, command, expected) in [
            (true, &b"health\r\n"[..], "health: up\n"),
            (false, b"health\n", "health: down\n"),
            (true, b"health\nhealth\nquit\n", "health: up\nhealth: up\n"),
            (true, b"stats\n", "ERROR\n"),
            (true, &[b'x'; 5000], ""),
        ] {
            is_up.store(up, Ordering::Release);
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(command);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            // An answer that is cut short by a reset is as good as none.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(String::from_utf8(answer).unwrap(), expected);
        }
    }

    #[test]
    fn an_address_in_use_is_reported() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(&[taken.local_addr().unwrap()]).unwrap_err();
        assert!(error.contains("in use"), "{error}");
    }
}
