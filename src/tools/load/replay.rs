//! Captured lines, to be sent unchanged: read from a file, distinguished, counted.
//!
//! In: a file with a metric a line. Out: its lines in order, each with the number of its text and of its name, and the
//! way back from a text to its number. What arrives is compared byte for byte. Next: `generate.rs` sends them,
//! `../sink/replayed.rs` knows them again.

use crate::wire::{lines, routing_key};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a file at most.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of a datagram that is filled with captured lines, and so of a line: what proxies commonly take.
pub const REPLAY_DATAGRAM_BYTES: usize = 8192;

/// Lines of a file.
#[derive(Debug, Default)]
pub struct Replay {
    bytes: Vec<u8>,
    /// For each different text: its position in `bytes`, and the number of its name.
    texts: Vec<Text>,
    /// The text of each line, in the file's order.
    order: Vec<u32>,
    by_hash: HashMap<u64, u32>,
    names: u32,
    skipped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Text {
    start: usize,
    end: usize,
    name: u32,
}

impl Replay {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is larger than 1 GiB, or has no line that is a metric.
    pub fn load(path: &Path) -> Result<Replay, String> {
        let fail = |why: String| format!("cannot replay {}: {why}", path.display());
        let told = |error: io::Error| fail(error.to_string());
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(told)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(told)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(fail("it is larger than 1 GiB; replay a part of it".into()));
        }
        let replay = Replay::parse(bytes);
        if replay.order.is_empty() {
            let skipped = replay.skipped;
            return Err(fail(format!("none of its {skipped} lines is a metric (name:value|type)")));
        }
        Ok(replay)
    }

    /// Takes the lines of a text. Lines that a proxy may not forward are skipped: without a name, or too long.
    pub fn parse(bytes: Vec<u8>) -> Replay {
        let mut replay = Replay::default();
        let mut names: HashMap<&[u8], u32> = HashMap::new();
        let origin = bytes.as_ptr().addr();
        for line in lines(&bytes) {
            let Some(key) = routing_key(line).filter(|_| line.len() <= REPLAY_DATAGRAM_BYTES) else {
                replay.skipped += 1;
                continue;
            };
            let count = replay.texts.len() as u32;
            let text = *replay.by_hash.entry(xxh3_64(line)).or_insert(count);
            if text == count {
                let known = names.len() as u32;
                let name = *names.entry(key).or_insert(known);
                let start = line.as_ptr().addr() - origin;
                replay.texts.push(Text { start, end: start + line.len(), name });
            }
            replay.order.push(text);
        }
        replay.names = names.len() as u32;
        replay.bytes = bytes;
        replay
    }

    /// Lines to send, before it begins again; at least 1 if it was loaded.
    pub fn line_count(&self) -> usize {
        self.order.len()
    }

    /// Different texts.
    pub fn text_count(&self) -> usize {
        self.texts.len()
    }

    /// Different names.
    pub fn name_count(&self) -> usize {
        self.names as usize
    }

    /// Lines that were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The text of the line at `position` of the file.
    #[inline]
    pub fn text_at(&self, position: usize) -> u32 {
        self.order[position]
    }

    /// The bytes of a text.
    #[inline]
    pub fn text(&self, text: u32) -> &[u8] {
        let Text { start, end, .. } = self.texts[text as usize];
        &self.bytes[start..end]
    }

    /// The number of the name of a text.
    #[inline]
    pub fn name_of(&self, text: u32) -> usize {
        self.texts[text as usize].name as usize
    }

    /// Which text a line is; `None` if it is none of them.
    #[inline]
    pub fn find(&self, line: &[u8]) -> Option<u32> {
        let text = *self.by_hash.get(&xxh3_64(line))?;
        // A line that differs and has the same hash is none of them.
        (self.text(text) == line).then_some(text)
    }

    /// How often each text was sent, if `total` lines were, in order, from the first on.
    pub fn sent_of_total(&self, total: u64) -> Vec<u64> {
        let length = self.order.len().max(1) as u64;
        let mut sent = vec![0; self.texts.len()];
        for (position, text) in self.order.iter().enumerate() {
            sent[*text as usize] += total / length + u64::from((position as u64) < total % length);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] =
        b"api.hits:1|c\r\napi.time:3|ms|@0.1\napi.hits:1|c\n\njunk\nno.type:1\napi.hits:2|c|#a:b\n\
        _e{5,4}:title|text";

    #[test]
    fn a_files_metrics_are_distinguished() {
        let replay = Replay::parse(FILE.to_vec());
        let order: Vec<u32> = (0..replay.line_count()).map(|position| replay.text_at(position)).collect();
        assert_eq!(order, [0, 1, 0, 2, 3]);
        assert_eq!((replay.text_count(), replay.name_count(), replay.skipped()), (4, 3, 2));
        assert_eq!(replay.text(1), b"api.time:3|ms|@0.1");
        assert_eq!(replay.name_of(0), replay.name_of(2));
        assert_ne!(replay.name_of(0), replay.name_of(3));
        for text in 0..4 {
            assert_eq!(replay.find(replay.text(text)), Some(text));
        }
        assert_eq!(replay.find(b"api.hits:3|c"), None);
        assert_eq!(replay.find(b""), None);
    }

    #[test]
    fn how_often_each_was_sent_follows_from_the_total() {
        let replay = Replay::parse(FILE.to_vec());
        assert_eq!(replay.sent_of_total(0), [0; 4]);
        assert_eq!(replay.sent_of_total(3), [2, 1, 0, 0]);
        assert_eq!(replay.sent_of_total(11), [5, 2, 2, 2]);
    }

    #[test]
    fn a_file_without_metrics_is_refused() {
        assert!(Replay::load(Path::new("/nowhere/capture")).unwrap_err().contains("/nowhere/capture"));
        assert!(Replay::load(Path::new("/dev/null")).unwrap_err().contains("name:value|type"));
        let long = [b"a:".to_vec(), vec![b'1'; REPLAY_DATAGRAM_BYTES], b"|c".to_vec()].concat();
        let replay = Replay::parse(long);
        assert_eq!((replay.line_count(), replay.skipped()), (0, 1));
    }
}
