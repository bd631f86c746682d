//! Messages of the control socket (`spec/ingest.md` 10.2), one datagram each.

/// First four bytes of every message.
const MAGIC: u32 = 0x5149_4a43;
/// The protocol version that this program speaks.
pub(crate) const ABI: u16 = 1;
/// Longest message that is read, in bytes.
pub(crate) const MAX_MESSAGE: usize = 512;
/// `set` of a HELLO that leaves the set to the queue id.
pub(crate) const ANY_SET: u8 = 0xff;

/// `queue` of a HELLO of a mirror that sees every queue of its set.
pub(crate) const ANY_QUEUE: u16 = 0xffff;
/// Flag of a monitor's HELLO: packets are wanted, through a queue of its own, and not the balancer's state.
const PACKETS: u32 = 1;
/// Flag of a HELLO: frames will come back in the order in which they were handed out.
const IN_ORDER: u32 = 2;
/// Flag of a HELLO: packets have to come with time of reception and hash.
const DESCRIBED: u32 = 4;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes the packets of a queue, which has one such reader.
    Consumer,
    /// Reads the balancer's state.
    Monitor,
    /// A monitor that also sees packets, without taking them from anybody.
    Mirror,
    /// Enters flows into the table of the kernel fast path.
    FastPath,
}

/// The client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) abi: u16,
    pub(crate) min_abi: u16,
    pub(crate) role: Role,
    pub(crate) set: u8,
    pub(crate) queue: u16,
    /// Frames come back in order, so that their number says which they are; an older balancer does not know
    /// this and wants them named.
    pub(crate) in_order: bool,
    /// Time of reception and hash of every packet are wanted; those who look on get them anyway.
    pub(crate) described: bool,
}

impl Hello {
    /// The message of `role` for queue `queue` of `set`, which returns frames in order and wants to know no more
    /// of a packet than its bytes.
    pub(crate) const fn new(role: Role, set: u8, queue: u16) -> Self {
        Self { abi: ABI, min_abi: ABI, role, set, queue, in_order: true, described: false }
    }

    pub(crate) fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&self.abi.to_le_bytes());
        out[6..8].copy_from_slice(&self.min_abi.to_le_bytes());
        out[8] = match self.role {
            Role::Consumer => 1,
            Role::Monitor | Role::Mirror => 2,
            Role::FastPath => 3,
        };
        out[9] = self.set;
        out[10..12].copy_from_slice(&self.queue.to_le_bytes());
        let packets = if self.role == Role::Mirror { PACKETS } else { 0 };
        let in_order = if self.in_order { IN_ORDER } else { 0 };
        let described = if self.described { DESCRIBED } else { 0 };
        out[12..].copy_from_slice(&(packets | in_order | described).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.first_chunk()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes[..4] != MAGIC.to_le_bytes() {
            return None;
        }
        let flags = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let role = match bytes[8] {
            1 => Role::Consumer,
            2 if flags & PACKETS != 0 => Role::Mirror,
            2 => Role::Monitor,
            3 => Role::FastPath,
            _ => return None,
        };
        Some(Self {
            abi: u16_at(4),
            min_abi: u16_at(6),
            role,
            set: bytes[9],
            queue: u16_at(10),
            in_order: flags & IN_ORDER != 0,
            described: flags & DESCRIBED != 0,
        })
    }
}

/// Code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Version = 1,
    NoSuchQueue = 2,
    Busy = 3,
    Draining = 4,
    NotPermitted = 5,
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The descriptors of frames and queue region come with it.
    Welcome {
        producers: u32,
        slots: u32,
        generation: u64,
    },
    /// The monitor role is accepted.
    Monitor,
    /// The role of the fast path is accepted. The descriptor of the table comes with it, when there is one.
    FastPath {
        /// Number of the balancer's network namespace.
        namespace: u64,
        /// Flows that the table has place for.
        flows: u32,
    },
    Refused {
        code: u16,
        pid: u32,
        text: String,
    },
}

impl Answer {
    pub(crate) fn refuse(code: Refusal, pid: u32, text: String) -> Self {
        Self::Refused { code: code as u16, pid, text }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_le_bytes().to_vec();
        match self {
            Self::Welcome { producers, slots, generation } => {
                out.extend(0u16.to_le_bytes());
                out.extend(ABI.to_le_bytes());
                out.extend(producers.to_le_bytes());
                out.extend(slots.to_le_bytes());
                out.extend(generation.to_le_bytes());
            }
            Self::Monitor => {
                out.extend(0u16.to_le_bytes());
                out.extend(ABI.to_le_bytes());
            }
            Self::FastPath { namespace, flows } => {
                out.extend(0u16.to_le_bytes());
                out.extend(ABI.to_le_bytes());
                out.extend(namespace.to_le_bytes());
                out.extend(flows.to_le_bytes());
            }
            Self::Refused { code, pid, text } => {
                out.extend(code.to_le_bytes());
                out.extend(ABI.to_le_bytes());
                out.extend(pid.to_le_bytes());
                out.extend(text.bytes().take(MAX_MESSAGE - 16));
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (code, rest) = rest.split_first_chunk::<2>()?;
        let (_abi, rest) = rest.split_first_chunk::<2>()?;
        if *magic != MAGIC.to_le_bytes() {
            return None;
        }
        let code = u16::from_le_bytes(*code);
        if code != 0 {
            let (pid, text) = rest.split_first_chunk::<4>()?;
            return Some(Self::Refused {
                code,
                pid: u32::from_le_bytes(*pid),
                text: String::from_utf8_lossy(text).into_owned(),
            });
        }
        if rest.is_empty() {
            return Some(Self::Monitor);
        }
        // What a WELCOME has is longer.
        if rest.len() == 12 {
            let (namespace, flows) = rest.split_first_chunk::<8>()?;
            return Some(Self::FastPath {
                namespace: u64::from_le_bytes(*namespace),
                flows: u32::from_le_bytes(flows.try_into().ok()?),
            });
        }
        let (producers, rest) = rest.split_first_chunk::<4>()?;
        let (slots, rest) = rest.split_first_chunk::<4>()?;
        let (generation, _) = rest.split_first_chunk::<8>()?;
        Some(Self::Welcome {
            producers: u32::from_le_bytes(*producers),
            slots: u32::from_le_bytes(*slots),
            generation: u64::from_le_bytes(*generation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hello_survives(
            abi: u16,
            min_abi: u16,
            set: u8,
            queue: u16,
            in_order: bool,
            described: bool,
            role in 0..4,
        ) {
            let role = [Role::Consumer, Role::Monitor, Role::Mirror, Role::FastPath][role as usize];
            let hello = Hello { abi, min_abi, role, set, queue, in_order, described };
            prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Hello::decode(&bytes), Answer::decode(&bytes));
        }
    }

    #[test]
    fn answers_survive() {
        for answer in [
            Answer::Welcome { producers: 2, slots: 64, generation: 9 },
            Answer::Monitor,
            Answer::FastPath { namespace: u64::MAX - 1, flows: 65_536 },
            Answer::refuse(Refusal::Busy, 77, "held".into()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }
}
