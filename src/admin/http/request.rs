//! Bytes → one request's head. Pure.
//!
//! In: bytes that were sent and not yet answered. Out: a [`Request`] and where the next one starts, or the
//! refusal that ends the connection. The grammar is httparse's; the rest is validated here. Next: `connection.rs`.

use super::response::{Response, Status};

/// Longest head: request line and fields together.
pub const HEAD_BYTES_MAX: usize = 8_192;
/// Most fields of a head.
const FIELDS_MAX: usize = 64;

/// A request that may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Only the head of the answer is requested.
    pub is_head: bool,
    /// An OPTIONS request, as sent by HAProxy's plain health check: the status of the page without its body.
    pub is_options: bool,
    /// The path, without what follows a `?`.
    pub path: String,
    /// The `Host` header; optional in HTTP/1.0, which no browser uses.
    pub host: Option<String>,
    /// The connection is closed after the reply.
    pub is_last: bool,
}

/// What the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// More are needed.
    Partial {
        /// The request is already known to be HEAD.
        is_head: bool,
    },
    /// A request, and the length of its head.
    Whole(Request, usize),
    /// Invalid; the connection is closed after this reply.
    Refused {
        /// The answer.
        response: Response,
        /// Whether only the head is requested, as far as the request could be parsed.
        is_head: bool,
    },
}

/// Reads the head that `bytes` begin with.
pub fn read(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let result = parsed.parse(window);
    let is_head = parsed.method == Some("HEAD");
    let refuse =
        |status, message: String| Head::Refused { response: Response::text(status, message), is_head };
    let length = match result {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if window.len() < HEAD_BYTES_MAX => return Head::Partial { is_head },
        Ok(httparse::Status::Partial) => {
            return refuse(
                Status::HeadTooLarge,
                format!("request head is longer than {HEAD_BYTES_MAX} bytes"),
            );
        }
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(Status::HeadTooLarge, format!("request has more than {FIELDS_MAX} header fields"));
        }
        Err(httparse::Error::Version) => {
            return refuse(
                Status::VersionNotSupported,
                "unsupported version: expected HTTP/1.1 or HTTP/1.0".to_owned(),
            );
        }
        Err(error) => return refuse(Status::BadRequest, format!("malformed request: {error}")),
    };
    match request(&parsed) {
        Ok(request) => Head::Whole(request, length),
        Err((status, message)) => refuse(status, message.to_owned()),
    }
}

fn request(parsed: &httparse::Request<'_, '_>) -> Result<Request, (Status, &'static str)> {
    let (is_head, is_options) = match parsed.method {
        Some("GET") => (false, false),
        Some("HEAD") => (true, false),
        Some("OPTIONS") => (false, true),
        _ => {
            return Err((
                Status::MethodNotAllowed,
                "method not allowed: HTTP is read-only (GET, HEAD, OPTIONS)",
            ));
        }
    };
    let fields = |name: &'static str| {
        parsed
            .headers
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    };
    let is_old = parsed.version == Some(0);
    let mut hosts = fields("host");
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if is_old => None,
        (None, _) => return Err((Status::BadRequest, "missing Host header")),
        (Some(host), None) => match std::str::from_utf8(host) {
            Ok(host) => Some(host.to_owned()),
            Err(_) => return Err((Status::BadRequest, "Host header is not valid text")),
        },
        (Some(_), Some(_)) => return Err((Status::BadRequest, "more than one Host header")),
    };
    // A body is not read, so nothing after it could be parsed.
    let has_body = fields("content-length").any(|length| length.trim_ascii() != b"0")
        || fields("transfer-encoding").next().is_some();
    let wants_close = fields("connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
    let (authority, path) = split_target(parsed.path.unwrap_or_default());
    Ok(Request {
        is_head,
        is_options,
        path: path.to_owned(),
        // A host in the target takes precedence over the header.
        host: authority.map(str::to_owned).or(host),
        is_last: is_old || has_body || wants_close,
    })
}

