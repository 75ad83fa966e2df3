//! Process tests in network namespaces: changing addresses and routes, firewalls that rewrite packets.
//!
//! Each test creates namespaces joined by veth pairs and removes them, so no packet leaves this machine. That requires root:
//! otherwise the tests are skipped with a message, or fail if `CI` is `true`.

#[path = "network/addresses.rs"]
mod addresses;
#[allow(dead_code, reason = "shared with tests/docs.rs and tests/guides.rs, which use more of it")]
mod book;
#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/backends.rs, which uses the rest of it")]
mod backend;
#[path = "process/descriptors.rs"]
mod descriptors;
#[path = "network/lab.rs"]
mod lab;
#[path = "network/lab_tests.rs"]
mod lab_tests;
#[path = "network/listening.rs"]
mod listening;
#[path = "network/pages.rs"]
mod pages;
#[path = "network/path_mtu.rs"]
mod path_mtu;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses more of it")]
mod proxy;
#[path = "network/shortage.rs"]
mod shortage;
#[path = "network/sockets.rs"]
mod sockets;
#[path = "process/skip.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod skip;
#[path = "network/steering.rs"]
mod steering;
#[path = "network/unreachable.rs"]
mod unreachable;
