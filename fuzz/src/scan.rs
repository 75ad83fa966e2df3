//! All scanners, compared with the naive rules.

use crate::expand::expand;
use crate::naive;
use statsring::wire::{self, LineIndex, Scanner};

/// Scans any input as a datagram, with a shorthand for long ones.
pub fn run(bytes: &[u8]) {
    let mut marks = LineIndex::new();
    let long = expand(bytes, 800);
    if long.len() > bytes.len() {
        check(&long, &mut marks);
    }
    // The index of the long datagram must not affect the next one.
    check(bytes, &mut marks);
}

fn check(datagram: &[u8], marks: &mut LineIndex) {
    let expected: Vec<(&[u8], Option<&[u8]>)> =
        naive::lines(datagram).map(|line| (line, naive::key(line))).collect();
    let plain: Vec<_> = wire::lines(datagram).map(|line| (line, wire::routing_key(line))).collect();
    assert_eq!(plain, expected, "the scalar parser");
    for scanner in Scanner::all() {
        let mut found = 0;
        scanner.each_line(datagram, marks, |line: &[u8], key: Option<&[u8]>| {
            assert_eq!(Some(&(line, key)), expected.get(found), "{}, line {found}", scanner.name());
            found += 1;
        });
        assert_eq!(found, expected.len(), "{}", scanner.name());
    }
    let (whole, cut) = wire::split_cut_line(datagram);
    assert_eq!(whole.len() + cut.len(), datagram.len());
    assert!(!cut.contains(&b'\n') && (whole.is_empty() || whole.ends_with(b"\n")));
}
