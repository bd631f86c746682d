//! The handshake: messages in, flights out, until both Finished were seen.
//!
//! Messages in the clear can be forged by anyone who sees the path. One that does not fit or does
//! not verify is dropped as if it had been lost; the peer repeats the right one, and the time for
//! the handshake bounds the wait.

mod client;
mod server;

use crate::channel::{Alert, Channel};
use crate::config::{Config, Role};
use crate::connection::Closed;
use crate::flight::Flight;
use crate::group::Ephemeral;
use crate::hello::{ClientRandom, client_hello};
use crate::message::{self, CLIENT_HELLO, FINISHED};
use crate::reassembly::Reassembly;
use crate::record::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, Header};
use crate::refusal::{Discards, Refusal};
use crate::schedule::{MasterSecret, Sender, Suite};
use crate::wire::Reader;
use aws_lc_rs::hmac;
use rand_core::CryptoRng;
use std::collections::VecDeque;
use std::time::Instant;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Sealed records that are kept until their keys are there, and bytes of each.
const MAX_EARLY: usize = 4;
const MAX_EARLY_LEN: usize = 2048;
/// Signatures, certificates and keys that may be wrong before no more are looked at: a forger must
/// not make us compute without end.
const MAX_WRONG: u8 = 16;

/// What the handshake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Of a server, as the client.
    ServerHello {
        cookie: bool,
    },
    ServerCertificate,
    ServerKeyExchange,
    CertificateRequest,
    ServerHelloDone,
    ServerFinished,
    /// Of a client, as the server.
    ClientHello {
        cookie: bool,
    },
    ClientCertificate,
    ClientKeyExchange,
    CertificateVerify,
    ClientFinished,
}

/// What follows from a message that was accepted.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Wait for the next.
    Wait,
    /// Send the flight, then wait.
    Send,
    /// Both Finished were seen; a server sends its last flight first.
    Done,
    /// The peer is authentic and saw another handshake.
    Broken,
}

/// How far the handshake is after something arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Going,
    Done,
    Closed(Closed),
}

/// Random bytes for one handshake, expanded from one draw.
struct Draws {
    key: hmac::Key,
    count: u64,
}

impl Draws {
    fn new<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut seed[..]);
        Self { key: hmac::Key::new(hmac::HMAC_SHA512, &seed[..]), count: 0 }
    }

    /// `N` bytes, at most 64, that were not drawn before.
    fn next<const N: usize>(&mut self) -> [u8; N] {
        self.count += 1;
        let block = hmac::sign(&self.key, &self.count.to_be_bytes());
        *block.as_ref().first_chunk().expect("N is at most 64")
    }
}

/// Sealed records that came before their turn.
pub(crate) type Early = Vec<(Header, Vec<u8>)>;

