//! Records that straddle segments (`spec/detector.md` 20, "Coverage").
//!
//! A tagged record whose end came in the next segment could not be read where it was seen. It is kept
//! until the rest comes: at most [`SEGMENTS`] segments and [`ROOM`] bytes of a flow, a fixed number of
//! flows at one time. Places are divided into lanes chosen by the client's network, and a newcomer
//! takes the oldest place of its lane, so that a flood from one network costs that network's records
//! and few others.

use crate::clock::Millis;
use crate::flows::{Flow, LIFETIME};
use crate::mix::Mixer;

/// Segments of one record that are kept; the next one has to complete it.
pub const SEGMENTS: u8 = 2;
/// Bytes of one record, its header included.
pub const ROOM: usize = 4096;
/// Records that a worker keeps by default: 2 MiB.
pub const DEFAULT_RECORDS: usize = 512;
/// Most records that a worker can be told to keep.
pub const MAX_RECORDS: usize = 8192;

/// TLS record header.
const HEADER: usize = 5;
/// Lanes, when there are at least as many places.
const LANES: usize = 32;

/// Number of a place.
pub type Place = u16;

/// What a further segment did to a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// It is complete: these are its bytes. Its place is free again.
    Complete(&'a [u8]),
    /// More has to come. The segment may also have been one that was seen before.
    Waiting,
    /// It takes more segments than are kept. Its place is free again.
    TooMany,
    /// The place belongs to another record by now.
    Lost,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    /// Whose record it is; `None` marks a free place.
    flow: Option<Flow>,
    /// Sequence number of the first byte that is missing.
    next: u32,
    len: u16,
    segments: u8,
    /// When the flow is forgotten at the latest.
    ends: Millis,
}

/// The records of one worker.
#[derive(Debug)]
pub struct Straddling {
    records: Box<[Record]>,
    bytes: Box<[u8]>,
    /// Place of each lane that is taken next: the one that was taken longest ago.
    turns: Box<[u16]>,
    mixer: Mixer,
    lost: u64,
}

/// Whether `payload`, the start of a record, ends before the record does, which may have a tag and
/// is not longer than [`ROOM`].
pub fn straddles(payload: &[u8]) -> bool {
    match *payload {
        [0x17] | [0x17, 3] | [0x17, 3, _] | [0x17, 3, _, _] => true,
        [0x17, 3, _, _, _, ..] => {
            let wanted = wanted(payload);
            wanted > payload.len() && (tag::MIN_PAYLOAD..=ROOM).contains(&wanted)
        }
        _ => false,
    }
}

/// Length of the record that starts with `start`, as far as is known.
fn wanted(start: &[u8]) -> usize {
    match *start {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([high, low])),
        _ => HEADER,
    }
}

impl Straddling {
    /// Places for about `records` records; none at all for 0, and at most [`MAX_RECORDS`].
    pub fn new(records: usize) -> Self {
        let records = records.min(MAX_RECORDS);
        let lanes = records.min(LANES);
        let records = if lanes == 0 { 0 } else { records - records % lanes };
        let free = Record { flow: None, next: 0, len: 0, segments: 0, ends: Millis(0) };
        Self {
            records: vec![free; records].into_boxed_slice(),
            // Memory that is never used is never touched.
            bytes: vec![0; records * ROOM].into_boxed_slice(),
            turns: vec![0; lanes].into_boxed_slice(),
            mixer: Mixer::random(),
            lost: 0,
        }
    }

    /// Keeps `payload`, the start of a record that [`straddles`], in a segment with sequence number
    /// `sequence`. `None` when nothing is kept.
    pub fn keep(
        &mut self,
        flow: &Flow,
        sequence: u32,
        payload: &[u8],
        now: Millis,
    ) -> Option<Place> {
        let per_lane = self.records.len().checked_div(self.turns.len())?;
        if payload.len() > ROOM {
            return None;
        }
        let lane = self.mixer.one(flow.network()) as usize % self.turns.len();
        let turn = &mut self.turns[lane];
        let place = lane * per_lane + usize::from(*turn);
        *turn = (*turn + 1) % per_lane as u16;
        let record = &mut self.records[place];
        self.lost += u64::from(record.flow.is_some() && record.ends > now);
        *record = Record {
            flow: Some(*flow),
            next: sequence.wrapping_add(payload.len() as u32),
            len: payload.len() as u16,
            segments: 1,
            ends: Millis(now.0 + LIFETIME),
        };
        self.bytes[place * ROOM..][..payload.len()].copy_from_slice(payload);
        Some(place as Place)
    }

