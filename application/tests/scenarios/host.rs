//! A real application on the lab's station, with a real Redis, kernel DNAT and a covert.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use application::intake::{self, Served};
use application::policy::Policy;
use application::registration::Registration;
use lab::{Lab, Node};
use records::Clients;
use session::command::Command as Sessions;
use signalling::station::{StatusReply, StatusRequest, status_reply::Detail};
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};
use telemetry::admin;
use transports::Transport;

/// How the application is started where it differs from the plain scenario.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Texts of the configuration and what replaces them; every one must be found. `DIR` stands for
    /// the folder of the application's files.
    pub(crate) replace: &'static [(&'static str, &'static str)],
    /// The clocks that [`Host::step_clock`] moves.
    pub(crate) clocks: Clocks,
    /// Whether the application is told to show clients.
    pub(crate) clients: Clients,
}

/// Clocks of the application that a test moves, with libfaketime.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// None.
    #[default]
    Real,
    /// The wall clock alone, as a step of the system's time does.
    Wall,
    /// The wall clock and the monotonic clock, as passing time does.
    All,
}

/// Where Debian keeps the library.
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Runs `body` of the test `name` inside namespaces of its own: the test binary calls itself.
pub(crate) fn inside(name: &str, body: fn(Host)) {
    inside_with(name, Setup::default(), body);
}

/// The same with an application that is set up otherwise.
pub(crate) fn inside_with(name: &str, setup: Setup, body: fn(Host)) {
    said_inside(name, setup, body);
}

/// The same; what the test binary inside said on standard error, `None` there.
pub(crate) fn said_inside(name: &str, setup: Setup, body: fn(Host)) -> Option<String> {
    let clients = setup.clients;
    if std::env::var("SCENARIO").as_deref() == Ok(name) {
        lab::isolate::enter().unwrap();
        body(Host::start(setup));
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env("SCENARIO", name)
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    records::text("scenario", clients, &*err);
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "the scenario did not run: {out}");
    // What it measured; shown with --nocapture.
    for line in out.lines().filter(|line| line.contains("after ")) {
        println!("{line}");
    }
    Some(err.into_owned())
}

/// The station under test.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    redis: Child,
    application: Child,
    log: Arc<Mutex<String>>,
    published: Arc<Mutex<Vec<Vec<u8>>>>,
    publisher: Arc<bus::Publisher>,
    served: Served,
    policy: Policy,
}

/// Phantom subnets of the lab.
pub(crate) const PHANTOMS: &str = "[Networks]\n[Networks.1]\nGeneration = 1\n\
    [[Networks.1.WeightedSubnets]]\nWeight = 1\n\
    Subnets = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]\n";

