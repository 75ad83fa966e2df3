//! statsring: a StatsD proxy for Linux on io_uring.
//!
//! The modules are in the order in which a metric passes through them, then those of the control thread:
//! a datagram enters by [`driver`], the [`worker`] carries it to the [`relay`], which reads its lines ([`wire`]),
//! finds their backends ([`placement`]) and packs them into [`packet`]s, which the driver sends; [`stats`] keeps the
//! counters. [`config`] and [`control`] direct the workers, [`admin`] serves operators, [`tools`] are the
//! other commands, [`cli`] starts it all. Shared by all of them: [`console`] and [`logging`] write messages,
//! [`crash`] and [`exit`] end a run, [`lookup`] resolves hosts, [`version`] identifies the build.

#![deny(unsafe_code)]
// The disposition of a metric must not be ignored (`relay::Disposition`).
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
pub mod failpoint;
pub mod text;
pub mod version;

/// The system's allocator, counted: for `memstats`, and for the test that the data path allocates nothing.
#[global_allocator]
static ALLOCATOR: stats::alloc::CountingAllocator = stats::alloc::CountingAllocator;
