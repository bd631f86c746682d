//! Distribution modes of the balancer (`spec/ingest.md` 9).

use std::fmt;
use std::str::FromStr;

use crate::hash::{SymmetricHash, queue};
use crate::tunnel::{self, Follow};
use crate::walk::{Outer, Pair, be16, outer, outer_pair};

/// How frames are spread over the queues of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Round robin, frame by frame, per set.
    RoundRobin,
    /// By the outermost IP address pair after VLAN tags and MPLS labels (the default).
    Ip,
    /// Every queue receives every frame.
    All,
    /// Queue 0 receives every frame, the others share them round robin.
    AllRoundRobin,
    /// By the addresses inside GTP's user plane, else by the outermost.
    Gtp,
    /// By the addresses inside GRE, else by the outermost.
    Gre,
    /// By the index of the input interface.
    Interface,
    /// By the addresses inside ERSPAN and other GRE that carries frames, else by the outermost.
    Erspan,
    /// By the VLAN inside frames of one EtherType ([`VlanMap`]).
    VlanMap,
    /// By addresses, ports and protocol; fragments by addresses.
    FiveTuple,
    /// By the innermost addresses of whatever tunnels a frame is in.
    Auto,
}

/// Every mode with its name and, where the reference has one, its number.
const MODES: [(Mode, &str, Option<&str>); 11] = [
    (Mode::RoundRobin, "rr", Some("0")),
    (Mode::Ip, "ip", Some("1")),
    (Mode::All, "all", Some("2")),
    (Mode::AllRoundRobin, "all-rr", Some("3")),
    (Mode::Gtp, "gtp", Some("4")),
    (Mode::Gre, "gre", Some("5")),
    (Mode::Interface, "iface", Some("6")),
    (Mode::Erspan, "erspan", Some("7")),
    (Mode::VlanMap, "vlan-map", None),
    (Mode::FiveTuple, "5tuple", None),
    (Mode::Auto, "auto", None),
];

/// No mode has this name or number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown distribution mode '{0}'; use one of rr (0), ip (1), all (2), all-rr (3), gtp (4), gre (5), \
     iface (6), erspan (7), vlan-map, 5tuple, auto"
)]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let is = |(_, name, number): &&(Self, &str, Option<&str>)| {
            *name == text || *number == Some(text)
        };
        MODES.iter().find(is).map(|(mode, ..)| *mode).ok_or_else(|| ModeError(text.to_owned()))
    }
}

impl Mode {
    /// Whether a frame may go to several queues of one set.
    pub const fn copies(self) -> bool {
        matches!(self, Self::All | Self::AllRoundRobin)
    }

    /// Whether frames that are neither TCP nor UDP themselves may carry what is spread.
    pub const fn reads_tunnels(self) -> bool {
        matches!(self, Self::Gtp | Self::Gre | Self::Erspan | Self::VlanMap | Self::Auto)
    }

    /// Its number in the reference's command line, or its name where it has none there.
    pub fn argument(self) -> &'static str {
        let is = |(mode, ..): &&(Self, &str, Option<&str>)| *mode == self;
        MODES.iter().find(is).map_or("", |(_, name, number)| number.unwrap_or(name))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MODES.iter().find(|(mode, ..)| mode == self).map_or("", |(_, name, _)| name);
        f.write_str(name)
    }
}

/// Where a frame goes within a set of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To one queue.
    One(u32),
    /// To every queue.
    Every,
    /// To queue 0 and to this other one; the same number when the set has a single queue.
    FirstAnd(u32),
    /// To none.
    Nobody,
}

/// Hash of a frame's outermost addresses: 0 when it has none. That of [`Mode::Ip`].
#[inline]
pub fn address_hash(hash: &SymmetricHash, frame: &[u8]) -> u32 {
    outer_pair(frame).map_or(0, |pair| pair_hash(hash, pair))
}

/// Hash of a frame under `mode`: 0 when it has no IP addresses or the mode uses no hash.
#[inline]
pub fn frame_hash(mode: Mode, hash: &SymmetricHash, frame: &[u8]) -> u32 {
    let inner = |follow| tunnel::inner(frame, follow).map_or(0, |o| pair_hash(hash, o.pair));
    match mode {
        Mode::Ip => address_hash(hash, frame),
        Mode::FiveTuple => outer(frame).map_or(0, |o| flow_hash(hash, &o)),
        Mode::Auto => inner(Follow::ALL),
        Mode::Gtp => inner(Follow::GTP),
        Mode::Gre => inner(Follow::GRE),
        Mode::Erspan => inner(Follow::ERSPAN),
        Mode::RoundRobin | Mode::All | Mode::AllRoundRobin | Mode::Interface | Mode::VlanMap => 0,
    }
}

/// VLANs that have a queue each ([`Mode::VlanMap`]): those inside frames of one EtherType, which stands
/// where that of the tag would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanMap {
    /// The EtherType of such frames.
    pub ethertype: u16,
    /// The VLAN of queue 1, of queue 2 and so on.
    pub vlans: Vec<u16>,
}

impl VlanMap {
    /// The EtherType unless another is configured.
    pub const ETHERTYPE: u16 = 0x8585;

    /// Queues that the map leads to.
    pub fn queues(&self) -> u32 {
        1 + u32::try_from(self.vlans.len()).unwrap_or(u32::MAX - 1)
    }

