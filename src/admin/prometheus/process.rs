//! The process metrics of every Prometheus client library. Pure.
//!
//! In: a [`View`]. Out: families.

use super::exposition::{Exposition, Kind};
use crate::admin::view::View;

/// The families.
pub fn render(out: &mut Exposition, view: &View) {
    let (gauge, process) = (Kind::Gauge, &view.process);
    out.known(
        Kind::Counter,
        "process_cpu_seconds_total",
        "CPU time of the process, kernel and user.",
        process.cpu.map(|cpu| cpu.as_secs_f64()),
    );
    out.one(
        gauge,
        "process_start_time_seconds",
        "Start time of the process since the Unix epoch.",
        view.started_unix_time.as_secs_f64(),
    );
    out.known(
        gauge,
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        view.memory.resident_bytes,
    );
    out.known(gauge, "process_virtual_memory_bytes", "Address space of the process.", process.virtual_bytes);
    out.known(gauge, "process_threads", "Threads of the process.", process.threads);
    out.known(gauge, "process_open_fds", "Open files of the process.", process.open_files);
    out.known(gauge, "process_max_fds", "Maximum number of open files.", process.files_max);
}
