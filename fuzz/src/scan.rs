//! Every way of finding lines and keys, against the plain rules.

use crate::expand::expand;
use crate::naive;
use statsring::wire::{self, SPANS_MAX, Scanner, Spans};

/// Any bytes are a datagram; those of a long one are written short.
pub fn run(bytes: &[u8]) {
    check(bytes);
    let long = expand(bytes, 800);
    if long.len() > bytes.len() {
        check(&long);
    }
}

fn check(datagram: &[u8]) {
    let expected: Vec<(&[u8], Option<&[u8]>)> =
        naive::lines(datagram).map(|line| (line, naive::key(line))).collect();
    let plain: Vec<_> = wire::lines(datagram).map(|line| (line, wire::routing_key(line))).collect();
    assert_eq!(plain, expected, "the plain way of the wire");
    let mut spans = Spans::new();
    for scanner in Scanner::all() {
        let (mut at, mut found) = (0, 0);
        while at < datagram.len() {
            let next = scanner.scan(datagram, at, &mut spans);
            assert!(next > at && next <= datagram.len(), "{scanner:?} goes from {at} to {next}");
            assert!(spans.as_slice().len() <= SPANS_MAX);
            at = next;
            for span in spans.as_slice() {
                let line = (span.line(datagram), span.key(datagram));
                assert_eq!(Some(&line), expected.get(found), "{scanner:?}, line {found}");
                found += 1;
            }
        }
        assert_eq!(found, expected.len(), "{scanner:?}");
    }
    let (whole, cut) = wire::split_cut_line(datagram);
    assert_eq!(whole.len() + cut.len(), datagram.len());
    assert!(!cut.contains(&b'\n') && (whole.is_empty() || whole.ends_with(b"\n")));
}
