//! What runs while a station is changed: tunnels, registrations, packets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use client::{Channel, Client, ClientAddress, ClientConf, Families, Options, Stream, Transport};
use lab::{Node, address};
use signalling::station::{StatusReply, StatusRequest, status_reply::Detail};
use telemetry::admin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Port of the covert.
const PORT: u16 = 9999;
/// Longest time without an echo in a tunnel that lives.
const SILENCE: Duration = Duration::from_secs(10);

/// Does the work of a client's node.
pub(crate) fn on_two_threads(work: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(work);
    // Nothing of the clients has to be finished.
    runtime.shutdown_background();
}

/// The covert: sends back what it gets.
pub(crate) fn echo() {
    let listener = Node::Decoy.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Lets one client register as often as it likes, by a reload.
pub(crate) fn unlimited(dir: &Path) {
    let path = dir.join("reg_config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let limited = text.lines().find(|line| line.starts_with("client_rate")).unwrap();
    std::fs::write(&path, text.replace(limited, "client_rate = 0")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    let output = command.args(["reload", "registrar", "--ipc-dir"]).arg(ipc(dir)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A client of the station whose files are in `dir`.
pub(crate) fn client(dir: &Path, transport: Transport) -> Client {
    let conf = ClientConf::load(&dir.join("ClientConf.4")).unwrap();
    let url = format!("http://{}:8080/register-bidirectional", address::STATION_V4);
    let covert = SocketAddr::new(address::DECOY_V4.into(), PORT).to_string();
    let mut options = Options::new(Channel::BidirectionalApi(url), transport, covert);
    options.families = Families { v4: true, v6: false };
    options.address = ClientAddress::Known(address::CLIENT_V4.into());
    Client { conf, options }
}

/// Registers and connects.
pub(crate) async fn open(client: &Client) -> Result<Stream, String> {
    let session = client.register().await.map_err(|e| format!("registration: {e}"))?;
    records::shared_secret(session.secret().expose());
    tokio::time::sleep(session.delay).await;
    Ok(session.connect().await.map_err(|e| format!("connection: {e}"))?.stream)
}

/// Opens `count` tunnels.
pub(crate) async fn open_many(client: &Client, count: usize) -> Vec<Stream> {
    let mut opening = tokio::task::JoinSet::new();
    for n in 0..count {
        let client = client.clone();
        opening.spawn(async move {
            // Not all in one moment.
            tokio::time::sleep(Duration::from_millis(10 * n as u64)).await;
            open(&client).await.unwrap()
        });
    }
    opening.join_all().await
}

/// One message there and back.
pub(crate) async fn round(stream: &mut Stream) -> std::io::Result<()> {
    let (sent, mut got) = ([0x5a; 400], [0; 400]);
    stream.write_all(&sent).await?;
    stream.flush().await?;
    tokio::time::timeout(SILENCE, stream.read_exact(&mut got)).await??;
    assert_eq!(got, sent);
    Ok(())
}

/// Tunnels that move data until they are stopped.
pub(crate) struct Tunnels {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<std::io::Result<()>>,
}

impl Tunnels {
    pub(crate) fn start(streams: Vec<Stream>, pause: Duration) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for mut stream in streams {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            tasks.spawn(async move {
                while !stop.load(Relaxed) {
                    round(&mut stream).await?;
                    rounds.fetch_add(1, Relaxed);
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            });
        }
        Self { stop, rounds, tasks }
    }

    /// Stops them: the number of those that broke, and of the messages that went around.
    pub(crate) async fn stop(mut self) -> (usize, u64) {
        self.stop.store(true, Relaxed);
        let mut broken = 0;
        while let Some(result) = self.tasks.join_next().await {
            if let Err(error) = result.unwrap() {
                eprintln!("a tunnel broke: {error}");
                broken += 1;
            }
        }
        (broken, self.rounds.load(Relaxed))
    }
}

/// UDP packets on the wire of the tap, as many in each second as `rate` says.
pub(crate) struct Packets {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Packets {
    pub(crate) fn start(rate: u64) -> Self {
        // The switch has no addresses; the station hears what it sends out of p2.
        for line in ["addr add 10.99.0.1/16 dev p2", "link set p2 up"] {
            let status = Node::Tap.command("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "{line}");
        }
        for n in 0..FLOWS {
            let to = format!("10.99.1.{n}");
            let neighbour = ["neigh", "replace", &to, "lladdr", "02:00:00:00:00:99", "dev", "p2"];
            assert!(Node::Tap.command("ip").args(neighbour).status().unwrap().success());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let socket = Node::Tap.run(|| UdpSocket::bind("10.99.0.1:0")).unwrap();
        let thread = std::thread::spawn(move || {
            let (start, mut sent) = (Instant::now(), 0u64);
            while !stopped.load(Relaxed) {
                let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
                while sent < due {
                    let to = std::net::Ipv4Addr::new(10, 99, 1, (sent % u64::from(FLOWS)) as u8);
                    // A full queue of the sender is not the station's loss: it is not counted.
                    if socket.send_to(&[0; 64], (to, 7777)).is_ok() {
                        sent += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        Self { stop, thread }
    }

    /// Stops: packets that were sent.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// Addresses that packets are for, so that every queue has some.
const FLOWS: u8 = 32;

/// Socket folder of the station in `dir`.
pub(crate) fn ipc(dir: &Path) -> PathBuf {
    dir.join("ipc")
}

/// Status of a daemon.
pub(crate) async fn status(dir: &Path, daemon: &str) -> StatusReply {
    let path = admin::socket_path(&ipc(dir), daemon, 0);
    let channel = admin::channel(&path).await.unwrap();
    let reply = admin::AdminClient::new(channel).status(StatusRequest {}).await;
    reply.unwrap().into_inner()
}

/// Process of a daemon.
pub(crate) async fn pid(dir: &Path, daemon: &str) -> u32 {
    status(dir, daemon).await.identity.unwrap().pid
}

/// What has to be equal, or zero, when nothing is lost on the way of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) enqueued: u64,
    pub(crate) detected: u64,
    pub(crate) dropped: u64,
}

pub(crate) async fn way(dir: &Path) -> Way {
    let Some(Detail::Zbalance(balancer)) = status(dir, "zbalance").await.detail else { panic!() };
    let Some(Detail::Detector(detector)) = status(dir, "detector").await.detail else { panic!() };
    Way {
        enqueued: balancer.queues.iter().map(|queue| queue.enqueued).sum(),
        detected: detector.workers.iter().map(|worker| worker.packets).sum(),
        dropped: balancer.dropped,
    }
}