impl Host {
    fn start(setup: Setup) -> Self {
        Lab::build(1).unwrap().bypass_detector().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("privkey"), [0x40; 32]).unwrap();
        std::fs::write(path("phantoms.toml"), PHANTOMS).unwrap();
        let mut config = Self::config(dir.path(), "");
        for (from, to) in setup.replace {
            assert!(config.contains(from), "{from}");
            config = config.replace(from, &to.replace("DIR", &dir.path().to_string_lossy()));
        }
        std::fs::write(path("app.toml"), config).unwrap();
        let redis = start_redis(dir.path());
        let published = collect(dir.path());
        let publisher = publisher();
        let (application, log) = launch(Node::Station, dir.path(), setup.clocks, setup.clients);
        let settings = conf::Application::load(&path("app.toml")).unwrap().value;
        let host = Self {
            served: Served {
                v4: settings.enable_v4,
                v6: settings.enable_v6,
                transports: vec![Transport::Min, Transport::Prefix],
            },
            policy: Policy::build(&settings, &path("phantoms.toml")).unwrap().0,
            dir,
            redis,
            application,
            log,
            published,
            publisher,
        };
        host.until("the application subscribes", |h| h.publisher.stats().subscribers == 1);
        // A link that comes up later publishes again, with what is left of a lifetime. Scenarios
        // with a Redis of their own bring it later.
        if settings.redis_url.is_some_and(|url| url.starts_with("redis+unix:")) {
            host.until("Redis is connected", |h| h.redis_state() == "connected");
        }
        host
    }

    fn config(dir: &Path, extra: &str) -> String {
        format!(
            "log_level = \"debug\"\nenable_v4 = true\nenable_v6 = true\nsocket_name = \"zmq-proxy\"\n\
             cache_expiration_time = \"2h\"\ncache_expiration_nonlive = \"5m\"\n\
             covert_blocklist_domains = [\"localhost\"]\n\
             covert_blocklist_subnets = [\"10.0.0.0/8\"]\n\
             redis_url = \"redis+unix://{}/redis.sock\"\n{extra}\n\
             [[connect_sockets]]\naddress = \"ipc://@detector\"\ntype = \"NULL\"\n",
            dir.display()
        )
    }

    /// Replaces the configuration and sends SIGHUP.
    pub(crate) fn reload(&self, config: &str) {
        std::fs::write(self.path("app.toml"), config).unwrap();
        self.signal("HUP");
    }

    /// Moves the clocks of [`Setup::clocks`] by `offset` from the true time, such as `-1h`.
    pub(crate) fn step_clock(&self, offset: &str) {
        std::fs::write(self.path("clock.new"), offset).unwrap();
        std::fs::rename(self.path("clock.new"), self.path("clock")).unwrap();
    }

    /// Pipes that the application holds.
    pub(crate) fn pipes(&self) -> usize {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.application.id())).unwrap();
        let targets = descriptors.flatten().flat_map(|d| std::fs::read_link(d.path()));
        targets.filter(|t| t.to_string_lossy().starts_with("pipe:")).count()
    }

    /// The configuration with a line added.
    pub(crate) fn config_with(&self, extra: &str) -> String {
        Self::config(self.dir.path(), extra)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sends a signal to the application.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.application.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Sends a signal to Redis.
    pub(crate) fn signal_redis(&self, name: &str) {
        let pid = self.redis.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for the application's end, at most `limit`.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.application.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Whether the application still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.application.try_wait().unwrap().is_none()
    }

    /// Publishes `message` as the detector would, `times` times.
    pub(crate) fn publish(&self, message: &C2sWrapper, times: usize) {
        if let Some(secret) = &message.shared_secret {
            records::shared_secret(secret);
        }
        for _ in 0..times {
            self.publisher.publish(message.encode_to_vec().into());
        }
    }

    /// What the station makes of `message`: one registration per family.
    pub(crate) fn registrations(&self, message: &C2sWrapper) -> Vec<Registration> {
        intake::read(&message.encode_to_vec(), &self.served, &self.policy).unwrap().registrations
    }

    /// Publishes a pre-scanned registration and waits until detectors heard of it; its phantom.
    pub(crate) fn register(&self, message: &C2sWrapper) -> SocketAddr {
        let phantom = self.registrations(message)[0].phantom_endpoint();
        let before = self.sessions().len();
        self.publish(message, 1);
        self.until("New is published", |h| h.sessions().len() > before);
        phantom
    }

    /// Everything published on Redis so far.
    pub(crate) fn published(&self) -> Vec<Vec<u8>> {
        self.published.lock().unwrap().clone()
    }

    /// Sessions announced on Redis so far, with their lifetime.
    pub(crate) fn sessions(&self) -> Vec<(session::SessionKey, Duration)> {
        let all = self.published();
        all.iter()
            .filter_map(|message| match session::command::decode(message) {
                Ok(Sessions::Upsert(key, lifetime)) => Some((key, lifetime)),
                _ => None,
            })
            .collect()
    }

    /// The application's log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until `holds`, at most 10 s.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.within(Duration::from_secs(10), what, holds);
    }

    /// Waits until `holds`, at most `limit`; the time that it took.
    pub(crate) fn within(
        &self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Self) -> bool,
    ) -> Duration {
        let start = Instant::now();
        while start.elapsed() < limit {
            if holds(self) {
                return start.elapsed();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("after {limit:?} still not: {what}\n{}", self.log());
    }

    /// What the operator sees of the application.
    pub(crate) fn status(&self) -> StatusReply {
        status(self.dir.path())
    }

    /// State of the application's link to Redis.
    pub(crate) fn redis_state(&self) -> String {
        match self.status().detail {
            Some(Detail::Application(status)) => status.redis,
            other => panic!("{other:?}"),
        }
    }

    /// A connection from the client to `phantom`.
    pub(crate) fn connect(&self, phantom: SocketAddr) -> TcpStream {
        Node::Client
            .run(|| TcpStream::connect_timeout(&phantom, Duration::from_secs(5)))
            .unwrap_or_else(|e| panic!("{phantom}: {e}"))
    }

    /// A listener at the covert's address.
    pub(crate) fn covert(&self) -> TcpListener {
        Node::Decoy.run(|| TcpListener::bind("[::]:9999")).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.application.kill();
        let _ = self.redis.kill();
    }
}

/// Starts an application on `node` with the files in `dir`, and waits until it is ready; the process
/// and its log.
pub(crate) fn launch(
    node: Node,
    dir: &Path,
    clocks: Clocks,
    clients: Clients,
) -> (Child, Arc<Mutex<String>>) {
    let path = |name: &str| dir.join(name);
    let ready = UnixDatagram::bind(path("notify")).unwrap();
    let mut command = node.command(env!("CARGO_BIN_EXE_application"));
    command
        .env("CJ_STATION_CONFIG", path("app.toml"))
        .env("PHANTOM_SUBNET_LOCATION", path("phantoms.toml"))
        .env("CJ_PRIVKEY", path("privkey"))
        .env("CJ_IPC_DIR", path("ipc"))
        .env("NOTIFY_SOCKET", path("notify"))
        .env("LOG_CLIENT_IP", (clients == Clients::Shown).to_string())
        .stdout(Stdio::piped());
    if clocks != Clocks::Real {
        assert!(Path::new(LIBFAKETIME).exists(), "needs libfaketime: apt-get install faketime");
        std::fs::write(path("clock"), "+0").unwrap();
        command
            .env("LD_PRELOAD", LIBFAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", path("clock"))
            .env("FAKETIME_NO_CACHE", "1");
    }
    if clocks == Clocks::Wall {
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    let mut application = command.spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    records::client(lab::address::CLIENT_V4);
    records::client(lab::address::CLIENT_V6);
    records::secret("station key", &std::fs::read(path("privkey")).unwrap());
    let kept = records::file("application", clients);
    follow(application.stdout.take().unwrap(), Arc::clone(&log), kept);
    ready.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    ready.recv(&mut [0; 64]).expect("the application does not become ready");
    (application, log)
}

/// Status of the application that was launched with `dir`.
pub(crate) fn status(dir: &Path) -> StatusReply {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = admin::socket_path(&dir.join("ipc"), "application", 0);
    runtime.block_on(async {
        let channel = admin::channel(&socket).await.unwrap();
        let mut client = admin::AdminClient::new(channel);
        client.status(StatusRequest {}).await.unwrap().into_inner()
    })
}

fn start_redis(dir: &Path) -> Child {
    let socket = dir.join("redis.sock");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is needed: apt-get install redis-server");
    // The file is there a moment before anybody listens.
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// Collects everything that is published for detectors.
fn collect(dir: &Path) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let client = redis::Client::open(format!("redis+unix://{}/redis.sock", dir.display())).unwrap();
    let mut connection = client.get_connection().unwrap();
    let collected = Arc::clone(&all);
    let (ready, subscribed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut pubsub = connection.as_pubsub();
        pubsub.subscribe(session::SESSION_CHANNEL).unwrap();
        ready.send(()).unwrap();
        while let Ok(message) = pubsub.get_message() {
            collected.lock().unwrap().push(message.get_payload_bytes().to_vec());
        }
    });
    subscribed.recv().unwrap();
    all
}

/// The detector's publishing socket, bound on the station.
fn publisher() -> Arc<bus::Publisher> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        Node::Station.enter().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = bus::PublisherOptions::default();
            let publisher = bus::Publisher::bind("ipc://@detector", options).await.unwrap();
            sender.send(Arc::new(publisher)).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

fn follow(out: impl Read + Send + 'static, log: Arc<Mutex<String>>, mut kept: Option<File>) {
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(kept) = &mut kept {
                writeln!(kept, "{line}").unwrap();
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// A registration of Min for the lab's client and covert.
pub(crate) fn registration(seed: u8) -> C2sWrapper {
    C2sWrapper {
        shared_secret: Some(vec![seed; 32]),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(Transport::Min.number()),
            covert_address: Some("198.51.100.2:9999".to_owned()),
            v4_support: Some(true),
            v6_support: Some(false),
            flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
            ..Default::default()
        }),
        registration_source: Some(2),
        registration_address: Some(vec![10, 10, 1, 2]),
        ..Default::default()
    }
}

/// Changes the payload of a registration.
pub(crate) fn with(
    mut message: C2sWrapper,
    change: impl FnOnce(&mut ClientToStation),
) -> C2sWrapper {
    change(message.registration_payload.as_mut().unwrap());
    message
}

/// The first bytes of a Min connection.
pub(crate) fn tag(seed: u8) -> [u8; 32] {
    keys::SharedSecret::new(&[seed; 32]).min_identifier()
}

/// Reads until the end, at most `limit`; what came, whether the end was a FIN, and when.
pub(crate) fn read_to_end(stream: &mut TcpStream, limit: Duration) -> (Vec<u8>, bool, Duration) {
    let start = Instant::now();
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut all = Vec::new();
    let fin = stream.read_to_end(&mut all).is_ok();
    (all, fin, start.elapsed())
}

/// Writes all, however the other side takes it.
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

/// Ends writing.
pub(crate) fn end_writing(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// True when `address` is the lab's client.
pub(crate) fn is_client(address: IpAddr) -> bool {
    address.to_canonical() == IpAddr::V4(lab::address::CLIENT_V4)
}
