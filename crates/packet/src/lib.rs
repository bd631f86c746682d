//! Views of Ethernet, VLAN, IP, TCP and UDP headers, and the distribution hash.
//!
//! Two readers look at a frame. The detector reads it with [`frame::Frame`], whose rules are those
//! of the reference's packet path (`spec/detector.md` 4). The balancer reads it with
//! [`walk::outer`], which skips more kinds of header, and [`tunnel::inner`], which looks into tunnels
//! (`spec/ingest.md` 9.1); both feed [`hash::SymmetricHash`]. Nothing here allocates, and no sequence of bytes makes it panic.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod completion;
pub mod craft;
pub mod distribution;
pub mod frame;
pub mod hash;
pub mod ip;
pub mod segment;
pub mod transport;
pub mod tunnel;
pub mod walk;

pub use distribution::{Mode, Target};
pub use frame::{Frame, Ignored};
pub use hash::SymmetricHash;
pub use ip::{Ip, Ipv4, Ipv6};
pub use transport::{Tcp, TcpFlags, Transport, Udp};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// EtherType that older equipment uses for an outer tag.
pub const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of GRE.
pub const PROTOCOL_GRE: u8 = 47;

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_LEN: usize = 14;
