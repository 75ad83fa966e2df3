//! The start of the process, up to its ready: sockets, engine, first table, workers, admin port.
//!
//! In: a config, and where the process comes from. Out: a running [`Process`], then its exit code. Next: `process.rs`.

use crate::config::{Config, MemoryBound};
use crate::control::backends::health_checker;
use crate::control::backends::source;
use crate::control::backends::table::{self, Publisher};
use crate::control::lifecycle::engine::{self, EngineChoice};
use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handle::ProxyHandle;
use crate::control::lifecycle::handover::predecessor::Predecessor;
use crate::control::lifecycle::process::{Process, StartContext};
use crate::control::lifecycle::sockets::{self, Sockets};
use crate::control::liveness;
use crate::control::net;
use crate::control::service::admin_listeners::AdminListeners;
use crate::control::service::observe::{DebugLog, write_debug_log};
use crate::control::state::{Control, ControlInit, WorkerHandle};
use crate::control::{Options, Origin};
use crate::driver::{Engine, Waker};
use crate::exit;
use crate::relay::{Left, Phase};
use crate::stats::WorkerShared;
use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Room for reports of each worker, beside one for each of its backends.
const REPORTS_PER_WORKER: usize = 64;

/// Runs the proxy until it is stopped; the exit code. `origin` describes how this process was started.
///
/// When it returns the process is to end: what a client of the admin port keeps open may still be held, and after a
/// second signal the workers are still at work.
pub fn run(config: Config, options: Options, origin: Origin) -> u8 {
    begin(config, options, origin, |_| ())
}

/// Like [`run`] for a proxy within a process that is something else, and calls `started` once, when the proxy is ready;
/// never if the start fails.
///
/// Blocks this thread. SIGHUP, SIGTERM, SIGINT and SIGUSR2 are handled from then on, for the whole process.
pub fn run_with(config: Config, options: Options, started: impl FnOnce(ProxyHandle)) -> u8 {
    begin(config, options, Origin::default(), started)
}

fn begin(mut config: Config, options: Options, mut origin: Origin, started: impl FnOnce(ProxyHandle)) -> u8 {
    let mut sockets = match sockets::open(&mut config, &mut origin) {
        Ok(sockets) => sockets,
        Err(failure) => {
            origin.report_failure(&failure.message);
            return failure.log();
        }
    };
    let chosen = match engine::choose(&config, &config.limits_with(sockets.gro), sockets.listen.len()) {
        Ok(chosen) => chosen,
        Err(failure) => {
            origin.report_failure(&failure.message);
            return failure.log();
        }
    };
    sockets.degraded.extend(chosen.degraded.iter().cloned());
    let (engine, rings_bytes) = (chosen.engine, chosen.rings_bytes);
    match net::run_local(engine, live(config, options, sockets, origin, (chosen, started))) {
        Ok(code) => code,
        Err(error) => refused(error, rings_bytes, engine).log(),
    }
}

/// The control thread's runtime could not be made. `rings_bytes` is what all rings need of locked memory.
fn refused(error: io::Error, rings_bytes: usize, engine: Engine) -> Failure {
    let is_refusal = matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::ENOMEM)
    );
    if engine == Engine::Portable || !is_refusal {
        return Failure::system(format!("cannot start the control thread: {error}"));
    }
    Failure { message: engine::refused(error, rings_bytes).to_string(), code: exit::NO_ENGINE }
}

