//! An open tunnel: bursts out, payload in (`spec/transports.md` 7.5).

use super::frame::{FRAME_OVERHEAD, FrameError, MAX_SEGMENT, Opener, Sealer};
use super::packet::{self, BadPacket, HEADER, MAX_PACKET_PAYLOAD, Packet};
use super::{Distribution, LinkSecret, SEED_LEN};
use rand_core::CryptoRng;

/// Length of a frame with an empty packet.
const EMPTY_FRAME: usize = FRAME_OVERHEAD + HEADER;

/// Why an open tunnel cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A frame cannot be opened.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame holds no packet.
    #[error(transparent)]
    Packet(#[from] BadPacket),
}

#[derive(Debug)]
pub(super) struct Stream {
    sealer: Sealer,
    opener: Opener,
    pub(super) lengths: Distribution,
}

impl Stream {
    pub(super) fn new(sends: &LinkSecret, receives: &LinkSecret, lengths: Distribution) -> Self {
        Self { sealer: Sealer::new(sends), opener: Opener::new(receives), lengths }
    }

    /// Appends `data` and the padding of its burst to `out`; nothing for no data.
    pub(super) fn send<R: CryptoRng + ?Sized>(
        &mut self,
        data: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if data.is_empty() {
            return Ok(());
        }
        let frames = data.len().div_ceil(MAX_PACKET_PAYLOAD) + 2;
        out.reserve(data.len() + frames * EMPTY_FRAME + MAX_SEGMENT);
        let start = out.len();
        for payload in data.chunks(MAX_PACKET_PAYLOAD) {
            self.packet(packet::PAYLOAD, payload, 0, out)?;
        }
        let burst = out.len() - start;
        self.pad(burst, usize::from(self.lengths.sample(rng)), out)
    }

    pub(super) fn send_seed(
        &mut self,
        seed: &[u8; SEED_LEN],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        self.packet(packet::PRNG_SEED, seed, 0, out)
    }

    /// Pads a burst so that its last segment has `target` bytes.
    fn pad(&mut self, burst: usize, target: usize, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let tail = burst % MAX_SEGMENT;
        let padding = if target >= tail { target - tail } else { MAX_SEGMENT - tail + target };
        match padding {
            0 => Ok(()),
            // Too short for a frame of its own: one more full segment goes before it.
            1..=EMPTY_FRAME => {
                self.packet(packet::PAYLOAD, &[], MAX_PACKET_PAYLOAD, out)?;
                self.packet(packet::PAYLOAD, &[], padding, out)
            }
            _ => self.packet(packet::PAYLOAD, &[], padding - EMPTY_FRAME, out),
        }
    }

    fn packet(
        &mut self,
        kind: u8,
        payload: &[u8],
        padding: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        self.sealer.seal(out, |out| packet::write(out, kind, payload, padding))
    }

    /// Opens what `bytes` complete: payload goes to `out`, the last seed is returned.
    pub(super) fn receive<R: CryptoRng + ?Sized>(
        &mut self,
        bytes: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<Option<[u8; SEED_LEN]>, StreamError> {
        let mut seed = None;
        self.opener.open(bytes, rng, |frame| {
            match Packet::parse(frame)? {
                Packet::Payload(payload) => out.extend_from_slice(payload),
                Packet::Seed(found) => seed = Some(*found),
                Packet::Ignored => {}
            }
            Ok::<_, StreamError>(())
        })?;
        Ok(seed)
    }
}
