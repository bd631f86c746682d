//! Replay of a recording, as fast as it is read or at a pace.

mod link;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::recording::{Recording, RecordingError};
use crate::{Burst, Frame, Source, Statistics};

/// A wait that nobody sees the end of.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A recording that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is none.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Its packets are not those of a network that can be tapped.
    #[error("{path}: {}", link::unknown(*link), path = path.display())]
    Link {
        /// The file.
        path: PathBuf,
        /// Its link type.
        link: u32,
    },
}

/// When packets of a recording come.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// Their distances.
    pub rate: Rate,
    /// After the last packet comes the first again.
    pub forever: bool,
}

/// Distances between packets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Rate {
    /// As fast as they are read.
    #[default]
    Fast,
    /// Those of the recording, divided by this.
    Recorded(f64),
    /// This many a second, evenly.
    PerSecond(f64),
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rate {
            Rate::Fast => f.write_str("as fast as it is read")?,
            Rate::Recorded(factor) => write!(f, "at {factor} times its own pace")?,
            Rate::PerSecond(rate) => write!(f, "at {rate} packets a second")?,
        }
        f.write_str(if self.forever { ", again and again" } else { "" })
    }
}

/// A recording as a source of Ethernet frames.
///
/// Packets without Ethernet header get one with addresses of zero bytes.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    recording: Recording,
    pace: Pace,
    ceased: bool,
    frame: Pending,
    /// Times of the packets, and how they become moments.
    clock: Clock,
    /// What went wrong after the last frame that was handed out.
    failure: Option<io::Error>,
    statistics: Statistics,
}

/// The frame that comes next.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Its time in the recording, nanoseconds since the epoch.
    time: u64,
    truncated: bool,
    /// When it is due; none before there is a frame.
    due: Option<Instant>,
}

#[derive(Debug, Default)]
struct Clock {
    /// Moment and time of the first packet of this round.
    start: Option<(Instant, u64)>,
    /// Packets of this round.
    count: u64,
    /// Time of the last packet, and what is added to times so that they go on after each round.
    last: u64,
    ahead: u64,
}

impl Replay {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is no recording, or not one of a network.
    pub fn open(path: &Path, pace: Pace) -> Result<Self, ReplayError> {
        let recording = read(path)?;
        if let Some(link) = recording.link().filter(|link| !link::is_known(*link)) {
            return Err(ReplayError::Link { path: path.to_owned(), link });
        }
        Ok(Self {
            path: path.to_owned(),
            recording,
            pace,
            ceased: false,
            frame: Pending::default(),
            clock: Clock::default(),
            failure: None,
            statistics: Statistics::default(),
        })
    }

    /// The format of the file: `pcap` or `pcapng`.
    pub const fn format(&self) -> &'static str {
        self.recording.format()
    }

    /// Reads the next frame; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        let packet = match self.recording.packet()? {
            Some(packet) => packet,
            None if self.pace.forever && self.clock.count > 0 => {
                self.recording = read(&self.path).map_err(io::Error::other)?;
                self.clock.next_round(self.pace.rate);
                match self.recording.packet()? {
                    Some(packet) => packet,
                    None => return Ok(false),
                }
            }
            None => return Ok(false),
        };
        let bytes = &mut self.frame.bytes;
        bytes.clear();
        if !link::write_ethernet(packet.link, packet.data, bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, link::unknown(packet.link)));
        }
        self.frame.truncated = packet.data.len() < packet.length;
        (self.frame.time, self.frame.due) = self.clock.packet(packet.time, self.pace.rate);
        Ok(true)
    }
}

impl Clock {
    /// The time that the next packet gets, and when it is due.
    fn packet(&mut self, time: u64, rate: Rate) -> (u64, Option<Instant>) {
        let (begun, first) = *self.start.get_or_insert_with(|| (Instant::now(), time));
        let due = begun.checked_add(rate.distance(self.count, time.saturating_sub(first)));
        self.count += 1;
        self.last = self.last.max(time);
        // A moment that no clock knows is never.
        (time.saturating_add(self.ahead), due.or(begun.checked_add(NEVER)))
    }

    /// Begins another round where the last one's next packet would have been.
    fn next_round(&mut self, rate: Rate) {
        let Some((begun, first)) = self.start.take() else { return };
        let length = self.last.saturating_sub(first);
        let length = length + (length / self.count.max(1)).max(1);
        let begins = begun.checked_add(rate.distance(self.count, length));
        self.start = begins.map(|begins| (begins, first));
        self.ahead = self.ahead.saturating_add(length);
        (self.count, self.last) = (0, first);
    }
}