/// The proxy's life on the control thread's runtime.
async fn live(
    config: Config,
    options: Options,
    sockets: Sockets,
    origin: Origin,
    (chosen, started): (EngineChoice, impl FnOnce(ProxyHandle)),
) -> u8 {
    let memory = MemoryBound::with(&config, &config.limits_with(sockets.gro), chosen.engine).to_string();
    let (mut process, admin) = match prepare(config, options, sockets, origin, chosen).await {
        Ok(prepared) => prepared,
        Err(failure) => return failure.log(),
    };
    let begin = |process: &Process| {
        let control = &process.control;
        // What others had when this process might have failed is its own now, or the service manager's.
        control.left.set(if process.listener_set.is_data_activated() { Left::ALL } else { Left::NONE });
        control.ready.set(true);
        process.announce(&memory);
        for backend in control.backends().iter() {
            health_checker::start(control, backend.clone());
        }
        control.guard();
        net::spawn(source::watch(control.clone()));
        let admin_listeners =
            AdminListeners::open(control, admin, process.listener_set.is_admin_activated())?;
        control.notifier.ready();
        control.notify_status();
        liveness::watch(control);
        started(process.handle());
        Ok(admin_listeners)
    };
    process.run(begin).await
}

/// Everything up to the start of the workers. A failure has been reported to the old process, if there is one.
async fn prepare(
    config: Config,
    options: Options,
    sockets: Sockets,
    origin: Origin,
    chosen: EngineChoice,
) -> Result<(Process, Vec<TcpListener>), Failure> {
    let (publisher, worker_handles) =
        worker_handles(&config).inspect_err(|failure| origin.report_failure(&failure.message))?;
    let room = config.workers * (config.nodes.len() + REPORTS_PER_WORKER);
    let (report, reports) = mpsc::channel(room);
    let Origin { predecessor, program, notifier, notices, .. } = origin;
    let control = Control::new(ControlInit {
        config,
        options,
        worker_handles,
        publisher,
        listen: sockets.listen,
        management: sockets.management,
        own: sockets.own,
        budget: sockets.budget,
        send_buffer_granted_bytes: sockets.send_buffer_granted_bytes,
        spread: sockets.spread,
        gro: sockets.gro,
        has_given_sockets: sockets.listener_set.is_data_activated(),
        notifier,
        origin: sockets.origin,
    });
    control.degraded.borrow_mut().extend(sockets.degraded.into_iter().chain(notices));
    control.left.set(sockets.shared);
    if control.options.debug {
        start_debug_log(&control);
    }
    if let Some(old) = &predecessor {
        control.resume(&old.offer.state);
    }
    control.look_up_at_start().await;
    refuse_loops(&control, predecessor.as_ref())?;
    // The workers' first table is the real one: none of what waits in the sockets is dropped for want of a backend.
    control.publish();
    let before =
        StartContext { predecessor, program, listener_set: sockets.listener_set, chosen, late: sockets.late };
    let process = Process::start(control, sockets.workers, (report, reports), before)?;
    Ok((process, sockets.admin))
}

/// A start whose metrics would loop is refused.
fn refuse_loops(control: &Control, predecessor: Option<&Predecessor>) -> Result<(), Failure> {
    let refused = control.refuse_loops(&control.config(), &control.backends());
    refused.map_err(|loops| {
        predecessor.iter().for_each(|old| old.send_failed(&loops.message));
        // What a name server says may be another thing at the next start.
        Failure { message: loops.message, code: if loops.is_literal { exit::USAGE } else { exit::SYSTEM } }
    })
}

/// What each worker shares with control, and the publisher to all of them.
fn worker_handles(config: &Config) -> Result<(Publisher, Vec<WorkerHandle>), Failure> {
    let nothing = table::build(0, config, [], None, Phase::Run, None);
    let wakers: io::Result<Vec<_>> = (0..config.workers).map(|_| Waker::new().map(Arc::new)).collect();
    let wakers = wakers
        .map_err(|error| Failure::system(format!("cannot create an eventfd to wake a worker: {error}")))?;
    let worker_handle = |index| WorkerHandle {
        shared: Arc::new(WorkerShared::default()),
        driver_info: RefCell::new(None),
        cpu: Cell::new(config.worker_cpus.get(index).copied()),
        stuck_since: Cell::default(),
    };
    let publisher = Publisher { routes: Arc::new(ArcSwap::from_pointee(nothing)), wakers };
    Ok((publisher, (0..config.workers).map(worker_handle).collect()))
}

