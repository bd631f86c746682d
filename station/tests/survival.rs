//! kill -9 of the detector, zbalance, the registrar and redis-server, each while 20 tunnels
//! transfer: no tunnel breaks, and packets reach the tun devices again within a second
//! (`spec/channels.md` 1). Once with the gRPC channel, once with Redis only.
//!
//! Each test runs `station demo --exec` with itself as the program: [`inside`] runs on the client's
//! node inside a whole station, whose supervisor restarts what is killed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::{Channel, Client, ClientConf, Families, Options, Transport};
use lab::{Node, address};
use signalling::station::StatusRequest;

const TUNNELS: usize = 20;
const PORT: u16 = 9999;
/// Longest pause at a tun device, the supervisor's restart included.
const BOUND: Duration = Duration::from_secs(1);
/// The bound is a time, and the machine is shared.
const TRIES: usize = 3;

/// One station at a time: both tests need the processors for themselves.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn tunnels_survive_with_the_grpc_channel() {
    if inside_a_station() {
        return inside(&Grpc, &["detector", "zbalance", "registrar"]);
    }
    run("tunnels_survive_with_the_grpc_channel", "grpc", 3);
}

#[test]
fn tunnels_survive_with_redis_only() {
    if inside_a_station() {
        return inside(&RedisOnly, &["detector", "zbalance", "registrar", "redis-server"]);
    }
    run("tunnels_survive_with_redis_only", "redis", 4);
}

fn inside_a_station() -> bool {
    std::env::var_os("CONJURE_DEMO_DIR").is_some()
}

/// Runs the test `name` inside a station whose sessions go over the given channel.
fn run(name: &str, sessions: &str, victims: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["demo", "--sessions", sessions, "--exec"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in out.lines().filter(|line| line.starts_with("gap ")) {
        println!("{line}");
    }
    assert!(output.status.success(), "{out}\n{err}");
    // One more: the detector without its snapshot.
    assert_eq!(out.matches("gap ").count(), victims + 1, "{out}");
}

/// What keeps the snapshot of live sessions from a detector that starts.
trait Channelled {
    const NAME: &str;
    fn cut(&self, dir: &Path);
    fn mend(&self, dir: &Path);
}

struct Grpc;

impl Channelled for Grpc {
    const NAME: &str = "gRPC";

    fn cut(&self, dir: &Path) {
        std::fs::rename(socket(dir), dir.join("hidden")).unwrap();
    }

    fn mend(&self, dir: &Path) {
        std::fs::rename(dir.join("hidden"), socket(dir)).unwrap();
    }
}

/// The application's socket of the gRPC channel.
fn socket(dir: &Path) -> PathBuf {
    dir.join("ipc").join(session::socket_name(0))
}

struct RedisOnly;

impl Channelled for RedisOnly {
    const NAME: &str = "Redis";

    /// Leaves everything but the detector's request to publish all sessions again.
    fn cut(&self, _: &Path) {
        redis_cli(&["ACL", "SETUSER", "default", "resetchannels", "&dark_decoy_map"]);
    }

    fn mend(&self, _: &Path) {
        redis_cli(&["ACL", "SETUSER", "default", "allchannels"]);
    }
}

fn redis_cli(arguments: &[&str]) {
    let output = Node::Station.command("redis-cli").args(arguments).output().unwrap();
    assert_eq!(output.stdout, b"OK\n", "{arguments:?}: {output:?}");
}

/// The station as it looks from the client's node.
fn inside<C: Channelled>(channel: &C, victims: &[&str]) {
    let dir = PathBuf::from(std::env::var_os("CONJURE_DEMO_DIR").unwrap());
    echo();
    let packets = watch_tuns();
    let tunnels = open_tunnels(&dir, TUNNELS);
    let stop = Arc::new(AtomicBool::new(false));
    let rounds: Arc<Vec<AtomicU64>> = Arc::new((0..TUNNELS).map(|_| AtomicU64::new(0)).collect());
    let workers: Vec<_> = tunnels
        .into_iter()
        .enumerate()
        .map(|(index, stream)| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            std::thread::spawn(move || transfer(stream, &stop, &rounds[index]))
        })
        .collect();
    let all_move = |when: &str| {
        let before: Vec<u64> = rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
        std::thread::sleep(Duration::from_secs(2));
        for (tunnel, before) in before.into_iter().enumerate() {
            let now = rounds[tunnel].load(Ordering::Relaxed);
            assert!(now > before, "{when}: tunnel {tunnel} stands still");
        }
    };
    std::thread::sleep(Duration::from_secs(1));
    for victim in victims {
        let (number, gaps) = (1..=TRIES)
            .map(|number| (number, kill(&dir, victim, &packets)))
            .inspect(|(number, gaps)| eprintln!("{victim}: try {number}: {gaps:?}"))
            .find(|(_, gaps)| gaps.longest() <= BOUND)
            .unwrap_or_else(|| panic!("{victim}: packets paused for more than {BOUND:?}"));
        println!("gap {victim}, {} only: {gaps} (try {number} of {TRIES})", C::NAME);
        all_move(victim);
        // What a client needs to begin is whole again as well.
        open_tunnels(&dir, 1);
    }
    channel.cut(&dir);
    let gaps = kill(&dir, "detector", &packets);
    println!("gap detector without its snapshot, {} only: {gaps}", C::NAME);
    assert!(gaps.longest() > BOUND, "the bound holds without the snapshot: it proves nothing");
    channel.mend(&dir);
    assert!(kill(&dir, "detector", &packets).longest() > Duration::ZERO);
    std::thread::sleep(Duration::from_secs(3));
    all_move("after the snapshot came back");
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap().expect("a tunnel broke");
    }
}

