//! The handover protocol between two processes: frames of JSON over a unix socket, with the
//! sockets themselves attached to the first.
//!
//! In: [`Offer`] and [`FromOld`] from the old process, [`FromNew`] from the new one. Out: the same on the other side.
//! Next: `successor.rs` is the old process's side, `predecessor.rs` the new one's.
//!
//! A frame is `STATSRNG`, the protocol's version, the length of the JSON that follows, both as 32 bits in network order.
//! A process that reads another version reports it and nothing is handed over. Within a version, unknown keys are skipped and
//! missing ones have a default.

use crate::admin::AdminState;
use crate::control::backends::health::CarriedHealth;
use crate::driver::passed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;
const MAGIC: [u8; 8] = *b"STATSRNG";
const HEADER_BYTES: usize = MAGIC.len() + 8;
/// Longest JSON: several times the need of 2,000 backends.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Time limit of a write.
const WRITE: Duration = Duration::from_secs(5);

/// The offer of the old process, with its sockets attached: for each worker one for each data address, then the admin port's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// How long it waits for [`FromNew::Ready`], ms.
    pub timeout_ms: u64,
    /// Data addresses.
    pub data: Vec<SocketAddr>,
    /// Workers: for each there is a socket at each data address.
    pub workers: usize,
    /// Receive buffer requested for each data socket, bytes.
    pub receive_buffer_bytes: usize,
    /// Whether a service manager gave it the data sockets.
    pub data_activated: bool,
    /// Addresses of the admin port.
    pub admin: Vec<SocketAddr>,
    /// Whether a service manager gave it the admin port's sockets.
    pub admin_activated: bool,
    /// Its state.
    pub state: State,
}

/// State that is handed over besides the sockets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// `health` as set by the operator.
    pub health_wanted: bool,
    /// The backends.
    pub backends: Vec<CarriedBackend>,
}

impl Default for State {
    fn default() -> State {
        State { health_wanted: true, backends: Vec::new() }
    }
}

/// One backend's part of the state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CarriedBackend {
    /// Its identity.
    pub name: String,
    /// The address that its metrics are sent to.
    pub address: Option<SocketAddr>,
    /// The addresses of its name, in order of trial; empty from a version that has only one.
    pub addresses: Vec<SocketAddr>,
    /// Its health.
    pub health: Option<CarriedHealth>,
    /// Its administrative state.
    pub admin_state: AdminState,
    /// For how long it has been in its state, ms.
    pub since_ms: u64,
}

/// Messages from the new process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromNew {
    /// It receives.
    Ready(Inherited),
    /// It exits, with the reason.
    Failed(String),
}

/// Which of the offered sockets the new process uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inherited {
    /// At these data addresses …
    pub data: Vec<SocketAddr>,
    /// … those of the first so many workers.
    pub workers: usize,
    /// The admin port's at these addresses.
    pub admin: Vec<SocketAddr>,
}

/// Messages from the old process after its offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromOld {
    /// The new process now serves; with the last state of the old one.
    Go(State),
    /// The new process has to exit, with the reason.
    Abort(String),
    /// After "go": the old process received this signal to stop, which was meant for the serving process.
    Stop(u8),
}

/// Why a message could not be received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other process is of a version with another protocol.
    #[error("handover protocol mismatch: expected version {PROTOCOL}, found version {0}")]
    OtherProtocol(u32),
    /// Not a message of this protocol.
    #[error("malformed handover message: {0}")]
    Nonsense(String),
}

/// One end of the connection.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
}

impl Link {
    /// Both ends.
    pub fn pair() -> io::Result<(Link, UnixStream)> {
        let (here, there) = UnixStream::pair()?;
        Ok((Link::new(here)?, there))
    }

    /// This end of a connection.
    pub fn new(stream: UnixStream) -> io::Result<Link> {
        stream.set_write_timeout(Some(WRITE))?;
        Ok(Link { stream })
    }

    /// A duplicate of this end, e.g. for another thread.
    pub fn another(&self) -> io::Result<Link> {
        Ok(Link { stream: self.stream.try_clone()? })
    }

    /// How long [`Link::receive`] waits for each piece; `None` = for ever.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }

    /// Sends a message with descriptors.
    pub fn send(&self, message: &impl Serialize, descriptors: &[impl AsFd]) -> Result<(), LinkError> {
        let body = serde_json::to_vec(message).map_err(|error| LinkError::Nonsense(error.to_string()))?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&PROTOCOL.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        passed::send(&self.stream, &header, descriptors)?;
        (&self.stream).write_all(&body)?;
        Ok(())
    }

    /// The next message of the other side, with its descriptors; `None` at the end.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, LinkError> {
        let mut header = [0; HEADER_BYTES];
        let (length, descriptors) = passed::receive(&self.stream, &mut header)?;
        if length == 0 {
            return Ok(None);
        }
        (&self.stream).read_exact(&mut header[length..])?;
        let (magic, numbers) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(LinkError::Nonsense(format!("begins with {}", magic.escape_ascii())));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let (protocol, length) = (number(&numbers[..4]), number(&numbers[4..]) as usize);
        if protocol != PROTOCOL {
            return Err(LinkError::OtherProtocol(protocol));
        }
        if length > BODY_BYTES_MAX {
            return Err(LinkError::Nonsense(format!("a message of {length} bytes")));
        }
        let mut body = vec![0; length];
        (&self.stream).read_exact(&mut body)?;
        let message =
            serde_json::from_slice(&body).map_err(|error| LinkError::Nonsense(error.to_string()))?;
        Ok(Some((message, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn links() -> (Link, Link) {
        let (here, there) = Link::pair().unwrap();
        (here, Link::new(there).unwrap())
    }

    #[test]
    fn an_offer_comes_with_its_sockets_however_long_it_is() {
        let (here, there) = links();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let backend = CarriedBackend { name: "some.backend.of.many:8125".to_owned(), ..Default::default() };
        let offer = Offer {
            pid: 7,
            data: vec![socket.local_addr().unwrap()],
            workers: 1,
            state: State { health_wanted: false, backends: vec![backend; 20_000] },
            ..Offer::default()
        };
        let receiver = std::thread::spawn(move || there.receive::<Offer>().unwrap().unwrap());
        here.send(&offer, &[&socket]).unwrap();
        let (received, descriptors) = receiver.join().unwrap();
        assert_eq!((received, descriptors.len()), (offer, 1));
    }

    #[test]
    fn another_version_and_garbage_are_distinguished() {
        let (here, there) = links();
        let mut frame = MAGIC.to_vec();
        frame.extend_from_slice(&(PROTOCOL + 1).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        (&here.stream).write_all(&frame).unwrap();
        let error = there.receive::<FromNew>().unwrap_err();
        assert!(matches!(error, LinkError::OtherProtocol(version) if version == PROTOCOL + 1), "{error}");
        (&here.stream).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(matches!(there.receive::<FromNew>().unwrap_err(), LinkError::Nonsense(_)));
        drop(here);
        let (here, there) = links();
        drop(here);
        assert!(there.receive::<FromNew>().unwrap().is_none());
    }

    #[test]
    fn fields_added_or_omitted_by_another_version_are_tolerated() {
        let offer: Offer = serde_json::from_str(
            r#"{"pid": 5, "news": [1], "state": {"backends": [{"name": "a:1", "mood": "good"}]}}"#,
        )
        .unwrap();
        assert_eq!((offer.pid, offer.workers, offer.state.health_wanted), (5, 0, true));
        assert_eq!(offer.state.backends[0].name, "a:1");
    }
}
