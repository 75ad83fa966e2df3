//! The control thread's TCP, on tokio-uring or on plain tokio: the only file that knows their types.
//!
//! In: listeners that the system made, addresses to connect to. Out: streams whose operations take a buffer and give
//! it back. Next: `probe.rs` and the admin port use them.
//!
//! [`run_local`] is told which of the two it is; everything else is the same for its users. What tokio-uring asks of them,
//! they do in either case, and who keeps it:
//! - A dropped operation is neither cancelled nor freed, and its descriptor lives until the kernel ends it. So nothing
//!   here drops one: at a deadline the socket is shut down, which ends the operation, and then it is awaited. Callers
//!   do the same: [`Stream::shutdown`], then await. On plain tokio a shut down socket is ready at once, with its end.
//! - Connecting cannot be ended that way (a lost SYN holds its descriptor for two minutes), so connecting is done by
//!   tokio, whose future may be dropped, and the connected socket is handed over.
//! - Nor can accepting, where another process has the same listening socket and is to go on: shutting the socket down
//!   would end that too. So it is done by tokio as well.
//! - Sockets must block: a nonblocking one makes the ring answer EAGAIN instead of waiting. Plain tokio's must not.
//! - The runtime's drop waits for every operation. [`run_local`] drops it only if none is left, else leaks it: it is
//!   called once per process, by those who are about to end. Plain tokio's waits for nothing.

use crate::driver::Engine;
use crate::driver::reach::{self, Reach};
use crate::driver::uring::retry_on_enomem;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout_at};

/// Submissions the ring takes between two trips to the kernel.
const SUBMISSIONS: u32 = 64;
/// Capacity of its completion queue: more than admin connections and checks can have in flight together.
const COMPLETIONS: u32 = 1_024;

/// Locked memory of the ring: its two queues, each in whole pages.
pub const RING_BYTES: usize = (64 * SUBMISSIONS as usize).next_multiple_of(4_096)
    + (16 * COMPLETIONS as usize + 4 * SUBMISSIONS as usize + 256).next_multiple_of(4_096);

thread_local! {
    /// Operations that the kernel has not ended.
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
    /// The runtime of this thread.
    static ENGINE: Cell<Engine> = const { Cell::new(Engine::IoUring) };
}

/// Counts an operation as in flight until it is ended; one that is dropped stays counted.
async fn tracked<T>(operation: impl Future<Output = T>) -> T {
    IN_FLIGHT.set(IN_FLIGHT.get() + 1);
    let result = operation.await;
    IN_FLIGHT.set(IN_FLIGHT.get() - 1);
    result
}

/// Runs `future` on this thread, for [`Stream`] and [`Listener`] on this engine, with tokio's timers and signals.
///
/// Fails if io_uring is asked for and refused, or the system is out of descriptors.
pub fn run_local<T>(engine: Engine, future: impl Future<Output = T>) -> io::Result<T> {
    ENGINE.set(engine);
    if engine == Engine::Portable {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return Ok(LocalSet::new().block_on(&runtime, future));
    }
    let runtime = ring_runtime()?;
    let result = runtime.block_on(future);
    if IN_FLIGHT.get() > 0 {
        std::mem::forget(runtime);
    }
    Ok(result)
}

fn ring_runtime() -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS);
    retry_on_enomem(|| {
        tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&ring))
    })
}

/// Whether this thread can have its ring: creates and drops it.
pub fn try_ring() -> io::Result<()> {
    ring_runtime().map(drop)
}

/// Starts a task on this thread, inside [`run_local`].
pub fn spawn<T: 'static>(task: impl Future<Output = T> + 'static) -> tokio::task::JoinHandle<T> {
    // Both runtimes have tokio's set of local tasks around them.
    tokio::task::spawn_local(task)
}

/// A listening socket.
pub struct Listener {
    inner: tokio::net::TcpListener,
    /// No more connections are accepted: ends a pending accept.
    ended: Notify,
}