    /// What is to be done with `frame`: its queue, and whether its EtherType becomes that of a VLAN tag.
    /// `None` for a VLAN without queue and a frame that is cut off.
    #[inline]
    pub fn place(&self, frame: &[u8]) -> Option<(u32, bool)> {
        if be16(frame, 12)? != self.ethertype {
            return Some((0, false));
        }
        let vlan = be16(frame, 14)? & 0x0fff;
        let position = self.vlans.iter().position(|known| *known == vlan)?;
        Some((u32::try_from(position + 1).ok()?, true))
    }
}

#[inline]
fn pair_hash(hash: &SymmetricHash, pair: Pair) -> u32 {
    match pair {
        Pair::V4(a, b) => hash.v4(a, b),
        Pair::V6(a, b) => hash.v6(a, b),
    }
}

#[inline]
fn flow_hash(hash: &SymmetricHash, outer: &Outer) -> u32 {
    let Some((p, q)) = outer.ports else {
        return pair_hash(hash, outer.pair);
    };
    match outer.pair {
        Pair::V4(a, b) => hash.v4_flow((a, p), (b, q), outer.protocol),
        Pair::V6(a, b) => hash.v6_flow((a, p), (b, q), outer.protocol),
    }
}

/// Spreads frames over one set of queues; keeps the round-robin position of the set.
#[derive(Debug, Clone)]
pub struct Spreader {
    mode: Mode,
    queues: u32,
    next: u32,
}

impl Spreader {
    /// A spreader over `queues` queues; 0 counts as 1.
    pub fn new(mode: Mode, queues: u32) -> Self {
        let queues = queues.max(1);
        Self { mode, queues, next: 0 }
    }

    /// Target of a frame with `hash` (of [`frame_hash`]; for [`Mode::VlanMap`] the queue itself, and nobody
    /// when there is no such queue) from input interface `interface`.
    #[inline]
    pub fn target(&mut self, hash: u32, interface: u16) -> Target {
        match self.mode {
            Mode::Ip | Mode::FiveTuple | Mode::Auto | Mode::Gtp | Mode::Gre | Mode::Erspan => {
                Target::One(queue(hash, self.queues))
            }
            Mode::RoundRobin => Target::One(self.turn(self.queues)),
            Mode::All => Target::Every,
            Mode::AllRoundRobin if self.queues == 1 => Target::FirstAnd(0),
            Mode::AllRoundRobin => Target::FirstAnd(1 + self.turn(self.queues - 1)),
            Mode::Interface => Target::One(u32::from(interface) % self.queues),
            Mode::VlanMap if hash < self.queues => Target::One(hash),
            Mode::VlanMap => Target::Nobody,
        }
    }

    #[inline]
    fn turn(&mut self, among: u32) -> u32 {
        let turn = self.next;
        self.next = if turn + 1 >= among { 0 } else { turn + 1 };
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_numbers() {
        for (mode, name, number) in MODES {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
            assert_eq!(mode.argument(), number.unwrap_or(name));
            assert!(number.is_none_or(|number| number.parse() == Ok(mode)));
        }
        for unknown in ["8", "-g", "", "IP"] {
            let error = unknown.parse::<Mode>().unwrap_err().to_string();
            assert!(MODES.iter().all(|(_, name, _)| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn a_map_of_vlans() {
        let map = VlanMap { ethertype: 0x8585, vlans: vec![100, 4094] };
        let frame = |ethertype: u16, tci: u16| {
            let mut frame = vec![0; 12];
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tci.to_be_bytes());
            frame
        };
        assert_eq!(map.queues(), 3);
        assert_eq!(map.place(&frame(0x0800, 100)), Some((0, false)));
        assert_eq!(map.place(&frame(0x8585, 0xe000 | 100)), Some((1, true)));
        assert_eq!(map.place(&frame(0x8585, 4094)), Some((2, true)));
        assert_eq!(map.place(&frame(0x8585, 7)), None);
        assert_eq!(map.place(&frame(0x8585, 0)[..15]), None);
        let mut spreader = Spreader::new(Mode::VlanMap, map.queues());
        assert_eq!(spreader.target(2, 0), Target::One(2));
        assert_eq!(spreader.target(3, 0), Target::Nobody);
    }

    #[test]
    fn round_robin_takes_turns() {
        let mut rr = Spreader::new(Mode::RoundRobin, 3);
        let turns: Vec<_> = (0..5).map(|_| rr.target(9, 9)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1].map(Target::One));
        let mut all_rr = Spreader::new(Mode::AllRoundRobin, 3);
        let turns: Vec<_> = (0..4).map(|_| all_rr.target(9, 9)).collect();
        assert_eq!(turns, [1, 2, 1, 2].map(Target::FirstAnd));
    }

    #[test]
    fn interface_modulo_queues() {
        let mut spreader = Spreader::new(Mode::Interface, 2);
        assert_eq!(spreader.target(0, 3), Target::One(1));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_hash(bytes in proptest::collection::vec(any::<u8>(), 0..200), seed: u64) {
            let hash = SymmetricHash::new(seed);
            for (mode, ..) in MODES {
                let h = frame_hash(mode, &hash, &bytes);
                prop_assert!(crate::hash::queue(h, 7) < 7);
            }
        }
    }
}
