//! Frames: secret boxes behind masked lengths (`spec/transports.md` 7.4).

use super::{LinkSecret, drbg::Drbg, uniform};
use rand_core::CryptoRng;
use salsa20::cipher::consts::U10;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize as _, Zeroizing};

/// Most payload that one frame carries.
pub const MAX_FRAME_PAYLOAD: usize = 1430;
/// Longest frame.
pub const MAX_SEGMENT: usize = MAX_FRAME_PAYLOAD + FRAME_OVERHEAD;
/// Bytes of a frame that are not payload: length and tag.
pub const FRAME_OVERHEAD: usize = LENGTH + TAG;

const LENGTH: usize = 2;
const TAG: usize = 16;
/// What the one-time key of the tag takes from the front of the key stream.
const MAC_KEY: usize = 32;
/// Key stream of the longest frame.
const STREAM: usize = (MAC_KEY + MAX_FRAME_PAYLOAD).next_multiple_of(secretbox::STRIDE);

/// Why a stream of frames cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A box that was not sealed by the peer, or not in this place.
    #[error("a frame fails authentication")]
    Authentication,
    /// A length that no frame has; reported once as many bytes as a frame may have were read, so
    /// that nobody learns which length it was.
    #[error("a frame has an impossible length")]
    Length,
    /// All nonces were used.
    #[error("the frame counter is used up")]
    Exhausted,
}

/// State of one direction.
struct Link {
    // The nonce prefix never changes, so neither does the key that XSalsa20 derives from it.
    subkey: Zeroizing<[u8; 32]>,
    counter: u64,
    lengths: Drbg,
}

impl Link {
    fn new(secret: &LinkSecret) -> Self {
        let subkey =
            salsa20::hsalsa::<U10>((&secret.key).into(), (&secret.nonce_prefix).into()).into();
        Self { subkey: Zeroizing::new(subkey), counter: 1, lengths: Drbg::new(&secret.length_seed) }
    }

    /// The nonce of the next frame.
    fn next(&mut self) -> Result<[u8; 8], FrameError> {
        if self.counter == 0 {
            return Err(FrameError::Exhausted);
        }
        let nonce = self.counter.to_be_bytes();
        self.counter = self.counter.wrapping_add(1);
        Ok(nonce)
    }

    /// What seals and opens the frame with `nonce`, for so many bytes of payload.
    fn cipher(&self, nonce: &[u8; 8], payload: usize) -> Cipher {
        let mut stream = [0; STREAM];
        let whole = (MAC_KEY + payload).next_multiple_of(secretbox::STRIDE).min(STREAM);
        secretbox::keystream(&self.subkey, nonce, &mut stream[..whole]);
        Cipher { stream }
    }
}

/// The key stream of one frame: key of the tag, then what hides the payload.
struct Cipher {
    stream: [u8; STREAM],
}

impl Cipher {
    fn tag(&self, sealed: &[u8]) -> [u8; TAG] {
        let key = self.stream.first_chunk::<MAC_KEY>().expect("a stream is longer");
        secretbox::authenticate(key, sealed)
    }

    fn apply(&self, payload: &mut [u8]) {
        for (byte, key) in payload.iter_mut().zip(&self.stream[MAC_KEY..]) {
            *byte ^= key;
        }
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.stream[..MAC_KEY].zeroize();
    }
}

/// Seals frames.
pub struct Sealer(Link);

impl Sealer {
    /// Before the first frame of the direction with `secret`.
    pub fn new(secret: &LinkSecret) -> Self {
        Self(Link::new(secret))
    }

    /// Appends a frame to `out` whose payload is what `write` appends, at most
    /// [`MAX_FRAME_PAYLOAD`] bytes.
    ///
    /// # Errors
    /// When all nonces were used.
    pub fn seal(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), FrameError> {
        let nonce = self.0.next()?;
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_OVERHEAD]);
        write(out);
        let (header, payload) = out[start..].split_at_mut(FRAME_OVERHEAD);
        debug_assert!(payload.len() <= MAX_FRAME_PAYLOAD);
        let cipher = self.0.cipher(&nonce, payload.len());
        cipher.apply(payload);
        let length = (payload.len() + TAG) as u16 ^ self.0.lengths.mask();
        header[..LENGTH].copy_from_slice(&length.to_be_bytes());
        header[LENGTH..].copy_from_slice(&cipher.tag(payload));
        Ok(())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(_)")
    }
}

/// Opens frames. It keeps at most one frame that has not arrived whole.
pub struct Opener {
    link: Link,
    /// Length of the box that is awaited, once known.
    expected: Option<usize>,
    /// The length on the wire was impossible; `expected` is made up.
    invalid: bool,
    partial: Vec<u8>,
    failed: Option<FrameError>,
}

impl Opener {
    /// Before the first frame of the direction with `secret`.
    pub fn new(secret: &LinkSecret) -> Self {
        Self {
            link: Link::new(secret),
            expected: None,
            invalid: false,
            partial: Vec::new(),
            failed: None,
        }
    }

    /// Takes `bytes` of the stream and hands each payload that they complete to `deliver`, in
    /// order. `rng` draws the length that stands for an impossible one.
    ///
    /// # Errors
    /// For the first frame that cannot be opened, and ever after.
    pub fn open<R: CryptoRng + ?Sized, E: From<FrameError>>(
        &mut self,
        mut bytes: &[u8],
        rng: &mut R,
        mut deliver: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        let mut scratch = [0; MAX_FRAME_PAYLOAD];
        loop {
            let wanted = self.expected.unwrap_or(LENGTH);
            let missing = wanted - self.partial.len();
            if bytes.len() < missing {
                self.partial.extend_from_slice(bytes);
                return Ok(());
            }
            let (now, later) = bytes.split_at(missing);
            bytes = later;
            let held;
            let whole = if self.partial.is_empty() {
                now
            } else {
                self.partial.extend_from_slice(now);
                held = std::mem::take(&mut self.partial);
                &held
            };
            if self.expected.is_none() {
                self.length(u16::from_be_bytes([whole[0], whole[1]]), rng);
                continue;
            }
            self.expected = None;
            match self.open_box(whole, &mut scratch) {
                Ok(payload) => deliver(payload)?,
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error.into());
                }
            }
        }
    }

    fn length<R: CryptoRng + ?Sized>(&mut self, masked: u16, rng: &mut R) {
        const LONGEST: usize = MAX_FRAME_PAYLOAD + TAG;
        let length = usize::from(masked ^ self.link.lengths.mask());
        self.invalid = !(TAG..=LONGEST).contains(&length);
        self.expected = Some(if self.invalid {
            TAG + uniform((LONGEST - TAG) as u32, rng) as usize
        } else {
            length
        });
    }

    fn open_box<'a>(
        &mut self,
        sealed: &[u8],
        scratch: &'a mut [u8; MAX_FRAME_PAYLOAD],
    ) -> Result<&'a [u8], FrameError> {
        let nonce = self.link.next()?;
        let (tag, sealed) = sealed.split_at(TAG);
        let cipher = self.link.cipher(&nonce, sealed.len());
        let computed = cipher.tag(sealed);
        if self.invalid {
            return Err(FrameError::Length);
        }
        if !bool::from(computed.as_slice().ct_eq(tag)) {
            return Err(FrameError::Authentication);
        }
        let payload = &mut scratch[..sealed.len()];
        payload.copy_from_slice(sealed);
        cipher.apply(payload);
        Ok(payload)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener(_)")
    }
}
