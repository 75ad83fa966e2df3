//! The static build's look-ups, against a hosts file and a name server of the test's own.

use super::*;
use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A name server on loopback that knows `both.test`, `six.test` and `bare.test` (no address), counts its questions, and
/// ends with the test's process.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Server {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        std::thread::spawn(move || {
            let mut room = [0; 1500];
            while let Ok((bytes, client)) = socket.recv_from(&mut room) {
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = answer(&Message::from_vec(&room[..bytes]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
            }
        });
        Server { port, asked }
    }

    fn servers(&self) -> Servers {
        let mut way = ConnectionConfig::new(ProtocolConfig::Udp);
        way.port = self.port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![way]);
        let config = ResolverConfig::from_parts(None, vec![Name::from_ascii("test.").unwrap()], vec![server]);
        Servers { config, options: ResolverOpts::default(), unread: None }
    }
}

fn answer(question: &Message) -> Message {
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.id, question.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    let (name, family) = (query.name().to_string().to_ascii_lowercase(), query.query_type());
    let found: &[&str] = match (name.as_str(), family) {
        ("both.test.", RecordType::A) => &["192.0.2.7", "192.0.2.8"],
        ("both.test." | "six.test.", RecordType::AAAA) => &["2001:db8::7"],
        ("six.test." | "bare.test.", _) => &[],
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            &[]
        }
    };
    for address in found {
        let address: IpAddr = address.parse().unwrap();
        answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::from(address)));
    }
    answer.add_query(query);
    answer
}

fn sorted(mut found: Vec<IpAddr>) -> Vec<String> {
    found.sort();
    found.iter().map(IpAddr::to_string).collect()
}

#[test]
fn a_name_server_gives_the_addresses_of_both_families() {
    let server = Server::start();
    assert_eq!(sorted(server.servers().ask("both.test").unwrap()), ["192.0.2.7", "192.0.2.8", "2001:db8::7"]);
    assert_eq!(sorted(server.servers().ask("six.test.").unwrap()), ["2001:db8::7"]);
    assert!(server.asked.load(Ordering::Relaxed) >= 4);
}

#[test]
fn a_short_name_is_looked_for_in_the_search_list() {
    assert_eq!(sorted(Server::start().servers().ask("six").unwrap()), ["2001:db8::7"]);
}

#[test]
fn a_failed_lookup_states_the_cause_and_the_servers() {
    let server = Server::start();
    let error = server.servers().ask("nowhere.test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("name server 127.0.0.1: no such name"), "{error}");
    let error = server.servers().ask("bare.test.").unwrap_err();
    assert!(error.to_string().contains("the name has no address"), "{error}");
}

#[test]
fn a_silent_name_server_is_distinguished_from_an_unknown_name() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut servers = Server { port, asked: Arc::default() }.servers();
    servers.options.timeout = Duration::from_millis(100);
    servers.options.attempts = 1;
    let error = servers.ask("both.test.").unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("no answer")),
        (ErrorKind::TimedOut, true),
        "{error}"
    );
}

#[test]
fn the_hosts_file_comes_first_and_knows_names_as_compose_makes_them() {
    let mut hosts = Hosts::default();
    let text = "10.0.0.1 Statsd-1 alias # told\n10.0.0.2 statsd_2\n::2 alias\nnonsense alias\n";
    hosts.read_hosts_conf(text.as_bytes()).unwrap();
    assert_eq!(sorted(listed(&hosts, "statsd-1")), ["10.0.0.1"]);
    assert_eq!(sorted(listed(&hosts, "STATSD_2")), ["10.0.0.2"]);
    assert_eq!(sorted(listed(&hosts, "alias")), ["10.0.0.1", "::2"]);
    assert!(listed(&hosts, "statsd-3").is_empty());
}

#[test]
fn addresses_answer_themselves() {
    let only = |host: &str| addresses(host, 9).map(|found| found[0].to_string()).map_err(|e| e.to_string());
    assert_eq!(only("192.0.2.7").unwrap(), "192.0.2.7:9");
    assert_eq!(only("::1").unwrap(), "[::1]:9");
    assert_eq!(only("fe80::1%lo").unwrap(), "[fe80::1%1]:9");
    assert_eq!(only("fe80::1%7").unwrap(), "[fe80::1%7]:9");
    assert!(only("fe80::1%none").unwrap_err().contains("interface none"));
}

#[test]
fn localhost_is_this_host_whatever_the_files_say() {
    let found = addresses("localhost", 9).unwrap();
    assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
}

#[test]
fn a_name_that_cannot_exist_is_an_error() {
    assert!(addresses(&"x".repeat(70), 1).is_err());
}
