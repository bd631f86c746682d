//! Sessions over real sockets on the loopback interface.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dtls::Config;
use endpoint::{Answer, Endpoint, Hello, Limits, Listener, Stream};
use keys::SharedSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transports::dtls::{Ended, Party};

const UNIX_TIME: u64 = 1_795_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn secret(n: u32) -> SharedSecret {
    SharedSecret::new(&[&n.to_be_bytes()[..], b"-a-shared-secret"].concat())
}

/// Serves the tunnels of `secrets`.
struct Tunnels {
    configs: HashMap<[u8; 28], u32>,
    opened: mpsc::UnboundedSender<(u32, Stream)>,
    failed: Arc<Mutex<Vec<Ended>>>,
    strays: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Listener for Tunnels {
    fn hello(&self, hello: &Hello<'_>) -> Option<Answer> {
        let n = *self.configs.get(hello.random.tag())?;
        let (opened, failed) = (self.opened.clone(), Arc::clone(&self.failed));
        Some(Answer {
            config: Config::server(&secret(n), UNIX_TIME),
            party: Party::Station { unordered: false },
            opened: Box::new(move |result| match result {
                Ok(stream) => drop(opened.send((n, stream))),
                Err(why) => failed.lock().unwrap().push(why),
            }),
        })
    }

    fn stray(&self, _: SocketAddr, _: Option<std::net::IpAddr>, datagram: &[u8]) {
        self.strays.lock().unwrap().push(datagram.to_vec());
    }
}

struct Station {
    endpoint: Endpoint,
    opened: mpsc::UnboundedReceiver<(u32, Stream)>,
    strays: Arc<Mutex<Vec<Vec<u8>>>>,
    port: u16,
}

fn station(registrations: u32, limits: Limits) -> Station {
    let endpoint = Endpoint::bind((Ipv6Addr::UNSPECIFIED, 0).into(), limits).unwrap();
    let (send, opened) = mpsc::unbounded_channel();
    let (failed, strays) = (Arc::default(), Arc::default());
    let tag = |n| (keys::dtls::client_hello_random(&secret(n)), n);
    endpoint.listen(Arc::new(Tunnels {
        configs: (0..registrations).map(tag).collect(),
        opened: send,
        failed,
        strays: Arc::clone(&strays),
    }));
    let port = endpoint.local_addr().unwrap().port();
    Station { endpoint, opened, strays, port }
}

async fn dial(client: &Endpoint, to: SocketAddr, n: u32) -> Result<Stream, Ended> {
    client.dial(to, None, Party::Client, Config::client(&secret(n), UNIX_TIME)).await
}

fn client(v6: bool) -> Endpoint {
    let any: SocketAddr =
        if v6 { (Ipv6Addr::LOCALHOST, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    Endpoint::bind(any, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_families_carry_a_request_and_an_answer_behind_its_end() {
    let mut station = station(2, Limits::default());
    for v6 in [false, true] {
        let client = client(v6);
        // An address that the station would not choose by itself: the reply must come from it.
        let to: SocketAddr = match v6 {
            true => (Ipv6Addr::LOCALHOST, station.port).into(),
            false => (Ipv4Addr::new(127, 0, 0, 77), station.port).into(),
        };
        let mut ours = timeout(PATIENCE, dial(&client, to, 1)).await.unwrap().unwrap();
        let (n, mut theirs) = timeout(PATIENCE, station.opened.recv()).await.unwrap().unwrap();
        assert_eq!((n, theirs.local()), (1, Some(to.ip())));
        ours.write_all(b"request").await.unwrap();
        timeout(PATIENCE, ours.shutdown()).await.unwrap().unwrap();
        let mut request = Vec::new();
        timeout(PATIENCE, theirs.read_to_end(&mut request)).await.unwrap().unwrap();
        assert_eq!(request, b"request");
        let answer = vec![7; 1 << 20];
        let sending = tokio::spawn(async move {
            theirs.write_all(&answer).await.unwrap();
            theirs.shutdown().await.unwrap();
        });
        let mut answer = Vec::new();
        timeout(PATIENCE, ours.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer == vec![7; 1 << 20]);
        sending.await.unwrap();
        drop(ours);
    }
    let empty = async {
        while station.endpoint.counters().sessions > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, empty).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_ends_the_other_side() {
    let mut station = station(1, Limits::default());
    let client = client(false);
    let to = (Ipv4Addr::LOCALHOST, station.port).into();
    for station_drops in [false, true] {
        let ours = dial(&client, to, 0).await.unwrap();
        let (_, theirs) = timeout(PATIENCE, station.opened.recv()).await.unwrap().unwrap();
        let (dropped, mut left) = if station_drops { (theirs, ours) } else { (ours, theirs) };
        drop(dropped);
        let mut nothing = Vec::new();
        timeout(PATIENCE, left.read_to_end(&mut nothing)).await.unwrap().unwrap();
        assert!(nothing.is_empty());
        assert!(left.write_all(b"x").await.is_err());
    }
}

#[tokio::test]
async fn unknown_hellos_and_junk_get_no_answer() {
    let station = station(1, Limits::default());
    let prober = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    prober.set_nonblocking(true).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, station.port));
    let stranger = client(false);
    let attempt = timeout(Duration::from_millis(1500), dial(&stranger, to, 9)).await;
    assert!(attempt.is_err(), "{attempt:?}");
    for junk in [&b""[..], b"Hello world", &[22; 99], &[0x16, 0xfe, 0xfd]] {
        prober.send_to(junk, to).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(prober.recv(&mut [0; 99]).is_err());
    let counters = station.endpoint.counters();
    assert!(counters.unanswered >= 6, "{counters:?}");
    assert_eq!(counters.sessions, 0);
    assert!(station.strays.lock().unwrap().iter().any(|datagram| datagram == b"Hello world"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold() {
    let mut station = station(4, Limits { sessions: 2, openings: 1 });
    let client = client(false);
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, station.port).into();
    let first = dial(&client, to, 0).await.unwrap();
    let again = dial(&client, to, 0).await;
    assert!(matches!(again, Err(Ended::Local)), "one session per path");
    let other = self::client(false);
    let second = dial(&other, to, 1).await.unwrap();
    let _served = [station.opened.recv().await, station.opened.recv().await];
    let third = self::client(false);
    let refused = timeout(Duration::from_millis(500), dial(&third, to, 2)).await;
    assert!(refused.is_err());
    assert!(station.endpoint.counters().refused > 0);
    drop((first, second));
}

/// One peer that floods the socket with junk, recorded records and hellos does not disturb the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_disturbs_nobody() {
    const GOOD: u32 = 100;
    let mut station = station(GOOD + 1, Limits { sessions: 1000, openings: 200 });
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, station.port));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let hostile = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut hello = Vec::new();
        let config = Config::client(&secret(GOOD), UNIX_TIME);
        let now = std::time::Instant::now();
        dtls::Connection::new(config, now, &mut rand::rng()).poll_transmit(&mut hello);
        let mut sent = 0u32;
        while stopped.try_recv().is_err() {
            for n in 0..20u32 {
                let mut datagram = hello.clone();
                // A few good hellos, then changed ones and cut ones.
                if n > 0 {
                    let at = (sent.wrapping_mul(31).wrapping_add(n) as usize * 7) % datagram.len();
                    datagram[at] ^= 0x55;
                    datagram.truncate(1 + (sent as usize + n as usize * 13) % datagram.len());
                }
                let _ = hostile.send_to(&datagram, to);
                sent = sent.wrapping_add(1);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let serving = tokio::spawn(async move {
        while let Some((_, mut stream)) = station.opened.recv().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                if stream.read_to_end(&mut got).await.is_ok() {
                    let _ = stream.write_all(&got).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    let client = client(false);
    let mut good = Vec::new();
    for n in 0..GOOD {
        let client = client.clone();
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 2, n as u8 + 1), to.port()));
        good.push(tokio::spawn(async move {
            let mut stream = dial(&client, to, n).await.unwrap();
            let request = vec![n as u8; 50_000];
            stream.write_all(&request).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer == request, "session {n}");
        }));
    }
    let all = async {
        for session in good {
            session.await.unwrap();
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    stop.send(()).unwrap();
    assert!(flood.join().unwrap() > 20);
    serving.abort();
}

/// Sessions of [`a_thousand_sessions_on_real_sockets_move_a_mebibyte_each`].
const SESSIONS: u32 = 1000;
const MIB: usize = 1 << 20;

/// A byte of what session `n` carries, cheap to make and to check.
fn content(n: u32) -> Vec<u8> {
    (0..MIB).map(|at| (at as u32 / 7 + n * 31) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_on_real_sockets_move_a_mebibyte_each() {
    let mut station = station(SESSIONS, Limits::default());
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, station.port).into();
    let serving = tokio::spawn(async move {
        while let Some((n, mut stream)) = station.opened.recv().await {
            tokio::spawn(async move {
                let mut got = Vec::with_capacity(MIB);
                // A client that has given its opening up is another matter.
                if stream.read_to_end(&mut got).await.is_err() || got.is_empty() {
                    return;
                }
                let answer: &[u8] = if got == content(n) { b"done" } else { b"different" };
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let mut sessions = Vec::new();
    let clients: Vec<Endpoint> = (0..SESSIONS / 10).map(|_| client(false)).collect();
    for n in 0..SESSIONS {
        // Each socket serves ten tunnels, told apart by the station's address.
        let client = clients[(n / 10) as usize].clone();
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 1, (n % 10) as u8 + 1), to.port()));
        sessions.push(tokio::spawn(async move {
            let mut stream = loop {
                match dial(&client, to, n).await {
                    Ok(stream) => break stream,
                    // With all processors busy an opening may not make its limit.
                    Err(Ended::Dtls(_) | Ended::NoStream) => {}
                    Err(why) => panic!("session {n}: {why}"),
                }
            };
            stream.write_all(&content(n)).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"done");
        }));
    }
    let all = async {
        for session in sessions {
            session.await.unwrap();
        }
    };
    timeout(Duration::from_secs(240), all).await.unwrap();
    serving.abort();
}
