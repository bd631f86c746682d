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
    failed: Option<StreamError>,
    pub(super) lengths: Distribution,
}

impl Stream {
    pub(super) fn new(sends: &LinkSecret, receives: &LinkSecret, lengths: Distribution) -> Self {
        Self { sealer: Sealer::new(sends), opener: Opener::new(receives), failed: None, lengths }
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
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut seed = None;
        let opened = self.opener.open(bytes, rng, |frame| {
            match Packet::parse(frame)? {
                Packet::Payload(payload) => out.extend_from_slice(payload),
                Packet::Seed(found) => seed = Some(*found),
                Packet::Ignored => {}
            }
            Ok::<_, StreamError>(())
        });
        self.failed = opened.err();
        opened.map(|()| seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn pair() -> (Stream, Stream) {
        let secret = |byte| LinkSecret {
            key: [byte; 32],
            nonce_prefix: [byte; 16],
            length_seed: [byte; 24],
        };
        let stream = |sends, receives| {
            Stream::new(&secret(sends), &secret(receives), Distribution::lengths(&[7; 24]))
        };
        (stream(1, 2), stream(2, 1))
    }

    #[test]
    fn a_burst_is_padded_to_its_target() {
        let (mut stream, _) = pair();
        for target in 0..=MAX_SEGMENT {
            for burst in [1, 700, 1427, 1448, 5000] {
                let mut out = Vec::new();
                stream.pad(burst, target, &mut out).unwrap();
                let tail = (burst + out.len()) % MAX_SEGMENT;
                // Short pads come in frames of their own, which add 21 bytes.
                let exact = [target % MAX_SEGMENT, (target + EMPTY_FRAME) % MAX_SEGMENT];
                assert!(exact.contains(&tail), "{burst} {target} {tail}");
            }
        }
    }

    #[test]
    fn a_bad_packet_is_the_end() {
        let (mut ours, mut theirs) = pair();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (mut wire, mut out) = (Vec::new(), Vec::new());
        ours.sealer.seal(&mut wire, |out| out.extend([0, 0, 9])).unwrap();
        let error = StreamError::Packet(BadPacket);
        assert_eq!(theirs.receive(&wire, &mut rng, &mut out), Err(error));
        wire.clear();
        ours.send(b"more", &mut rng, &mut wire).unwrap();
        assert_eq!(theirs.receive(&wire, &mut rng, &mut out), Err(error));
        assert!(out.is_empty());
    }
}
