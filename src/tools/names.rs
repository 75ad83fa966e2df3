//! Names that a command reads, one per line, as the relay reads lines: one `\r` before the newline does not count, and empty
//! lines are skipped.
//!
//! In: a file or standard input. Out: the names, or an exit code after the error was reported. Next: `plan.rs`,
//! `where_name.rs`.

use crate::console::{print_error, usage_error};
use crate::worker::DATAGRAM_BYTES_LIMIT;
use std::io::{self, BufRead, BufReader, Read};

/// Why not all names were read.
#[derive(Debug)]
pub enum NamesError {
    /// The input cannot be read.
    Unreadable(io::Error),
    /// The line of this number is longer than any name.
    TooLong(u64),
    /// A name could not be taken.
    Refused(io::Error),
}

impl NamesError {
    /// Reports that the names in `input` could not be read; the exit code, `unreadable` if that is what it is.
    pub fn report(&self, input: &str, unreadable: u8) -> u8 {
        match self {
            NamesError::Unreadable(error) | NamesError::Refused(error) => {
                print_error(&format!("cannot read the names in {input}: {error}"));
                unreadable
            }
            NamesError::TooLong(line) => usage_error(&format!(
                "line {line} of {input} is longer than any name ({DATAGRAM_BYTES_LIMIT} bytes)"
            )),
        }
    }
}

/// Gives each name to `take`, and whether no more input waits behind it.
pub fn read_names(
    mut input: BufReader<impl Read>,
    mut take: impl FnMut(&[u8], bool) -> io::Result<()>,
) -> Result<(), NamesError> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        // No name is longer than a datagram: a bound on what a wrong input makes this take.
        let limit = DATAGRAM_BYTES_LIMIT as u64 + 2;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        if read.map_err(NamesError::Unreadable)? == 0 {
            break;
        }
        let name = line.strip_suffix(b"\n").unwrap_or(&line);
        let name = name.strip_suffix(b"\r").unwrap_or(name);
        if name.len() > DATAGRAM_BYTES_LIMIT {
            return Err(NamesError::TooLong(number));
        }
        if !name.is_empty() {
            take(name, input.buffer().is_empty()).map_err(NamesError::Refused)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_relay_reads_lines() {
        let mut names = Vec::new();
        let mut take = |name: &[u8], is_last: bool| {
            names.push((name.to_vec(), is_last));
            Ok(())
        };
        read_names(BufReader::new(&b"a\r\n\n\r\nb c\nd"[..]), &mut take).unwrap();
        assert_eq!(names, [(b"a".to_vec(), false), (b"b c".to_vec(), false), (b"d".to_vec(), true)]);
        let long = [b"a\n", &vec![b'x'; DATAGRAM_BYTES_LIMIT + 1][..]].concat();
        let read = read_names(BufReader::new(&long[..]), |_, _| Ok(()));
        assert!(matches!(read, Err(NamesError::TooLong(2))), "{read:?}");
    }
}
