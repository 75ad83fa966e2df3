//! The floor under every receiver: sleeps, takes what has come by recvmmsg(2), reads every byte, and forwards nothing.
//!
//! In: where to listen, the sleep. Out: on stdout the datagrams, bytes and CPU time of the run. It shares no code with
//! statsring, so that it shows what statsring's own driver costs. Next: `scripts/compare.sh` and `scripts/burst.sh` run it.

#[path = "floor/receiver.rs"]
mod receiver;
#[path = "floor/rhythm.rs"]
mod rhythm;
#[path = "floor/run.rs"]
mod run;

use argh::FromArgs;
use receiver::Receiver;
use rhythm::Rhythm;
use run::Run;
use std::error::Error;
use std::net::SocketAddr;

/// Receives datagrams and reads them, until it gets SIGINT or SIGTERM or its time is over.
#[derive(FromArgs)]
struct Options {
    /// where to listen, ADDRESS:PORT
    #[argh(option)]
    listen: SocketAddr,
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
    let mut receiver = Receiver::bind(options.listen, options.receive_buffer)?;
    let mut rhythm = Rhythm::new(options.period_us, receiver.granted_bytes()?);
    let mut run = Run::start(&receiver, options.seconds)?;
    while !Run::is_ended() {
        let bytes_before = run.bytes();
        let waits = rhythm.waits();
        let datagrams = receiver.drain(waits, |bytes| run.read(bytes))?;
        rhythm.took(datagrams as u64, run.bytes() - bytes_before);
    }
    run.report(&receiver)?;
    Ok(())
}