impl Listener {
    /// Takes over a listening socket. It does not block from then on, here and in other processes that have it.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener { inner: tokio::net::TcpListener::from_std(listener)?, ended: Notify::new() })
    }

    /// The next connection and its two ends. Cancel-safe.
    pub async fn accept(&self) -> io::Result<(Stream, Ends)> {
        let (stream, peer) = tokio::select! {
            biased;
            () = self.ended.notified() => return Err(io::Error::other("no more connections are accepted")),
            accepted = self.inner.accept() => accepted?,
        };
        let ends = Ends { here: stream.local_addr()?.ip(), peer: peer.ip() };
        Ok((Stream::from_tokio(stream)?, ends))
    }

    /// Stops accepting in all processes; a pending accept ends with an error.
    pub fn close(&self) {
        let _ = socket2::SockRef::from(&self.inner).shutdown(Shutdown::Both);
        self.ended.notify_one();
    }

    /// Stops accepting in this process only; other processes that have the socket continue; a pending accept ends with an
    /// error.
    pub fn leave(&self) {
        self.ended.notify_one();
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The address that was connected to, one of this host's.
    pub here: IpAddr,
    /// The address that connected to it.
    pub peer: IpAddr,
}

impl Ends {
    /// Whether the peer is on this host: answers to either address never leave it, so that no other host can complete
    /// a connection that pretends to come from there.
    pub fn are_local(self) -> bool {
        let peer = self.peer.to_canonical();
        peer.is_loopback() || peer == self.here.to_canonical()
    }
}

/// A connected socket.
pub struct Stream {
    inner: Connected,
}

/// What is connected.
enum Connected {
    /// Its operations are the ring's.
    Ring(tokio_uring::net::TcpStream),
    /// Its operations are system calls when it is ready.
    Plain(tokio::net::TcpStream),
}

impl Stream {
    /// Connects, or fails with `TimedOut` at the deadline.
    pub async fn connect(address: SocketAddr, deadline: Instant) -> io::Result<Stream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let stream = timeout_at(deadline, socket.connect(address)).await.map_err(|_| timed_out())??;
        Stream::from_tokio(stream)
    }

    fn from_tokio(stream: tokio::net::TcpStream) -> io::Result<Stream> {
        if ENGINE.get() == Engine::Portable {
            return Ok(Stream { inner: Connected::Plain(stream) });
        }
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Stream { inner: Connected::Ring(tokio_uring::net::TcpStream::from_std(stream)) })
    }

    /// Appends to `buffer`, at most up to its capacity; returns it with the number of bytes read,
    /// 0 at the end of the stream. Never drop this future: call [`Stream::shutdown`] and await it.
    pub async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        use tokio_uring::buf::BoundedBuf;
        let held = buffer.len();
        if held == buffer.capacity() {
            return (Err(io::Error::other("no room left in the buffer")), buffer);
        }
        match &self.inner {
            Connected::Ring(stream) => {
                let (result, slice) = tracked(stream.read(buffer.slice(held..))).await;
                (result, slice.into_inner())
            }
            Connected::Plain(stream) => read_plain(stream, buffer).await,
        }
    }

    /// Like [`Stream::read`]; at the deadline the connection is shut down and the error is `TimedOut`.
    pub async fn read_until(&self, buffer: Vec<u8>, deadline: Instant) -> (io::Result<usize>, Vec<u8>) {
        self.ended_at(deadline, self.read(buffer)).await
    }

    /// Writes all of `bytes` and gives the buffer back. Never drop this future: shut down and await it.
    pub async fn write_all(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match &self.inner {
            Connected::Ring(stream) => tracked(stream.write_all(bytes)).await,
            Connected::Plain(stream) => (write_plain(stream, &bytes).await, bytes),
        }
    }

    /// Like [`Stream::write_all`]; at the deadline the connection is shut down and the error is `TimedOut`.
    pub async fn write_all_until(&self, bytes: Vec<u8>, deadline: Instant) -> (io::Result<()>, Vec<u8>) {
        self.ended_at(deadline, self.write_all(bytes)).await
    }

    /// Ends both directions; what is pending on it ends soon after. Repeating it does nothing.
    pub fn shutdown(&self) {
        let _ = match &self.inner {
            Connected::Ring(stream) => stream.shutdown(Shutdown::Both),
            Connected::Plain(stream) => socket2::SockRef::from(stream).shutdown(Shutdown::Both),
        };
    }

    /// Shuts down sending after all that was written; reading continues.
    pub fn end_writes(&self) {
        let _ = match &self.inner {
            Connected::Ring(stream) => stream.shutdown(Shutdown::Write),
            Connected::Plain(stream) => socket2::SockRef::from(stream).shutdown(Shutdown::Write),
        };
    }

    /// Sends small replies immediately (TCP_NODELAY).
    pub fn set_nodelay(&self) {
        let _ = match &self.inner {
            Connected::Ring(stream) => stream.set_nodelay(true),
            Connected::Plain(stream) => stream.set_nodelay(true),
        };
    }

    async fn ended_at<T>(
        &self,
        deadline: Instant,
        operation: impl Future<Output = (io::Result<T>, Vec<u8>)>,
    ) -> (io::Result<T>, Vec<u8>) {
        let mut operation = pin!(operation);
        if let Ok(result) = timeout_at(deadline, operation.as_mut()).await {
            return result;
        }
        self.shutdown();
        let (_, buffer) = operation.await;
        (Err(timed_out()), buffer)
    }
}

