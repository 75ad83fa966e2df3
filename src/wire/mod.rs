//! Datagram → lines → routing key. Borrows, never copies, never fails, and alters nothing.
//!
//! In: a datagram's bytes. Out: its lines without their ends, and of each line the key that decides its backend.
//! Only bytes needed for routing are examined. `lines.rs` and `key.rs` are the scalar reference; `masks.rs`,
//! `scan.rs` and `simd.rs` do the same in one pass. `key_rule.rs` takes keys as other proxies do. Next: `placement/`.

mod key;
mod key_rule;
mod lines;
mod masks;
mod scan;
mod simd;

pub use key::routing_key;
pub use key_rule::KeyRule;
pub use lines::{Lines, lines, split_cut_line};
pub use scan::{LineIndex, LineVisitor};
pub use simd::Scanner;