/// The host of a target that has one (`http://host/path`, as to a proxy), and the path without its query.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let has_scheme = target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let (authority, path) = match target.get(7..) {
        Some(rest) if has_scheme => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        _ => (None, target),
    };
    let path = path.split('?').next().unwrap_or_default();
    (authority, if path.is_empty() && authority.is_some() { "/" } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Request {
        match read(text.as_bytes()) {
            Head::Whole(request, length) if length == text.len() => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &[u8]) -> Status {
        match read(text) {
            Head::Refused { response, .. } => response.status,
            other => panic!("{}: {other:?}", text.escape_ascii()),
        }
    }

    #[test]
    fn a_request_is_read_and_what_follows_is_left() {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nhost: localhost:8126\r\n\r\n";
        let request = whole(text);
        let expected = Request {
            is_head: false,
            is_options: false,
            path: "/metrics".to_owned(),
            host: Some("localhost:8126".to_owned()),
            is_last: false,
        };
        assert_eq!(request, expected);
        assert_eq!(read(format!("{text}GET ").as_bytes()), Head::Whole(expected, text.len()));
        for end in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..end]), Head::Partial { is_head: false });
        }
    }

    #[test]
    fn the_connection_is_closed_as_http_specifies() {
        for (fields, is_last) in [
            ("", false),
            ("Connection: keep-alive\r\n", false),
            ("Connection: Close\r\n", true),
            ("Connection: upgrade, close\r\n", true),
            ("Content-Length: 0\r\n", false),
            ("Content-Length: 20\r\n", true),
            ("Content-Length: 0\r\nContent-Length: 20\r\n", true),
            ("Transfer-Encoding: chunked\r\n", true),
        ] {
            let request = whole(&format!("HEAD / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
            assert_eq!((request.is_head, request.is_last), (true, is_last), "{fields}");
        }
        let request = whole("GET / HTTP/1.0\r\n\r\n");
        assert_eq!((request.host, request.is_last), (None, true));
    }

    #[test]
    fn a_target_with_a_host_counts_more_than_the_field() {
        for (target, host, path) in [
            ("http://evil.example/metrics", "evil.example", "/metrics"),
            ("HTTP://evil.example:80?x", "evil.example:80", "/"),
            ("http://", "", "/"),
            ("/http://evil.example/", "localhost", "/http://evil.example/"),
            ("*", "localhost", "*"),
        ] {
            let request = whole(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!((request.host.as_deref(), request.path.as_str()), (Some(host), path), "{target}");
        }
    }

    #[test]
    fn what_cannot_be_answered_has_its_status() {
        let cases: [(&[u8], Status); 10] = [
            (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", Status::MethodNotAllowed),
            (b"HEALTH /down HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", Status::BadRequest),
            (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", Status::MethodNotAllowed),
            (b"GET / HTTP/1.1\r\n\r\n", Status::BadRequest),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Status::BadRequest),
            (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", Status::BadRequest),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Status::BadRequest),
            (b"GET / HTTP/2.0\r\n\r\n", Status::VersionNotSupported),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Status::VersionNotSupported),
        ];
        for (text, status) in cases {
            assert_eq!(refused(text), status, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_fields() {
        let head = |bytes: usize| {
            let fixed = "GET / HTTP/1.1\r\nHost: localhost\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(bytes - fixed))
        };
        whole(&head(HEAD_BYTES_MAX));
        assert_eq!(refused(head(HEAD_BYTES_MAX + 1).as_bytes()), Status::HeadTooLarge);
        assert_eq!(refused("\r\n".repeat(HEAD_BYTES_MAX).as_bytes()), Status::HeadTooLarge);
        let fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(count));
        whole(&fields(FIELDS_MAX));
        assert_eq!(refused(fields(FIELDS_MAX + 1).as_bytes()), Status::HeadTooLarge);
    }
}
