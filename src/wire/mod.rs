//! Datagram → lines → routing key. Borrows, never copies, never fails, and alters nothing.
//!
//! In: a datagram's bytes. Out: its lines without their ends, and of each line the key that decides its backend.
//! What is not needed for routing is not looked at. Next: `placement/`.

mod key;
mod lines;

pub use key::routing_key;
pub use lines::{Lines, lines, split_cut_line};
