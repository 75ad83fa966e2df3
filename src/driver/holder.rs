//! Which process uses a UDP port, as far as /proc shows it, for the error of a failed start.
//!
//! In: a port. Out: "statsd (process 123)". Next: `socket.rs` adds it to its error.

use std::fs;

/// The process that has a UDP socket at `port`, with its name; `None` if it cannot be seen from here.
pub fn udp_port_holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| inodes_at(&table, port))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| has_descriptor(*pid, &links))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim().escape_debug()))
}

/// The inodes of the sockets bound to `port` in a table like /proc/net/udp.
fn inodes_at(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let local = fields.nth(1)?;
            let inode = fields.nth(7)?;
            local.ends_with(&wanted).then(|| inode.to_string())
        })
        .collect()
}

fn has_descriptor(pid: u32, links: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_by_port() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            77: 0100007F:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 22022 2 0000000000000000 0\n\
            78: 00000000:1FBE 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 22023 2 0000000000000000 5\n";
        assert_eq!(inodes_at(table, 8125), ["22022"]);
        assert_eq!(inodes_at(table, 8127), Vec::<String>::new());
    }

    #[test]
    fn this_process_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = udp_port_holder(socket.local_addr().unwrap().port()).unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
    }
}
