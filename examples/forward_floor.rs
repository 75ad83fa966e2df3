//! The floor under every proxy: receives as `receive_floor.rs`, reads every byte, and sends every byte on in full packets,
//! to the backends in turn whatever the metrics' names.
//!
//! In: where to listen, the backends. Out: packets of whole lines; on stdout what was received, sent and spent. It shares no
//! code with statsring. Next: `scripts/compare.sh` runs it.

#[path = "floor/receiver.rs"]
mod receiver;
#[path = "floor/rhythm.rs"]
mod rhythm;
#[path = "floor/run.rs"]
mod run;

use argh::FromArgs;
use receiver::{Receiver, set_option};
use rhythm::Rhythm;
use run::Run;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The kernel's limits of one GSO send: segments, and bytes of all of them.
const SEGMENTS_MAX: usize = 64;
const SEND_BYTES_MAX: usize = 65_507;

/// Receives datagrams and forwards their bytes, until it gets SIGINT or SIGTERM or its time is over.
#[derive(FromArgs)]
struct Options {
    /// where to listen, ADDRESS:PORT
    #[argh(option)]
    listen: SocketAddr,
    /// a backend, ADDRESS:PORT; may be repeated
    #[argh(option)]
    to: Vec<SocketAddr>,
    /// bytes of a packet (default 1432, as statsring's maxPacketSize)
    #[argh(option, default = "1_432")]
    packet: u16,
    /// receive buffer to ask for, bytes (default 8388608, as statsring)
    #[argh(option, default = "8 << 20")]
    receive_buffer: usize,
    /// longest sleep while traffic flows, µs; 0 waits for each datagram (default 5000, as statsring's flushInterval)
    #[argh(option, default = "5_000")]
    period_us: u64,
    /// ends after so many seconds; 0 never (default 0)
    #[argh(option, default = "0")]
    seconds: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options: Options = argh::from_env();
    let mut forwarder = Forwarder::connect(&options.to, usize::from(options.packet))?;
    let mut receiver = Receiver::bind(options.listen, options.receive_buffer)?;
    let mut rhythm = Rhythm::new(options.period_us, receiver.granted_bytes()?);
    let mut run = Run::start(&receiver, options.seconds)?;
    while !Run::is_ended() {
        let bytes_before = run.bytes();
        let waits = rhythm.waits();
        let datagrams = receiver.drain(waits, |bytes| {
            run.read(bytes);
            forwarder.forward(bytes);
        })?;
        rhythm.took(datagrams as u64, run.bytes() - bytes_before);
        // The packet that is not full waits for the next drain, unless none may come for long.
        forwarder.send(datagrams == 0 || options.period_us == 0);
    }
    forwarder.send(true);
    run.report(&receiver)?;
    let Sent { packets, sends, errors } = forwarder.sent;
    println!("sent {packets} packets in {sends} sends, {errors} of which failed");
    Ok(())
}

/// What was sent; `errors` are of `sends`.
#[derive(Default)]
struct Sent {
    packets: u64,
    sends: u64,
    errors: u64,
}

/// A backend, and the packets that the next send takes to it.
struct Backend {
    socket: UdpSocket,
    /// Full packets, each of the same length, and behind them the open one.
    bytes: Vec<u8>,
    full_bytes: usize,
}

/// Deals full packets to backends in turn.
struct Forwarder {
    backends: Vec<Backend>,
    packet_bytes: usize,
    batch_bytes: usize,
    /// The backend with the open packet.
    turn: usize,
    sent: Sent,
}

