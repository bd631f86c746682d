//! An interface that the kernel's module captures from, as the reference's simulation build reads it.

use crate::pfring::Naps;
use crate::source::{About, Burst, Each, FrameSource, SourceState};
use pfring::Ring;
use std::io;
use std::time::Duration;

/// Packets that are taken before the worker has its turn.
const ROUND: usize = 64;

/// Opens `name`. Several workers share its packets as members of the module's cluster.
pub(super) fn open(name: &str, cluster: u32) -> io::Result<Box<dyn FrameSource>> {
    Ok(Box::new(Interface(Ring::open(name, cluster).map_err(io::Error::other)?)))
}

struct Interface(Ring);

impl Interface {
    /// One round without waiting.
    fn round(&mut self, each: &mut Each<'_>) -> io::Result<usize> {
        for count in 0..ROUND {
            match self.0.receive().map_err(io::Error::other)? {
                // The next one may lie where this one does.
                Some(frame) => each(&[frame], About::default()),
                None => return Ok(count),
            }
        }
        Ok(ROUND)
    }
}

impl FrameSource for Interface {
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> io::Result<Burst> {
        let mut naps = Naps::within(timeout);
        loop {
            let count = self.round(each)?;
            if count > 0 || !naps.take() {
                return Ok(Burst::Frames(count));
            }
        }
    }

    fn dropped(&mut self) -> u64 {
        self.0.statistics().map_or(0, |counters| counters.dropped)
    }

    fn state(&self) -> SourceState {
        SourceState::Attached
    }
}
