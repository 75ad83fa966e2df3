//! The operations of a ring, as one trait: the real one ([`super`]) and the seeded fake
//! (`driver/sim`) both implement it, so that all rules about re-arming, buffers and sends are in safe code.
//!
//! In: submissions with a [`Token`] each. Out: [`Completion`]s with the same token. Next: `engine.rs`, which keeps the
//! rules; `classify.rs` and `header.rs`, which read what comes back.

use crate::driver::icmp_errors::QueuedErrors;
use crate::driver::{DriverInfo, Wait};
use crate::packet::{Packet, SocketSlot};
use std::net::{IpAddr, SocketAddr};

/// What a submission is for, in the top byte of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A multishot receive; the index is the listener's.
    Receive,
    /// The read of the wake's eventfd; the index is 0.
    Wake,
    /// A cancel of a receive or of the wake's read; the index is the target's standing operation.
    Cancel,
    /// A send; the index is the packet's slot.
    Send,
}

/// Names a submission: an operation, an index and a generation; never a pointer. A completion whose token is not the
/// one in force is stale, and recognised as such.
///
/// It travels as the submission's `user_data`: operation in bits 56 to 63, index in 32 to 55, generation in 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// Largest index.
    pub const INDEX_MAX: usize = (1 << 24) - 1;

    /// A token; `index` is at most [`Token::INDEX_MAX`].
    pub const fn new(operation: Operation, index: usize, generation: u32) -> Token {
        debug_assert!(index <= Token::INDEX_MAX);
        let operation = match operation {
            Operation::Receive => 1,
            Operation::Wake => 2,
            Operation::Cancel => 3,
            Operation::Send => 4,
        };
        Token((operation << 56) | (((index & Token::INDEX_MAX) as u64) << 32) | generation as u64)
    }

    /// From a completion's `user_data`.
    pub const fn from_user_data(user_data: u64) -> Token {
        Token(user_data)
    }

    /// For a submission's `user_data`.
    pub const fn user_data(self) -> u64 {
        self.0
    }

    /// What it is for; `None` if no [`Token::new`] made it.
    pub const fn operation(self) -> Option<Operation> {
        match self.0 >> 56 {
            1 => Some(Operation::Receive),
            2 => Some(Operation::Wake),
            3 => Some(Operation::Cancel),
            4 => Some(Operation::Send),
            _ => None,
        }
    }

    /// Its index.
    pub const fn index(self) -> usize {
        (self.0 >> 32) as usize & Token::INDEX_MAX
    }

    /// Its generation.
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }
}

/// One completion, as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The submission's token.
    pub token: Token,
    /// The result: at least 0, or a negated errno.
    pub res: i32,
    /// `IORING_CQE_F_*`, with the buffer's id in the upper half.
    pub flags: u32,
}

/// What one [`Ring::enter`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Submissions that the kernel took, in the order in which they were pushed, also when there was an error. It is
    /// read from the submission queue's head, before and after: then no return value needs to be interpreted.
    pub consumed: usize,
    /// The errno of the call, or 0. ETIME, EINTR, EBUSY and EAGAIN are normal.
    pub errno: i32,
}

/// Sizes of a ring, fixed after its making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Listening sockets; a receive is armed on each.
    pub listeners: usize,
    /// Receive buffers, shared by all listeners; their ids are 0 to `buffers` − 1. At most 32,768.
    pub buffers: usize,
    /// Bytes before a datagram's payload in its buffer: the header (16) and the areas for name and control messages.
    pub prefix_bytes: usize,
    /// Whether the area for control messages is for the kernel's timestamps.
    pub timestamps: bool,
    /// Packet slots: sends between [`Ring::send`] and [`Ring::take_packet`].
    pub sends_max: usize,
}

/// A ring with its listening sockets, its buffers, its backends' sockets, and the packets that the kernel reads.
///
/// Every method is safe to call in any order with any argument; where the caller breaks a promise, the ring refuses
/// (`false`, `None`, an empty slice) and nothing else happens. No method but [`Ring::enter`] sleeps, and only `enter`
/// makes completions appear.
pub trait Ring {
    /// The clock, µs, monotonic.
    fn now_us(&self) -> u64;

    /// The wall clock, ns since 1970.
    fn wall_ns(&self) -> u64;

    /// The sizes it was made with.
    fn sizes(&self) -> RingSizes;

    /// What it was granted.
    fn facts(&self) -> &DriverInfo;

    /// Queues a multishot receive on a listener, with MSG_TRUNC and buffer selection. `false`: the submission queue is
    /// full, or there is no such listener; nothing was queued.
    fn receive(&mut self, listener: usize, token: Token) -> bool;

    /// Queues a read of the wake's eventfd, which completes at the next wake. `false` as above.
    fn read_wake(&mut self, token: Token) -> bool;

    /// Queues a cancel of the submission `target`. `false` as above. Its own completion is 0, -ENOENT or -EALREADY; the
    /// target's completion comes too, before it or after it.
    fn cancel(&mut self, target: Token, token: Token) -> bool;