/// Reads once there is something, or an end.
async fn read_plain(stream: &tokio::net::TcpStream, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
    let held = buffer.len();
    buffer.resize(buffer.capacity(), 0);
    let result = loop {
        if let Err(error) = stream.readable().await {
            break Err(error);
        }
        match stream.try_read(&mut buffer[held..]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => break result,
        }
    };
    buffer.truncate(held + result.as_ref().copied().unwrap_or(0));
    (result, buffer)
}

/// Writes all of `bytes`, as there is room.
async fn write_plain(stream: &tokio::net::TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Descriptors that [`reach`] takes.
pub const REACH_DESCRIPTORS: u32 = 2;

/// Whether the host at `address` is reachable; unknown at the deadline. An error if the sockets for it cannot be created.
pub async fn reach(address: SocketAddr, deadline: Instant) -> io::Result<Reach> {
    // The error queue is read from the second one, since a connect that fails closes the first.
    let socket = reach::socket(address)?;
    let watched = socket.try_clone()?;
    Ok(match timeout_at(deadline, TcpSocket::from_std_stream(socket.into()).connect(address)).await {
        Ok(Ok(_)) => Reach::Answered,
        Ok(Err(error)) => reach::outcome(&watched, &error),
        Err(_) => Reach::Unknown,
    })
}

/// The error of a deadline that passed.
fn timed_out() -> io::Error {
    io::Error::from(io::ErrorKind::TimedOut)
}

/// A deadline `duration` from now.
pub fn deadline_in(duration: Duration) -> Instant {
    Instant::now() + duration
}

#[cfg(test)]
pub(in crate::control) mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    /// Runs a test on the real ring, unless io_uring is not permitted, which is printed; and on plain tokio.
    pub fn run_on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
        if let Err(error) = run_local(Engine::IoUring, test()) {
            eprintln!("skipped: io_uring is refused here: {error}");
        }
        run_local(Engine::Portable, test()).unwrap();
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn soon() -> Instant {
        deadline_in(Duration::from_secs(10))
    }

    #[test]
    fn bytes_go_there_and_back() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let listener = Listener::from_std(listener).unwrap();
            let server = spawn(async move {
                let (stream, ends) = listener.accept().await.unwrap();
                assert!(ends.are_local() && ends.here == ends.peer);
                let (read, buffer) = stream.read(Vec::with_capacity(64)).await;
                assert_eq!(read.unwrap(), buffer.len());
                stream.write_all_until(buffer, soon()).await.0.unwrap();
            });
            let stream = Stream::connect(address, soon()).await.unwrap();
            stream.write_all(b"ping".to_vec()).await.0.unwrap();
            let mut reply = Vec::with_capacity(64);
            while reply.len() < 4 {
                let (read, buffer) = stream.read_until(reply, soon()).await;
                assert!(read.unwrap() > 0);
                reply = buffer;
            }
            assert_eq!(reply, b"ping");
            server.await.unwrap();
        });
        assert_eq!(IN_FLIGHT.get(), 0);
    }

    #[test]
    fn a_peer_is_local_by_loopback_or_by_the_address_that_it_connected_to() {
        for (here, peer, local) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("10.0.0.5", "127.0.0.2", true),
            ("::ffff:10.0.0.5", "::ffff:127.0.0.1", true),
            ("10.0.0.5", "10.0.0.5", true),
            ("::ffff:10.0.0.5", "10.0.0.5", true),
            ("2001:db8::5", "2001:db8::5", true),
            ("10.0.0.5", "10.0.0.6", false),
            ("127.0.0.1", "10.0.0.6", false),
            ("2001:db8::5", "2001:db8::6", false),
        ] {
            let ends = Ends { here: here.parse().unwrap(), peer: peer.parse().unwrap() };
            assert_eq!(ends.are_local(), local, "{ends:?}");
        }
    }

    #[test]
    fn after_the_end_of_writes_the_peer_sees_an_end_and_is_still_read() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let peer = std::thread::spawn(move || {
                use std::io::{Read, Write};
                let mut stream = listener.accept().unwrap().0;
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                stream.write_all(b"late").unwrap();
                bytes
            });
            let stream = Stream::connect(address, soon()).await.unwrap();
            stream.write_all(b"all".to_vec()).await.0.unwrap();
            stream.end_writes();
            let (read, buffer) = stream.read_until(Vec::with_capacity(8), soon()).await;
            assert_eq!((read.unwrap(), &buffer[..]), (4, &b"late"[..]));
            assert_eq!(peer.join().unwrap(), b"all");
        });
    }

    #[test]
    fn a_read_appends_to_the_buffer() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let peer = std::thread::spawn(move || {
                use std::io::Write;
                let mut stream = listener.accept().unwrap().0;
                stream.write_all(b"world").unwrap();
            });
            let stream = Stream::connect(address, soon()).await.unwrap();
            let mut buffer = Vec::with_capacity(16);
            buffer.extend_from_slice(b"hello ");
            while buffer.len() < 11 {
                let (read, filled) = stream.read_until(buffer, soon()).await;
                assert!(read.unwrap() > 0);
                buffer = filled;
            }
            assert_eq!(buffer, b"hello world");
            let (read, buffer) = stream.read_until(buffer, soon()).await;
            assert_eq!((read.unwrap(), buffer.len()), (0, 11), "the end of the stream adds nothing");
            peer.join().unwrap();
        });
    }

    #[test]
    fn a_deadline_ends_a_read_and_leaves_nothing_in_flight() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let stream = Stream::connect(address, soon()).await.unwrap();
            let silent = listener.accept().unwrap();
            let (read, _) =
                stream.read_until(Vec::with_capacity(8), deadline_in(Duration::from_millis(20))).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(IN_FLIGHT.get(), 0);
            drop(silent);
        });
    }

    #[test]
    fn closing_ends_a_pending_accept() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let listener = std::rc::Rc::new(Listener::from_std(listener).unwrap());
            let accepting = spawn({
                let listener = listener.clone();
                async move { listener.accept().await.map(|_| ()) }
            });
            tokio::task::yield_now().await;
            listener.close();
            assert!(accepting.await.unwrap().is_err());
            let refused = Stream::connect(address, soon()).await.err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        });
        assert_eq!(IN_FLIGHT.get(), 0);
    }

    #[test]
    fn a_listener_that_was_left_continues_in_the_other_process() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let elsewhere = Listener::from_std(listener.try_clone().unwrap()).unwrap();
            let listener = std::rc::Rc::new(Listener::from_std(listener).unwrap());
            let accepting = spawn({
                let listener = listener.clone();
                async move { listener.accept().await.map(|_| ()) }
            });
            tokio::task::yield_now().await;
            listener.leave();
            assert!(accepting.await.unwrap().is_err());
            let connected = Stream::connect(address, soon()).await.unwrap();
            elsewhere.accept().await.unwrap();
            drop(connected);
        });
        assert_eq!(IN_FLIGHT.get(), 0);
    }

    #[test]
    fn an_end_with_a_pending_operation_does_not_wait_for_it() {
        run_on_both(|| async {
            let (listener, address) = listen();
            let stream = Stream::connect(address, soon()).await.unwrap();
            spawn(async move {
                let _listener = listener;
                stream.read(Vec::with_capacity(8)).await.0.map(|_| ())
            });
            while ENGINE.get() == Engine::IoUring && IN_FLIGHT.get() == 0 {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_long_answer_to_a_slow_reader_arrives_whole() {
        run_on_both(|| async {
            const BYTES: usize = 8 << 20;
            let (listener, address) = listen();
            let peer = std::thread::spawn(move || {
                use std::io::Read;
                let mut stream = listener.accept().unwrap().0;
                std::thread::sleep(Duration::from_millis(20));
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                assert!(bytes.len() == BYTES && bytes.iter().all(|byte| *byte == b'x'));
            });
            let stream = Stream::connect(address, soon()).await.unwrap();
            let (written, bytes) = stream.write_all(vec![b'x'; BYTES]).await;
            written.unwrap();
            assert_eq!(bytes.len(), BYTES);
            stream.shutdown();
            drop(stream);
            peer.join().unwrap();
        });
    }
}
