//! Follows the MTU of the path to each backend, in both directions, and tries GSO batches again where they were refused.
//!
//! In: outcomes that concern a path, and the time while packets are sent. Out: the paths, read from the kernel, to the relay and
//! to the driver; reports of what that changed. Next: `relay/paths.rs`, which sizes packets by them.

use super::Report;
use super::reporter::Reporter;
use super::sockets::{PathState, Sockets};
use crate::driver::Driver;
use crate::driver::kernel::Kernel;
use crate::packet::SocketSlot;
use crate::relay::{PathChange, Relay};
use std::sync::Arc;

/// Each path is read within so many looks, which are a second apart while packets are sent …
const LOOKS: usize = 10;
/// … and so many at least in one look: two short system calls each.
const PATHS_PER_LOOK_MIN: usize = 64;
/// When GSO batches are tried again after one was refused, µs: what refuses them is a device or a route, which may be replaced.
pub const GSO_RETRY_US: u64 = 300_000_000;
/// The same after EMSGSIZE without a smaller path MTU: it has just grown again.
const GSO_RETRY_PATH_US: u64 = 1_000_000;

impl Sockets {
    /// Reads the paths of all backends: their sockets or the rules are new.
    pub fn read_paths(
        &mut self,
        relay: &mut Relay,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
    ) {
        for backend in 0..self.slots.len() {
            self.read_path(backend, relay, driver, reporter);
        }
    }

    /// Schedules a read of the path of a socket, before anything else is sent.
    pub fn want_path(&mut self, slot: SocketSlot) {
        if let Some(Some(open)) = self.open.get_mut(slot.0 as usize) {
            open.path.is_wanted = true;
            self.path_looks.is_wanted = true;
        }
    }

    /// Reads the paths that have to be read at once.
    pub fn read_wanted_paths(
        &mut self,
        relay: &mut Relay,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
    ) {
        if !std::mem::take(&mut self.path_looks.is_wanted) {
            return;
        }
        for backend in 0..self.slots.len() {
            let is_wanted = self.path_mut(backend).is_some_and(|path| std::mem::take(&mut path.is_wanted));
            if is_wanted {
                self.read_path(backend, relay, driver, reporter);
            }
        }
    }

    /// Reads some of the paths, and allows GSO batches again where that is due; to be called once a second while packets are
    /// sent.
    pub fn look_at_paths(
        &mut self,
        relay: &mut Relay,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
        now_us: u64,
    ) {
        let backends = self.slots.len();
        for _ in 0..backends.div_ceil(LOOKS).max(PATHS_PER_LOOK_MIN).min(backends) {
            let backend = self.path_looks.next % backends;
            self.path_looks.next = backend + 1;
            self.read_path(backend, relay, driver, reporter);
            let Some(path) = self.path_mut(backend) else { continue };
            if path.gso_retry_us.take_if(|at_us| *at_us <= now_us).is_some()
                && let Some(slot) = self.slots[backend]
            {
                driver.allow_gso(slot);
                relay.allow_gso(backend);
            }
        }
    }

    /// GSO batches to a backend are refused with `errno`: they are tried again later.
    pub fn gso_refused(
        &mut self,
        backend: usize,
        relay: &Relay,
        errno: i32,
        reporter: &mut Reporter,
        now_us: u64,
    ) {
        let Some(path) = self.path_mut(backend) else { return };
        let pause_us = if errno == libc::EMSGSIZE { GSO_RETRY_PATH_US } else { GSO_RETRY_US };
        path.gso_retry_us = Some(now_us + pause_us);
        if !std::mem::replace(&mut path.is_refusal_reported, true) {
            reporter.report(Report::GsoRefused {
                node: Arc::clone(&relay.table().nodes[backend].name),
                error: std::io::Error::from_raw_os_error(errno),
                retry_s: pause_us / 1_000_000,
            });
        }
    }

    /// A socket is new: its route or device may be another one.
    pub(super) fn forget_gso_refusal(&mut self, slot: SocketSlot) {
        if let Some(Some(open)) = self.open.get_mut(slot.0 as usize) {
            open.path = PathState::default();
        }
    }

    fn path_mut(&mut self, backend: usize) -> Option<&mut PathState> {
        let slot = self.slots.get(backend).copied().flatten()?;
        self.open.get_mut(slot.0 as usize)?.as_mut().map(|open| &mut open.path)
    }

    fn read_path(
        &self,
        backend: usize,
        relay: &mut Relay,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
    ) {
        let Some(slot) = self.slots.get(backend).copied().flatten() else { return };
        let change = relay.set_path(backend, driver.path_payload_bytes(slot));
        let node = || Arc::clone(&relay.table().nodes[backend].name);
        match change {
            PathChange::None => {}
            PathChange::Resized { packet_bytes } => {
                reporter.report(Report::PacketsResized { node: node(), packet_bytes });
            }
            PathChange::Fits => reporter.report(Report::FragmentationEnded { node: node() }),
        }
    }
}
