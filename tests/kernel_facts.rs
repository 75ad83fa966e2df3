//! The facts of the kernel that the data path rests on, each tried on the real ring over loopback, so that a kernel that
//! differs is noticed. Where io_uring is refused, each test says so and is skipped; with `CI=true` it fails.

#[path = "kernel_facts/bed.rs"]
mod bed;
#[path = "kernel_facts/descriptor.rs"]
mod descriptor;
#[path = "kernel_facts/raw.rs"]
mod raw;
#[path = "process/bare_ring.rs"]
mod bare_ring;
#[path = "process/seccomp.rs"]
mod seccomp;
#[path = "process/skip.rs"]
mod skip;

#[path = "kernel_facts/receive.rs"]
mod receive;
#[path = "kernel_facts/wait.rs"]
mod wait;
#[path = "kernel_facts/send.rs"]
mod send;
#[path = "kernel_facts/sockets.rs"]
mod sockets;
#[path = "kernel_facts/ending.rs"]
mod ending;
#[path = "kernel_facts/discipline.rs"]
mod discipline;
#[path = "kernel_facts/path_mtu.rs"]
mod path_mtu;
#[path = "kernel_facts/restrict.rs"]
mod restrict;

#[test]
fn a_ring_that_cannot_be_made_fails_the_tests() {
    bare_ring::assert_noticed_by("restrict::the_drivers_own_ring_is_restricted_and_works");
}
