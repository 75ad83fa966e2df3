//! Runs the demo: starts traffic, shows figures, simulates outages, stops traffic and proxy.
//!
//! In: a proxy that is ready. Out: what the traffic did, for the account. It runs on a thread of its own while the main
//! thread is the proxy's control thread. Next: `account.rs`.

use super::backends::Backends;
use super::events::Events;
use super::figures::{Moment, Quantiles, Rates};
use super::names::Names;
use super::outages::Outages;
use super::screen::Screen;
use super::table::{EVENTS_SHOWN, Event, Frame, Setting};
use super::traffic::{SentFigures, Traffic};
use crate::control::ProxyHandle;
use crate::stats::{Counter, Latency};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Interval between two readings of the figures.
const TICK: Duration = Duration::from_millis(500);
/// Looks that rates and latencies go back over.
const WINDOW_TICKS: usize = 2;
/// How long the proxy may take to relay the last of the traffic before the demo goes on to its end.
const SETTLE: Duration = Duration::from_millis(200);
/// Events kept for the summary.
const EVENTS_KEPT: usize = 1_000;

/// What ends the show from outside; listens from the moment it is made.
pub struct Ending {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ending {
    /// Listens for signals beside the proxy, which stops by them too: the traffic has to end before the proxy does.
    pub fn listen() -> io::Result<Ending> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        // The terminal is gone, and the table with it.
        let hangup = signal(SignalKind::hangup())?;
        drop(inside);
        Ok(Ending { runtime, interrupt, terminate, hangup })
    }

    /// Waits until `deadline`, or less: false if the show is to end.
    fn wait(&mut self, deadline: Instant, proxy_ended: &mut oneshot::Receiver<()>) -> bool {
        let Ending { runtime, interrupt, terminate, hangup } = self;
        runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => true,
                _ = interrupt.recv() => false,
                _ = terminate.recv() => false,
                _ = hangup.recv() => false,
                _ = proxy_ended => false,
            }
        })
    }
}

/// Everything that a show needs.
pub struct Context {
    /// The proxy.
    pub proxy: ProxyHandle,
    /// The backends.
    pub backends: Arc<Backends>,
    /// The traffic's names.
    pub names: Arc<Names>,
    /// The process's log.
    pub events: Arc<Events>,
    /// What the table says of the setting.
    pub setting: Setting,
    /// When backends go and return.
    pub outages: Outages,
    /// What ends it.
    pub ending: Ending,
    /// Closed when the proxy has ended.
    pub proxy_ended: oneshot::Receiver<()>,
}

/// How the show went.
pub struct Outcome {
    /// What the traffic sent in all.
    pub sent: SentFigures,
    /// How long it was on.
    pub elapsed: Duration,
    /// The first figures and the last.
    pub moments: (Moment, Moment),
    /// All that was measured.
    pub latency: Latency,
    /// What happened.
    pub events: Vec<Event>,
    /// How many outages were played.
    pub outages: usize,
    /// Whether somebody still reads.
    pub written: io::Result<()>,
}

impl Context {
    /// Runs it from the first datagram to the proxy's stop.
    pub fn run(mut self) -> io::Result<Outcome> {
        let proxy = self.proxy.clone();
        let address = proxy.listen().iter().find(|address| address.is_ipv4()).copied();
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], self.setting.proxy_port)));
        let traffic = Traffic::start(self.names.clone(), address);
        let ran = traffic.map(|traffic| {
            let mut act = Runner::new(&self);
            act.play(&mut self);
            let sent = traffic.stop();
            act.close(&self, sent)
        });
        proxy.stop();
        ran
    }
}

/// What has happened so far.
struct Runner {
    start: Instant,
    screen: Screen,
    moments: VecDeque<Moment>,
    first: Moment,
    /// While the traffic is on; what comes after it would distort them.
    rates: Rates,
    /// Latency of the last ticks, newest last.
    recent: VecDeque<Latency>,
    events: Vec<Event>,
    /// Of these, how many were shown as news.
    shown: usize,
    down: Option<usize>,
    outages: usize,
    written: io::Result<()>,
}

impl Runner {
    fn new(stage: &Context) -> Runner {
        let screen = Screen::of_stdout();
        let first = Moment::read(Duration::ZERO, &stage.proxy, &stage.backends);
        Runner {
            start: Instant::now(),
            moments: VecDeque::from([first.clone()]),
            first,
            rates: Rates::default(),
            recent: VecDeque::new(),
            events: Vec::new(),
            shown: 0,
            down: None,
            outages: 0,
            written: screen.open(&stage.setting),
            screen,
        }
    }

