//! kill -9 of the detector, zbalance and the registrar, each while 20 tunnels transfer: no tunnel
//! breaks, and packets reach the tun devices again within a second (`spec/channels.md` 1).
//!
//! The test runs `station demo --exec` with itself as the program: the part below runs on the
//! client's node inside a whole station, whose supervisor restarts what is killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::{Channel, Client, ClientConf, Families, Options, Transport};
use lab::{Node, address};
use signalling::station::StatusRequest;

const TUNNELS: usize = 20;
const PORT: u16 = 9999;
/// Longest pause at the tun devices, the supervisor's restart included.
const BOUND: Duration = Duration::from_secs(1);

#[test]
fn tunnels_survive_the_death_of_daemons() {
    if std::env::var_os("CONJURE_DEMO_DIR").is_some() {
        return inside();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["demo", "--exec"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "tunnels_survive_the_death_of_daemons", "--nocapture"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in out.lines().filter(|line| line.starts_with("gap ")) {
        println!("{line}");
    }
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.matches("gap ").count(), 3, "{out}");
}

/// The station as it looks from the client's node.
fn inside() {
    let dir = PathBuf::from(std::env::var_os("CONJURE_DEMO_DIR").unwrap());
    echo();
    let packets = watch_tuns();
    let tunnels = open_tunnels(&dir);
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
    std::thread::sleep(Duration::from_secs(1));
    for daemon in ["detector", "zbalance", "registrar"] {
        // Three tries: the bound is a time, and the machine is shared.
        let gap = (0..3).map(|_| kill(&dir, daemon, &packets)).find(|gap| *gap <= BOUND);
        let gap = gap.unwrap_or_else(|| panic!("{daemon}: packets paused for more than {BOUND:?}"));
        println!("gap {daemon}: {} ms", gap.as_millis());
        let before: Vec<u64> = rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
        std::thread::sleep(Duration::from_secs(2));
        for (tunnel, before) in before.into_iter().enumerate() {
            let now = rounds[tunnel].load(Ordering::Relaxed);
            assert!(now > before, "{daemon}: tunnel {tunnel} stands still");
        }
    }
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

/// Times at which the detector wrote into a tun device, nanoseconds since the epoch.
fn watch_tuns() -> Arc<Mutex<Vec<u64>>> {
    let times = Arc::new(Mutex::new(Vec::new()));
    for tun in ["tun0", "tun1"] {
        let times = Arc::clone(&times);
        std::thread::spawn(move || {
            Node::Station.enter().unwrap();
            // A station on one processor has one worker and one device less.
            let Ok(mut source) = capture::open(tun) else { return };
            loop {
                let mut note =
                    |frame: capture::Frame<'_>| times.lock().unwrap().push(frame.timestamp);
                if source.burst(64, Duration::from_millis(100), &mut note).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
    }
    times
}

fn open_tunnels(dir: &Path) -> Vec<TcpStream> {
    let conf = ClientConf::load(&dir.join("ClientConf.4")).unwrap();
    let url = format!("http://{}:8080/register-bidirectional", address::STATION_V4);
    let covert = SocketAddr::new(address::DECOY_V4.into(), PORT).to_string();
    let mut options = Options::new(Channel::BidirectionalApi(url), Transport::Min, covert);
    options.families = Families { v4: true, v6: false };
    let client = Client { conf, options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..TUNNELS {
            let client = client.clone();
            opening.spawn(async move {
                let session = client.register().await.unwrap();
                tokio::time::sleep(session.delay).await;
                let stream = session.connect().await.unwrap().stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                stream
            });
        }
        opening.join_all().await
    })
}

/// Sends and gets back until told to stop.
fn transfer(mut stream: TcpStream, stop: &AtomicBool, rounds: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
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

/// Kills a daemon and returns the longest pause at the tun devices around its death.
fn kill(dir: &Path, daemon: &str, packets: &Mutex<Vec<u64>>) -> Duration {
    let socket = telemetry::admin::socket_path(&dir.join("ipc"), daemon, 0);
    let pid = pid_of(&socket).unwrap_or_else(|| panic!("{daemon} does not answer"));
    let begin = now() - 200_000_000;
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let start = Instant::now();
    while pid_of(&socket).is_none_or(|fresh| fresh == pid) {
        assert!(start.elapsed() < Duration::from_secs(10), "{daemon} does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    let end = now();
    let mut times: Vec<u64> =
        packets.lock().unwrap().iter().copied().filter(|t| (begin..end).contains(t)).collect();
    times.push(end);
    times.sort_unstable();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    Duration::from_nanos(longest.unwrap_or(end - begin))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Process behind an admin socket.
fn pid_of(socket: &Path) -> Option<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let channel = telemetry::admin::channel(socket).await.ok()?;
        let mut admin = telemetry::admin::AdminClient::new(channel);
        let reply = admin.status(StatusRequest {}).await.ok()?;
        Some(reply.into_inner().identity?.pid)
    })
}
