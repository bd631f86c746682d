//! A short look at the traffic of an interface.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use capture::Frame;

use super::finding::Outcome;
use super::probe::Samples;

/// Longest look at all interfaces together.
const TIME: Duration = Duration::from_secs(2);
/// Frames that tell enough.
const ENOUGH: u64 = 50_000;
/// Flows that are kept apart.
const FLOWS: usize = 20_000;

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const MPLS: [u16; 2] = [0x8847, 0x8848];
const ERSPAN: [u16; 2] = [0x88be, 0x22eb];
const GRE: u8 = 47;
const UDP: u8 = 17;
const TCP: u8 = 6;
const GTP_PORT: u16 = 2152;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) frames: u64,
    pub(crate) vlan: u64,
    pub(crate) mpls: u64,
    pub(crate) gre: u64,
    pub(crate) erspan: u64,
    pub(crate) gtp: u64,
    /// Flows by their ends in order, with the directions seen as bits.
    flows: HashMap<(IpAddr, u16, IpAddr, u16), u8>,
}

impl Sample {
    /// Flows, and those of them that were seen in both directions.
    pub(crate) fn flows(&self) -> (usize, usize) {
        (self.flows.len(), self.flows.values().filter(|seen| **seen == 3).count())
    }

    /// Adds the flows of another sample.
    pub(crate) fn add(&mut self, other: &Self) {
        for (flow, seen) in &other.flows {
            *self.flows.entry(*flow).or_default() |= seen;
        }
    }

    fn note(&mut self, frame: &[u8]) {
        self.frames += 1;
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let mut at = 12;
        let mut tagged = false;
        while word(at).is_some_and(|kind| VLAN.contains(&kind)) {
            tagged = true;
            at += 4;
        }
        self.vlan += u64::from(tagged);
        let Some(kind) = word(at) else { return };
        self.mpls += u64::from(MPLS.contains(&kind));
        let packet = frame.get(at + 2..).unwrap_or_default();
        let (from, to, protocol, header) = match kind {
            0x0800 if packet.len() >= 20 => {
                let address = |at: usize| -> [u8; 4] {
                    let mut address = [0; 4];
                    address.copy_from_slice(&packet[at..at + 4]);
                    address
                };
                let header = usize::from(packet[0] & 15) * 4;
                (IpAddr::from(address(12)), IpAddr::from(address(16)), packet[9], header)
            }
            0x86dd if packet.len() >= 40 => {
                let address = |at: usize| -> [u8; 16] {
                    let mut address = [0; 16];
                    address.copy_from_slice(&packet[at..at + 16]);
                    address
                };
                (IpAddr::from(address(8)), IpAddr::from(address(24)), packet[6], 40)
            }
            _ => return,
        };
        let inner = |offset: usize| {
            let at = header + offset;
            Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
        };
        let (Some(first), Some(second)) = (inner(0), inner(2)) else { return };
        match protocol {
            GRE if ERSPAN.contains(&second) => self.erspan += 1,
            GRE => self.gre += 1,
            UDP if second == GTP_PORT => self.gtp += 1,
            TCP => self.flow((from, first), (to, second)),
            _ => {}
        }
    }

    fn flow(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) {
        let forward = from < to;
        let (low, high) = if forward { (from, to) } else { (to, from) };
        let key = (low.0, low.1, high.0, high.1);
        if self.flows.len() < FLOWS || self.flows.contains_key(&key) {
            *self.flows.entry(key).or_default() |= if forward { 1 } else { 2 };
        }
    }
}

/// Looks at each interface, all within [`TIME`].
pub(crate) fn take(interfaces: &[String]) -> Samples {
    let share = TIME / u32::try_from(interfaces.len().max(1)).unwrap_or(1);
    interfaces.iter().map(|name| (name.clone(), look(name, share))).collect()
}

fn look(interface: &str, time: Duration) -> Result<Sample, Outcome> {
    let mut source = capture::open(interface)
        .map_err(|error| Outcome::Skipped(format!("{interface} cannot be looked at: {error}")))?;
    let mut sample = Sample::default();
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|_| sample.frames < ENOUGH) {
        let mut note = |frame: Frame<'_>| sample.note(frame.data);
        source
            .burst(256, left.min(Duration::from_millis(50)), &mut note)
            .map_err(|error| Outcome::Skipped(format!("{interface} cannot be read: {error}")))?;
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_directions_are_told_apart() {
        let tcp = |from: u8, to: u8| {
            let mut frame = vec![0; 14];
            frame[12..14].copy_from_slice(&[8, 0]);
            frame.extend([
                0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 192, 0, 2, from, 192, 0, 2, to,
            ]);
            frame.extend([u8::from(from == 1), 80, u8::from(to == 1), 80]);
            frame
        };
        let mut sample = Sample::default();
        sample.note(&tcp(1, 2));
        assert_eq!(sample.flows(), (1, 0));
        sample.note(&tcp(2, 1));
        sample.note(&tcp(3, 1));
        assert_eq!(sample.flows(), (2, 1));
        let mut erspan = tcp(1, 2);
        erspan[14 + 9] = GRE;
        erspan[34..38].copy_from_slice(&[0x10, 0, 0x88, 0xbe]);
        sample.note(&erspan);
        erspan[36] = 8;
        sample.note(&erspan);
        let mut tagged = tcp(1, 2);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        sample.note(&tagged);
        assert_eq!((sample.frames, sample.erspan, sample.gre, sample.vlan), (6, 1, 1, 1));
        for length in 0..tagged.len() {
            sample.note(&tagged[..length]);
        }
    }
}