    fn play(&mut self, stage: &mut Context) {
        if self.written.is_err() {
            return;
        }
        let end = stage.setting.end;
        for tick in 1u32.. {
            let at = (TICK * tick).min(end.unwrap_or(Duration::MAX));
            let goes_on = stage.ending.wait(self.start + at, &mut stage.proxy_ended);
            self.play_outage(stage);
            self.look(stage);
            if let (Some(before), Some(now)) = (self.moments.front(), self.moments.back()) {
                self.rates = Rates::between(before, now);
            }
            if self.screen.is_terminal() || tick % 2 == 0 {
                self.show(stage);
            }
            if !goes_on || self.written.is_err() || end.is_some_and(|end| self.start.elapsed() >= end) {
                return;
            }
        }
    }

    /// Changes what the backends answer to health checks, when it is time.
    fn play_outage(&mut self, stage: &Context) {
        let elapsed = self.start.elapsed();
        let down = stage.outages.down(elapsed);
        if down == self.down {
            return;
        }
        for (index, backend) in stage.backends.list.iter().enumerate() {
            let name = &stage.setting.backends[index];
            if Some(index) == down {
                self.outages += 1;
                self.event(elapsed, format!("{name} answers its checks \"health: down\""));
            } else if Some(index) == self.down {
                self.event(elapsed, format!("{name} answers \"health: up\" again"));
            }
            backend.set_up(Some(index) != down);
        }
        self.down = down;
    }

    fn event(&mut self, at: Duration, words: String) {
        if self.events.len() < EVENTS_KEPT {
            self.events.push(Event { at, words });
        }
    }

    /// Reads the figures.
    fn look(&mut self, stage: &Context) {
        let mut latency = Latency::new();
        stage.proxy.collect_latency(&mut latency);
        self.recent.push_back(latency);
        let elapsed = self.start.elapsed();
        self.moments.push_back(Moment::read(elapsed, &stage.proxy, &stage.backends));
        while self.recent.len() > WINDOW_TICKS {
            self.recent.pop_front();
        }
        while self.moments.len() > WINDOW_TICKS + 1 {
            self.moments.pop_front();
        }
        for words in stage.events.take() {
            self.event(elapsed, shortened(words));
        }
    }

    fn show(&mut self, stage: &Context) {
        let Some(now) = self.moments.back() else { return };
        let mut latency = Latency::new();
        self.recent.iter().for_each(|recent| latency.merge(recent));
        let scene = Frame {
            setting: &stage.setting,
            now,
            rates: &self.rates,
            latency: Quantiles::of(&latency),
            events: &self.events[self.events.len().saturating_sub(EVENTS_SHOWN)..],
        };
        let news = &self.events[self.shown..];
        self.written = self.screen.show(&scene, news);
        self.shown = self.events.len();
    }

    /// After the last datagram: waits until the proxy has relayed it, and takes the last figures.
    fn close(mut self, stage: &Context, sent: SentFigures) -> Outcome {
        let elapsed = self.start.elapsed();
        let deadline = Instant::now() + SETTLE;
        loop {
            let counters = stage.proxy.counters();
            let is_through = counters.get(Counter::MetricsReceived) >= sent.metrics
                && counters.get(Counter::MetricsPending) == 0;
            if is_through || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.look(stage);
        if self.screen.is_terminal() && self.written.is_ok() {
            self.show(stage);
        }
        // What is logged from here on concerns the stop.
        stage.events.release();
        let last = self.moments.pop_back().unwrap_or_else(|| self.first.clone());
        Outcome {
            sent,
            elapsed,
            moments: (self.first, last),
            latency: stage.proxy.latency(),
            events: self.events,
            outages: self.outages,
            written: self.written,
        }
    }
}

/// An event without its cause where that is what the demo played, and said, a moment before.
fn shortened(words: String) -> String {
    match words.split_once(": check of ") {
        Some((what, cause)) if cause.ends_with(r#": answered "health: down""#) => what.to_owned(),
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_played_cause_is_left_out() {
        let played = r#"backend 127.0.0.1:1 is down: check of 127.0.0.1:2: answered "health: down""#;
        assert_eq!(shortened(played.to_owned()), "backend 127.0.0.1:1 is down");
        let other = "backend 127.0.0.1:1 is down: check of 127.0.0.1:2: not reported up within 1000 ms";
        assert_eq!(shortened(other.to_owned()), other);
    }
}