/// The covert: sends back what it gets.
fn echo() {
    let listener = Node::Decoy.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let mut writer = stream;
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
}

/// Times at which the detector wrote into each tun device, nanoseconds since the epoch.
type Packets = BTreeMap<&'static str, Mutex<Vec<u64>>>;

fn watch_tuns() -> Arc<Packets> {
    let packets: Arc<Packets> =
        Arc::new(["tun0", "tun1"].map(|tun| (tun, Mutex::default())).into());
    for tun in ["tun0", "tun1"] {
        let packets = Arc::clone(&packets);
        std::thread::spawn(move || {
            Node::Station.enter().unwrap();
            // A station on one processor has one worker and one device less.
            let Ok(mut source) = capture::open(tun) else { return };
            loop {
                let mut note =
                    |frame: capture::Frame<'_>| packets[tun].lock().unwrap().push(frame.timestamp);
                if source.burst(64, Duration::from_millis(100), &mut note).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
    }
    packets
}

/// Longest pause at each device that is in use.
#[derive(Debug)]
struct Gaps(Vec<(&'static str, Duration)>);

impl Gaps {
    fn longest(&self) -> Duration {
        self.0.iter().map(|(_, gap)| *gap).max().expect("no packet at any device")
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gaps: Vec<_> =
            self.0.iter().map(|(tun, gap)| format!("{tun} {} ms", gap.as_millis())).collect();
        f.write_str(&gaps.join(", "))
    }
}

fn open_tunnels(dir: &Path, count: usize) -> Vec<TcpStream> {
    let conf = ClientConf::load(&dir.join("ClientConf.4")).unwrap();
    let url = format!("http://{}:8080/register-bidirectional", address::STATION_V4);
    let covert = SocketAddr::new(address::DECOY_V4.into(), PORT).to_string();
    let mut options = Options::new(Channel::BidirectionalApi(url), Transport::Min, covert);
    options.families = Families { v4: true, v6: false };
    let client = Client { conf, options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..count {
            let client = client.clone();
            opening.spawn(async move {
                let session = client.register().await.unwrap();
                records::shared_secret(session.secret().expose());
                tokio::time::sleep(session.delay).await;
                let stream = session
                    .connect()
                    .await
                    .unwrap()
                    .stream
                    .into_plain()
                    .unwrap()
                    .into_std()
                    .unwrap();
                stream.set_nonblocking(false).unwrap();
                stream
            });
        }
        opening.join_all().await
    })
}

/// Sends and gets back until told to stop.
fn transfer(mut stream: TcpStream, stop: &AtomicBool, rounds: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (sent, mut got) = ([0x5a; 1000], [0; 1000]);
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&sent)?;
        stream.read_exact(&mut got)?;
        assert_eq!(got, sent);
        rounds.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Kills a daemon and returns the longest pause at each tun device around its death.
fn kill(dir: &Path, victim: &str, packets: &Packets) -> Gaps {
    let pid = pid_of(dir, victim).unwrap_or_else(|| panic!("{victim} does not answer"));
    let begin = now() - 200_000_000;
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let start = Instant::now();
    while pid_of(dir, victim).is_none_or(|fresh| fresh == pid) {
        assert!(start.elapsed() < Duration::from_secs(10), "{victim} does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    let end = now();
    let gap = |times: &Mutex<Vec<u64>>| {
        let times = times.lock().unwrap();
        if times.is_empty() {
            return None;
        }
        let inside = times.iter().copied().filter(|t| (begin..end).contains(t));
        let mut all: Vec<u64> = [begin, end].into_iter().chain(inside).collect();
        all.sort_unstable();
        all.windows(2).map(|pair| Duration::from_nanos(pair[1] - pair[0])).max()
    };
    Gaps(packets.iter().filter_map(|(tun, times)| Some((*tun, gap(times)?))).collect())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Process of a daemon that answers.
fn pid_of(dir: &Path, daemon: &str) -> Option<u32> {
    if daemon == "redis-server" {
        let text = std::fs::read_to_string(dir.join("redis.pid")).ok()?;
        let ping = Node::Station.command("redis-cli").arg("PING").output().ok()?;
        return (ping.stdout == b"PONG\n").then(|| text.trim().parse().ok())?;
    }
    let socket = telemetry::admin::socket_path(&dir.join("ipc"), daemon, 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let channel = telemetry::admin::channel(&socket).await.ok()?;
        let mut admin = telemetry::admin::AdminClient::new(channel);
        let reply = admin.status(StatusRequest {}).await.ok()?;
        Some(reply.into_inner().identity?.pid)
    })
}
