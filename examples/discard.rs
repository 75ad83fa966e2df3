//! The floor under every proxy: takes datagrams as a worker does, with its ring and its sleeps, and drops each of them.
//!
//! In: where to listen, the budget of a sleep. Out: nothing but CPU time; a line on stdout once it listens. What a proxy
//! costs beyond this is what it does with metrics. Next: `scripts/compare.sh` and `scripts/burst.sh` measure it.
//!
//! The sleeps follow `worker/step.rs` without what only sending needs: change them together.

use argh::FromArgs;
use statsring::driver::socket::bind_listeners;
use statsring::driver::{Delivered, Driver, DriverError, Events, Flow, Stamp, Wait, Waker, uring};
use statsring::packet::{Packet, SendOutcome};
use statsring::worker::{Coalescing, Limits};
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// The longest datagram that is taken whole, as the proxy's default.
const DATAGRAM_BYTES_MAX: usize = 8_192;
/// How often the kernel's drop count is read while traffic flows, as a worker does.
const DROPS_INTERVAL_US: u64 = 10_000;

/// Receives datagrams and drops them, until it is ended by a signal.
#[derive(FromArgs)]
struct Options {
    /// where to listen, ADDRESS:PORT
    #[argh(option)]
    listen: SocketAddr,
    /// receive buffer to ask for, bytes (default 8388608, as the proxy)
    #[argh(option, default = "8 << 20")]
    receive_buffer: usize,
    /// longest sleep while traffic flows, ms (default 5, as the proxy)
    #[argh(option, default = "5.0")]
    flush_interval: f64,
    /// no sleeps: wake for the next datagram, always
    #[argh(switch)]
    each: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options: Options = argh::from_env();
    let flush_us = (options.flush_interval.clamp(0.0, 1_000.0) * 1e3) as u64;
    let sockets = bind_listeners(
        &[options.listen],
        1,
        statsring::driver::socket::ListenOptions::here(options.receive_buffer),
    )?
    .workers
    .remove(0);
    // No socket sends; the other bounds are a worker's.
    let limits = Limits::new(1, DATAGRAM_BYTES_MAX, 1 << 20, 0, false);
    let driver = uring::open(sockets, Arc::new(Waker::new()?), &limits.driver())?;
    let mut floor = Floor::new(driver, if options.each { 0 } else { flush_us });
    while !floor.driver.is_armed() {
        floor.step(Wait::Poll)?;
    }
    println!("listening: {} bytes granted", floor.driver.facts().receive_buffer_bytes);
    std::io::stdout().flush()?;
    loop {
        let wait = floor.next_wait();
        floor.step(wait)?;
    }
}

struct Floor<D: Driver> {
    driver: D,
    coalescing: Coalescing,
    flush_us: u64,
    /// Whether the last wake-up brought datagrams.
    flowing: bool,
    /// Nothing that comes from now on arrived before this, as far as is known.
    known_empty_us: u64,
    woke_us: u64,
    drops_read_us: u64,
    drops: u64,
}

impl<D: Driver> Floor<D> {
    fn new(driver: D, flush_us: u64) -> Floor<D> {
        let now_us = driver.now_us();
        Floor {
            coalescing: Coalescing::new(driver.facts().receive_buffer_bytes, flush_us),
            driver,
            flush_us,
            flowing: false,
            known_empty_us: now_us,
            woke_us: now_us,
            drops_read_us: now_us,
            drops: 0,
        }
    }

    fn next_wait(&self) -> Wait {
        let now_us = self.driver.now_us();
        match self.coalescing.sleep_us(now_us) {
            Some(sleep_us) if self.flowing => {
                // A receive that ended left datagrams in the socket: take them now.
                let sleep_us = if self.driver.is_armed() { sleep_us } else { 0 };
                let deadline_us = (now_us + sleep_us).min(self.known_empty_us + self.flush_us).max(now_us);
                Wait::GatherUntil { deadline_us }
            }
            _ => Wait::Event,
        }
    }

    fn step(&mut self, wait: Wait) -> Result<(), DriverError> {
        let was_armed = self.driver.is_armed();
        let entered_us = self.driver.now_us();
        self.driver.enter(wait)?;
        let woke_before_us = std::mem::replace(&mut self.woke_us, self.driver.now_us());
        if wait == Wait::Event {
            self.known_empty_us = self.woke_us;
        }
        let mut sink = Sink::default();
        while self.driver.deliver(&mut sink) == Delivered::Paused {}
        self.learn(&sink, woke_before_us);
        let armed = was_armed && self.driver.is_armed();
        match wait {
            _ if sink.datagrams == 0 && armed => self.known_empty_us = entered_us,
            Wait::GatherUntil { deadline_us } if armed && self.woke_us >= deadline_us => {
                self.known_empty_us = deadline_us;
            }
            _ => {}
        }
        Ok(())
    }

    fn learn(&mut self, took: &Sink, woke_before_us: u64) {
        if took.datagrams > 0 {
            let elapsed_us = self.woke_us.saturating_sub(woke_before_us);
            self.coalescing.took(self.woke_us, elapsed_us, took.datagrams, took.bytes);
        } else if self.flowing {
            self.coalescing.silence();
        }
        self.flowing = took.datagrams > 0;
        if self.woke_us >= self.drops_read_us + DROPS_INTERVAL_US {
            self.drops_read_us = self.woke_us;
            let drops = (0..self.driver.listeners()).map(|listener| self.driver.kernel_drops(listener)).sum();
            if drops > self.drops {
                self.coalescing.pressed(self.woke_us);
            }
            self.drops = drops;
        }
    }
}

/// What one wake-up brought; the datagrams themselves are gone.
#[derive(Default)]
struct Sink {
    datagrams: u64,
    bytes: u64,
}

impl Events for Sink {
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, _stamp: Stamp) -> Flow {
        black_box(bytes);
        self.datagrams += 1;
        self.bytes += datagram_bytes as u64;
        Flow::More
    }

    fn sent(&mut self, _: Packet, _: SendOutcome) {}
}
