//! The station's side of a connection that was identified.

use super::handshake::{self, tail_mark};
use super::replay::{Freshness, ReplayFilter};
use super::stream::{Stream, StreamError};
use super::{
    Distribution, Drain, LinkKeys, MARK_LEN, MAX_HANDSHAKE, REPRESENTATIVE, SEED_LEN,
    SERVER_PADDING, ServerIdentity, Thresholds, epoch_hour, uniform,
};
use keys::EphemeralKey;
use rand_core::CryptoRng;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Why a connection with a valid mark, or an open tunnel, is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not a handshake of this identity, or bytes follow it.
    #[error("the handshake has no mark at its end")]
    Mark,
    /// The MAC fits none of three hours: a wrong clock, or bytes that were changed.
    #[error("the handshake's MAC verifies for no hour; check the clocks of both sides")]
    Mac,
    /// The handshake was accepted before.
    #[error("the handshake is replayed")]
    Replay,
    /// This identity has made more handshakes than the replay filter remembers.
    #[error("the identity makes too many handshakes")]
    TooMany,
    /// A key of the client is of low order.
    #[error(transparent)]
    LowOrder(#[from] super::LowOrder),
    /// The tunnel was open and broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A connection that failed. Nothing is written any more; it is drained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Refused {
    /// Why, for counters.
    pub failure: Failure,
    /// How long it is drained.
    pub drain: Drain,
}

/// An open tunnel.
#[derive(Debug)]
pub struct Server {
    stream: Stream,
    thresholds: Thresholds,
}

/// What the caller chooses of an answer; drawn at random except in tests.
#[derive(Debug)]
pub struct Choices {
    /// The ephemeral key; bit 254 of its representative is clear.
    pub ephemeral: EphemeralKey,
    /// Length of the padding, within [`SERVER_PADDING`].
    pub padding: usize,
    /// Seed of length distribution and thresholds.
    pub seed: [u8; SEED_LEN],
}

impl Choices {
    /// Draws all of them.
    pub fn draw<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = [0; SEED_LEN];
        rng.fill_bytes(&mut seed);
        Self {
            ephemeral: EphemeralKey::generate(rng).with_bit_254_clear(),
            padding: uniform(*SERVER_PADDING.end() as u32, rng) as usize,
            seed,
        }
    }
}

impl Server {
    /// Answers `handshake`, everything that was received, whose tail has the mark of `identity`.
    /// The bytes returned are sent in one write.
    ///
    /// # Errors
    /// When the handshake is refused; the connection is then drained.
    pub fn accept<R: CryptoRng + ?Sized>(
        identity: &ServerIdentity,
        handshake: &[u8],
        now: Duration,
        replays: &mut ReplayFilter,
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let choices = Choices::draw(rng);
        Self::accept_with(identity, handshake, now, replays, &choices, rng)
    }

    /// As [`accept`](Self::accept), with `choices`; `rng` fills the padding.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_with<R: CryptoRng + ?Sized>(
        identity: &ServerIdentity,
        handshake: &[u8],
        now: Duration,
        replays: &mut ReplayFilter,
        choices: &Choices,
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let thresholds = Thresholds::new(&choices.seed);
        let (keys, hour) = agree(identity, handshake, now, replays, &choices.ephemeral)
            .map_err(|failure| Refused { failure, drain: Drain::new(thresholds, now) })?;
        let mut padding = vec![0; choices.padding];
        rng.fill_bytes(&mut padding);
        let mut reply = handshake::server_message(
            identity.shared(),
            choices.ephemeral.representative(),
            keys.auth(),
            &padding,
            hour,
        );
        let mut stream =
            Stream::new(&keys.downstream, &keys.upstream, Distribution::lengths(&choices.seed));
        // The seed goes with the reply, because the padding of clients counts on its frame.
        stream.send_seed(&choices.seed, &mut reply).expect("the first frame has a nonce");
        Ok((Self { stream, thresholds }, reply))
    }

    /// Takes `bytes` from the client and appends the payload they complete to `out`.
    ///
    /// # Errors
    /// When the stream was tampered with. Payload before that place is in `out`.
    pub fn receive<R: CryptoRng + ?Sized>(
        &mut self,
        bytes: &[u8],
        now: Duration,
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        // A client has no seed to give.
        self.stream.receive(bytes, rng, out).map(drop).map_err(|error| Refused {
            failure: error.into(),
            drain: Drain::new(self.thresholds, now),
        })
    }

    /// Appends one burst with `data` and its padding to `out`, to be sent in one write.
    ///
    /// # Errors
    /// When all nonces of the direction were used.
    pub fn send<R: CryptoRng + ?Sized>(
        &mut self,
        data: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<(), StreamError> {
        Ok(self.stream.send(data, rng, out)?)
    }
}

/// Verifies the handshake and agrees on keys.
fn agree(
    identity: &ServerIdentity,
    handshake: &[u8],
    now: Duration,
    replays: &mut ReplayFilter,
    ephemeral: &EphemeralKey,
) -> Result<(LinkKeys, u64), Failure> {
    let shared = identity.shared();
    let representative: &[u8; REPRESENTATIVE] = handshake.first_chunk().ok_or(Failure::Mark)?;
    let mark = tail_mark(handshake).ok_or(Failure::Mark)?;
    if handshake.len() > MAX_HANDSHAKE || !bool::from(mark.ct_eq(&shared.mark(representative))) {
        return Err(Failure::Mark);
    }
    let hour = handshake::verified_hour(shared, handshake, epoch_hour(now)).ok_or(Failure::Mac)?;
    let mac: &[u8; MARK_LEN] = handshake.last_chunk().ok_or(Failure::Mac)?;
    match replays.check(shared, mac, now) {
        Freshness::Fresh => {}
        Freshness::Replayed => return Err(Failure::Replay),
        Freshness::Full => return Err(Failure::TooMany),
    }
    Ok((LinkKeys::server(identity, ephemeral, representative)?, hour))
}
