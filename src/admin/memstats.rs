//! `memstats`: go-statsd-proxy's twelve lines in its order and wording, then the proxy's own buffers. Pure.
//!
//! In: a [`View`]. Out: text. Next: `reply.rs`.

use super::view::View;
use std::fmt::Write;

/// The text, `name: N` a line, in bytes unless the name states another unit.
pub fn render(view: &View) -> String {
    let heap = view.memory.heap;
    // The wording is the original's, whose first, seventh and eighth line show the same figure; the meaning is:
    let original = [
        ("bytes allocated and in use", heap.live_bytes),
        ("bytes allocated total", heap.allocated_bytes),
        ("bytes obtained from system", heap.mapped_bytes),
        // A figure of Go's runtime, which has been 0 there too for years.
        ("number of pointer lookups", 0),
        ("number of mallocs", heap.allocations),
        ("number of frees", heap.frees),
        ("bytes allocated and still in use", heap.live_bytes),
        ("bytes obtained from system", heap.live_bytes),
        ("bytes in idle spans", heap.free_bytes),
        ("bytes in non-idle span", heap.in_use_bytes),
        ("bytes released to the OS", heap.mapped_bytes_peak.saturating_sub(heap.mapped_bytes)),
        ("total number of allocated objects", heap.allocations.saturating_sub(heap.frees)),
    ];
    let receive_buffers: usize = view.driver_info().map(|driver_info| driver_info.buffer_bytes).sum();
    let rings: usize = view.driver_info().map(|driver_info| driver_info.ring_bytes).sum();
    // Each worker has its own socket at every listening address.
    let sockets: usize =
        view.driver_info().map(|driver_info| driver_info.receive_buffer_bytes * view.listen.len()).sum();
    let own = [
        ("bytes in receive buffers", receive_buffers as u64),
        ("bytes in packet pool", view.memory.packet_pool_bytes),
        ("bytes in rings", rings as u64),
        ("bytes granted to socket receive buffers", sockets as u64),
        ("bytes granted to socket send buffers", view.memory.send_buffer_bytes),
    ];
    let resident = view.memory.resident_bytes.map(|bytes| ("bytes resident", bytes));
    let mut text = String::new();
    for (name, number) in original.into_iter().chain(own).chain(resident) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {number}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;
    use crate::stats::alloc::HeapFigures;

    #[test]
    fn the_originals_lines_come_first_with_true_figures() {
        let mut view = sample();
        view.memory.heap = HeapFigures {
            allocations: 100,
            frees: 30,
            allocated_bytes: 5_000,
            live_bytes: 2_000,
            mapped_bytes: 8_000,
            in_use_bytes: 2_500,
            free_bytes: 5_500,
            mapped_bytes_peak: 9_500,
        };
        view.memory.packet_pool_bytes = 77;
        view.memory.send_buffer_bytes = 88;
        view.memory.resident_bytes = Some(99);
        let expected = "bytes allocated and in use: 2000\n\
            bytes allocated total: 5000\n\
            bytes obtained from system: 8000\n\
            number of pointer lookups: 0\n\
            number of mallocs: 100\n\
            number of frees: 30\n\
            bytes allocated and still in use: 2000\n\
            bytes obtained from system: 2000\n\
            bytes in idle spans: 5500\n\
            bytes in non-idle span: 2500\n\
            bytes released to the OS: 1500\n\
            total number of allocated objects: 70\n\
            bytes in receive buffers: 2000\n\
            bytes in packet pool: 77\n\
            bytes in rings: 400\n\
            bytes granted to socket receive buffers: 34406400\n\
            bytes granted to socket send buffers: 88\n\
            bytes resident: 99\n";
        assert_eq!(render(&view), expected);
        view.memory.resident_bytes = None;
        assert!(!render(&view).contains("resident"));
    }
}