/// A handshake that is going on.
pub(crate) struct Handshake {
    config: Config,
    stage: Stage,
    draws: Draws,
    /// The messages so far, without those before a cookie.
    transcript: Vec<u8>,
    reassembly: Reassembly,
    flight: Flight,
    /// Number of our next message.
    sequence: u16,
    /// Number of our next record in the clear.
    number: u64,
    client_random: ClientRandom,
    server_random: [u8; 32],
    suite: Suite,
    cookie: [u8; 20],
    ephemeral: Option<Ephemeral>,
    premaster: Zeroizing<Vec<u8>>,
    master: MasterSecret,
    /// Of our Finished, as the server.
    verify_data: [u8; 12],
    channel: Option<Box<Channel>>,
    early: Early,
    wrong: u8,
    /// Why the latest message was refused.
    refused: Option<Refusal>,
    retransmit_at: Option<Instant>,
    deadline: Instant,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Handshake {
    /// Begins; a client's first flight goes to `outbox`.
    pub(crate) fn new<R: CryptoRng + ?Sized>(
        config: Config,
        now: Instant,
        rng: &mut R,
        outbox: &mut VecDeque<Vec<u8>>,
    ) -> Self {
        let mut draws = Draws::new(rng);
        let unix_time = config.unix_time as u32;
        // Existing servers begin their random with the time, too.
        let mut server_random = draws.next();
        server_random[..4].copy_from_slice(&unix_time.to_be_bytes());
        let mut handshake = Self {
            stage: match config.role {
                Role::Client => Stage::ServerHello { cookie: false },
                Role::Server => Stage::ClientHello { cookie: false },
            },
            transcript: Vec::new(),
            reassembly: Reassembly::default(),
            flight: Flight::default(),
            sequence: 0,
            number: 0,
            client_random: ClientRandom::new(unix_time, &config.tag),
            server_random,
            suite: Suite::Aes128GcmSha256,
            cookie: draws.next(),
            ephemeral: None,
            premaster: Zeroizing::default(),
            master: MasterSecret::new([0; 48]),
            verify_data: [0; 12],
            channel: None,
            early: Vec::new(),
            wrong: 0,
            refused: None,
            retransmit_at: None,
            deadline: now + config.handshake_limit,
            draws,
            config,
        };
        if handshake.config.role == Role::Client {
            let hello = client_hello(&handshake.client_random, &[]);
            handshake.send(CLIENT_HELLO, hello);
            handshake.transmit(now, outbox);
        }
        handshake
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn timeout(&self) -> Instant {
        self.retransmit_at.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// Repeats the flight, or gives up.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        outbox: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Closed> {
        if self.deadline <= now {
            return Err(Closed::Timeout(self.refused));
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            // What the caller did not take is the same flight.
            outbox.clear();
            self.transmit(now, outbox);
        }
        Ok(())
    }

    /// The keys, once both Finished were seen, and the sealed records that came too early.
    pub(crate) fn finish(mut self) -> Option<(Box<Channel>, Early)> {
        let early = std::mem::take(&mut self.early);
        self.channel.map(|channel| (channel, early))
    }

    /// Takes one record.
    pub(crate) fn record(
        &mut self,
        now: Instant,
        header: Header,
        body: &mut [u8],
        discards: &mut Discards,
        outbox: &mut VecDeque<Vec<u8>>,
    ) -> Progress {
        let result = match (header.epoch, header.content) {
            (0, HANDSHAKE) => self.fragments(0, body),
            // The epoch of each record says what this one says.
            (0, CHANGE_CIPHER_SPEC) => return Progress::Going,
            (0, ALERT) => Err(Refusal::PlainAlert),
            (0, _) => Err(Refusal::Unexpected),
            (1, _) => match self.sealed(header, body) {
                Ok(Some(closed)) => return Progress::Closed(closed),
                Ok(None) => Ok(()),
                Err(refusal) => Err(refusal),
            },
            _ => Err(Refusal::Epoch),
        };
        if let Err(refusal) = result {
            discards.note(refusal);
        }
        self.messages(now, discards, outbox)
    }

    /// Takes a record of epoch 1.
    fn sealed(&mut self, header: Header, body: &mut [u8]) -> Result<Option<Closed>, Refusal> {
        // Data waits for the end of the handshake, everything for the keys.
        let keyed = self.channel.is_some() && matches!(header.content, HANDSHAKE | ALERT);
        let Some(channel) = self.channel.as_mut().filter(|_| keyed) else {
            if self.early.len() == MAX_EARLY || body.len() > MAX_EARLY_LEN {
                return Err(Refusal::Unexpected);
            }
            self.early.push((header, body.to_vec()));
            return Ok(None);
        };
        let payload = channel.open(header, body)?;
        if header.content == HANDSHAKE {
            return self.fragments(1, payload).map(|()| None);
        }
        Ok(match Alert::parse(payload)? {
            Alert::CloseNotify => Some(Closed::Peer),
            Alert::Fatal(description) => Some(Closed::Alert(description)),
            Alert::Other => None,
        })
    }

    /// Keeps the fragments in the body of a handshake record of `epoch`.
    fn fragments(&mut self, epoch: u16, body: &[u8]) -> Result<(), Refusal> {
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let (header, fragment) =
                message::next_fragment(&mut reader).ok_or(Refusal::Malformed)?;
            // Finished is sealed, and nothing else is.
            if (header.kind == FINISHED) != (epoch == 1) {
                return Err(Refusal::Epoch);
            }
            self.reassembly.add(header, fragment)?;
        }
        Ok(())
    }

    /// Takes the messages whose turn it is.
    fn messages(
        &mut self,
        now: Instant,
        discards: &mut Discards,
        outbox: &mut VecDeque<Vec<u8>>,
    ) -> Progress {
        while let Some((kind, body)) = self.reassembly.take() {
            let keyless = self.channel.is_none();
            let result = match self.config.role {
                Role::Client => self.client_receives(kind, &body),
                Role::Server => self.server_receives(kind, &body),
            };
            let step = match result {
                Ok(step) => step,
                Err(refusal) => {
                    discards.note(refusal);
                    self.refused = Some(refusal);
                    continue;
                }
            };
            self.reassembly.advance();
            match step {
                Step::Wait => {}
                Step::Send => self.transmit(now, outbox),
                Step::Done => {
                    if self.config.role == Role::Server {
                        self.transmit(now, outbox);
                        self.keep_last_flight();
                    }
                    return Progress::Done;
                }
                Step::Broken => return Progress::Closed(Closed::Finished),
            }
            if keyless && self.channel.is_some() {
                for (header, mut body) in std::mem::take(&mut self.early) {
                    match self.sealed(header, &mut body) {
                        Ok(None) => {}
                        Ok(Some(closed)) => return Progress::Closed(closed),
                        Err(refusal) => discards.note(refusal),
                    }
                }
            }
        }
        Progress::Going
    }

    /// Notes a message of the peer that was accepted.
    fn accept(&mut self, kind: u8, body: &[u8]) {
        let sequence = self.reassembly.next();
        self.transcript.extend_from_slice(&message::whole(kind, sequence, body));
    }

    /// Adds a message to the flight and the transcript.
    fn send(&mut self, kind: u8, body: Vec<u8>) {
        self.transcript.extend_from_slice(&message::whole(kind, self.sequence, &body));
        self.flight.message(kind, self.sequence, body);
        self.sequence += 1;
    }

    fn transmit(&mut self, now: Instant, outbox: &mut VecDeque<Vec<u8>>) {
        let sealing = self.channel.as_mut().map(|channel| &mut channel.sealing);
        self.flight.transmit(self.config.datagram_limit, &mut self.number, sealing, outbox);
        self.retransmit_at = Some(now + self.config.retransmit_interval);
    }

    /// Counts a check with public-key work that failed.
    fn check(&mut self, good: bool, refusal: Refusal) -> Result<(), Refusal> {
        if !good {
            self.wrong += 1;
        }
        good.then_some(()).ok_or(refusal)
    }

    /// Whether enough checks failed for one handshake.
    fn spend(&self) -> Result<(), Refusal> {
        (self.wrong < MAX_WRONG).then_some(()).ok_or(Refusal::Unexpected)
    }

    /// The peer's certificate must be the expected one, in either role.
    fn check_certificate(&mut self, body: &[u8]) -> Result<(), Refusal> {
        self.spend()?;
        let certificate = message::parse_certificate(body)?;
        let good = self.config.peer.certifies(certificate);
        self.check(good, Refusal::Certificate)
    }

    /// Derives the keys; the transcript ends with ClientKeyExchange.
    fn derive_keys(&mut self) {
        self.master = self.suite.master_secret(&self.premaster, &self.transcript);
        self.premaster = Zeroizing::default();
        self.ephemeral = None;
        let keys =
            self.suite.keys(&self.master, self.client_random.as_bytes(), &self.server_random);
        let (own, peer) = match self.config.role {
            Role::Client => (Sender::Client, Sender::Server),
            Role::Server => (Sender::Server, Sender::Client),
        };
        let sealing = keys.sealing(own, &self.draws.next());
        self.channel = Some(Box::new(Channel::new(keys.opening(peer), sealing)));
    }

    /// Whether a Finished says what it must.
    fn finished_matches(expected: &[u8; 12], body: &[u8]) -> bool {
        expected.ct_eq(body).into()
    }
}