    /// Queues the send of a packet to its socket (SENDMSG, MSG_DONTWAIT, CQE_SKIP_SUCCESS: only an error completes) and
    /// keeps the packet in `slot` until [`Ring::take_packet`]. Without room in the submission queue, or if the slot is
    /// taken or does not exist, the packet comes back and nothing was queued.
    fn send(&mut self, slot: usize, packet: Packet, token: Token) -> Result<(), Packet>;

    /// Adds a packet to the send that [`Ring::send`] queued from slot `head` and that no [`Ring::enter`] has consumed: the
    /// kernel takes them as one piece of data and cuts it into segments of the length of the head's packet (UDP_SEGMENT),
    /// so every packet but the last has that length. `slot` is the one behind the last that joined. The packet is kept as
    /// by `send`. Where any of this does not hold, the packet comes back and nothing changed.
    fn join(&mut self, head: usize, slot: usize, packet: Packet) -> Result<(), Packet>;

    /// Gives the packet of `slot` back; only after an [`Ring::enter`] consumed its send, before that it is refused
    /// (`None`), because the kernel may still read it.
    fn take_packet(&mut self, slot: usize) -> Option<Packet>;

    /// Submits what is queued, runs the kernel's pending work, sleeps as `wait` says. When the kernel takes fewer
    /// submissions than were queued, it returns without sleeping; the rest stays queued for the next call.
    ///
    /// A send that was consumed is finished when this returns: its error completion is in the queue, or overflowed
    /// ([`Ring::has_overflowed`]), or there is none. A [`Wait::GatherUntil`] that lasted to its deadline has taken all that
    /// the armed receives' sockets held then; after another wait some may be left there.
    fn enter(&mut self, wait: Wait) -> Entered;

    /// Takes the next completion out of the queue, without a system call. A buffer that comes with it belongs to the
    /// caller until [`Ring::give_back`].
    fn next_completion(&mut self) -> Option<Completion>;

    /// Whether completions did not fit the queue and wait in the kernel for the next [`Ring::enter`]. The sizes make it
    /// impossible; it is asked all the same, since a send's success is the absence of a completion.
    fn has_overflowed(&self) -> bool;

    /// All bytes of a buffer that the caller holds, to be read up to the completion's `res`; empty if it holds it not.
    fn buffer(&self, id: u16) -> &[u8];

    /// Takes a buffer back; the kernel sees it after [`Ring::publish_buffers`]. `false` if the caller did not hold it.
    fn give_back(&mut self, id: u16) -> bool;

    /// Lets the kernel have the buffers given back since, with one Release store; nothing to do is fine.
    fn publish_buffers(&mut self);

    /// Connects socket `slot` to a backend, replacing what was there. The address of this host that the
    /// kernel chose for it, and that it keeps.
    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr>;

    /// Whether the kernel still holds packets that were sent to socket `slot`: they wait in a queueing discipline or device.
    fn has_unsent(&self, slot: SocketSlot) -> bool;

    /// The longest datagram that goes to socket `slot` in one piece; `None` if that is unknown.
    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize>;

    /// Closes socket `slot`; sends that follow complete with -EBADF.
    fn close_backend(&mut self, slot: SocketSlot);

    /// Empties the error queue of socket `slot`, which fills with ICMP answers where IP_RECVERR is set; what there
    /// was. Called after a send's error.
    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors>;

    /// Adds the slots whose sockets have something in their error queues.
    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>);

    /// Releases all sockets; only at the end, when nothing is armed and nothing is in flight. The kernel tears a ring down in
    /// its own time, and keeps registered sockets open until then: the port would stay taken for some 40 ms, and a restart
    /// at once would be refused. Kernels up to 6.12 wait here for every request that has one of the files, without an end.
    fn let_go(&mut self);

    /// Leaves a listening socket to others who receive from it: [`Ring::fence`] and [`Ring::is_queue_empty`] are no longer
    /// about it. Without such a listener it does nothing.
    fn leave(&mut self, listener: usize);

    /// Makes sure that nothing new arrives at the listening sockets; what is queued there stays readable.
    fn fence(&mut self) -> std::io::Result<()>;

    /// Whether no listening socket has a datagram queued, one without a payload included (so: poll, not FIONREAD).
    fn is_queue_empty(&mut self) -> bool;

    /// Datagrams that the kernel dropped at a listening socket because its buffer was full, since it was opened.
    fn kernel_drops(&mut self, listener: usize) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for operation in [Operation::Receive, Operation::Wake, Operation::Cancel, Operation::Send] {
            for index in [0, 1, 511, Token::INDEX_MAX] {
                for generation in [0, 1, u32::MAX] {
                    let token = Token::new(operation, index, generation);
                    let back = Token::from_user_data(token.user_data());
                    assert_eq!(back.operation(), Some(operation));
                    assert_eq!((back.index(), back.generation()), (index, generation));
                }
            }
        }
        assert_eq!(Token::from_user_data(0).operation(), None);
        assert_eq!(Token::from_user_data(u64::MAX).operation(), None);
    }
}
