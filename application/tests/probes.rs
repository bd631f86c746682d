//! The probe contract (`spec/application.md` 11): whatever a prober sends, a phantom with a
//! registration cannot be told from one without.
//!
//! 200 interleaved probes of each kind go through one payload script. Compared are the bytes that
//! were accepted, the closing segment, and the time to it (two-sample Kolmogorov-Smirnov). With
//! a narrow deadline the times are sharp enough to see a defect of 50 ms, which is planted to prove
//! it; the same comparison then runs with the deadlines of the daemon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use application::Station;
use application::connection::{DEADLINE_MS, serve};
use application::policy::Policy;
use application::registration::{Credentials, Parts, Registration};
use application::store::{Store, Tracked};
use keys::{ClientVersion, EphemeralKey, Obfs4Keys, SharedSecret, StationKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transports::Transport;
use transports::obfs4::{Client, ServerIdentity};
use transports::obfuscator::Obfuscator;

const PROBES: usize = 200;
const SECRET: [u8; 32] = [7; 32];

/// What a prober sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    NoRegistration,
    Garbage,
    TruncatedTag,
    WrongTransport,
    Obfs4Garbage,
    /// A handshake that was accepted before.
    Obfs4Replay,
    /// A handshake that ends with the mark of nobody.
    Obfs4Mark,
    /// A handshake of the registration whose MAC does not verify.
    Obfs4Mac,
}

const KINDS: [Kind; 8] = [
    Kind::NoRegistration,
    Kind::Garbage,
    Kind::TruncatedTag,
    Kind::WrongTransport,
    Kind::Obfs4Garbage,
    Kind::Obfs4Replay,
    Kind::Obfs4Mark,
    Kind::Obfs4Mac,
];

/// Payload scripts: the length of each write.
const SCRIPTS: [&[usize]; 4] = [&[1], &[31], &[96, 2000], &[20, 76, 9904]];

impl Kind {
    const fn phantom(self) -> Ipv4Addr {
        match self {
            Self::NoRegistration => Ipv4Addr::new(127, 9, 0, 1),
            Self::Garbage | Self::TruncatedTag | Self::WrongTransport => {
                Ipv4Addr::new(127, 9, 0, 2)
            }
            _ => Ipv4Addr::new(127, 9, 0, 3),
        }
    }

    fn payload(self, station: &Station, len: usize) -> Vec<u8> {
        let secret = SharedSecret::new(&SECRET);
        let key = &station.keys[0];
        let mut bytes = match self {
            Self::NoRegistration | Self::Garbage | Self::Obfs4Garbage => Vec::new(),
            Self::Obfs4Replay => {
                let hello = hello(len);
                let accepted = station.replays.accept(&obfs4_identity(), &hello);
                drop(accepted.unwrap());
                hello
            }
            Self::Obfs4Mark => changed(hello(len), 20),
            Self::Obfs4Mac => changed(hello(len), 1),
            Self::TruncatedTag => {
                let tag = secret.min_identifier();
                [&tag[..31], &[!tag[31]]].concat()
            }
            // The tag of a Min registration in the form of Prefix.
            Self::WrongTransport => Obfuscator::Ctr
                .obfuscate(&secret.min_identifier(), key.public(), &mut rand::rng())
                .unwrap(),
        };
        while bytes.len() < len {
            bytes.push(rand::random());
        }
        bytes.truncate(len);
        bytes
    }
}

fn session_keys() -> Obfs4Keys {
    SharedSecret::new(&SECRET).session_keys(ClientVersion::CURRENT).obfs4()
}

fn obfs4_identity() -> ServerIdentity {
    ServerIdentity::new(session_keys())
}

/// A new handshake of the registered client, as near to `len` bytes as one can be.
fn hello(len: usize) -> Vec<u8> {
    let mut rng = rand::rng();
    let padding = vec![0; len.clamp(141, 8192) - 64];
    let ephemeral = EphemeralKey::generate(&mut rng).with_bit_254_clear();
    let identity = obfs4_identity().shared().clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Client::start_with(identity, ephemeral, &padding, now).1
}

/// `message` with a bit changed in the byte that is so far from its end.
fn changed(mut message: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = message.len() - from_end;
    message[at] ^= 1;
    message
}

fn track(store: &Store, parts: Parts) {
    let Tracked::New(registration) = store.track(Registration::new(parts)) else { panic!() };
    assert!(store.activate(&registration, "127.0.0.1:1".parse().unwrap()));
}

fn station(deadline_ms: Range<u64>) -> Arc<Station> {
    let dir = tempfile::tempdir().unwrap();
    let phantoms = dir.path().join("phantoms.toml");
    std::fs::write(&phantoms, "[Networks]\n").unwrap();
    let text = "socket_name = \"x\"\nredis_url = \"\"\ncovert_reject_special = false\n";
    let settings = conf::Application::parse(text, Path::new("app.toml")).unwrap().value;
    let (policy, _) = Policy::build(&settings, &phantoms).unwrap();
    let keys = vec![StationKey::from_private(&[0x40; 32]).unwrap()];
    let mut station = Station::new(&settings, policy, keys);
    station.deadline_ms = deadline_ms;
    let parts = Parts {
        phantom: Kind::Garbage.phantom().into(),
        dst_port: 443,
        proto: session::Proto::Tcp,
        client: [203, 0, 113, 9].into(),
        origin: Default::default(),
        transport: Transport::Min,
        identifier: (&SharedSecret::new(&SECRET).min_identifier()).into(),
        credentials: Credentials::Tag,
        prefix_id: None,
        short_id: [7; 8],
        source: 2,
        generation: 1,
        lib_version: 4,
        proxy_header: false,
        prescanned: true,
        covert_text: "127.0.0.1:1".into(),
    };
    let identity = obfs4_identity();
    let obfs4 = Parts {
        phantom: Kind::Obfs4Garbage.phantom().into(),
        transport: Transport::Obfs4,
        identifier: session_keys().identifier().into(),
        credentials: Credentials::Obfs4(Box::new(identity)),
        ..parts.clone()
    };
    track(&station.pipeline.store, parts);
    track(&station.pipeline.store, obfs4);
    Arc::new(station)
}

