//! Troubles that people had with the links between registrar, Redis, application and detector.
//!
//! What takes minutes in the field runs with short heartbeats and silences here; the tests
//! `…_in_real_time` are for running by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bus::{Publisher, PublisherOptions};
use lab::Node;
use records::Clients;
use registrar::daemon::{Registrar, Setup as RegistrarSetup};
use session::redis_in::{Subscription, subscribe};
use session::watch::Watch;
use session::{SessionKey, SessionSink};
use signalling::station::status_reply::Detail;
use signalling::{C2sWrapper, Message};

use crate::SECOND;
use crate::host::{Clocks, Host, PHANTOMS, Setup, inside_with, launch, registration, status, with};

/// The limit of P33 for registrations to flow again.
const FLOW: Duration = Duration::from_secs(30);

/// A real registrar on the decoy's host.
struct Remote {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    publisher: Arc<Publisher>,
}

impl Remote {
    fn start(dir: &Path) -> Self {
        let conf = signalling::ClientConf { generation: Some(1), ..Default::default() };
        std::fs::write(dir.join("ClientConf"), conf.encode_to_vec()).unwrap();
        std::fs::write(dir.join("phantoms.toml"), PHANTOMS).unwrap();
        let text = format!(
            "log_level = \"error\"\napi_port = 8080\napi_bind_addr = \"0.0.0.0\"\n\
             zmq_port = 5591\nzmq_bind_addr = \"198.51.100.2\"\nzmq_auth_type = \"NULL\"\n\
             clientconf_path = \"{}/ClientConf\"\n",
            dir.display()
        );
        std::fs::write(dir.join("reg.toml"), text).unwrap();
        let (files, phantoms) = (dir.join("reg.toml"), dir.join("phantoms.toml"));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            Node::Decoy.enter().unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let setup = RegistrarSetup::load(&files, &phantoms).unwrap();
                let registrar = Registrar::start(setup, None).await.unwrap();
                ready.send(Arc::clone(&registrar.processor().publisher)).unwrap();
                // An error means that the test is over.
                let _ = stopped.await;
            });
        });
        let publisher = started.recv().unwrap();
        Self { stop: Some(stop), thread: Some(thread), publisher }
    }

    /// Ends it at once, as a kill does.
    fn kill(mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Registers over HTTP from the client.
fn register(seed: u8) {
    let body = C2sWrapper {
        shared_secret: Some(vec![seed; 32]),
        registration_payload: registration(seed).registration_payload,
        ..Default::default()
    }
    .encode_to_vec();
    let at: SocketAddr = "198.51.100.2:8080".parse().unwrap();
    let mut stream =
        Node::Client.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(5))).unwrap();
    let head = "POST /register HTTP/1.1\r\nHost: registrar\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204") || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

const SOURCE: &str = "source tcp://198.51.100.2:5591: ";

/// What the application says about its link to the registrar.
fn link(host: &Host) -> String {
    let notes = host.status().notes;
    notes.iter().find_map(|note| note.strip_prefix(SOURCE)).expect("the source").to_owned()
}

/// Registers again and again until one arrives; the time that it took.
fn flows(host: &Host, seeds: &AtomicU8) -> Duration {
    let before = host.sessions().len();
    let next = Mutex::new(Instant::now());
    host.within(FLOW, "registrations flow", |h| {
        let mut next = next.lock().unwrap();
        if *next <= Instant::now() {
            register(seeds.fetch_add(1, Ordering::Relaxed));
            *next = Instant::now() + SECOND / 2;
        }
        h.sessions().len() > before
    })
}

/// Drops every packet between pairs of addresses without telling anyone, on the router between them.
struct Cut;

impl Cut {
    fn between(pairs: &[(&str, &str)]) -> Self {
        let mut rules = String::new();
        for (a, b) in pairs {
            rules += &format!("ip saddr {a} ip daddr {b} drop\nip saddr {b} ip daddr {a} drop\n");
        }
        nft(&format!(
            "table ip cut {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}\n"
        ));
        Self
    }

    fn heal(self) {
        nft("delete table ip cut\n");
    }
}

