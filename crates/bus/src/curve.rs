//! The CURVE mechanism (RFC 26, `spec/registrar.md` 10.4) as a value: fed command bodies, it
//! answers with command bodies. The holder of a server key proves that it has it, the client
//! proves its own key, and everything behind the handshake is sealed.
//!
//! The state is per connection, so the cookie of the handshake carries nothing: it is random, and
//! compared.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::sealed::{OVERHEAD, SharedKey};

const HELLO: &[u8] = b"\x05HELLO";
const WELCOME: &[u8] = b"\x07WELCOME";
const INITIATE: &[u8] = b"\x08INITIATE";
const READY: &[u8] = b"\x05READY";
const ERROR: &[u8] = b"\x05ERROR";
const MESSAGE: &[u8] = b"\x07MESSAGE";

/// Command body a server refuses an unlisted client with, as ZAP status 400 becomes one.
const ERROR_400: &[u8] = b"\x05ERROR\x03400";

const COOKIE_LEN: usize = 96;
/// In a box of `HELLO`, all zero.
const HELLO_BOX_LEN: usize = 64;
/// Client key, vouch nonce and vouch, before the metadata of `INITIATE`.
const VOUCHED_LEN: usize = 32 + 16 + 64 + OVERHEAD;

/// Inner flag: more frames of the same message follow.
pub(crate) const FLAG_MORE: u8 = 1;
/// Inner flag: a command.
pub(crate) const FLAG_COMMAND: u8 = 2;

/// A long-term key pair. The secret is wiped when dropped and never printed.
#[derive(Clone)]
pub struct CurveKeys {
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl CurveKeys {
    /// The pair of a secret key; the public key is computed.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { secret: Zeroizing::new(*secret), public: keys::public_key(secret) }
    }

    /// The public key.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

impl fmt::Debug for CurveKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveKeys({})", keys::z85(&self.public))
    }
}

/// What a connecting side knows.
#[derive(Debug, Clone)]
pub struct CurveClient {
    /// Its own keys.
    pub keys: CurveKeys,
    /// Key of the server, known beforehand.
    pub server: [u8; 32],
}

/// Clients that a server admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// All that know the server's key.
    All,
    /// The holders of these keys.
    Listed(BTreeSet<[u8; 32]>),
}

/// The clients that a server admits at present. Copies share one list, which can be replaced while
/// connections are open.
#[derive(Debug, Clone)]
pub struct Admission(Arc<ArcSwap<Admitted>>);

impl From<Admitted> for Admission {
    fn from(admitted: Admitted) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(admitted)))
    }
}

impl Admission {
    /// Replaces the list for handshakes to come.
    pub fn replace(&self, admitted: Admitted) {
        self.0.store(Arc::new(admitted));
    }

    /// Whether the holder of `key` is admitted.
    pub fn admits(&self, key: &[u8; 32]) -> bool {
        match &**self.0.load() {
            Admitted::All => true,
            Admitted::Listed(listed) => listed.contains(key),
        }
    }
}

/// What a listening side knows.
#[derive(Debug, Clone)]
pub struct CurveServer {
    /// Its own keys.
    pub keys: CurveKeys,
    /// Clients that it admits.
    pub admitted: Admission,
    /// Told about every client that has proved its key: the key, and whether it was admitted.
    pub observer: Option<fn(&[u8; 32], bool)>,
}

/// Random bytes of one connection.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Entropy {
    /// Secret key of this connection.
    pub short_secret: [u8; 32],
    /// Nonce of the one box with a random nonce: `WELCOME` of a server, the vouch of a client.
    pub nonce: [u8; 16],
    /// Cookie of a server.
    pub cookie: [u8; 96],
}

impl Entropy {
    /// Draws all of it.
    pub fn draw<R: rand::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut drawn = Self { short_secret: [0; 32], nonce: [0; 16], cookie: [0; COOKIE_LEN] };
        rng.fill_bytes(&mut drawn.short_secret);
        rng.fill_bytes(&mut drawn.nonce);
        rng.fill_bytes(&mut drawn.cookie);
        drawn
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(_)")
    }
}

/// Why a connection under CURVE has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CurveError {
    /// A command of the wrong name or length.
    #[error("CURVE: malformed {expected} command from the peer")]
    Malformed {
        /// Command that was due.
        expected: &'static str,
    },
    /// A box does not open.
    #[error(
        "CURVE: {command} of the peer does not open with the configured keys; compare the server \
         key on both sides"
    )]
    Key {
        /// Command with the box.
        command: &'static str,
    },
    /// The peer echoes another cookie or vouches for another connection.
    #[error("CURVE: INITIATE of the peer belongs to another connection")]
    Foreign,
    /// The client is not on the list.
    #[error("CURVE: client key {} is not admitted", keys::z85(.0))]
    NotAdmitted([u8; 32]),
    /// The server does not want this side's key.
    #[error(
        "CURVE: peer refused this side's key {} with status {status}; add the key to the peer's \
         list of stations", keys::z85(.key)
    )]
    Refused {
        /// Key of this side.
        key: [u8; 32],
        /// Reason the server gave, printable characters only.
        status: String,
    },
    /// A sealed message does not open or repeats a number.
    #[error("CURVE: a sealed message of the peer does not open, or is a repetition")]
    Message,
}

