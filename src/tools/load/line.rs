//! A sequenced metric: a plain StatsD line that carries its own number and the moment when it was sent.
//!
//! In: a name's index, a sequence number, the clock; or a line that arrived. Out: the line; or its contents.
//!
//! The form is `load.RUN.NAME:VALUE|TYPE`, where NAME is an index and VALUE is `sequence × 10⁸ + stamp`: the sequence
//! number counts from 0 for each name, the stamp is the sender's clock in µs modulo 100 s. Only the name and an integer
//! value are used, because every StatsD proxy carries these unaltered, whereas many drop or rewrite tags.
//! Next: `generate.rs` writes them, `../sink/sequenced.rs` reads them.

use nix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::xxh3_64;

/// A stamp is below this: µs of 100 s.
pub const STAMP_RANGE_US: u64 = 100_000_000;
/// Sequence numbers are below this, so that a value fits 64 bits.
pub const SEQUENCE_END: u64 = u64::MAX / STAMP_RANGE_US;
/// Different names that a load may have.
pub const NAMES_MAX: usize = 10_000_000;
/// Longest part of a run's identity that the user gives.
pub const RUN_BYTES_MAX: usize = 16;

const FIRST: &[u8] = b"load.";
/// Base-36 digits that identify the host in a run's identity.
const HOST_DIGITS: usize = 4;
/// Base-36 digits of a run that the user did not name.
const RANDOM_DIGITS: usize = 4;
const DIGITS_36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Now, in µs of CLOCK_MONOTONIC, the clock that the processes of one host share: a load writes a moment that a sink of another
/// process compares with its own. No system call on common hardware.
#[inline]
pub fn host_now_us() -> u64 {
    // It cannot fail for this clock; 0 would show as absurd latencies and not as a crash.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or((0, 0), |now| (now.tv_sec(), now.tv_nsec()));
    now.0.unsigned_abs() * 1_000_000 + now.1.unsigned_abs() / 1_000
}

/// What tells the metrics of one load from any other: it begins with a mark of the host, so that a sink knows whether
/// the sender's clock is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run(Box<str>);

impl Run {
    /// A run of this host, with the given name or one of its own.
    ///
    /// # Errors
    /// The name is empty, longer than [`RUN_BYTES_MAX`], or has other characters than `a` to `z` and digits.
    pub fn new(given: Option<&str>) -> Result<Run, String> {
        let own;
        let name = match given {
            Some(name) => name,
            None => {
                let seed =
                    [host_now_us().to_le_bytes(), u64::from(std::process::id()).to_le_bytes()].concat();
                own = base_36(xxh3_64(&seed), RANDOM_DIGITS);
                &own
            }
        };
        let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || name.len() > RUN_BYTES_MAX || !is_plain {
            return Err(format!("--run {name:?}: expected 1 to {RUN_BYTES_MAX} characters a to z, 0 to 9"));
        }
        Ok(Run(format!("{}{name}", host_mark()).into()))
    }

    /// Reads it off a metric of the load that it names.
    pub fn of_line(line: &[u8]) -> Option<Run> {
        let rest = line.strip_prefix(FIRST)?;
        let end = rest.iter().position(|byte| *byte == b'.')?;
        let text = std::str::from_utf8(&rest[..end]).ok()?;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let is_long = text.len() > HOST_DIGITS && text.len() <= HOST_DIGITS + RUN_BYTES_MAX;
        (is_plain && is_long).then(|| Run(text.into()))
    }

    /// Whether the load runs on this host, under this kernel, so that its stamps are of this clock.
    pub fn is_of_this_host(&self) -> bool {
        self.0.starts_with(&host_mark())
    }

    /// Its text, as part of the names.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What the names of its metrics begin with.
    pub fn prefix(&self) -> Vec<u8> {
        [FIRST, self.0.as_bytes(), b"."].concat()
    }
}

/// Stands for this boot of this kernel.
fn host_mark() -> String {
    // Without it all hosts look like one, and a latency between two of them is the user's to doubt.
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    base_36(xxh3_64(&boot), HOST_DIGITS)
}

fn base_36(mut number: u64, digits: usize) -> String {
    (0..digits)
        .map(|_| {
            let digit = DIGITS_36[(number % 36) as usize];
            number /= 36;
            char::from(digit)
        })
        .collect()
}

/// How the lines of one run are written.
#[derive(Clone, Debug)]
pub struct LineForm {
    prefix: Vec<u8>,
    /// Digits of an index, with leading zeroes.
    index_digits: usize,
    /// What follows the value, by index modulo their number, so that a name always has the same type.
    endings: Vec<Vec<u8>>,
}

impl LineForm {
    /// Names are padded with zeroes to `name_bytes`; each of `types` occurs according to its weight; `tags` follow
    /// in DogStatsD's form.
    pub fn new(run: &Run, name_bytes: usize, types: &[&str], tags: Option<&str>) -> LineForm {
        let prefix = run.prefix();
        let ending = |kind: &&str| match tags {
            Some(tags) => format!("|{kind}|#{tags}").into_bytes(),
            None => format!("|{kind}").into_bytes(),
        };
        LineForm {
            index_digits: name_bytes.saturating_sub(prefix.len()),
            endings: types.iter().map(ending).collect(),
            prefix,
        }
    }

    /// Bytes of the longest line that can be written, for names up to `names`.
    pub fn line_bytes_max(&self, names: usize) -> usize {
        let ending = self.endings.iter().map(Vec::len).max().unwrap_or(0);
        let index = names.to_string().len().max(self.index_digits);
        self.prefix.len() + index + 1 + u64::MAX.to_string().len() + ending
    }

