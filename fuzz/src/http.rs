//! HTTP on the admin port: a request, however it is written and cut, is answered once with 405, and nothing in it runs, not in
//! its headers and not in its body.
//!
//! The bytes: the first chooses the method and the length of the pieces; the rest is what stands behind the method.

use crate::admin::converse;
use crate::expand::expand;
use crate::session::{REPEAT, piece_bytes};
use statsring::admin::AdminCounter;

const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI ",
];

/// Any bytes are a request.
pub fn run(bytes: &[u8]) {
    let Some((way, rest)) = bytes.split_first() else { return };
    let method = METHODS[usize::from(way % 10)];
    let request = [method, &expand(rest, REPEAT)].concat();
    let (proxy, replies) = converse(&request, piece_bytes(way / 10, &request), true, false);
    assert_eq!(proxy.counters.get(AdminCounter::ForeignProtocols), 1);
    assert_eq!(proxy.counters.get(AdminCounter::Commands), 0, "a part of an HTTP request was run");
    assert_eq!(proxy.changes(), 0);
    let replies = std::str::from_utf8(&replies).expect("the answer is text");
    let (head, body) = replies.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())) && head.contains("Connection: close")
    );
}