/// Outcome of one handshake command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Command body to answer with.
    pub(crate) reply: Option<Vec<u8>>,
    /// Metadata of the peer: the handshake is over.
    pub(crate) metadata: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Side {
    Client(Arc<CurveClient>),
    Server(Arc<CurveServer>),
}

#[derive(Debug, Clone)]
enum State {
    /// Client, before its `HELLO` is answered.
    AwaitWelcome,
    /// Client, after `INITIATE`.
    AwaitReady { traffic: SharedKey },
    /// Server, before anything.
    AwaitHello,
    /// Server, after `WELCOME`.
    AwaitInitiate { client_short: [u8; 32], traffic: SharedKey },
    /// Both, after the handshake.
    Traffic { traffic: SharedKey },
    /// The handshake failed.
    Failed,
}

/// CURVE of one connection.
#[derive(Debug, Clone)]
pub struct Curve {
    side: Side,
    state: State,
    entropy: Entropy,
    /// Number of the last box sent.
    sent: u64,
    /// Number of the last box received.
    received: u64,
    /// Proved key of the peer.
    peer: Option<[u8; 32]>,
}

impl Curve {
    /// The connecting side.
    pub const fn client(client: Arc<CurveClient>, entropy: Entropy) -> Self {
        Self::new(Side::Client(client), State::AwaitWelcome, entropy)
    }

    /// The listening side.
    pub const fn server(server: Arc<CurveServer>, entropy: Entropy) -> Self {
        Self::new(Side::Server(server), State::AwaitHello, entropy)
    }

    const fn new(side: Side, state: State, entropy: Entropy) -> Self {
        Self { side, state, entropy, sent: 0, received: 0, peer: None }
    }

    /// Long-term key of the peer, once it is proved.
    pub const fn peer(&self) -> Option<&[u8; 32]> {
        self.peer.as_ref()
    }

