//! 1,000 tunnels at one time in one process: each moves 1 MiB, half of it in each direction, and
//! every byte arrives after the client's end of writing too, while ten peers on the same phantom
//! misbehave; then all descriptors are free again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use application::Station;
use application::connection::serve;
use application::listener::listen;
use application::policy::Policy;
use keys::{ClientVersion, SharedSecret, StationKey};
use relay::Sealed;
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags, RegistrationResponse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transports::Transport;
use transports::obfs4::{Client, ClientIdentity, Progress};

const TUNNELS: usize = 1_000;
const BAD: usize = 10;
/// Tunnels that are being opened at one time.
const AT_A_TIME: usize = 64;
/// Descriptors of the pipes that the relay keeps for its next splices.
const KEPT: usize = 512;
const HALF: usize = 512 * 1024;
/// All tunnels share one phantom, so that each connection is one among 1,000 registrations.
const PHANTOM: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 1);

fn station() -> Arc<Station> {
    let dir = tempfile::tempdir().unwrap();
    let phantoms = dir.path().join("phantoms.toml");
    std::fs::write(&phantoms, "[Networks]\n").unwrap();
    let text =
        "socket_name = \"x\"\nenable_v4 = true\nredis_url = \"\"\ncovert_reject_special = false\n";
    let settings = conf::Application::parse(text, Path::new("app.toml")).unwrap().value;
    let (policy, _) = Policy::build(&settings, &phantoms).unwrap();
    let keys = vec![StationKey::from_private(&[0x40; 32]).unwrap()];
    Arc::new(Station::new(&settings, policy, keys))
}

fn secret(number: usize) -> SharedSecret {
    SharedSecret::new(format!("the secret of tunnel {number:5}").as_bytes())
}