impl Rate {
    /// From the first packet to one that comes after `count` others, and `nanoseconds` after the first in the
    /// recording.
    fn distance(self, count: u64, nanoseconds: u64) -> Duration {
        let seconds = match self {
            Self::Fast => return Duration::ZERO,
            Self::Recorded(factor) => nanoseconds as f64 * 1e-9 / factor,
            Self::PerSecond(rate) => count as f64 / rate,
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(NEVER)
    }
}

fn read(path: &Path) -> Result<Recording, RecordingError> {
    let file =
        File::open(path).map_err(|cause| RecordingError::Read { path: path.to_owned(), cause })?;
    Recording::read(BufReader::with_capacity(1 << 20, file), path)
}

impl Source for Replay {
    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst> {
        if self.ceased {
            return Ok(Burst::Ended);
        }
        let end = Instant::now() + timeout;
        for n in 0..max {
            if self.frame.due.is_none() {
                match self.failure.take().map_or_else(|| self.advance(), Err) {
                    Ok(true) => {}
                    Ok(false) if n == 0 => return Ok(Burst::Ended),
                    Ok(false) => return Ok(Burst::Frames(n)),
                    Err(error) if n == 0 => return Err(error),
                    Err(error) => {
                        self.failure = Some(error);
                        return Ok(Burst::Frames(n));
                    }
                }
            }
            if self.pace.rate != Rate::Fast
                && let Some(due) = self.frame.due
                && due > Instant::now()
            {
                if n > 0 {
                    return Ok(Burst::Frames(n));
                }
                std::thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
                if due > end {
                    return Ok(Burst::Frames(0));
                }
            }
            self.frame.due = None;
            let Pending { bytes, time, truncated, .. } = &self.frame;
            self.statistics.received += 1;
            self.statistics.truncated += u64::from(*truncated);
            let (timestamp, truncated) = (*time, *truncated);
            each(Frame { data: bytes, timestamp, truncated, checksum_incomplete: false });
        }
        Ok(Burst::Frames(max))
    }

    fn cease(&mut self) {
        self.ceased = true;
    }

    fn statistics(&mut self) -> Statistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcapng::{LINK_ETHERNET, LINK_IPV4, PcapngWriter, Record};

    const SECOND: u64 = 1_000_000_000;

    /// A recording of `count` packets, 10 ms apart.
    fn recorded(link: u16, count: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PcapngWriter::new(file.reopen().unwrap()).unwrap();
        writer.interface(link, 262_144, None).unwrap();
        for n in 0..count {
            let data = [0x45, n as u8];
            let time = SECOND + n * 10_000_000;
            let record = Record { interface: 0, data: &data, length: 2, time, comments: &[] };
            writer.packet(&record).unwrap();
        }
        file
    }

    /// Last byte and time of `count` frames.
    fn frames(source: &mut Replay, count: usize) -> Vec<(u8, u64)> {
        let mut out = Vec::new();
        let start = Instant::now();
        while out.len() < count {
            assert!(start.elapsed() < Duration::from_secs(30), "{} of {count}", out.len());
            let left = count - out.len();
            let mut each = |f: Frame<'_>| out.push((*f.data.last().unwrap(), f.timestamp));
            let burst = source.burst(left, Duration::from_millis(1), &mut each).unwrap();
            if burst == Burst::Ended {
                break;
            }
        }
        out
    }

    #[test]
    fn once_and_for_ever() {
        let file = recorded(LINK_IPV4, 3);
        let mut once = Replay::open(file.path(), Pace::default()).unwrap();
        let expected = [(0, SECOND), (1, SECOND + 10_000_000), (2, SECOND + 20_000_000)];
        assert_eq!(frames(&mut once, 100), expected);
        let forever = Pace { rate: Rate::Fast, forever: true };
        let mut source = Replay::open(file.path(), forever).unwrap();
        let seen = frames(&mut source, 300);
        let numbers: Vec<u8> = seen.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, [0, 1, 2].repeat(100));
        assert!(seen.windows(2).all(|two| two[0].1 < two[1].1), "time goes on after each round");
        let empty = recorded(LINK_ETHERNET, 0);
        assert_eq!(frames(&mut Replay::open(empty.path(), forever).unwrap(), 1), []);
    }

    #[test]
    fn no_packet_comes_before_it_is_due() {
        let file = recorded(LINK_ETHERNET, 5);
        // In the recording 40 ms pass from first to last.
        for (rate, least) in [(Rate::Recorded(2.0), 20), (Rate::PerSecond(50.0), 80)] {
            let start = Instant::now();
            let mut source = Replay::open(file.path(), Pace { rate, forever: false }).unwrap();
            assert_eq!(frames(&mut source, 5).len(), 5);
            assert!(start.elapsed() >= Duration::from_millis(least), "{rate:?}");
        }
        // One burst takes no more than its time, however far away the next packet is.
        let slow = Pace { rate: Rate::PerSecond(1e-300), forever: false };
        let mut source = Replay::open(file.path(), slow).unwrap();
        assert_eq!(frames(&mut source, 1).len(), 1);
        let burst = source.burst(1, Duration::from_millis(1), &mut |_| panic!("not due"));
        assert_eq!(burst.unwrap(), Burst::Frames(0));
    }

    #[test]
    fn rounds_follow_each_other_at_the_pace() {
        let mut clock = Clock::default();
        let rate = Rate::PerSecond(10.0);
        let due: Vec<Instant> = (0..6)
            .map(|n| {
                if n % 3 == 0 && n > 0 {
                    clock.next_round(rate);
                }
                clock.packet(SECOND + n % 3, rate).1.unwrap()
            })
            .collect();
        for two in due.windows(2) {
            let distance = (two[1] - two[0]).as_millis();
            assert!((99..=101).contains(&distance), "{distance} ms");
        }
    }

    #[test]
    fn other_networks_are_named() {
        let file = recorded(105, 1);
        let mut source = Replay::open(file.path(), Pace::default()).unwrap();
        let error = source.burst(1, Duration::ZERO, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("link type 105"), "{error}");
    }
}