impl Forwarder {
    fn connect(to: &[SocketAddr], packet_bytes: usize) -> Result<Forwarder, Box<dyn Error>> {
        if to.is_empty() || packet_bytes == 0 {
            return Err("expected at least one --to ADDRESS:PORT, and a --packet of at least 1 byte".into());
        }
        let segments = (SEND_BYTES_MAX / packet_bytes).clamp(1, SEGMENTS_MAX);
        let batch_bytes = segments * packet_bytes;
        let connect = |address: &SocketAddr| {
            let socket = match address {
                SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
            }?;
            socket.connect(address)?;
            set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, packet_bytes as libc::c_int)?;
            Ok(Backend { socket, bytes: Vec::with_capacity(batch_bytes), full_bytes: 0 })
        };
        let backends = to.iter().map(connect).collect::<io::Result<_>>()?;
        Ok(Forwarder { backends, packet_bytes, batch_bytes, turn: 0, sent: Sent::default() })
    }

    /// Appends a datagram to the open packet; where that is full, the rest begins another one, at a line's begin.
    fn forward(&mut self, mut bytes: &[u8]) {
        while let Some(last) = bytes.last() {
            let backend = &mut self.backends[self.turn];
            let open_bytes = backend.bytes.len() - backend.full_bytes;
            let room_bytes = self.packet_bytes - open_bytes;
            let lacks_newline = *last != b'\n';
            if bytes.len() + usize::from(lacks_newline) <= room_bytes {
                backend.bytes.extend_from_slice(bytes);
                if lacks_newline {
                    backend.bytes.push(b'\n');
                }
                return;
            }
            let fitting = &bytes[..room_bytes.min(bytes.len())];
            let cut = match memchr::memrchr(b'\n', fitting) {
                Some(newline) => newline + 1,
                // A line that is longer than a packet is cut where the packet ends.
                None if open_bytes == 0 => fitting.len(),
                None => 0,
            };
            backend.bytes.extend_from_slice(&bytes[..cut]);
            bytes = &bytes[cut..];
            self.fill();
        }
    }

    /// Pads the open packet and turns to the next backend.
    fn fill(&mut self) {
        let backend = &mut self.backends[self.turn];
        backend.full_bytes += self.packet_bytes;
        backend.bytes.resize(backend.full_bytes, b'\n');
        if backend.full_bytes == self.batch_bytes {
            backend.send(false, self.packet_bytes, &mut self.sent);
        }
        self.turn = (self.turn + 1) % self.backends.len();
    }

    /// Sends all full packets, and the open one too if `sends_open`.
    fn send(&mut self, sends_open: bool) {
        for backend in &mut self.backends {
            backend.send(sends_open, self.packet_bytes, &mut self.sent);
        }
    }
}

impl Backend {
    /// Sends the full packets at once; the kernel splits them. What fails is counted and gone.
    fn send(&mut self, sends_open: bool, packet_bytes: usize, sent: &mut Sent) {
        let bytes = if sends_open { self.bytes.len() } else { self.full_bytes };
        if bytes == 0 {
            return;
        }
        sent.sends += 1;
        match self.socket.send(&self.bytes[..bytes]) {
            Ok(_) => sent.packets += bytes.div_ceil(packet_bytes) as u64,
            Err(_) => sent.errors += 1,
        }
        self.bytes.drain(..bytes);
        self.full_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A forwarder of packets of 12 bytes, and its backends.
    fn rig() -> (Forwarder, Vec<UdpSocket>) {
        let backends: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for backend in &backends {
            backend.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let addresses: Vec<SocketAddr> =
            backends.iter().map(|backend| backend.local_addr().unwrap()).collect();
        (Forwarder::connect(&addresses, 12).unwrap(), backends)
    }

    fn next(backend: &UdpSocket) -> String {
        let mut bytes = [0; 2_000];
        let length = backend.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn lines_stay_whole_in_full_packets_to_each_backend_in_turn() {
        let (mut forwarder, backends) = rig();
        for datagram in ["a:1|c", "b:1|c\n", "c:1|c\nd:1|c", "e:1|c"] {
            forwarder.forward(datagram.as_bytes());
        }
        forwarder.send(false);
        assert_eq!(next(&backends[0]), "a:1|c\nb:1|c\n");
        assert_eq!(next(&backends[1]), "c:1|c\nd:1|c\n");
        forwarder.forward(b"f:12|c");
        forwarder.send(false);
        assert_eq!(next(&backends[0]), "e:1|c\n\n\n\n\n\n\n");
        forwarder.send(true);
        assert_eq!(next(&backends[1]), "f:12|c\n");
        let Sent { packets, sends, errors } = forwarder.sent;
        assert_eq!((packets, sends, errors), (4, 4, 0));
    }

    #[test]
    fn a_long_line_is_cut_and_the_kernel_splits_what_goes_to_one_backend() {
        let (mut forwarder, backends) = rig();
        forwarder.forward(b"aaaaaaaaaaaabbbbbbbbbbbbccccccccccccdd");
        forwarder.send(true);
        assert_eq!([next(&backends[0]), next(&backends[0])], ["aaaaaaaaaaaa", "cccccccccccc"]);
        assert_eq!([next(&backends[1]), next(&backends[1])], ["bbbbbbbbbbbb", "dd\n"]);
        assert_eq!((forwarder.sent.packets, forwarder.sent.sends), (4, 2));
    }
}