/// The message by which tunnel `number` is registered, with the phantom chosen by a registrar.
fn registration(number: usize, transport: Transport, covert: SocketAddr) -> Vec<u8> {
    C2sWrapper {
        shared_secret: Some(secret(number).expose().to_vec()),
        registration_payload: Some(ClientToStation {
            v4_support: Some(true),
            client_lib_version: Some(ClientVersion::CURRENT.0),
            transport: Some(transport.number()),
            covert_address: Some(covert.to_string()),
            flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
            ..Default::default()
        }),
        registration_address: Some(vec![127, 0, 0, 1]),
        registration_response: Some(RegistrationResponse {
            ipv4addr: Some(PHANTOM.into()),
            dst_port: Some(443),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

/// What tunnel `number` sends.
fn pattern(number: usize) -> Vec<u8> {
    (0..HALF).map(|i| (i % 251) as u8 ^ (i / 65_521) as u8 ^ number as u8).collect()
}

#[derive(Debug)]
struct Codec(Box<Client>);

impl relay::Codec for Codec {
    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.receive(bytes, &mut rand::rng(), out).map(drop).map_err(io::Error::other)
    }

    fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.send(data, &mut rand::rng(), out).map_err(io::Error::other)
    }
}

async fn open_min(number: usize, phantom: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(phantom).await.unwrap();
    socket.write_all(&transports::min::opening(&secret(number))).await.unwrap();
    socket
}

async fn open_obfs4(number: usize, phantom: SocketAddr) -> Sealed<Codec> {
    let identity = secret(number).session_keys(ClientVersion::CURRENT).obfs4();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (mut client, hello) = Client::start(ClientIdentity::from(&identity), now, &mut rand::rng());
    let mut socket = TcpStream::connect(phantom).await.unwrap();
    socket.write_all(&hello).await.unwrap();
    let (mut buffer, mut opened) = ([0; 4096], Vec::new());
    loop {
        let n = socket.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "tunnel {number} is not opened");
        let progress = client.receive(&buffer[..n], &mut rand::rng(), &mut opened).unwrap();
        if progress == Progress::Open {
            return Sealed::new(socket, Codec(Box::new(client)), opened);
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens all tunnels, some at a time: a connection that waits for its turn longer than the station waits for a
/// client to show itself is closed.
async fn open_all(transport: Transport, phantom: SocketAddr) -> Vec<(usize, Box<dyn Stream>)> {
    let turns = Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
    let mut opening = tokio::task::JoinSet::new();
    for number in 0..TUNNELS {
        let turns = Arc::clone(&turns);
        opening.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let stream: Box<dyn Stream> = match transport {
                Transport::Obfs4 => Box::new(open_obfs4(number, phantom).await),
                _ => Box::new(open_min(number, phantom).await),
            };
            (number, stream)
        });
    }
    opening.join_all().await
}

/// Sends all, ends writing, and expects the same back.
async fn move_bytes(number: usize, stream: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sender = async {
        write.write_all(&pattern(number)).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let receiver = async {
        let mut received = Vec::with_capacity(HALF);
        read.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(sender, receiver);
    assert!(received == pattern(number), "tunnel {number}: {} bytes", received.len());
}

/// Makes the handshake of a registered client, then sends bytes that no client seals; or, without a
/// registration, just those.
async fn misbehave(number: usize, phantom: SocketAddr) {
    let garbage = vec![number as u8; 100_000];
    if number.is_multiple_of(2) {
        let (mut socket, mut answer) = (TcpStream::connect(phantom).await.unwrap(), Vec::new());
        socket.write_all(&garbage).await.unwrap();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "garbage was answered");
    } else {
        let stream = open_obfs4(number, phantom).await;
        let _ = stream.socket().try_write(&garbage);
        let _ = stream.socket().readable().await;
    }
}

/// Descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sends back what arrives.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_min_tunnels_move_every_byte() {
    many(Transport::Min).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_obfs4_tunnels_move_every_byte() {
    many(Transport::Obfs4).await;
}

/// The tests count descriptors of the process: they take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A listener at `address` whose queue holds all of them: a full one makes the kernel reset connections.
fn queue(address: Ipv4Addr) -> TcpListener {
    TcpListener::from_std(listen((address, 0).into()).unwrap()).unwrap()
}

async fn many(transport: Transport) {
    let _turn = TURN.lock().await;
    telemetry::process::raise_nofile_limit();
    let station = station();
    let covert = queue(Ipv4Addr::LOCALHOST);
    let covert_address = covert.local_addr().unwrap();
    tokio::spawn(echo(covert));
    for number in 0..TUNNELS {
        station.pipeline.handle(&registration(number, transport, covert_address)).await;
    }
    assert_eq!(station.pipeline.store.count(PHANTOM.into()) as usize, TUNNELS);
    let listener = queue(PHANTOM);
    let phantom = listener.local_addr().unwrap();
    let serving = Arc::clone(&station);
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, peer, Arc::clone(&serving)));
        }
    });
    let allowed = descriptors() + if transport == Transport::Min { KEPT } else { 0 };
    let mut bad = tokio::task::JoinSet::new();
    for number in (0..BAD).filter(|n| n.is_multiple_of(2) || transport == Transport::Obfs4) {
        bad.spawn(misbehave(number, phantom));
    }
    let mut tunnels = tokio::task::JoinSet::new();
    for (number, stream) in open_all(transport, phantom).await {
        tunnels.spawn(move_bytes(number, stream));
    }
    let mut failed = 0;
    while let Some(ended) = tunnels.join_next().await {
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "tunnels that did not move every byte");
    bad.shutdown().await;
    for _ in 0..400 {
        if descriptors() <= allowed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(descriptors() <= allowed, "{} descriptors, {allowed} allowed", descriptors());
    let traffic = &station.pipeline.stats.proxy.traffic;
    let all = (TUNNELS * HALF) as u64;
    assert_eq!((traffic.up(), traffic.down()), (all, all));
    println!("many: {TUNNELS} {transport} tunnels, {} MiB in each direction", all >> 20);
}
