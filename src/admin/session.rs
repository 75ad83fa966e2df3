//! One connection's bytes → commands, in order, however the bytes are split. Pure: time and sockets are elsewhere.
//!
//! In: bytes as they arrive, and notice of a silence or of the end. Out: [`Input`]s. A newline ends a command; so does a
//! silence or the end of file, because `echo -n stats | nc` sends neither newline nor, in some netcats, an end.
//! Input after a silence starts a new line, so the late newline of an executed command is just an empty line.
//! An HTTP line ends the text protocol, and is passed to `http/` with all that follows: a web page can make
//! a browser send a request to localhost whose body, and whose method, it chooses.
//! Next: `server.rs`, which reads, waits and answers.

use super::command::{Command, parse, trim_start};
use super::{proxy_js, telnet};
use crate::config::AdminDialect;
use memchr::memchr;

/// Longest line, without its newline.
pub const LINE_BYTES_MAX: usize = 4_096;

/// The prefixes that identify HTTP before its first line is complete.
const HTTP_METHODS: [&[u8]; 10] = [
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
/// How a TLS handshake begins; a web page can choose parts of one too.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// Input from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A command; never [`Command::Nothing`].
    Command(Command),
    /// A line longer than [`LINE_BYTES_MAX`]; nothing follows.
    LineTooLong,
    /// Another protocol; nothing follows.
    Foreign(Foreign),
}

/// Another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A line began with an HTTP method, or ended as the first line of an HTTP request does, whatever its method.
    Http,
    /// A line began as a TLS handshake does.
    Tls,
}

/// One connection's state.
///
/// It buffers input that was fed and not yet taken: if all commands are taken after each feed, at most one feed and one
/// line.
#[derive(Debug, Default)]
pub struct Session {
    buffer: Vec<u8>,
    /// Position of the first byte not yet taken.
    start: usize,
    /// Text before this position ends here without a newline: after a silence, or at the end.
    cut: Option<usize>,
    end_of_file: bool,
    /// No further input is parsed: the line was too long, or it was another protocol.
    closed: bool,
    dialect: AdminDialect,
    /// A read as a whole in the dialect of `proxy.js`; it precedes the buffer.
    read: Option<Command>,
    /// Input from the first HTTP line on.
    foreign: Vec<u8>,
}

impl Session {
    /// A connection without input.
    pub fn new() -> Session {
        Session::default()
    }

    /// Parses further input in this dialect.
    pub fn set_dialect(&mut self, dialect: AdminDialect) {
        self.dialect = dialect;
    }

    /// Feeds bytes as received.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.closed || self.end_of_file {
            return;
        }
        let may_be_whole = self.dialect == AdminDialect::ProxyJs && !self.has_text() && self.read.is_none();
        if may_be_whole && !bytes.is_empty() && telnet::skip(bytes).is_empty() {
            return;
        }
        if may_be_whole && !bytes.split(|byte| *byte == b'\n').any(|line| foreign(line, true).is_some()) {
            self.read = proxy_js::parse_read(bytes);
            if self.read.is_some() {
                return;
            }
        }
        self.buffer.drain(..self.start);
        self.cut = self.cut.map(|cut| cut.saturating_sub(self.start));
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// There was a silence: text without a newline is a command.
    pub fn silence(&mut self) {
        self.cut = Some(self.buffer.len());
    }

    /// The client has closed its sending side: text without a newline is a command.
    pub fn end_of_file(&mut self) {
        self.silence();
        self.end_of_file = true;
    }

    /// Whether there is text that waits for its newline (after all commands were taken).
    pub fn has_text(&self) -> bool {
        self.buffered() > 0
    }

    /// Bytes that were fed and not yet taken.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether no more input is accepted: the end was fed, or [`Session::next_command`] returned one.
    pub fn is_ended(&self) -> bool {
        self.closed || self.end_of_file
    }

    /// Whether no more input is accepted and nothing is left to answer.
    pub fn is_finished(&self) -> bool {
        self.closed || (self.end_of_file && !self.has_text() && self.read.is_none())
    }

    /// After [`Foreign::Http`]: what was fed from that line on.
    pub fn take_foreign(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.foreign)
    }

    /// The next command; `None` until more is known.
    pub fn next_command(&mut self) -> Option<Input> {
        if let Some(command) = self.read.take() {
            return Some(Input::Command(command));
        }
        while let Some((line, next)) = self.next_line() {
            let end = match line {
                Line::Whole(line) => {
                    let command = match self.dialect {
                        AdminDialect::Statsring => parse(line),
                        AdminDialect::ProxyJs => proxy_js::parse(line),
                    };
                    self.start = next;
                    match command {
                        Command::Nothing => continue,
                        command => return Some(Input::Command(command)),
                    }
                }
                Line::TooLong => Input::LineTooLong,
                Line::Foreign(foreign) => Input::Foreign(foreign),
            };
            self.closed = true;
            let mut rest = std::mem::take(&mut self.buffer);
            if end == Input::Foreign(Foreign::Http) {
                rest.drain(..self.start);
                self.foreign = rest;
            }
            self.start = 0;
            self.cut = None;
            return Some(end);
        }
        None
    }

    /// The next line, and where the one after it starts; `None` until it is ended or known to be wrong.
    fn next_line(&self) -> Option<(Line<'_>, usize)> {
        let text = &self.buffer[self.start..];
        let cut = self.cut.and_then(|cut| cut.checked_sub(self.start)).filter(|cut| *cut > 0);
        let window = &text[..text.len().min(cut.unwrap_or(usize::MAX)).min(LINE_BYTES_MAX + 1)];
        // A line ends at its newline or at the cut, whichever comes first; in a full window it is too long.
        let (line, next) = match memchr(b'\n', window) {
            Some(newline) => (&window[..newline], Some(newline + 1)),
            None => (window, cut),
        };
        if let Some(foreign) = foreign(line, next.is_some() && line.len() <= LINE_BYTES_MAX) {
            return Some((Line::Foreign(foreign), self.start));
        }
        if line.len() > LINE_BYTES_MAX {
            return Some((Line::TooLong, self.start));
        }
        next.map(|next| (Line::Whole(line), self.start + next))
    }
}

enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
    Foreign(Foreign),
}

/// The other protocol that a line, or its prefix, belongs to.
fn foreign(line: &[u8], is_whole: bool) -> Option<Foreign> {
    let line = trim_start(telnet::skip(line));
    if HTTP_METHODS.iter().any(|method| line.starts_with(method)) {
        Some(Foreign::Http)
    } else if line.starts_with(TLS_HANDSHAKE) {
        // Before the checks that need a whole line: the result must not depend on how the bytes are split.
        Some(Foreign::Tls)
    } else if is_whole && is_request_line(line) {
        Some(Foreign::Http)
    } else {
        None
    }
}

/// Whether a whole line is the first of an HTTP request: a page may choose an unknown method.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::super::command::ProxyJsQuery;
    use super::*;
    use proptest::prelude::*;

    fn taken(session: &mut Session) -> Vec<Input> {
        std::iter::from_fn(|| session.next_command()).collect()
    }

    fn commands(commands: &[Command]) -> Vec<Input> {
        commands.iter().cloned().map(Input::Command).collect()
    }

    #[test]
    fn telnet_negotiation_is_skipped() {
        for dialect in AdminDialect::ALL {
            let mut session = Session::new();
            session.set_dialect(dialect);
            session.feed(b"\xff\xfb\x1f\xff\xfd\x03");
            session.silence();
            assert_eq!(session.next_command(), None, "{dialect:?}");
            session.feed(b"\xff\xf4\xff\xfd\x06health\r\n");
            assert_eq!(session.next_command(), Some(Input::Command(Command::Health)), "{dialect:?}");
            session.feed(b"\xff\xfd\x03GET / HTTP/1.0\r\n");
            assert_eq!(session.next_command(), Some(Input::Foreign(Foreign::Http)), "{dialect:?}");
        }
    }

    #[test]
    fn a_newline_runs_a_command_at_once() {
        let mut session = Session::new();
        session.feed(b"ping\r\n\n  \nstats\nhea");
        assert_eq!(taken(&mut session), commands(&[Command::Ping, Command::Stats]));
        assert!(session.has_text());
        session.feed(b"lth up\n");
        assert_eq!(taken(&mut session), commands(&[Command::SetHealth(true)]));
        assert!(!session.has_text() && !session.is_finished());
    }

    #[test]
    fn in_the_proxy_js_dialect_a_read_of_several_lines_is_one_command() {
        let mut session = Session::new();
        session.set_dialect(AdminDialect::ProxyJs);
        let reads: [(&[u8], &[Command]); 8] = [
            (b"\r\n", &[Command::Unknown]),
            (b"health\r\n\r\n", &[Command::Health]),
            (b"help\nhealth\n", &[Command::Unknown]),
            (b"health down\nhealth\nstatus\n", &[Command::Health]),
            (b"help\nquit\n", &[Command::Unknown]),
            // Statsring's own commands come as they always do.
            (b"ping\nstats\nhealth UP\n", &[Command::Ping, Command::Stats, Command::SetHealth(true)]),
            (b"statsring version\nhelp\n", &[Command::Version, Command::ProxyJs(ProxyJsQuery::Help)]),
            (b"  \n", &[Command::Unknown]),
        ];
        for (read, expected) in reads {
            session.feed(read);
            assert_eq!(taken(&mut session), commands(expected), "{}", read.escape_ascii());
        }
        // After pending text it is as usual.
        session.feed(b"help");
        session.feed(b"\nping\n");
        let expected = [Command::ProxyJs(ProxyJsQuery::Help), Command::Ping];
        assert_eq!(taken(&mut session), commands(&expected));
        session.feed(b"nothing\nhealth\n");
        session.end_of_file();
        assert!(!session.is_finished());
        assert_eq!(taken(&mut session), commands(&[Command::Unknown]));
        assert!(session.is_finished());
    }

    #[test]
    fn in_the_proxy_js_dialect_another_protocol_ends_it_too() {
        for start in ["POST / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\n\n"] {
            let mut session = Session::new();
            session.set_dialect(AdminDialect::ProxyJs);
            session.feed(start.as_bytes());
            session.feed(b"health down\n");
            assert!(matches!(taken(&mut session)[..], [Input::Foreign(_)]), "{start}");
        }
    }

    #[test]
    fn a_silence_runs_text_without_a_newline_once() {
        let mut session = Session::new();
        session.feed(b"stats");
        assert_eq!(taken(&mut session), []);
        session.silence();
        assert_eq!(taken(&mut session), commands(&[Command::Stats]));
        assert!(!session.has_text());
        // Its newline comes late, with the next command.
        session.feed(b"\r\n");
        assert_eq!(taken(&mut session), []);
        session.feed(b"ping");
        session.silence();
        session.silence();
        session.feed(b"\nquit\n");
        assert_eq!(taken(&mut session), commands(&[Command::Ping, Command::Quit]));
    }

    #[test]
    fn a_silence_separates_lines_even_if_no_command_was_taken_between() {
        let mut session = Session::new();
        session.feed(b"ping\nsta");
        session.silence();
        session.feed(b"stats\n");
        assert_eq!(taken(&mut session), commands(&[Command::Ping, Command::Unknown, Command::Stats]));
    }

    #[test]
    fn the_end_runs_what_is_left_and_nothing_follows() {
        let mut session = Session::new();
        session.feed(b"ping\nversion");
        session.end_of_file();
        assert!(!session.is_finished());
        assert_eq!(taken(&mut session), commands(&[Command::Ping, Command::Version]));
        assert!(session.is_finished());
        session.feed(b"quit\n");
        assert_eq!(taken(&mut session), []);
    }

    #[test]
    fn the_longest_line_passes_and_a_longer_one_ends_it() {
        let mut line = b"where ".to_vec();
        line.resize(LINE_BYTES_MAX, b'a');
        let mut session = Session::new();
        session.feed(&line);
        session.feed(b"\n");
        assert_eq!(taken(&mut session), commands(&[Command::Where(line[6..].to_vec())]));
        session.feed(&line);
        session.feed(b"a");
        assert_eq!(taken(&mut session), [Input::LineTooLong]);
        assert!(session.is_finished());
        session.feed(b"\nping\n");
        assert_eq!(taken(&mut session), []);
    }

    #[test]
    fn megabytes_without_a_newline_are_not_kept() {
        let mut session = Session::new();
        let mut inputs = Vec::new();
        for _ in 0..2_560 {
            session.feed(&[b'x'; 4_096]);
            inputs.extend(taken(&mut session));
            assert!(session.buffer.capacity() <= 4 * LINE_BYTES_MAX);
        }
        assert_eq!(inputs, [Input::LineTooLong]);
    }

    #[test]
    fn another_protocol_ends_it_for_good() {
        for start in
            ["GET / HTTP/1.1\r\n", "  POST /", "DELETE x", "OPTIONS * HTTP/1.1", "PRI * HTTP/2.0", "TRACE "]
        {
            let mut session = Session::new();
            session.feed(b"ping\n");
            session.feed(start.as_bytes());
            session.feed(b"\r\n\r\nhealth down\nreload\n");
            session.end_of_file();
            let expected = [Input::Command(Command::Ping), Input::Foreign(Foreign::Http)];
            assert_eq!(taken(&mut session), expected, "{start}");
            assert!(session.is_finished());
        }
        let mut session = Session::new();
        session.feed(b"\x16\x03\x01\x02\x00\nhealth down\n");
        assert_eq!(taken(&mut session), [Input::Foreign(Foreign::Tls)]);
        session = Session::new();
        session.feed(b"GET\nGETS x\nget x\nx / HTTP/1.1");
        assert_eq!(taken(&mut session), commands(&[Command::Unknown, Command::Unknown, Command::Unknown]));
        // Its last line is incomplete, and may be the beginning of a longer one.
        assert!(session.has_text());
    }

    #[test]
    fn a_handshake_that_ends_as_a_request_line_is_a_handshake_however_it_is_cut() {
        let text = b"\x16\x03\x01s@4/ HTTP/2.1\n";
        for piece_bytes in 1..=text.len() {
            let mut session = Session::new();
            let mut inputs = Vec::new();
            for piece in text.chunks(piece_bytes) {
                session.feed(piece);
                inputs.extend(taken(&mut session));
            }
            assert_eq!(inputs, [Input::Foreign(Foreign::Tls)], "in pieces of {piece_bytes}");
        }
    }

    #[test]
    fn http_with_a_method_of_its_own_is_http_and_is_left_with_all_that_follows() {
        for line in ["HEALTH / HTTP/1.1\r\n", "health down HTTP/1.0\n", " where x HTTP/2.0\r\n"] {
            let mut session = Session::new();
            session.feed(b"ping\n");
            session.feed(line.as_bytes());
            session.feed(b"Host: x\n\nhealth down\n");
            let expected = [Input::Command(Command::Ping), Input::Foreign(Foreign::Http)];
            assert_eq!(taken(&mut session), expected, "{line}");
            assert_eq!(session.take_foreign(), [line.as_bytes(), b"Host: x\n\nhealth down\n"].concat());
            assert!(session.is_finished() && session.buffered() == 0);
        }
    }

    /// Reference implementation: all bytes at once.
    fn oracle(bytes: &[u8]) -> Vec<Input> {
        let mut inputs = Vec::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            let end = match foreign(&line[..line.len().min(LINE_BYTES_MAX + 1)], line.len() <= LINE_BYTES_MAX)
            {
                Some(foreign) => Some(Input::Foreign(foreign)),
                None if line.len() > LINE_BYTES_MAX => Some(Input::LineTooLong),
                None => None,
            };
            if let Some(end) = end {
                inputs.push(end);
                return inputs;
            }
            if parse(line) != Command::Nothing {
                inputs.push(Input::Command(parse(line)));
            }
        }
        inputs
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => proptest::sample::select(vec![
                "ping", "stats", "health up", "tap a 5", "where x y", "\n", "\n", "\r\n", "\r", " ", "\t", "quit",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            2 => proptest::collection::vec(any::<u8>(), 0..6),
            1 => proptest::sample::select(vec!["GET ", "POST", "PO", "PUT x", "\x16\x03", "x / HTTP/1.1\r\n", " HTTP/1.1"])
                .prop_map(|text| text.as_bytes().to_vec()),
            1 => (4_080..4_110usize).prop_map(|length| vec![b'z'; length]),
        ]
    }

    proptest! {
        #[test]
        fn the_same_commands_come_out_however_the_bytes_are_cut(
            pieces in proptest::collection::vec(piece(), 0..30),
            cuts in proptest::collection::vec(1..4_200usize, 1..20),
            small in any::<bool>(),
            // Whether commands are taken after each feed, or all at the end.
            prompt in any::<bool>(),
        ) {
            let bytes = pieces.concat();
            let mut session = Session::new();
            let mut inputs = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let cut = if small { cut % 7 + 1 } else { *cut };
                let (now, later) = rest.split_at(cut.min(rest.len()));
                session.feed(now);
                if prompt {
                    inputs.extend(taken(&mut session));
                }
                rest = later;
            }
            session.end_of_file();
            inputs.extend(taken(&mut session));
            prop_assert!(session.is_finished());
            prop_assert_eq!(inputs, oracle(&bytes));
        }
    }
}