    /// Adds what `payload` has of the record of `flow` at `place`.
    pub fn add(
        &mut self,
        place: Place,
        flow: &Flow,
        sequence: u32,
        payload: &[u8],
    ) -> Progress<'_> {
        let place = usize::from(place);
        let Some(record) = self.records.get_mut(place).filter(|r| r.flow == Some(*flow)) else {
            return Progress::Lost;
        };
        // A segment sent again may reach further than the first time. One that leaves a gap, or has
        // nothing new, is not the one that is waited for.
        let known = record.next.wrapping_sub(sequence) as usize;
        let Some(fresh @ [_, ..]) = payload.get(known..) else { return Progress::Waiting };
        let room = &mut self.bytes[place * ROOM..][..ROOM];
        let len = usize::from(record.len);
        let taken = fresh.len().min(ROOM - len);
        room[len..len + taken].copy_from_slice(&fresh[..taken]);
        let len = len + taken;
        let wanted = wanted(&room[..len]);
        if len >= HEADER && wanted <= len {
            record.flow = None;
            return Progress::Complete(&self.bytes[place * ROOM..][..wanted]);
        }
        if record.segments >= SEGMENTS || len >= HEADER && !straddles(&room[..len]) {
            record.flow = None;
            self.lost += 1;
            return Progress::TooMany;
        }
        record.segments += 1;
        record.len = len as u16;
        record.next = record.next.wrapping_add(taken as u32);
        Progress::Waiting
    }

    /// Bytes that the places take.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.records) + size_of_val(&*self.bytes)
    }

    /// Records that were given up before their end came: they took too many segments, or made room
    /// for others.
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: [u8; 4]) -> Flow {
        Flow::V4 { source, destination: [198, 51, 100, 1], port: 4000 }
    }

    /// A record of `len` bytes with its header.
    fn record(len: usize) -> Vec<u8> {
        let mut record: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        record[..3].copy_from_slice(&[0x17, 3, 3]);
        record[3..5].copy_from_slice(&((len - HEADER) as u16).to_be_bytes());
        record
    }

    const NOW: Millis = Millis(5);

    #[test]
    fn every_cut_is_healed() {
        let whole = record(300);
        let mut straddling = Straddling::new(64);
        for cut in 1..whole.len() {
            // The counter of bytes wraps within the record.
            let sequence = 0u32.wrapping_sub(150);
            assert!(straddles(&whole[..cut]), "{cut}");
            let place = straddling.keep(&flow([1; 4]), sequence, &whole[..cut], NOW).unwrap();
            let next = sequence.wrapping_add(cut as u32);
            // What follows the record is not a part of it.
            let rest = [&whole[cut..], b"next"].concat();
            let progress = straddling.add(place, &flow([1; 4]), next, &rest);
            assert_eq!(progress, Progress::Complete(&whole), "{cut}");
            assert_eq!(straddling.add(place, &flow([1; 4]), next, &rest), Progress::Lost);
        }
        assert!(!straddles(&whole) && !straddles(&record(120)[..60]));
        assert!(!straddles(&record(ROOM + 1)[..60]) && !straddles(&[0x16, 3, 3, 1]));
        assert_eq!(straddling.lost(), 0);
    }

    #[test]
    fn three_segments_at_most_and_none_twice() {
        let whole = record(1000);
        let mut straddling = Straddling::new(64);
        let f = flow([1; 4]);
        let place = straddling.keep(&f, 100, &whole[..3], NOW).unwrap();
        assert_eq!(straddling.add(place, &f, 100, &whole[..3]), Progress::Waiting, "sent again");
        assert_eq!(straddling.add(place, &f, 200, &whole[100..]), Progress::Waiting, "a gap");
        // It starts with what is known.
        assert_eq!(straddling.add(place, &f, 101, &whole[1..500]), Progress::Waiting);
        assert_eq!(straddling.add(place, &f, 600, &whole[500..]), Progress::Complete(&whole));
        let place = straddling.keep(&f, 100, &whole[..3], NOW).unwrap();
        assert_eq!(straddling.add(place, &f, 103, &whole[3..9]), Progress::Waiting);
        assert_eq!(straddling.add(place, &f, 109, &whole[9..99]), Progress::TooMany);
        // The header turns out to announce more than is kept.
        let place = straddling.keep(&f, 100, &[0x17, 3], NOW).unwrap();
        assert_eq!(straddling.add(place, &f, 102, &[3, 0xff, 0xff, 1]), Progress::TooMany);
    }

    #[test]
    fn a_flood_costs_its_own_lane() {
        let mut straddling = Straddling::new(DEFAULT_RECORDS);
        let whole = record(300);
        let genuine: Vec<(Flow, Place)> = (0..64)
            .map(|i| flow([10, 1, i, 1]))
            .map(|flow| (flow, straddling.keep(&flow, 0, &whole[..100], NOW).unwrap()))
            .collect();
        let before = straddling.lost();
        for i in 0..100_000u32 {
            let flood = flow([203, 0, 113, i as u8]);
            straddling.keep(&flood, i, &whole[..100], NOW);
        }
        assert!(straddling.lost() - before > 99_000);
        let mut healed = |(flow, place): &(Flow, Place)| {
            straddling.add(*place, flow, 100, &whole[100..]) == Progress::Complete(&whole)
        };
        // One lane of 32 holds two of them on average; twelve would be a wonder.
        let healed = genuine.iter().map(&mut healed).filter(|healed| *healed).count();
        assert!(healed >= 52, "{healed}");
        assert!(Straddling::new(0).keep(&flow([1; 4]), 0, &whole[..9], NOW).is_none());
    }
}
