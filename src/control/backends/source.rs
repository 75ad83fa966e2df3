//! From which address of this host packets to each backend come: it is the one that the kernel chose when a worker made its
//! socket, while addresses are leased anew and routes move to other interfaces.
//!
//! In: time. Out: a published table when the kernel would choose another address now; the workers compare it with their
//! sockets' own and replace those. Nothing else would show it: a host that filters by reverse path drops what comes from the
//! old address without an answer, and the checks, which are new connections, succeed. Next: `worker/sockets.rs`.

use crate::control::backends::backend::Backend;
use crate::control::state::Control;
use std::rc::Rc;
use std::time::Duration;

/// Asks the kernel every `checkInterval` for all backends together, until the process ends.
pub async fn watch(control: Rc<Control>) {
    loop {
        let interval = Duration::from_millis(control.config().check.interval_ms);
        let _ = tokio::time::timeout(interval, control.reconfigured.notified()).await;
        let backends = control.backends().clone();
        // No short-circuit: all of them are asked.
        let moved = backends.iter().filter(|backend| is_moved(backend)).count();
        if moved > 0 {
            control.publish();
        }
    }
}

/// Whether packets to the backend would come from another address now.
fn is_moved(backend: &Backend) -> bool {
    let Some((before, now)) = backend.ask_source() else { return false };
    // There was no route: the workers may have made their sockets before this answer, and compare.
    let Some(before) = before else { return true };
    tracing::info!(
        "backend {}: the source address changed from {before} to {now}; its sockets are reopened",
        backend.name.escape_default()
    );
    true
}
