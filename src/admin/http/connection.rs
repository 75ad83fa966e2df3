//! An HTTP connection, from its first request to its end: reads, waits, asks the proxy, answers.
//!
//! In: bytes, and the proxy as [`AdminActions`]. Out: answers, in the order of the requests. Nothing here calls what changes
//! the proxy. Next: `server.rs` closes the connection.

use super::host::is_this_host;
use super::page::{self, Page};
use super::request::{Head, Request, read};
use super::response::{Response, Status};
use crate::admin::connection::Connection;
use crate::admin::counters::AdminCounter;
use crate::admin::server::{AdminActions, Answered, Client, End, IDLE};
use std::time::SystemTime;
use tokio::time::{Instant, timeout_at};

impl<C: Connection> Client<'_, C> {
    /// Answers requests until the last one, or until none arrives in time. `bytes` is what the client has sent so far.
    pub(in crate::admin) async fn serve_http(
        &mut self,
        mut bytes: Vec<u8>,
        proxy: &impl AdminActions,
    ) -> End {
        loop {
            let (request, length) = match self.next_request(&mut bytes).await {
                Ok(next) => next,
                Err(end) => return end,
            };
            bytes.drain(..length);
            let mut response = answer(&request, proxy).await;
            if request.is_options {
                response = response.options();
            }
            if let Err(end) = self.respond(&response, request.is_head, request.is_last).await {
                return end;
            }
        }
    }

    /// The next request and the length of its head. The timeout is not restarted by each byte.
    async fn next_request(&mut self, bytes: &mut Vec<u8>) -> Result<(Request, usize), End> {
        let deadline = Instant::now() + IDLE;
        loop {
            let is_head = match read(bytes) {
                Head::Whole(request, length) => return Ok((request, length)),
                Head::Refused { response, is_head } => {
                    self.respond(&response, is_head, true).await?;
                    return Err(End::Closing);
                }
                Head::Partial { is_head } => is_head,
            };
            match timeout_at(deadline, self.reading.next()).await {
                Ok(Ok(more)) if !more.is_empty() => {
                    bytes.extend_from_slice(&more);
                    self.reading.recycle(more);
                }
                // The client has closed, or this connection was evicted.
                Ok(_) => return Err(End::Over),
                Err(_) => {
                    self.counters.count(AdminCounter::IdleClosed);
                    if !bytes.is_empty() {
                        let message = format!("request not completed within {} s", IDLE.as_secs());
                        let response = Response::text(Status::RequestTimeout, message);
                        self.respond(&response, is_head, true).await?;
                    }
                    return Err(End::Closing);
                }
            }
        }
    }

    async fn respond(&mut self, response: &Response, is_head: bool, is_last: bool) -> Answered {
        let is_as_asked = matches!(response.status, Status::Ok | Status::Unavailable);
        self.counters.count(if is_as_asked { AdminCounter::HttpRequests } else { AdminCounter::HttpErrors });
        self.write_bytes(response.bytes(is_head, is_last, SystemTime::now())).await?;
        if is_as_asked {
            self.handle.answered();
        }
        if is_last { Err(End::Closing) } else { Ok(()) }
    }
}

async fn answer(request: &Request, proxy: &impl AdminActions) -> Response {
    if let Some(host) = request.host.as_deref()
        && !is_this_host(host, |name| proxy.is_own_name(name))
    {
        return page::foreign_host(host);
    }
    if request.is_options && request.path == "*" {
        return page::index();
    }
    match Page::at(&request.path) {
        Some(Page::Index) => page::index(),
        Some(Page::Alive) => page::alive(proxy.stuck().await),
        Some(Page::Ready) => page::ready(proxy.readiness()),
        Some(Page::Metrics) => page::metrics(&proxy.view().await),
        Some(Page::Stats) => page::stats(&proxy.view().await, &proxy.config_json()),
        None => page::unknown(),
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
