//! Listening sockets: buffers read back, SO_REUSEPORT and what it hides, the fence.

use super::bed::{Log, bed, drive, limits, no_children, sender_to, wait_until};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use statsring::driver::Wait;
use statsring::driver::kernel::Kernel;
use statsring::driver::socket::{BindError, Spread, bind_listeners, distribute};
use std::io;
use std::net::{SocketAddr, UdpSocket};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn the_kernel_grants_twice_what_is_asked_for_and_it_is_read_back() {
    let asked = 100_000;
    let Some(bed) = super::bed::bed_with(&limits(), asked) else { return };
    assert_eq!(bed.kernel.info().receive_buffer_bytes, 2 * asked);
}

#[test]
fn the_host_limits_what_is_granted_without_a_word() {
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/core/rmem_max") else {
        return crate::skip::skip("net.core.rmem_max cannot be read here");
    };
    let limit: usize = text.trim().parse().unwrap();
    let socket = UdpSocket::bind(any()).unwrap();
    SockRef::from(&socket).set_recv_buffer_size(limit + 1_000_000).unwrap();
    assert_eq!(SockRef::from(&socket).recv_buffer_size().unwrap(), 2 * limit);
}

/// Binds, with SO_REUSEPORT or without.
fn bound(address: SocketAddr, reuses_port: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(reuses_port)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

#[test]
fn so_reuseport_hides_a_second_binder_and_a_plain_bind_finds_it() {
    let first = bound(any(), true).unwrap();
    let address = first.local_addr().unwrap();
    bound(address, true).expect("in silence");
    assert_eq!(bound(address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    match bind_listeners(&[address], 1, statsring::driver::socket::ListenOptions::here(1 << 16)) {
        Err(BindError::Taken { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn so_reuseport_gives_all_datagrams_of_one_sender_to_one_socket_in_order() {
    let children = no_children();
    let listeners =
        bind_listeners(&[any()], 2, statsring::driver::socket::ListenOptions::here(1 << 20)).unwrap();
    drop(children);
    let sockets: Vec<&UdpSocket> = listeners.workers.iter().map(|sockets| &sockets[0]).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    for _ in 0..8 {
        let sender = sender_to(listeners.addresses[0]);
        for number in 0..50u8 {
            sender.send(&[number]).unwrap();
        }
        let mut received = [Vec::new(), Vec::new()];
        wait_until("all are received", || {
            for (socket, numbers) in sockets.iter().zip(&mut received) {
                let mut byte = [0];
                while socket.recv(&mut byte).is_ok() {
                    numbers.push(byte[0]);
                }
            }
            received.iter().map(Vec::len).sum::<usize>() == 50
        });
        let taken = received.iter().find(|numbers| !numbers.is_empty()).unwrap();
        assert!(taken.iter().copied().eq(0..50), "{received:?}");
    }
}

#[test]
fn behind_a_fence_what_is_queued_stays_readable_and_nothing_new_comes() {
    let Some(mut bed) = bed(&limits()) else { return };
    bed.send_and_see(b"before");
    bed.kernel.fence().unwrap();
    for _ in 0..10 {
        // Nobody is there for it: a later send may report that.
        let _ = bed.sender.send(b"after");
    }
    assert_eq!(bed.kernel.drain(0, 8).unwrap().datagrams, 1);
    assert_eq!(bed.kernel.datagram(0).payload, b"before");
    let deadline_us = statsring::driver::clock::now_us() + 30_000;
    bed.kernel.sleep(&[true], Some(deadline_us)).unwrap();
    assert!(!bed.kernel.is_ready(0) && bed.kernel.is_queue_empty());
}

#[test]
fn a_fenced_driver_is_drained_once_what_was_queued_is_delivered() {
    let Some(bed) = bed(&limits()) else { return };
    let (mut driver, sender) = bed.into_driver();
    let mut log = Log::default();
    drive(&mut driver, &mut log, "nothing", |_| true);
    for _ in 0..30 {
        sender.send(b"before").unwrap();
    }
    sender.send(b"").unwrap();
    driver.fence().unwrap();
    assert!(!driver.is_drained());
    let _ = sender.send(b"after");
    drive(&mut driver, &mut log, "what was queued", |log| log.datagrams.len() == 31);
    assert!(driver.is_drained());
    let _ = sender.send(b"after");
    driver.enter(Wait::EventUntil { deadline_us: driver.now_us() + 20_000 }).unwrap();
    driver.deliver(&mut log);
    assert_eq!(log.datagrams.len(), 31);
    assert!(log.datagrams.iter().all(|(bytes, _)| bytes != b"after"));
}

#[test]
fn an_empty_datagram_in_the_queue_is_seen_by_poll() {
    let Some(mut bed) = bed(&limits()) else { return };
    assert!(bed.kernel.is_queue_empty());
    bed.send_and_see(b"");
    assert!(!bed.kernel.is_queue_empty());
}

#[test]
fn a_reuseport_program_reads_the_cpu_and_chooses_by_the_order_of_binding() {
    // Over loopback a datagram arrives on its sender's CPU.
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut only = CpuSet::new();
    only.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
    let first = bound(any(), true).unwrap();
    let address = first.local_addr().unwrap();
    let mut group = vec![first, bound(address, true).unwrap(), bound(address, true).unwrap()];
    // What each socket receives of 20 senders' datagrams after a program for three sockets that returns `index` on this CPU.
    let received = |group: &[UdpSocket], index: usize| {
        let cpus: Vec<usize> = (0..3).map(|place| if place == index { cpu } else { 900 + place }).collect();
        let workers = [0; 3].map(|_| vec![group[0].try_clone().unwrap()]);
        distribute(&workers, Spread::Cpu, &cpus).unwrap();
        (0..20).for_each(|_| assert_eq!(sender_to(address).send(b"x").unwrap(), 1));
        let count = |socket: &UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| socket.recv(&mut [0; 4]).ok()).count()
        };
        group.iter().map(count).collect::<Vec<_>>()
    };
    assert_eq!([0, 1, 2].map(|index| received(&group, index)), [[20, 0, 0], [0, 20, 0], [0, 0, 20]]);
    group.truncate(2);
    assert_eq!(
        [0, 1].map(|index| received(&group, index)),
        [[20, 0], [0, 20]],
        "the others keep their index"
    );
    // An index without a socket: by sender.
    assert_eq!(received(&group, 2).iter().sum::<usize>(), 20);
    group.push(bound(address, true).unwrap());
    assert_eq!([1, 2].map(|index| received(&group, index)), [[0, 20, 0], [0, 0, 20]]);
    // A socket that is closed before the last one is replaced by that: statsring closes the last ones only.
    group.remove(0);
    assert_eq!([0, 1].map(|index| received(&group, index)), [[0, 20], [20, 0]]);
}

#[test]
fn replaced_sockets_are_released_though_polls_are_armed() {
    // Up to Linux 6.12 a file that was taken out of the table stays open until the requests that began before have ended.
    let Some(mut bed) = bed(&limits()) else { return };
    let (_backend, address) = super::bed::backend();
    let end = format!(":{:04X} 01 ", address.port());
    let connected = || {
        let table = std::fs::read_to_string("/proc/self/net/udp").unwrap();
        table.lines().filter(|line| line.contains(&end)).count()
    };
    for _ in 0..50 {
        let until_us = statsring::driver::clock::now_us() + 200;
        bed.kernel.sleep(&[true], Some(until_us)).unwrap();
        bed.kernel.open_backend(statsring::packet::SocketSlot(0), address).unwrap();
    }
    wait_until("the kernel has released them", || connected() <= 1);
    bed.send_and_see(b"one");
    bed.kernel.sleep(&[true], None).unwrap();
    assert!(bed.kernel.is_ready(0), "the poll is armed again");
}
