//! A client's connection, as the admin port needs it: implemented by `control/net.rs`, and in memory by tests.
//!
//! In: bytes. Out: bytes. Next: `reading.rs`, `server.rs`.

use std::io;

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
