//! The client's side, from its first byte to the open tunnel.

use super::handshake::{self, Answer, BadAnswer};
use super::stream::{Stream, StreamError};
use super::{
    CLIENT_PADDING, ClientIdentity, Distribution, LinkKeys, LowOrder, MAX_HANDSHAKE, SEED_LEN,
    epoch_hour, uniform,
};
use keys::EphemeralKey;
use rand_core::CryptoRng;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Why a client gives a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The answer is as long as one can be, and its end was not found.
    #[error("the answer to the handshake has no mark")]
    NoMark,
    /// The answer was changed, or made in another hour.
    #[error("the MAC of the answer to the handshake is wrong")]
    Mac,
    /// The server does not own the identity key.
    #[error("the server does not prove the identity of the registration (AUTH mismatch)")]
    Auth,
    /// A key of the server is of low order.
    #[error(transparent)]
    LowOrder(#[from] LowOrder),
    /// The tunnel was open and broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Something was to be sent before the handshake was answered.
    #[error("the handshake is not answered yet")]
    NotOpen,
    /// The handshake failed before.
    #[error("the handshake failed")]
    Closed,
}

/// What a call of [`Client::receive`] led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The answer has not arrived whole.
    Handshaking,
    /// The tunnel is open.
    Open,
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    state: State,
}

#[derive(Debug)]
enum State {
    Handshaking(Box<Handshaking>),
    Open(Box<Open>),
    Closed,
}

#[derive(Debug)]
struct Handshaking {
    identity: ClientIdentity,
    ephemeral: EphemeralKey,
    hour: u64,
    received: Vec<u8>,
    searched: usize,
}

#[derive(Debug)]
struct Open {
    stream: Stream,
    pauses: Distribution,
}

impl Client {
    /// Begins a connection; the bytes returned are sent in one write.
    pub fn start<R: CryptoRng + ?Sized>(
        identity: ClientIdentity,
        now: Duration,
        rng: &mut R,
    ) -> (Self, Vec<u8>) {
        let ephemeral = EphemeralKey::generate(rng).with_bit_254_clear();
        let extra = (CLIENT_PADDING.end() - CLIENT_PADDING.start()) as u32;
        let mut padding = vec![0; CLIENT_PADDING.start() + uniform(extra, rng) as usize];
        rng.fill_bytes(&mut padding);
        Self::start_with(identity, ephemeral, &padding, now)
    }

    /// Begins a connection with this ephemeral key and padding.
    pub fn start_with(
        identity: ClientIdentity,
        ephemeral: EphemeralKey,
        padding: &[u8],
        now: Duration,
    ) -> (Self, Vec<u8>) {
        let hour = epoch_hour(now);
        let message =
            handshake::client_message(&identity, ephemeral.representative(), padding, hour);
        let state = Handshaking { identity, ephemeral, hour, received: Vec::new(), searched: 0 };
        (Self { state: State::Handshaking(Box::new(state)) }, message)
    }

    /// Takes `bytes` from the server and appends the payload they complete to `out`.
    ///
    /// # Errors
    /// When the handshake or the tunnel fails; the connection is then of no use.
    pub fn receive<R: CryptoRng + ?Sized>(
        &mut self,
        bytes: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<Progress, ClientError> {
        match &mut self.state {
            State::Closed => Err(ClientError::Closed),
            State::Open(open) => open.receive(bytes, rng, out).map(|()| Progress::Open),
            State::Handshaking(handshaking) => match handshaking.receive(bytes, rng) {
                Ok(None) => Ok(Progress::Handshaking),
                Ok(Some((mut open, rest, taken))) => {
                    let result = open
                        .receive(&rest, rng, out)
                        .and_then(|()| open.receive(&bytes[taken..], rng, out));
                    self.state = State::Open(Box::new(open));
                    result.map(|()| Progress::Open)
                }
                Err(error) => {
                    self.state = State::Closed;
                    Err(error)
                }
            },
        }
    }

    /// Appends one burst with `data` and its padding to `out`.
    ///
    /// # Errors
    /// While the tunnel is not open, and when all nonces of the direction were used.
    pub fn send<R: CryptoRng + ?Sized>(
        &mut self,
        data: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        match &mut self.state {
            State::Open(open) => Ok(open.stream.send(data, rng, out).map_err(StreamError::from)?),
            State::Handshaking(_) => Err(ClientError::NotOpen),
            State::Closed => Err(ClientError::Closed),
        }
    }

    /// How long released clients wait after each 1,448 bytes of a burst, the last one included;
    /// nothing while the tunnel is not open.
    pub fn pause<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> Duration {
        match &self.state {
            State::Open(open) => open.pauses.sample_pause(rng),
            _ => Duration::ZERO,
        }
    }
}

/// The open tunnel, what was received behind the answer, and how many of the new bytes were taken.
type Opened = (Open, Vec<u8>, usize);

impl Handshaking {
    fn receive<R: CryptoRng + ?Sized>(
        &mut self,
        bytes: &[u8],
        rng: &mut R,
    ) -> Result<Option<Opened>, ClientError> {
        let taken = bytes.len().min(MAX_HANDSHAKE - self.received.len());
        self.received.extend_from_slice(&bytes[..taken]);
        let found =
            handshake::find_answer(&self.identity, &self.received, &mut self.searched, self.hour);
        let Answer { representative, auth, len } = match found {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(BadAnswer::Mac) => return Err(ClientError::Mac),
            Err(BadAnswer::NoMark) => return Err(ClientError::NoMark),
        };
        let keys = LinkKeys::client(&self.identity, &self.ephemeral, representative)?;
        if !bool::from(keys.auth().ct_eq(auth)) {
            return Err(ClientError::Auth);
        }
        // Until the server's seed arrives, lengths and pauses follow a seed of the client's own.
        let mut seed = [0; SEED_LEN];
        rng.fill_bytes(&mut seed);
        let stream = Stream::new(&keys.upstream, &keys.downstream, Distribution::lengths(&seed));
        let open = Open { stream, pauses: Distribution::pauses(&seed) };
        Ok(Some((open, self.received.split_off(len), taken)))
    }
}

impl Open {
    fn receive<R: CryptoRng + ?Sized>(
        &mut self,
        bytes: &[u8],
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        if let Some(seed) = self.stream.receive(bytes, rng, out)? {
            self.stream.lengths = Distribution::lengths(&seed);
            self.pauses = Distribution::pauses(&seed);
        }
        Ok(())
    }
}