    /// Name of the command that is due next.
    pub(crate) const fn due(&self) -> &'static str {
        match self.state {
            State::AwaitWelcome => "WELCOME command",
            State::AwaitReady { .. } => "READY command",
            State::AwaitHello => "HELLO command",
            State::AwaitInitiate { .. } => "INITIATE command",
            State::Traffic { .. } => "MESSAGE",
            State::Failed => "end",
        }
    }

    /// The command of a client that waits for its answer, and what it most likely means when the
    /// connection ends now: servers of the field close it without a word.
    pub(crate) const fn unanswered(&self) -> Option<(&'static str, &'static str)> {
        match self.state {
            State::AwaitWelcome => Some(("HELLO", "its key is not the configured server key")),
            State::AwaitReady { .. } => Some(("INITIATE", "it does not admit this side's key")),
            _ => None,
        }
    }

    /// The first command; a server waits for it.
    pub(crate) fn hello(&mut self) -> Result<Option<Vec<u8>>, CurveError> {
        let Side::Client(client) = &self.side else { return Ok(None) };
        let key = shared(&self.entropy.short_secret, &client.server, "HELLO")?;
        let number = self.number();
        let mut body = HELLO.to_vec();
        body.extend_from_slice(&[1, 0]);
        body.extend_from_slice(&[0; 72]);
        body.extend_from_slice(&keys::public_key(&self.entropy.short_secret));
        body.extend_from_slice(&number.to_be_bytes());
        key.seal(&nonce(b"CurveZMQHELLO---", number), &[&[0; HELLO_BOX_LEN]], &mut body);
        Ok(Some(body))
    }

    /// Takes one command of the handshake; `metadata` describes this side. An error may come with
    /// a last command for the peer, [`Curve::farewell`].
    pub(crate) fn command(&mut self, body: &[u8], metadata: &[u8]) -> Result<Step, CurveError> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        match (self.side.clone(), state) {
            (Side::Client(client), State::AwaitWelcome) => {
                refused(body, &client)?;
                self.welcome(body, metadata, &client)
            }
            (Side::Client(client), State::AwaitReady { traffic }) => {
                refused(body, &client)?;
                self.ready(body, traffic)
            }
            (Side::Server(server), State::AwaitHello) => self.greet(body, &server),
            (Side::Server(server), State::AwaitInitiate { client_short, traffic }) => {
                self.initiated(body, metadata, &server, &client_short, traffic)
            }
            _ => Err(CurveError::Malformed { expected: "handshake" }),
        }
    }

    /// What to tell the peer about `error` before the connection is closed.
    pub(crate) const fn farewell(error: &CurveError) -> Option<&'static [u8]> {
        match error {
            CurveError::NotAdmitted(_) => Some(ERROR_400),
            _ => None,
        }
    }

    /// Client: `WELCOME` is answered with `INITIATE`.
    fn welcome(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        client: &CurveClient,
    ) -> Result<Step, CurveError> {
        const NAME: &str = "WELCOME";
        let malformed = CurveError::Malformed { expected: NAME };
        let data = body.strip_prefix(WELCOME).ok_or_else(|| malformed.clone())?;
        let (random, sealed) = data.split_first_chunk::<16>().ok_or_else(|| malformed.clone())?;
        if sealed.len() != 32 + COOKIE_LEN + OVERHEAD {
            return Err(malformed);
        }
        let key = shared(&self.entropy.short_secret, &client.server, NAME)?;
        let plain = key
            .open(&random_nonce(b"WELCOME-", random), sealed)
            .ok_or(CurveError::Key { command: NAME })?;
        let (server_short, cookie) = plain.split_first_chunk::<32>().ok_or(malformed)?;
        let own_short = keys::public_key(&self.entropy.short_secret);

        let mut vouch = Vec::new();
        shared(&client.keys.secret, server_short, NAME)?.seal(
            &random_nonce(b"VOUCH---", &self.entropy.nonce),
            &[&own_short, &client.server],
            &mut vouch,
        );
        let traffic = shared(&self.entropy.short_secret, server_short, NAME)?;
        let number = self.number();
        let mut reply = INITIATE.to_vec();
        reply.extend_from_slice(cookie);
        reply.extend_from_slice(&number.to_be_bytes());
        traffic.seal(
            &nonce(b"CurveZMQINITIATE", number),
            &[&client.keys.public, &self.entropy.nonce, &vouch, metadata],
            &mut reply,
        );
        self.state = State::AwaitReady { traffic };
        Ok(Step { reply: Some(reply), metadata: None })
    }

    /// Client: `READY` ends the handshake.
    fn ready(&mut self, body: &[u8], traffic: SharedKey) -> Result<Step, CurveError> {
        const NAME: &str = "READY";
        let data = body.strip_prefix(READY).ok_or(CurveError::Malformed { expected: NAME })?;
        let (number, sealed) = numbered(data).ok_or(CurveError::Malformed { expected: NAME })?;
        let plain = traffic
            .open(&nonce(b"CurveZMQREADY---", number), sealed)
            .ok_or(CurveError::Key { command: NAME })?;
        self.received = number;
        if let Side::Client(client) = &self.side {
            self.peer = Some(client.server);
        }
        self.state = State::Traffic { traffic };
        Ok(Step { reply: None, metadata: Some(plain.to_vec()) })
    }

    /// Server: `HELLO` is answered with `WELCOME`.
    fn greet(&mut self, body: &[u8], server: &CurveServer) -> Result<Step, CurveError> {
        const NAME: &str = "HELLO";
        let malformed = CurveError::Malformed { expected: NAME };
        let data = body.strip_prefix(HELLO).ok_or_else(|| malformed.clone())?;
        if data.len() != 194 || data[..2] != [1, 0] {
            return Err(malformed);
        }
        let client_short: [u8; 32] = *data[74..].first_chunk().ok_or_else(|| malformed.clone())?;
        let (number, sealed) = numbered(&data[106..]).ok_or_else(|| malformed.clone())?;
        let key = shared(&server.keys.secret, &client_short, NAME)?;
        let plain = key
            .open(&nonce(b"CurveZMQHELLO---", number), sealed)
            .ok_or(CurveError::Key { command: NAME })?;
        if plain.iter().any(|&byte| byte != 0) {
            return Err(malformed);
        }
        self.received = number;
        let mut reply = WELCOME.to_vec();
        reply.extend_from_slice(&self.entropy.nonce);
        key.seal(
            &random_nonce(b"WELCOME-", &self.entropy.nonce),
            &[&keys::public_key(&self.entropy.short_secret), &self.entropy.cookie],
            &mut reply,
        );
        let traffic = shared(&self.entropy.short_secret, &client_short, NAME)?;
        self.state = State::AwaitInitiate { client_short, traffic };
        Ok(Step { reply: Some(reply), metadata: None })
    }

    /// Server: `INITIATE` is answered with `READY`, if the client is admitted.
    fn initiated(
        &mut self,
        body: &[u8],
        metadata: &[u8],
        server: &CurveServer,
        client_short: &[u8; 32],
        traffic: SharedKey,
    ) -> Result<Step, CurveError> {
        const NAME: &str = "INITIATE";
        let malformed = CurveError::Malformed { expected: NAME };
        let data = body.strip_prefix(INITIATE).ok_or_else(|| malformed.clone())?;
        let (cookie, data) = data.split_first_chunk::<COOKIE_LEN>().ok_or(malformed.clone())?;
        let (number, sealed) = numbered(data).ok_or_else(|| malformed.clone())?;
        if !bool::from(cookie.ct_eq(&self.entropy.cookie)) || number <= self.received {
            return Err(CurveError::Foreign);
        }
        let plain = traffic
            .open(&nonce(b"CurveZMQINITIATE", number), sealed)
            .ok_or(CurveError::Key { command: NAME })?;
        let (vouched, peer_metadata) =
            plain.split_at_checked(VOUCHED_LEN).ok_or_else(|| malformed.clone())?;
        let (client_key, vouched) =
            vouched.split_first_chunk::<32>().ok_or_else(|| malformed.clone())?;
        let (vouch_nonce, vouch) = vouched.split_first_chunk::<16>().ok_or(malformed)?;
        let vouched = shared(&self.entropy.short_secret, client_key, NAME)?
            .open(&random_nonce(b"VOUCH---", vouch_nonce), vouch)
            .ok_or(CurveError::Key { command: NAME })?;
        let mut expected = [0; 64];
        expected[..32].copy_from_slice(client_short);
        expected[32..].copy_from_slice(server.keys.public());
        if !bool::from(vouched.ct_eq(&expected)) {
            return Err(CurveError::Foreign);
        }
        let admitted = server.admitted.admits(client_key);
        if let Some(observer) = server.observer {
            observer(client_key, admitted);
        }
        if !admitted {
            return Err(CurveError::NotAdmitted(*client_key));
        }
        self.received = number;
        self.peer = Some(*client_key);
        let own = self.number();
        let mut reply = READY.to_vec();
        reply.extend_from_slice(&own.to_be_bytes());
        traffic.seal(&nonce(b"CurveZMQREADY---", own), &[metadata], &mut reply);
        self.state = State::Traffic { traffic };
        Ok(Step { reply: Some(reply), metadata: Some(peer_metadata.to_vec()) })
    }

    /// The frame body that carries `payload`; `None` before the end of the handshake.
    pub(crate) fn seal(&mut self, flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
        let number = self.sent + 1;
        let State::Traffic { traffic } = &self.state else { return None };
        let mut body = Vec::with_capacity(MESSAGE.len() + 8 + OVERHEAD + 1 + payload.len());
        body.extend_from_slice(MESSAGE);
        body.extend_from_slice(&number.to_be_bytes());
        traffic.seal(&nonce(self.prefixes().0, number), &[&[flags], payload], &mut body);
        self.sent = number;
        Some(body)
    }

    /// The inner flags and the payload of a frame body.
    pub(crate) fn open(&mut self, body: &[u8]) -> Result<(u8, Vec<u8>), CurveError> {
        let State::Traffic { traffic } = &self.state else { return Err(CurveError::Message) };
        let data = body.strip_prefix(MESSAGE).ok_or(CurveError::Message)?;
        let (number, sealed) = numbered(data).ok_or(CurveError::Message)?;
        if number <= self.received {
            return Err(CurveError::Message);
        }
        let plain =
            traffic.open(&nonce(self.prefixes().1, number), sealed).ok_or(CurveError::Message)?;
        self.received = number;
        let (flags, payload) = plain.split_first().ok_or(CurveError::Message)?;
        Ok((*flags, payload.to_vec()))
    }

    /// Nonce prefixes of what this side sends and receives.
    const fn prefixes(&self) -> (&'static [u8; 16], &'static [u8; 16]) {
        match self.side {
            Side::Client(_) => (b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"),
            Side::Server(_) => (b"CurveZMQMESSAGES", b"CurveZMQMESSAGEC"),
        }
    }

    const fn number(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }
}

/// The key with a peer; a point of low order opens nothing.
fn shared(
    secret: &[u8; 32],
    public: &[u8; 32],
    command: &'static str,
) -> Result<SharedKey, CurveError> {
    SharedKey::new(secret, public).ok_or(CurveError::Key { command })
}

/// An `ERROR` command instead of the one that was due.
fn refused(body: &[u8], client: &CurveClient) -> Result<(), CurveError> {
    match body.strip_prefix(ERROR) {
        None => Ok(()),
        Some(data) => {
            let reason = data.get(1..).unwrap_or_default();
            let status = reason.get(..32).unwrap_or(reason).escape_ascii().to_string();
            Err(CurveError::Refused { key: client.keys.public, status })
        }
    }
}

/// A number of 8 bytes, and what follows it.
fn numbered(data: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = data.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

fn nonce(prefix: &[u8; 16], number: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&number.to_be_bytes());
    nonce
}

fn random_nonce(prefix: &[u8; 8], random: &[u8; 16]) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(random);
    nonce
}
