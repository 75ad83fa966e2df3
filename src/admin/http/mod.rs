//! HTTP on the admin port, for monitors, load balancers and browsers; read-only.
//!
//! In: a connection's bytes from the first line on that is HTTP. Out: answers. Inside: `request.rs` (bytes → [`Request`]
//! or a refusal), `host.rs` (is the `Host` header accepted), `page.rs` (path → page → text), `response.rs`
//! (text → bytes) are pure; `connection.rs` reads, asks the proxy, and writes. Next: `prometheus/` and `json.rs` render the
//! large pages.
//!
//! Methods are GET and HEAD, versions 1.0 and 1.1. A connection is kept as HTTP/1.1 says; it is closed after an error in a
//! request's form (403 and 404 are none), after HTTP/1.0, and after a request with a body, which is not read.

mod connection;
mod host;
mod page;
mod request;
mod response;

pub use page::HTTP_PATHS;
