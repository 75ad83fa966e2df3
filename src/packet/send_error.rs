//! Why a send failed, or what happened to an earlier packet: errnos, grouped by remedy.
//!
//! In: errnos of sends and of ICMP answers. Out: [`SendError`], and how often each occurred. Next: `stats/node.rs` counts them
//! by backend, `control/` takes some of them as evidence against a backend, `admin/` shows them.

/// The kind of an error that a send reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SendError {
    /// ECONNREFUSED: nothing listens at the backend's port.
    Refused,
    /// EHOSTUNREACH, reported by this host: the backend's host (or the router to it) does not answer ARP or neighbor discovery.
    NoNeighbor,
    /// EHOSTUNREACH otherwise: reported by a router, or by a route of this host.
    HostUnreachable,
    /// EHOSTUNREACH or ENETUNREACH, reported by a firewall that rejects the packets.
    Rejected,
    /// ENETUNREACH: no route, here or at a router.
    NetworkUnreachable,
    /// EHOSTDOWN.
    HostDown,
    /// ENETDOWN: the network interface is down.
    NetworkDown,
    /// EPERM: a firewall rule of this host, or a full table of tracked connections.
    NotPermitted,
    /// EACCES: a route or a firewall that forbids it, or a broadcast address.
    Prohibited,
    /// ENOBUFS: a queueing discipline or the device dropped the packet.
    NoBuffers,
    /// ENOMEM.
    NoMemory,
    /// EMSGSIZE: the packet is longer than the path takes.
    TooLong,
    /// No socket to it can be made, whatever the errno: this host cannot send to such an address.
    NoSocket,
    /// Any other errno.
    Other,
}

impl SendError {
    /// All of them.
    pub const ALL: [SendError; 14] = [
        SendError::Refused,
        SendError::NoNeighbor,
        SendError::HostUnreachable,
        SendError::Rejected,
        SendError::NetworkUnreachable,
        SendError::HostDown,
        SendError::NetworkDown,
        SendError::NotPermitted,
        SendError::Prohibited,
        SendError::NoBuffers,
        SendError::NoMemory,
        SendError::TooLong,
        SendError::NoSocket,
        SendError::Other,
    ];
    /// How many there are.
    pub const COUNT: usize = SendError::ALL.len();

    /// The kind of an errno. [`SendError::NoNeighbor`], [`SendError::Rejected`] and [`SendError::NoSocket`] take
    /// more than the errno to tell.
    pub const fn of(errno: i32) -> SendError {
        match errno {
            libc::ECONNREFUSED => SendError::Refused,
            libc::EHOSTUNREACH => SendError::HostUnreachable,
            libc::ENETUNREACH => SendError::NetworkUnreachable,
            libc::EHOSTDOWN => SendError::HostDown,
            libc::ENETDOWN => SendError::NetworkDown,
            libc::EPERM => SendError::NotPermitted,
            libc::EACCES => SendError::Prohibited,
            libc::ENOBUFS => SendError::NoBuffers,
            libc::ENOMEM => SendError::NoMemory,
            libc::EMSGSIZE => SendError::TooLong,
            _ => SendError::Other,
        }
    }

    /// As a word without spaces: the field `cause` of the log, of `/stats.json` and of `/metrics`.
    pub const fn name(self) -> &'static str {
        match self {
            SendError::Refused => "refused",
            SendError::NoNeighbor => "no_neighbor",
            SendError::HostUnreachable => "host_unreachable",
            SendError::NetworkUnreachable => "network_unreachable",
            SendError::Rejected => "rejected",
            SendError::HostDown => "host_down",
            SendError::NetworkDown => "network_down",
            SendError::NotPermitted => "not_permitted",
            SendError::Prohibited => "prohibited",
            SendError::NoBuffers => "no_buffers",
            SendError::NoMemory => "no_memory",
            SendError::TooLong => "too_long",
            SendError::NoSocket => "no_socket",
            SendError::Other => "other",
        }
    }

    /// Whether no packet reaches the backend's host.
    pub const fn is_unreachable(self) -> bool {
        matches!(
            self,
            SendError::NoNeighbor
                | SendError::HostUnreachable
                | SendError::NetworkUnreachable
                | SendError::HostDown
                | SendError::NetworkDown
                | SendError::NoSocket
        )
    }

    /// Whether it says of the backend that it gets no metrics: its port refuses, its host cannot be reached, or a firewall on
    /// the path or a route prohibits it. The others are about this host or about one packet; EPERM too, since this host's own
    /// full table of tracked connections would take down every backend.
    pub const fn is_evidence(self) -> bool {
        matches!(self, SendError::Refused | SendError::Rejected | SendError::Prohibited)
            || self.is_unreachable()
    }
}

/// How often each kind occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendErrorCounts([u64; SendError::COUNT]);

impl SendErrorCounts {
    /// Counts one.
    pub fn add(&mut self, error: SendError) {
        self.0[error as usize] += 1;
    }

    /// Sets the count of one kind.
    pub fn set(&mut self, error: SendError, count: u64) {
        self.0[error as usize] = count;
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &SendErrorCounts) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// How often this kind occurred.
    pub fn get(&self, error: SendError) -> u64 {
        self.0[error as usize]
    }

    /// Of all kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that occurred, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (SendError, u64)> {
        SendError::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Those of the kinds that `others` does not have.
    pub fn without(&self, others: &SendErrorCounts) -> SendErrorCounts {
        let mut left = *self;
        left.0.iter_mut().zip(&others.0).filter(|(_, other)| **other > 0).for_each(|(mine, _)| *mine = 0);
        left
    }

    /// What was added since `before`.
    pub fn since(&self, before: &SendErrorCounts) -> SendErrorCounts {
        let mut since = *self;
        since.0.iter_mut().zip(&before.0).for_each(|(now, before)| *now = now.saturating_sub(*before));
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_has_one_kind_and_only_those_about_the_backend_are_evidence() {
        for (index, error) in SendError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
        }
        let evidence: Vec<i32> = (1..4_096).filter(|errno| SendError::of(*errno).is_evidence()).collect();
        let mut expected =
            vec![libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN, libc::ENETDOWN];
        expected.push(libc::EACCES);
        expected.sort_unstable();
        assert_eq!(evidence, expected);
        assert!(SendError::NoNeighbor.is_evidence() && SendError::Rejected.is_evidence());
        assert!(!SendError::Refused.is_unreachable() && !SendError::Rejected.is_unreachable());
    }

    #[test]
    fn counts_are_compared_by_kind() {
        let mut before = SendErrorCounts::default();
        before.add(SendError::TooLong);
        let mut now = before;
        now.add(SendError::Refused);
        now.add(SendError::Refused);
        assert_eq!(now.since(&before).iter().collect::<Vec<_>>(), [(SendError::Refused, 2)]);
        assert_eq!((now.total(), now.get(SendError::TooLong)), (3, 1));
        before.merge(&now.since(&before));
        assert_eq!(before, now);
    }
}
