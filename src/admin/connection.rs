//! A client's connection, as the admin port needs it: implemented by `control/net.rs`, and in memory by tests; and its reads,
//! one at a time, none of them ever dropped.
//!
//! In: bytes. Out: bytes as they arrive. A read that was started continues while nothing awaits it, because the connection's
//! runtime may neither cancel it nor free what it holds. Next: `server.rs`.

use std::future::Future;
use std::io;
use std::pin::Pin;

/// A client's connection. Its futures run on one thread and need not be `Send`.
pub trait Connection {
    /// Reads up to `buffer.capacity()` bytes and gives the buffer back with exactly these; empty at the end of file.
    ///
    /// At most one read and one write are under way at a time; both may be at once.
    fn read(&self, buffer: Vec<u8>) -> impl Future<Output = io::Result<Vec<u8>>>;

    /// Writes all of `bytes`.
    fn write_all(&self, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>>;

    /// Shuts down the write side; reading continues.
    fn end_writes(&self);

    /// Shuts down both directions: a read or write under way returns, and later ones do at once.
    fn shutdown(&self);
}

/// Bytes of one read.
const READ_BYTES: usize = 4_096;

/// A read that was begun.
type Read<'c> = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + 'c>>;

/// At most one read, which continues while nothing awaits it.
pub struct Reading<'c, C> {
    connection: &'c C,
    under_way: Option<Read<'c>>,
    buffer: Vec<u8>,
}

impl<'c, C: Connection> Reading<'c, C> {
    /// No read in progress.
    pub fn new(connection: &'c C) -> Self {
        Reading { connection, under_way: None, buffer: Vec::with_capacity(READ_BYTES) }
    }

    /// The result of the next read. Dropping this future loses nothing: the read continues, and the next call picks it up.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let read = match &mut self.under_way {
            Some(read) => read,
            none => {
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.clear();
                buffer.reserve_exact(READ_BYTES);
                none.insert(Box::pin(self.connection.read(buffer)))
            }
        };
        let result = read.await;
        self.under_way = None;
        result
    }

    /// Returns a buffer for the next read.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    /// Waits for the read under way, if any, after the connection was shut down.
    pub async fn finish(&mut self) {
        if let Some(read) = self.under_way.take() {
            let _ = read.await;
        }
    }
}