/// Outcome of one probe.
#[derive(Debug, Clone, Copy)]
struct Seen {
    kind: Kind,
    script: usize,
    accepted: usize,
    answered: usize,
    fin: bool,
    seconds: f64,
}

async fn probe(kind: Kind, script: usize, port: u16, payload: Vec<u8>) -> Seen {
    let lengths = SCRIPTS[script];
    let target = SocketAddr::new(IpAddr::V4(kind.phantom()), port);
    let mut stream = TcpStream::connect(target).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let start = Instant::now();
    let mut accepted = 0;
    for len in lengths {
        stream.write_all(&payload[accepted..accepted + len]).await.unwrap();
        accepted += len;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = Vec::new();
    let fin = stream.read_to_end(&mut answer).await.is_ok();
    Seen {
        kind,
        script,
        accepted,
        answered: answer.len(),
        fin,
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// Runs all probes against a station with `deadline_ms`; connections of `planted` close that much
/// too early.
async fn run(deadline_ms: Range<u64>, planted: Option<(Kind, Duration)>) -> Vec<Seen> {
    let station = station(deadline_ms.clone());
    let asked = Arc::clone(&station);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let phantom = stream.local_addr().unwrap().ip();
            let served = serve(stream, peer, Arc::clone(&station));
            let early = planted
                .filter(|(kind, _)| phantom == IpAddr::V4(kind.phantom()))
                .map(|(_, early)| Duration::from_millis(deadline_ms.start) - early);
            tokio::spawn(async move {
                match early {
                    Some(limit) => drop(tokio::time::timeout(limit, served).await),
                    None => served.await,
                }
            });
        }
    });
    let mut probes = tokio::task::JoinSet::new();
    for index in 0..PROBES {
        for kind in KINDS {
            let script = index % SCRIPTS.len();
            let payload = kind.payload(&asked, SCRIPTS[script].iter().sum());
            probes.spawn(probe(kind, script, port, payload));
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
    let seen = probes.join_all().await;
    server.abort();
    seen
}

/// Probability that two samples come from one distribution (two-sample Kolmogorov-Smirnov).
fn same_distribution(a: &[f64], b: &[f64]) -> f64 {
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let (mut i, mut j, mut distance) = (0, 0, 0f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        while i < a.len() && a[i] <= at {
            i += 1;
        }
        while j < b.len() && b[j] <= at {
            j += 1;
        }
        distance = distance.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let n = (a.len() * b.len()) as f64 / (a.len() + b.len()) as f64;
    let x = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    let term =
        |k: i32| (if k % 2 == 1 { 2.0 } else { -2.0 }) * (-2.0 * f64::from(k * k) * x * x).exp();
    if x < 0.2 { 1.0 } else { (1..100).map(term).sum::<f64>().clamp(0.0, 1.0) }
}

/// The least probability over all pairs of kinds.
fn least_probability(seen: &[Seen]) -> f64 {
    let times =
        |kind| -> Vec<f64> { seen.iter().filter(|s| s.kind == kind).map(|s| s.seconds).collect() };
    let mut least = 1f64;
    for (at, a) in KINDS.into_iter().enumerate() {
        for b in &KINDS[at + 1..] {
            let p = same_distribution(&times(a), &times(*b));
            println!("probes: {a:?} and {b:?}: p = {p:.4}");
            least = least.min(p);
        }
    }
    least
}

/// The two tests measure time: they take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// So many pairs are compared.
const LIMIT: f64 = 0.01 / (KINDS.len() * (KINDS.len() - 1) / 2) as f64;

fn equal_outcomes(seen: &[Seen]) {
    assert_eq!(seen.len(), PROBES * KINDS.len());
    for s in seen {
        assert_eq!(s.answered, 0, "{s:?} was answered");
        assert!(s.fin, "{s:?} was reset");
        assert_eq!(s.accepted, SCRIPTS[s.script].iter().sum::<usize>(), "{s:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_see_no_difference() {
    let _turn = TURN.lock().await;
    for (name, deadline) in [("narrow", 1000..1001), ("daemon's", DEADLINE_MS)] {
        println!("probes: {name} deadline {deadline:?} ms, {PROBES} of each kind");
        let mut least = 0.0;
        // One repeat is allowed: the bound itself is a probability.
        for _ in 0..2 {
            let seen = run(deadline.clone(), None).await;
            equal_outcomes(&seen);
            least = least_probability(&seen);
            if least > LIMIT {
                break;
            }
        }
        assert!(least > LIMIT, "{name}: p = {least}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_difference_of_50_ms_is_found() {
    let _turn = TURN.lock().await;
    let early = Some((Kind::NoRegistration, Duration::from_millis(50)));
    for _ in 0..2 {
        let seen = run(1000..1001, early).await;
        equal_outcomes(&seen);
        assert!(least_probability(&seen) < LIMIT);
    }
}
