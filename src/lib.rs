//! statsring: a StatsD proxy for Linux on io_uring.
//!
//! The modules stand in the order in which a metric walks through them, then those of the control thread:
//! a datagram enters by [`driver`], the [`worker`] carries it to the [`relay`], which reads its lines ([`wire`]),
//! finds their backends ([`placement`]) and packs them into [`packet`]s, which the driver sends; [`stats`] keeps the
//! account. [`config`] and [`control`] say what the workers should do, [`admin`] answers people, [`tools`] are the
//! other commands, [`cli`] starts it all. Behind these stand what all may use: [`console`] and [`logging`] speak to people,
//! [`crash`] and [`exit`] say how a run ends, [`lookup`] finds hosts, [`version`] tells which build this is.

#![deny(unsafe_code)]
// What became of a metric may not be forgotten (`relay::Fate`).
#![deny(unused_must_use)]
#![warn(missing_docs)]

pub mod driver;
pub mod packet;
pub mod worker;
pub mod relay;
pub mod wire;
pub mod placement;
pub mod stats;
pub mod config;
pub mod control;
pub mod admin;
pub mod tools;
pub mod cli;
pub mod console;
pub mod crash;
pub mod exit;
pub mod lookup;
pub mod logging;
pub mod planted;
pub mod text;
pub mod version;

/// The system's allocator, counted: for `memstats`, and for the test that the data path allocates nothing.
#[global_allocator]
static ALLOCATOR: stats::alloc::CountingAllocator = stats::alloc::CountingAllocator;
