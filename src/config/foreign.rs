//! Files in unsupported formats, recognized by their beginning, so that the error names the format instead of the
//! first unexpected character.
//!
//! In: a file that is neither JSON nor a JavaScript object literal. Out: what it looks like, and what to do. Next: `load.rs`,
//! `source.rs`.

/// The supported formats.
const EXPECTED: &str = "statsring reads JSON, or a config of StatsD's proxy.js";

/// The format of bytes that are not UTF-8, if recognized.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<String> {
    let what = match bytes {
        [0x1f, 0x8b, ..] => "compressed (gzip): decompress it",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16: save it as UTF-8",
        [0x7f, b'E', b'L', b'F', ..] => "a program",
        _ => return None,
    };
    Some(format!("the file is {what}; {EXPECTED}"))
}

/// Why a text is not a config, if it is empty or looks like another format.
pub(super) fn of_text(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(first) = lines.next() else {
        return Some(format!("the file is empty; {EXPECTED}"));
    };
    let what = match first {
        line if line.starts_with('<') => "XML",
        line if line == "---" || line.starts_with("- ") || is_yaml_key(line) => "YAML",
        line if is_section(line) || is_assignment(line) => "TOML or INI",
        line if is_directive(line) => "a config of hit9/statsd-proxy (see the migration guide)",
        _ => return None,
    };
    Some(format!("this looks like {what}; {EXPECTED}"))
}

/// The first word, and what follows it.
fn split_word(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').unwrap_or(line.len());
    line.split_at(end)
}

/// `key:` or `key: value`, not followed by the rest of an object.
fn is_yaml_key(line: &str) -> bool {
    let (word, rest) = split_word(line);
    !word.is_empty()
        && rest.strip_prefix(':').is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        && !line.ends_with(',')
}

/// `[section]` or `[[section]]`.
fn is_section(line: &str) -> bool {
    let (word, rest) = split_word(line.trim_start_matches('['));
    line.starts_with('[') && !word.is_empty() && !rest.is_empty() && rest.trim_matches(']').is_empty()
}

/// `key = value`.
fn is_assignment(line: &str) -> bool {
    let (word, rest) = split_word(line);
    !word.is_empty() && rest.trim_start().starts_with('=')
}

/// `key value`.
fn is_directive(line: &str) -> bool {
    let (word, rest) = split_word(line);
    ["bind", "port", "node", "num_threads", "flush_interval"].contains(&word) && rest.starts_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_named() {
        for (text, what) in [
            ("", "empty"),
            ("\n# only a comment\n", "empty"),
            ("nodes:\n  - host: 10.0.0.1\n    port: 8125\n", "YAML"),
            ("---\nhost: a\n", "YAML"),
            ("# statsring\nport: 8125\nnodes:\n", "YAML"),
            ("- host: a\n", "YAML"),
            ("port = 8125\n[[nodes]]\nhost = \"a\"\n", "TOML"),
            ("[statsd]\nport = 1\n", "TOML"),
            ("<config/>", "XML"),
            ("num_threads 4\nport 8125\nnode 127.0.0.1:8127:1\n", "hit9"),
        ] {
            let message = of_text(text).unwrap_or_else(|| panic!("{text:?} is not recognised"));
            assert!(message.contains(what) && message.contains("JSON"), "{message}");
        }
        assert!(of_bytes(b"\x1f\x8b\x08").unwrap().contains("gzip"));
        assert!(of_bytes(b"\xff\xfe{\0").unwrap().contains("UTF-16"));
        assert_eq!(of_bytes(b"\x80"), None);
    }

    #[test]
    fn errors_in_json_and_object_literals_are_not_taken_for_other_formats() {
        for text in [
            "{",
            "{ \"nodes\": [ oops",
            "nodes: [],",
            "[1, 2]",
            "({nodes: []})",
            "\"x\"",
            "// c\n{",
            "8125",
            "config",
        ] {
            assert_eq!(of_text(text), None, "{text:?}");
        }
    }
}
