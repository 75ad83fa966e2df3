//! GSO batches and single packets where the MTU of the path shrinks and grows.

use super::bed::{bed, limits, packet, run};
use super::discipline::{BACKEND, LONG, behind};
use statsring::driver::errno;
use statsring::driver::kernel::Kernel;
use statsring::packet::{Packet, SocketSlot};

const SLOT: SocketSlot = SocketSlot(0);

fn set_mtu(mtu: usize) {
    assert!(run(&format!("ip link set narrow mtu {mtu}")).unwrap().status.success());
}

fn packets(bytes: usize) -> [Packet; 2] {
    [(); 2].map(|()| packet(&vec![b'x'; bytes], 0))
}

#[test]
fn segments_above_the_path_mtu_are_refused_and_single_packets_are_fragmented() {
    behind(LONG, || {
        let Some(mut bed) = bed(&limits()) else { return };
        bed.kernel.open_backend(SLOT, BACKEND.parse().unwrap()).unwrap();
        let kernel = &mut bed.kernel;
        let send = |kernel: &mut _, bytes: usize, messages: &[usize]| {
            let mut results = Vec::new();
            Kernel::submit(kernel, &packets(bytes), messages, &mut results);
            results
        };
        for (mtu, before) in [(1_500, 1_500), (1_400, 1_500), (900, 1_400), (1_500, 900)] {
            set_mtu(mtu);
            // Known without a send.
            assert_eq!(kernel.path_payload_bytes(SLOT), Some(mtu - 28));
            if before > mtu {
                let results = send(kernel, before - 28, &[2]);
                assert!(results.len() == 1 && errno::may_be_path(results[0]), "{results:?}");
                assert_eq!(send(kernel, before - 28, &[1, 1]), [0, 0]);
            }
            // Right after that, and at once after the path has grown.
            assert_eq!(send(kernel, mtu - 28, &[2]), [0], "MTU {mtu}");
            assert_eq!(kernel.take_errors(SLOT), None);
        }
    });
}