fn start_debug_log(control: &Rc<Control>) {
    let (log, passed) = DebugLog::new();
    net::spawn(write_debug_log(Arc::downgrade(&log), passed));
    control.observers.borrow_mut().debug = Some(log);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;
    use crate::driver::DriverError;
    use crate::stats::Counter;
    use crate::worker::Ended;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
    use std::sync::mpsc as std_mpsc;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    fn anywhere() -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]
    }

    fn options() -> Options {
        Options { config_path: None, listing: String::new(), debug: false }
    }

    /// A proxy in this process, its handle, and the thread that ends with its exit code.
    fn start(config: Config) -> (ProxyHandle, JoinHandle<u8>) {
        let (give, take) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            run_with(config, options(), |handle| {
                let _ = give.send(handle);
            })
        });
        match take.recv_timeout(Duration::from_secs(60)) {
            Ok(handle) => (handle, thread),
            Err(_) => panic!("the start failed: {:?}", thread.join()),
        }
    }

    #[test]
    fn a_proxy_in_process_is_fed_read_stopped_and_leaves_nothing_behind() {
        [None, Some(Engine::Portable)].into_iter().for_each(feed_read_stop);
    }

    fn feed_read_stop(engine: Option<Engine>) {
        let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = config(&[&backend.local_addr().unwrap().to_string()]);
        (config.listen, config.management, config.workers) = (anywhere(), anywhere(), 2);
        config.engine = engine;
        let (proxy, thread) = start(config.clone());
        assert_eq!((proxy.workers().len(), proxy.routes().live.alive()), (2, 1));
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"gorets:1|c", proxy.listen()[0]).unwrap();
        backend.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut line = [0; 64];
        let length = backend.recv(&mut line).unwrap();
        assert_eq!(&line[..length], b"gorets:1|c");
        let mut latency = crate::stats::Latency::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while latency.get(crate::stats::LatencyKind::Residence).is_empty() {
            proxy.collect_latency(&mut latency);
            assert!(Instant::now() < deadline, "the metric's latency was not recorded");
        }
        // Two askings are one stop, and an idle client of the admin port does not hold it up.
        let _idle = TcpStream::connect(proxy.management()[0]).unwrap();
        proxy.stop();
        proxy.stop();
        assert_eq!(thread.join().unwrap(), exit::OK);
        assert_eq!(proxy.counters().get(Counter::MetricsSent), 1);
        assert_eq!(proxy.counters().imbalance(), 0);
        // The same ports can be had again.
        config.listen = proxy.listen().to_vec();
        config.management = proxy.management().to_vec();
        let (again, thread) = start(config);
        again.stop();
        assert_eq!(thread.join().unwrap(), exit::OK);
    }

    #[test]
    fn a_taken_port_ends_the_start_with_its_exit_code() {
        let occupied = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut config = config(&["127.0.0.1:9"]);
        (config.listen, config.management) = (vec![occupied.local_addr().unwrap()], anywhere());
        let code = run_with(config, options(), |_| panic!("it is not ready"));
        assert_eq!(code, exit::SYSTEM);
    }

    #[test]
    fn what_ended_a_worker_has_its_own_code() {
        let codes = [
            (Err(DriverError::Refused("no".to_owned())), exit::NO_ENGINE),
            (Err(DriverError::System { operation: "enter", source: io::Error::other("x") }), exit::SYSTEM),
            (Ok(Ended::Panicked), exit::INTERNAL),
            (Ok(Ended::Drained), exit::INTERNAL),
        ];
        for (end, code) in codes {
            assert_eq!(Failure::of_worker(0, &end).code, code, "{end:?}");
        }
        let codes = [
            (libc::EPERM, Engine::IoUring, exit::NO_ENGINE),
            (libc::EMFILE, Engine::IoUring, exit::SYSTEM),
            (libc::EPERM, Engine::Portable, exit::SYSTEM),
        ];
        for (errno, engine, code) in codes {
            assert_eq!(refused(io::Error::from_raw_os_error(errno), 1, engine).code, code, "{errno}");
        }
    }
}
