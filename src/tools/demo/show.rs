//! Runs the demo: starts traffic, shows figures, simulates outages, stops traffic and proxy.
//!
//! In: a proxy that is ready. Out: the account of the traffic. It runs on a thread of its own while the main
//! thread is the proxy's control thread. Next: `account.rs`.

use super::account::Account;
use super::events::Events;
use super::figures::{Moment, Quantiles, Rates};
use super::outages::Outages;
use super::screen::Screen;
use super::table::{Event, Frame, Setting};
use super::traffic::Traffic;
use crate::control::ProxyHandle;
use crate::stats::{Counter, Latency};
use crate::tools::load::replay::Replay;
use crate::tools::load::send::Sent;
use crate::tools::sink::receive::SinkLive;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Interval between two readings of the figures.
const TICK: Duration = Duration::from_millis(500);
/// Interval between two looks at whether the proxy is about to end: far less than its `shutdownDelay` here.
const LOOK: Duration = Duration::from_millis(10);
/// Looks that rates and latencies go back over.
const WINDOW_TICKS: usize = 2;
/// How long the proxy may take to relay the last of the traffic before the demo goes on to its end.
const SETTLE: Duration = Duration::from_millis(200);
/// Events kept for the summary.
const EVENTS_KEPT: usize = 1_000;

/// Everything that a show needs.
pub struct Context {
    /// The proxy.
    pub proxy: ProxyHandle,
    /// What arrives at the backends.
    pub arrivals: Arc<SinkLive>,
    /// Whether each backend answers that it is up.
    pub up: Vec<Arc<AtomicBool>>,
    /// What the traffic consists of.
    pub lines: Arc<Replay>,
    /// The process's log.
    pub events: Arc<Events>,
    /// What the table says of the setting.
    pub setting: Setting,
    /// When backends go and return.
    pub outages: Outages,
}

impl Context {
    /// Runs it from the first datagram to the proxy's stop. The account so far: without what is final only after the proxy's
    /// end; and whether somebody still reads.
    pub fn run(self) -> io::Result<(Account, io::Result<()>)> {
        let proxy = self.proxy.clone();
        let address = proxy.listen().iter().find(|address| address.is_ipv4()).copied();
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], self.setting.proxy_port)));
        let outcome = Traffic::start(self.lines.clone(), address).map(|traffic| {
            let mut runner = Runner::new(self);
            runner.play();
            runner.close(traffic.stop())
        });
        proxy.stop();
        outcome
    }
}

/// What has happened so far.
struct Runner {
    context: Context,
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
    fn new(context: Context) -> Runner {
        let screen = Screen::of_stdout();
        let first = Moment::read(Duration::ZERO, &context.proxy, &context.arrivals);
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
            written: screen.open(&context.setting),
            screen,
            context,
        }
    }

    fn play(&mut self) {
        if self.written.is_err() {
            return;
        }
        let end = self.context.setting.end;
        for tick in 1u32.. {
            let at = (TICK * tick).min(end.unwrap_or(Duration::MAX));
            let goes_on = self.wait(self.start + at);
            self.play_outage();
            self.look();
            if let (Some(before), Some(now)) = (self.moments.front(), self.moments.back()) {
                self.rates = Rates::between(before, now);
            }
            if self.screen != Screen::Lines || tick % 2 == 0 {
                self.show();
            }
            if !goes_on || self.written.is_err() || end.is_some_and(|end| self.start.elapsed() >= end) {
                return;
            }
        }
    }

    /// Waits until `deadline`, or less: false if the proxy is about to end, before which the traffic has to.
    fn wait(&self, deadline: Instant) -> bool {
        while Instant::now() < deadline && !self.context.proxy.is_stopping() {
            std::thread::sleep(LOOK);
        }
        !self.context.proxy.is_stopping()
    }

    /// Changes what the backends answer to health checks, when it is time.
    fn play_outage(&mut self) {
        let elapsed = self.start.elapsed();
        let down = self.context.outages.down(elapsed);
        if down == self.down {
            return;
        }
        for index in 0..self.context.up.len() {
            let name = &self.context.setting.backends[index];
            if Some(index) == down {
                self.outages += 1;
                self.event(elapsed, format!("{name} answers its checks \"health: down\""));
            } else if Some(index) == self.down {
                self.event(elapsed, format!("{name} answers \"health: up\" again"));
            }
            self.context.up[index].store(Some(index) != down, Ordering::Release);
        }
        self.down = down;
    }

    fn event(&mut self, at: Duration, words: String) {
        if self.events.len() < EVENTS_KEPT {
            self.events.push(Event { at, words });
        }
    }

    /// Reads the figures.
    fn look(&mut self) {
        let mut latency = Latency::new();
        self.context.proxy.collect_latency(&mut latency);
        self.recent.push_back(latency);
        let elapsed = self.start.elapsed();
        self.moments.push_back(Moment::read(elapsed, &self.context.proxy, &self.context.arrivals));
        self.recent.drain(..self.recent.len().saturating_sub(WINDOW_TICKS));
        self.moments.drain(..self.moments.len().saturating_sub(WINDOW_TICKS + 1));
        for words in self.context.events.take() {
            self.event(elapsed, shortened(words));
        }
    }

    fn show(&mut self) {
        let Some(now) = self.moments.back() else { return };
        let mut latency = Latency::new();
        self.recent.iter().for_each(|recent| latency.merge(recent));
        let frame = Frame {
            setting: &self.context.setting,
            now,
            rates: &self.rates,
            latency: Quantiles::of(&latency),
            events: &self.events,
        };
        self.written = self.screen.show(&frame, &self.events[self.shown..]);
        self.shown = self.events.len();
    }

    /// After the last datagram: waits until the proxy has relayed it, and takes the last figures.
    fn close(mut self, sent: Sent) -> (Account, io::Result<()>) {
        let elapsed = self.start.elapsed();
        let deadline = Instant::now() + SETTLE;
        let is_through = || {
            let counters = self.context.proxy.counters();
            counters.get(Counter::MetricsReceived) >= sent.metrics
                && counters.get(Counter::MetricsPending) == 0
        };
        while !is_through() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.look();
        if self.screen != Screen::Lines && self.written.is_ok() {
            self.show();
        }
        // What is logged from here on concerns the stop.
        self.context.events.release();
        let rates = self.moments.back().map_or(Rates::default(), |last| Rates::between(&self.first, last));
        let account = Account {
            elapsed,
            sent,
            outages: (self.outages, self.context.outages.length()),
            cpu: rates.cpu,
            events: self.events,
            ..Account::default()
        };
        (account, self.written)
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