    /// Appends one line, without a newline.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, index: u32, sequence: u64, stamp_us: u64) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(&self.prefix);
        let text = digits.format(index).as_bytes();
        for _ in text.len()..self.index_digits {
            out.push(b'0');
        }
        out.extend_from_slice(text);
        out.push(b':');
        let value = sequence * STAMP_RANGE_US + stamp_us % STAMP_RANGE_US;
        out.extend_from_slice(digits.format(value).as_bytes());
        out.extend_from_slice(&self.endings[index as usize % self.endings.len()]);
    }
}

/// The marker at the end of a load, with the number of metrics sent: `load.RUN.endK:TOTAL|c`.
///
/// Several, with different K, so that each of a few backends is likely to get one.
pub fn end_marker(run: &Run, k: usize, total: u64) -> Vec<u8> {
    [&run.prefix()[..], format!("end{k}:{total}|c").as_bytes()].concat()
}

/// What a line means to the sink of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A metric of the run.
    Metric {
        /// Which name.
        index: usize,
        /// Its number, from 0 for each name.
        sequence: u64,
        /// When it was sent, modulo [`STAMP_RANGE_US`].
        stamp_us: u64,
    },
    /// The load has ended after so many metrics.
    End {
        /// All metrics of the run.
        total: u64,
    },
    /// Anything else.
    Foreign,
}

/// Reads a line of the run whose names begin with `prefix`.
#[inline]
pub fn read(prefix: &[u8], line: &[u8]) -> Read {
    read_own(prefix, line).unwrap_or(Read::Foreign)
}

#[inline]
fn read_own(prefix: &[u8], line: &[u8]) -> Option<Read> {
    let rest = line.strip_prefix(prefix)?;
    if let Some(rest) = rest.strip_prefix(b"end") {
        let (_, rest) = number(rest)?;
        let (total, rest) = number(rest.strip_prefix(b":")?)?;
        return (rest == b"|c").then_some(Read::End { total });
    }
    let (index, rest) = number(rest)?;
    let (value, rest) = number(rest.strip_prefix(b":")?)?;
    rest.starts_with(b"|").then_some(Read::Metric {
        index: usize::try_from(index).ok()?,
        sequence: value / STAMP_RANGE_US,
        stamp_us: value % STAMP_RANGE_US,
    })
}

/// The number that `text` begins with, and what follows it.
#[inline]
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut digits = 0;
    while let Some(digit) = text.get(digits).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    (digits > 0).then(|| (value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::routing_key;
    use proptest::prelude::*;

    fn run() -> Run {
        Run::new(Some("x1")).unwrap()
    }

    #[test]
    fn a_line_looks_like_this() {
        let run = run();
        let form = LineForm::new(&run, 0, &["c", "ms"], Some("env:prod,x"));
        let mut line = Vec::new();
        form.write(&mut line, 7, 12, 345);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            format!("load.{}.7:1200000345|ms|#env:prod,x", run.text())
        );
        let padded = LineForm::new(&run, 30, &["c"], None);
        let mut line = Vec::new();
        padded.write(&mut line, 7, 0, 5);
        assert_eq!(routing_key(&line).unwrap().len(), 30);
        assert!(line.ends_with(b"0007:5|c"));
    }

    #[test]
    fn runs_are_distinguished_and_identify_their_host() {
        let run = run();
        assert!(run.is_of_this_host());
        assert_eq!(Run::of_line(format!("load.{}.12:1|c", run.text()).as_bytes()), Some(run));
        for line in ["load.", "load.abcd.1:1|c", "load.abcdE.1:1|c", "load.\u{e9}bcde.1", "api.abcde.1:1|c"] {
            assert_eq!(Run::of_line(line.as_bytes()), None, "{line}");
        }
        assert!(!Run::of_line(b"load.....x.1:1|c").is_some_and(|run| run.is_of_this_host()));
        for name in ["", "UP", "a.b", "abcdefghijklmnopq"] {
            assert!(Run::new(Some(name)).is_err(), "{name}");
        }
        assert_eq!(Run::new(None).unwrap().text().len(), HOST_DIGITS + RANDOM_DIGITS);
    }

    #[test]
    fn what_is_not_of_the_run_is_foreign() {
        let prefix = run().prefix();
        let with = |rest: &str| [&prefix[..], rest.as_bytes()].concat();
        for line in [
            with(""),
            with("1"),
            with("1:"),
            with("1:2"),
            with(":2|c"),
            with("1:x|c"),
            with("-1:2|c"),
            with("1:99999999999999999999|c"),
            with("end:1|c"),
            with("end1:1|g"),
            b"load.".to_vec(),
            b"foo:1|c".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(read(&prefix, &line), Read::Foreign, "{}", line.escape_ascii());
        }
        assert_eq!(read(&prefix, &end_marker(&run(), 63, 17)), Read::End { total: 17 });
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            index in 0..NAMES_MAX as u32,
            sequence in 0..SEQUENCE_END,
            stamp_us in any::<u64>(),
            name_bytes in 0..100usize,
            tags in proptest::option::of("[a-z:,]{1,20}"),
        ) {
            let run = run();
            let form = LineForm::new(&run, name_bytes, &["c", "g", "ms", "s", "h"], tags.as_deref());
            let mut line = Vec::new();
            form.write(&mut line, index, sequence, stamp_us);
            prop_assert!(line.len() <= form.line_bytes_max(NAMES_MAX));
            prop_assert!(routing_key(&line).is_some());
            let expected = Read::Metric { index: index as usize, sequence, stamp_us: stamp_us % STAMP_RANGE_US };
            prop_assert_eq!(read(&run.prefix(), &line), expected);
        }

        #[test]
        fn no_line_makes_it_fail(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let prefix = run().prefix();
            let _ = read(&prefix, &line);
            let _ = read(&prefix, &[&prefix[..], &line].concat());
            let _ = Run::of_line(&line);
        }
    }
}