fn nft(rules: &str) {
    let mut command = Node::Inet.command("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

const WITH_REGISTRAR: (&str, &str) = (
    "type = \"NULL\"\n",
    "type = \"NULL\"\n[[connect_sockets]]\naddress = \"tcp://198.51.100.2:5591\"\ntype = \"NULL\"\n",
);

fn silence_and_restarts(host: &Host, silence: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let seeds = AtomicU8::new(1);
    let mut registrar = Remote::start(dir.path());
    flows(host, &seeds);
    for round in 1..=3 {
        registrar.kill();
        host.until("the end is noticed", |h| link(h) != "connected");
        registrar = Remote::start(dir.path());
        println!("restart {round}: flows again after {:?}", flows(host, &seeds));
    }
    assert_eq!(link(host), "connected");
    let cut = Cut::between(&[("10.10.3.2", "198.51.100.2")]);
    let start = Instant::now();
    let noticed = host.within(60 * SECOND, "silence is noticed", |h| {
        // Nothing but silence tells: no reset comes through.
        link(h).contains("no sign of life")
    });
    println!("silence noticed after {noticed:?}");
    for _ in 0..3 {
        register(seeds.fetch_add(1, Ordering::Relaxed));
    }
    std::thread::sleep(silence.saturating_sub(start.elapsed()));
    assert_ne!(link(host), "connected");
    cut.heal();
    println!("after {silence:?} of silence: flows again after {:?}", flows(host, &seeds));
    // The dead connection is gone after two minutes, so nothing is queued for it for ever.
    if silence > 130 * SECOND {
        host.until("one subscriber", |_| registrar.publisher.stats().subscribers == 1);
    }
}

/// P33: a registrar that restarts, and a path that goes silent without a reset.
#[test]
fn p33_silence_and_restarts_of_the_registrar() {
    let replace = &[
        WITH_REGISTRAR,
        ("enable_v4", "heartbeat_interval = 1000\nheartbeat_timeout = 1000\nenable_v4"),
    ];
    let setup = Setup { replace, ..Setup::default() };
    inside_with("links::p33_silence_and_restarts_of_the_registrar", setup, |host| {
        silence_and_restarts(&host, 15 * SECOND);
    });
}

/// The same with the shipped heartbeat and ten minutes of silence.
#[test]
#[ignore = "takes 11 minutes; run by hand with --ignored --nocapture"]
fn p33_in_real_time() {
    let replace = &[
        WITH_REGISTRAR,
        ("enable_v4", "heartbeat_interval = 30000\nheartbeat_timeout = 1000\nenable_v4"),
    ];
    let setup = Setup { replace, ..Setup::default() };
    inside_with("links::p33_in_real_time", setup, |host| {
        silence_and_restarts(&host, 600 * SECOND);
    });
}

/// A detector's table, as far as these tests need one.
#[derive(Default)]
struct Table(Mutex<Vec<SessionKey>>);

impl SessionSink for Table {
    fn upsert(&self, key: SessionKey, _: Duration) {
        self.0.lock().unwrap().push(key);
    }

    fn pending(&self, _: SessionKey, _: Duration) {}

    fn remove(&self, _: SessionKey) {}

    fn clear(&self, _: &dyn Fn(&SessionKey) -> bool) {
        self.0.lock().unwrap().clear();
    }
}

const REDIS: &str = "redis://198.51.100.2/";

/// A detector's subscription on `node`, where nothing but Redis can tell it about sessions.
fn subscription(node: Node, table: &Arc<Table>) -> Subscription {
    let (sender, receiver) = mpsc::channel();
    let table = Arc::clone(table);
    std::thread::spawn(move || {
        node.enter().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            sender.send(subscribe(REDIS.to_owned(), "det".into(), Watch::off(), table)).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis_loss(host: &Host, silence: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let server = Node::Decoy
        .command("redis-server")
        .args(["--bind", "198.51.100.2", "--protected-mode", "no", "--save", "", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _server = Killed(server);
    // The subscriber is on the router's far side of the client's network.
    let table = Arc::new(Table::default());
    let subscription = subscription(Node::Client, &table);
    let known = |seed: u8| {
        let session = host.registrations(&registration(seed))[0].session_key().unwrap();
        table.0.lock().unwrap().contains(&session)
    };
    let both = |h: &Host| {
        h.redis_state() == "connected"
            && subscription.state() == session::redis_out::LinkState::Connected
    };
    host.within(20 * SECOND, "both ends are connected", both);
    host.publish(&registration(1), 1);
    host.until("a session arrives", |_| known(1));
    let cut = Cut::between(&[("10.10.3.2", "198.51.100.2"), ("10.10.1.2", "198.51.100.2")]);
    let start = Instant::now();
    host.within(60 * SECOND, "both ends notice", |h| {
        h.redis_state().starts_with("absent")
            && matches!(subscription.state(), session::redis_out::LinkState::Absent(_))
    });
    println!("both ends noticed after {:?}", start.elapsed());
    host.publish(&registration(2), 1);
    std::thread::sleep(silence.saturating_sub(start.elapsed()));
    cut.heal();
    let healed = Instant::now();
    let limit = 15 * SECOND;
    host.within(limit, "the session of the silence arrives", |_| known(2));
    host.publish(&registration(3), 1);
    host.within(limit.saturating_sub(healed.elapsed()), "a new session arrives", |_| known(3));
    println!("after {silence:?} without Redis: heals in {:?}", healed.elapsed());
}

const REDIS_OVER_TCP: (&str, &str) =
    ("redis_url", "redis_url = \"redis://198.51.100.2/\"\nunused_redis_url");

/// P34: nothing reaches Redis for a while; neither end stays deaf.
#[test]
fn p34_redis_out_of_reach_for_a_while() {
    let setup = Setup { replace: &[REDIS_OVER_TCP], ..Setup::default() };
    inside_with("links::p34_redis_out_of_reach_for_a_while", setup, |host| {
        redis_loss(&host, 20 * SECOND);
    });
}

/// The same for two minutes.
#[test]
#[ignore = "takes 3 minutes; run by hand with --ignored --nocapture"]
fn p34_in_real_time() {
    let setup = Setup { replace: &[REDIS_OVER_TCP], ..Setup::default() };
    inside_with("links::p34_in_real_time", setup, |host| redis_loss(&host, 120 * SECOND));
}

/// A further application on a host of its own.
struct Other {
    process: Killed,
    dir: tempfile::TempDir,
}

impl Other {
    fn start(node: Node) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("privkey"), [0x40; 32]).unwrap();
        std::fs::write(dir.path().join("phantoms.toml"), PHANTOMS).unwrap();
        let text = "log_level = \"info\"\nenable_v4 = true\nsocket_name = \"zmq-proxy\"\n\
            redis_url = \"\"\ncovert_blocklist_subnets = []\nprescanned_from = \"any\"\n\
            [[connect_sockets]]\n\
            address = \"tcp://198.51.100.2:5591\"\ntype = \"NULL\"\n";
        std::fs::write(dir.path().join("app.toml"), text).unwrap();
        let (process, _) = launch(node, dir.path(), Clocks::Real, Clients::Hidden);
        Self { process: Killed(process), dir }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Valid registrations that it holds.
    fn registrations(&self) -> u32 {
        match status(self.dir.path()).detail {
            Some(Detail::Application(status)) => status.registrations as u32,
            other => panic!("{other:?}"),
        }
    }
}

/// P34: three stations at one registrar; one is stopped while 50,000 registrations pass.
#[test]
fn p34_a_stopped_station_starves_no_other() {
    const ALL: u32 = 50_000;
    inside_with("links::p34_a_stopped_station_starves_no_other", Setup::default(), |host| {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            Node::Decoy.enter().unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let options = PublisherOptions::default();
                let bound = Publisher::bind("tcp://198.51.100.2:5591", options).await;
                sender.send(Arc::new(bound.unwrap())).unwrap();
                std::future::pending::<()>().await;
            });
        });
        let publisher = receiver.recv().unwrap();
        let others = [Node::Isp, Node::Inet].map(Other::start);
        let third = Other::start(Node::Client);
        host.until("three stations subscribe", |_| {
            publisher.peers().iter().filter(|peer| peer.subscribed).count() == 3
        });
        third.signal("STOP");
        for n in 0..ALL {
            let mut message = with(registration(0), |p| {
                // Enough that the kernel cannot hold all of them for the one that reads nothing.
                p.padding = Some(vec![0; 600]);
            });
            message.shared_secret = Some([n.to_be_bytes(); 8].concat());
            publisher.publish(message.encode_to_vec().into());
            // A station drops what comes in bursts beyond its workers; that is not the point here.
            if n % 250 == 249 {
                host.within(FLOW, "the others receive all", |_| {
                    others.iter().all(|other| other.registrations() == n + 1)
                });
            }
        }
        let peers = publisher.peers();
        let dropped: Vec<u64> = peers.iter().map(|p| p.dropped).filter(|n| *n > 0).collect();
        assert_eq!(dropped.len(), 1, "only the stopped station loses registrations: {peers:?}");
        assert!(peers.iter().all(|peer| peer.queued <= 1000), "{peers:?}");
        println!("dropped for the stopped station: {} of {ALL}", dropped[0]);
        third.signal("CONT");
        host.within(FLOW, "the stopped station goes on", |_| third.registrations() > 0);
        host.within(FLOW, "it has emptied its queue", |_| {
            publisher.peers().iter().all(|peer| peer.queued == 0)
        });
        let message = registration(99);
        publisher.publish(message.encode_to_vec().into());
        host.within(FLOW, "everybody has the last one", |_| {
            others.iter().all(|other| other.registrations() == ALL + 1)
        });
        let duplicates = |other: &Other| match status(other.dir.path()).detail {
            Some(Detail::Application(status)) => {
                status.ingest.iter().find(|count| count.name == "duplicates").unwrap().value
            }
            other => panic!("{other:?}"),
        };
        // It may be busy with what it had in its buffers, and drop the first.
        host.within(FLOW, "the stopped station hears all again", |_| {
            publisher.publish(message.encode_to_vec().into());
            std::thread::sleep(SECOND / 4);
            duplicates(&third) > 0
        });
    });
}
