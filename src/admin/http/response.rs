//! An answer → its bytes. Pure.
//!
//! In: a status and a body. Out: head and body of an HTTP/1.1 response. Next: `connection.rs` writes them.

use std::time::SystemTime;

/// The statuses that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok,
    /// Malformed.
    BadRequest,
    /// The Host header is not a name of this host.
    Forbidden,
    /// No such page.
    NotFound,
    /// Neither GET nor HEAD nor OPTIONS.
    MethodNotAllowed,
    /// The request was not completed in time.
    RequestTimeout,
    /// The head is too long.
    HeadTooLarge,
    /// Not ready.
    Unavailable,
    /// Not HTTP/1.0 and not HTTP/1.1.
    VersionNotSupported,
}

impl Status {
    /// Status code and reason phrase.
    const fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: Status,
    /// What its body is.
    pub content_type: &'static str,
    /// Its body.
    pub body: String,
    /// Whether the methods that are answered are listed.
    pub lists_methods: bool,
}

impl Response {
    /// A line of text.
    pub fn text(status: Status, message: impl Into<String>) -> Response {
        let lists_methods = status == Status::MethodNotAllowed;
        Response { status, content_type: TEXT, body: message.into() + "\n", lists_methods }
    }

    /// The answer to OPTIONS where this is the one to GET: its status, the methods, and no body.
    pub fn options(self) -> Response {
        Response { body: String::new(), lists_methods: true, ..self }
    }

    /// Its bytes. A reply to HEAD has no body, but its length in the head; `is_last` closes the connection.
    pub fn bytes(&self, is_head: bool, is_last: bool, now: SystemTime) -> Vec<u8> {
        // Current values: must not be cached or content-sniffed.
        let mut text = format!(
            "HTTP/1.1 {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n",
            self.status.line(),
            httpdate::fmt_http_date(now),
            self.content_type,
            self.body.len(),
        );
        if self.lists_methods {
            text.push_str("Allow: GET, HEAD, OPTIONS\r\n");
        }
        if is_last {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        if !is_head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(response: &Response, is_head: bool, is_last: bool) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        String::from_utf8(response.bytes(is_head, is_last, now)).unwrap()
    }

    #[test]
    fn an_answer_is_well_formed() {
        let response = Response::text(Status::Ok, "ok");
        let head = "HTTP/1.1 200 OK\r\nDate: Wed, 18 May 2033 03:33:20 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 3\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n";
        assert_eq!(text(&response, false, false), format!("{head}ok\n"));
        assert_eq!(text(&response, true, false), head);
    }

    #[test]
    fn a_405_lists_the_methods_and_a_last_response_closes_the_connection() {
        let text = text(&Response::text(Status::MethodNotAllowed, "no"), false, true);
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        assert!(
            text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n")
                && text.contains("\r\nConnection: close\r\n\r\nno\n"),
            "{text}"
        );
    }
}
