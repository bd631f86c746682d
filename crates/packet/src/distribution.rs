//! Distribution modes of the balancer (`spec/ingest.md` 9).

use std::fmt;
use std::str::FromStr;

use crate::hash::{SymmetricHash, queue};
use crate::walk::{Outer, Pair, outer};

/// How frames are spread over the queues of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Round robin, frame by frame, per set.
    RoundRobin,
    /// By the outermost IP address pair after VLAN tags (the default).
    Ip,
    /// Every queue receives every frame.
    All,
    /// Queue 0 receives every frame, the others share them round robin.
    AllRoundRobin,
    /// By the index of the input interface.
    Interface,
    /// By addresses, ports and protocol; fragments by addresses.
    FiveTuple,
}

/// A mode that is not known or not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// A mode of the reference that looks inside tunnels.
    #[error(
        "distribution mode {0} looks inside tunnels and is not available in this version; use ip (1)"
    )]
    NotAvailable(String),
    /// No mode of this name or number.
    #[error(
        "unknown distribution mode '{0}'; use one of rr (0), ip (1), all (2), all-rr (3), iface (6), 5tuple"
    )]
    Unknown(String),
}

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        Ok(match text {
            "0" | "rr" => Self::RoundRobin,
            "1" | "ip" => Self::Ip,
            "2" | "all" => Self::All,
            "3" | "all-rr" => Self::AllRoundRobin,
            "6" | "iface" => Self::Interface,
            "5tuple" => Self::FiveTuple,
            "4" | "gtp" | "5" | "gre" | "7" | "erspan" | "vlan-map" | "auto" => {
                return Err(ModeError::NotAvailable(text.to_owned()));
            }
            _ => return Err(ModeError::Unknown(text.to_owned())),
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "rr",
            Self::Ip => "ip",
            Self::All => "all",
            Self::AllRoundRobin => "all-rr",
            Self::Interface => "iface",
            Self::FiveTuple => "5tuple",
        })
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
}

/// Hash of a frame under `mode`: 0 when it has no IP addresses or the mode uses no hash.
#[inline]
pub fn frame_hash(mode: Mode, hash: &SymmetricHash, frame: &[u8]) -> u32 {
    match mode {
        Mode::Ip => outer(frame).map_or(0, |o| pair_hash(hash, &o)),
        Mode::FiveTuple => outer(frame).map_or(0, |o| flow_hash(hash, &o)),
        _ => 0,
    }
}

#[inline]
fn pair_hash(hash: &SymmetricHash, outer: &Outer) -> u32 {
    match outer.pair {
        Pair::V4(a, b) => hash.v4(a, b),
        Pair::V6(a, b) => hash.v6(a, b),
    }
}

#[inline]
fn flow_hash(hash: &SymmetricHash, outer: &Outer) -> u32 {
    let Some((p, q)) = outer.ports else {
        return pair_hash(hash, outer);
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

    /// Target of a frame with `hash` (of [`frame_hash`]) from input interface `interface`.
    #[inline]
    pub fn target(&mut self, hash: u32, interface: u16) -> Target {
        match self.mode {
            Mode::Ip | Mode::FiveTuple => Target::One(queue(hash, self.queues)),
            Mode::RoundRobin => Target::One(self.turn(self.queues)),
            Mode::All => Target::Every,
            Mode::AllRoundRobin if self.queues == 1 => Target::FirstAnd(0),
            Mode::AllRoundRobin => Target::FirstAnd(1 + self.turn(self.queues - 1)),
            Mode::Interface => Target::One(u32::from(interface) % self.queues),
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
        for (number, name) in
            [("0", "rr"), ("1", "ip"), ("2", "all"), ("3", "all-rr"), ("6", "iface")]
        {
            assert_eq!(number.parse::<Mode>().unwrap().to_string(), name);
            assert_eq!(name.parse::<Mode>(), number.parse());
        }
        assert_eq!("5tuple".parse(), Ok(Mode::FiveTuple));
        assert!(matches!("7".parse::<Mode>(), Err(ModeError::NotAvailable(_))));
        assert!(matches!("-g".parse::<Mode>(), Err(ModeError::Unknown(_))));
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
            for mode in [Mode::Ip, Mode::FiveTuple, Mode::RoundRobin] {
                let h = frame_hash(mode, &hash, &bytes);
                prop_assert!(crate::hash::queue(h, 7) < 7);
            }
        }
    }
}
