//! HTTP on the admin port: requests are answered in order by simple rules, however they are written and split, and nothing in
//! their heads or bodies is executed.
//!
//! Input: the first byte selects the method and the chunk length; the rest follows the method.

use crate::admin::{OWN_NAME, run_connection};
use crate::expand::expand;
use crate::session::{REPEAT, piece_bytes};
use statsring::admin::AdminCounter;
use std::net::{Ipv4Addr, Ipv6Addr};

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
/// The existing paths.
const PATHS: [&str; 5] = ["/", "/metrics", "/healthz", "/readyz", "/stats.json"];
/// Maximum length of a head.
const HEAD_BYTES_MAX: usize = 8_192;
/// Maximum number of header fields.
const FIELDS_MAX: usize = 64;

/// Sends any input as a request.
pub fn run(bytes: &[u8]) {
    let Some((way, rest)) = bytes.split_first() else { return };
    let method = METHODS[usize::from(way % 10)];
    let text = [method, &expand(rest, REPEAT)].concat();
    let replies = replies(&text, piece_bytes(way / 10, &text));
    assert_eq!(replies, self::replies(&text, text.len()), "the replies depend on the split");
    let mut replies = replies.as_str();
    let mut rest = &text[..];
    while !replies.is_empty() {
        let request = Request::first_of(rest);
        let answer = Answer::first_of(&mut replies, is_head(rest));
        let Some(request) = request else {
            // The head is too long or malformed.
            assert!(matches!(answer.status, 400 | 431 | 505), "{}", answer.status);
            assert!(answer.is_last && replies.is_empty());
            return;
        };
        request.check(&answer);
        assert!(!answer.is_last || replies.is_empty(), "a reply follows the last reply");
        rest = &rest[request.bytes..];
    }
}

/// The replies to a client that sends `text` in chunks, without dates.
fn replies(text: &[u8], piece_bytes: usize) -> String {
    let (proxy, replies) = run_connection(text, piece_bytes, true, false);
    assert_eq!(proxy.counters.get(AdminCounter::Commands), 0, "a part of an HTTP request was executed");
    assert_eq!(proxy.changes(), 0);
    let replies = String::from_utf8(replies).expect("replies are UTF-8");
    replies.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

/// Whether the request at the beginning of `text` is a HEAD request, if it can be parsed. Empty lines may precede it, within
/// the limit of a head.
fn is_head(text: &[u8]) -> bool {
    let mut text = &text[..text.len().min(HEAD_BYTES_MAX)];
    while let Some(rest) = text.strip_prefix(b"\n").or_else(|| text.strip_prefix(b"\r\n")) {
        text = rest;
    }
    text.starts_with(b"HEAD ")
}

struct Answer {
    status: u16,
    is_last: bool,
}

impl Answer {
    /// Takes the first reply from `replies`. Replies to HEAD have no body, whatever the status.
    fn first_of(replies: &mut &str, is_head: bool) -> Answer {
        let (head, rest) = replies.split_once("\r\n\r\n").expect("a head");
        let status: u16 =
            head.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().expect("a status");
        let length = head.split("Content-Length: ").nth(1).expect("a length").split("\r\n").next();
        let length: usize = length.expect("a length").parse().expect("a length");
        *replies = &rest[if is_head { 0 } else { length }..];
        let lists_methods = head.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n");
        assert!(lists_methods || status != 405, "{head}");
        assert!(status != 405 || length > 0, "{head}");
        Answer { status, is_last: head.contains("\r\nConnection: close") }
    }
}

/// A request parsed by simple rules.
struct Request {
    method: String,
    target: String,
    version: String,
    fields: Vec<(String, String)>,
    /// Whether every part conforms to RFC 9112 in its simplest form.
    is_plain: bool,
    /// Including preceding empty lines.
    bytes: usize,
}

impl Request {
    /// The first head in `text`, if complete.
    fn first_of(text: &[u8]) -> Option<Request> {
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let mut bytes = 0;
        let mut head: Vec<String> = Vec::new();
        let mut has_line_ends = true;
        loop {
            let line = lines.next().filter(|line| line.ends_with(b"\n"))?;
            bytes += line.len();
            has_line_ends &= line.ends_with(b"\r\n");
            let line = &line[..line.len() - 1];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            match (line.is_empty(), head.is_empty()) {
                (true, true) => {}
                (true, false) => break,
                _ => head.push(line),
            }
        }
        let mut words = head[0].split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (method, target, version) = (word(), word(), word());
        let is_field_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let is_value = |value: &str| value.bytes().all(|b| (b' '..=b'~').contains(&b));
        let fields: Vec<(String, String)> = head[1..]
            .iter()
            .map(|line| line.split_once(':').unwrap_or(("", line)))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
            .collect();
        let is_plain = has_line_ends
            && words.next().is_none()
            && !method.is_empty()
            && method.bytes().all(|b| b.is_ascii_uppercase())
            && target.starts_with('/')
            && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-?=&".contains(&b))
            && (version == "HTTP/1.0" || version == "HTTP/1.1")
            && fields.iter().all(|(name, value)| is_field_name(name) && is_value(value))
            && fields.len() <= FIELDS_MAX
            && bytes <= HEAD_BYTES_MAX;
        Some(Request { method, target, version, fields, is_plain, bytes })
    }

    fn of(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    fn check(&self, answer: &Answer) {
        let is_known = |target: &str| PATHS.contains(&target.split('?').next().unwrap_or_default());
        if answer.status == 200 {
            assert!(
                matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS"),
                "{} was accepted",
                self.method
            );
            let authority = self.target.get(7..).filter(|_| self.target[..7].eq_ignore_ascii_case("http://"));
            let is_asterisk = self.method == "OPTIONS" && self.target.split('?').next() == Some("*");
            assert!(
                authority.is_some() || is_known(&self.target) || is_asterisk,
                "{} is not a page",
                self.target
            );
            let hosts = self.of("host");
            let host = authority.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
            assert!(
                host.into_iter().chain(hosts).take(1).all(is_this_host),
                "a request for another host was accepted"
            );
        }
        if !self.is_plain {
            return;
        }
        let hosts = self.of("host");
        let status = match &hosts[..] {
            _ if !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS") => 405,
            [] if self.version == "HTTP/1.1" => 400,
            [_, _, ..] => 400,
            [host] if !is_this_host(host) => 403,
            _ if is_known(&self.target) => 200,
            _ => 404,
        };
        assert_eq!(answer.status, status, "{} {}", self.method, self.target);
        let has_body = self.of("content-length").iter().any(|length| *length != "0")
            || !self.of("transfer-encoding").is_empty();
        let closes = self
            .of("connection")
            .iter()
            .any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")));
        let is_last = matches!(status, 400 | 405) || self.version == "HTTP/1.0" || has_body || closes;
        assert_eq!(answer.is_last, is_last);
    }
}

fn is_this_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    if port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (address, zone) = address.split_once('%').unwrap_or((address, ""));
        let is_zone = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~%".contains(&byte);
        return address.parse::<Ipv6Addr>().is_ok() && zone.bytes().all(is_zone);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<Ipv4Addr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name == OWN_NAME
}
