//! The daemon as operators run it: a queue of zbalance in front, tun device, registration bus and
//! session channel behind, and a kill in between. Runs in a network namespace of its own.

mod cases;
#[allow(dead_code)]
#[path = "../frames/mod.rs"]
mod frames;
mod live_frames;
mod offload;
mod service;

use frames::tcp4;
use session::hub::{DEFAULT_QUEUE, Hub, Snapshot};
use session::redis_out::{Announcement, RedisPublisher, Registrations};
use session::{Proto, SessionKey};
use shm::{Meta, Producer, Server, ServerOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const PHANTOM: [u8; 4] = [192, 122, 190, 7];
const SYN: u8 = 0x02;
const PUSH: u8 = 0x18;
/// Nothing here takes longer on a busy machine; it is no measurement.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` of this file again inside a new network namespace, where `inside` does the work.
fn in_namespace(test: &str, inside: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = device {
        println!("skipped: needs /dev/net/tun: {error}");
        return;
    }
    unshare(&["--map-root-user", "--net"], test);
}

/// Says to this program that it runs inside namespaces.
const INSIDE: &str = "DETECTOR_TEST_INSIDE_NAMESPACE";

/// Runs `test` of this file again inside the namespaces that `options` name.
fn unshare(options: &[&str], test: &str) {
    let status = Command::new("unshare")
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Writes key and settings of a detector into `dir`; a tagged record for the key.
fn configure(dir: &Path) -> Vec<u8> {
    let vector = vectors::load("detector-upstream.json")["vectors"][0].clone();
    std::fs::write(dir.join("privkey"), vectors::hex(&vector["station_private_key"])).unwrap();
    let config = "detector_filter_list = [\"127.0.0.1\"]\nredis_url = \"\"\n";
    std::fs::write(dir.join("app_config.toml"), config).unwrap();
    vectors::hex(&vector["tls_record"])
}

/// A zbalance that sends what it is given to queue 0.
fn balancer(dir: &Path) -> Sender<Vec<u8>> {
    let mut options = ServerOptions::new(dir.to_owned(), 98, vec![1]);
    (options.slots, options.working_set) = (256, 64);
    let (mut server, mut producers) = Server::bind(options, [1; 16]).unwrap();
    let (frames, inlet) = channel();
    std::thread::spawn(move || {
        loop {
            server.poll(Duration::from_millis(2), &mut |_| "{}".to_owned());
            let Some(producer) = producers.first_mut() else { return };
            pump(producer, &inlet);
        }
    });
    frames
}

fn pump(producer: &mut Producer, inlet: &Receiver<Vec<u8>>) {
    producer.tick();
    for frame in inlet.try_iter() {
        producer.send(&frame, &Meta::default(), 1);
    }
    producer.flush();
}

fn key(port: u16) -> SessionKey {
    SessionKey::new(Proto::Tcp, PHANTOM.into(), CLIENT.into(), port).unwrap()
}

/// The application's sessions: one, to port 443.
struct One;

impl Snapshot for One {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        vec![(key(443), Duration::from_secs(600))]
    }
}

impl Registrations for One {
    fn valid(&self) -> Vec<(Announcement, Duration)> {
        vec![(Announcement { key: key(443), client: CLIENT.into() }, Duration::from_secs(600))]
    }
}

struct Detector(Child);

impl Detector {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {})
    }

    /// Starts with changes to the command.
    fn start_with(dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_detector")), dir, change)
    }

    /// Starts by a command that runs the program.
    fn start_by(mut command: Command, dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        command
            .args(["-c", "98", "-o", "0", "-n", "1", "-l", "1", "-s", "-z", "0"])
            .arg("-K")
            .arg(dir.join("privkey"))
            .arg("--allow-unpinned")
            .env("CJ_IPC_DIR", dir)
            .env("CJ_STATION_CONFIG", dir.join("app_config.toml"))
            .env_remove("CJ_SESSION_SOCKET")
            .stdout(Stdio::null());
        records::client(CLIENT);
        records::client(cases::CLIENT_V6);
        records::secret("station key", &std::fs::read(dir.join("privkey")).unwrap()[..32]);
        if let Some((out, err)) = records::streams("detector", records::Clients::Hidden) {
            command.stdout(out).stderr(err);
        }
        change(&mut command);
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        // Already gone in a test that passes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel receives from tun0.
fn tap() -> socket2::Socket {
    use socket2::{Domain, Protocol, Socket, Type};
    let all = Protocol::from(i32::from(0x0003u16.to_be()));
    let tap = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap();
    tap.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    tap
}

/// Sends `frame` until its packet shows up behind the tun device; the time that took.
fn forwarded(frames: &Sender<Vec<u8>>, tap: &socket2::Socket, frame: &[u8]) -> Duration {
    let start = Instant::now();
    let mut buffer = vec![0; 65_536];
    while start.elapsed() < PATIENCE {
        frames.send(frame.to_vec()).unwrap();
        while let Ok(n) = (&mut &*tap).read(&mut buffer) {
            if buffer[..n] == frame[14..] {
                return start.elapsed();
            }
        }
    }
    panic!("not forwarded within {PATIENCE:?}");
}

#[test]
fn a_daemon_from_queue_to_tun() {
    in_namespace("a_daemon_from_queue_to_tun", || {
        tokio::runtime::Runtime::new().unwrap().block_on(whole_life());
    });
}

async fn whole_life() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let record = configure(dir);
    let config = dir.join("app_config.toml");

    let frames = balancer(dir);
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(One));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    let mut bus = bus::Subscriber::connect("ipc://@detector", Default::default()).unwrap();
    let tap = tap();
    let mut detector = Detector::start(dir);
    tokio::time::timeout(PATIENCE, bus.connected()).await.unwrap();

    // A session of the snapshot.
    let syn = |port| tcp4((CLIENT, 4000), (PHANTOM, port), SYN, &[]);
    let (to_known, tap) = tokio::task::block_in_place(|| {
        forwarded(&frames, &tap, &syn(443));
        (syn(443), tap)
    });

    // A tagged record on a followed flow.
    let decoy = ([198, 51, 100, 9], 443);
    let message = loop {
        frames.send(tcp4((CLIENT, 5000), decoy, SYN, &[])).unwrap();
        frames.send(tcp4((CLIENT, 5000), decoy, PUSH, &record)).unwrap();
        let wait = Duration::from_millis(200);
        if let Ok(message) = tokio::time::timeout(wait, bus.recv()).await {
            break message;
        }
    };
    assert_eq!(message[..2], [0x0a, 0x20], "shared secret first");
    assert!(message.ends_with(&[0x3a, 4, 198, 51, 100, 9]), "decoy address last");

    // A packet that comes before its session is held, not lost.
    hub.pending(key(8080), Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    frames.send(syn(8080)).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    hub.upsert(key(8080), Duration::from_secs(60));
    let mut buffer = vec![0; 4096];
    let start = Instant::now();
    loop {
        let read = (&mut &tap).read(&mut buffer);
        if read.is_ok_and(|n| buffer[..n] == syn(8080)[14..]) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the held packet was not released");
    }

    // The operator's view, and a reload.
    let socket = telemetry::admin::socket_path(dir, "detector", 0);
    let mut admin =
        telemetry::admin::AdminClient::new(telemetry::admin::channel(&socket).await.unwrap());
    let status = admin.status(signalling::station::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.state, "ready", "{:?}", status.notes);
    let Some(signalling::station::status_reply::Detail::Detector(detail)) = status.detail else {
        panic!("{:?}", status.detail);
    };
    assert_eq!((detail.sessions, detail.workers.len()), (2, 1));
    assert!(detail.workers[0].tags >= 1 && detail.workers[0].forwarded >= 2);
    std::fs::write(&config, "detector_filter_list = nonsense").unwrap();
    let request = signalling::station::ReloadRequest {};
    let files = admin.reload(request).await.unwrap().into_inner().files;
    assert!(files.len() == 1 && !files[0].applied, "all or nothing: {files:?}");
    assert!(files[0].error.contains("app_config.toml:1: "), "{files:?}");
    let notes =
        admin.status(signalling::station::StatusRequest {}).await.unwrap().into_inner().notes;
    assert!(notes.iter().any(|note| note.starts_with("last reload refused: ")), "{notes:?}");

    // Killed and started again, it knows the sessions before its first packet.
    std::fs::write(&config, "detector_filter_list = []\nredis_url = \"\"\n").unwrap();
    detector.signal(rustix::process::Signal::KILL);
    detector.0.wait().unwrap();
    detector = Detector::start(dir);
    let gap = tokio::task::block_in_place(|| forwarded(&frames, &tap, &to_known));
    println!("gap after kill -9, start included: {gap:?}");

    detector.signal(rustix::process::Signal::TERM);
    let status = tokio::task::block_in_place(|| detector.0.wait().unwrap());
    assert!(status.success(), "{status}");
}

/// Without the gRPC channel, Redis alone brings the sessions back after a kill.
#[test]
fn a_daemon_with_redis_only() {
    in_namespace("a_daemon_with_redis_only", || {
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).stdout(Stdio::null()).spawn()
        };
        assert!(run("ip", &["link", "set", "lo", "up"]).unwrap().wait().unwrap().success());
        match run("redis-server", &["--save", "", "--appendonly", "no"]) {
            Ok(redis) => {
                let _redis = Detector(redis);
                tokio::runtime::Runtime::new().unwrap().block_on(redis_only());
            }
            Err(error) => println!("skipped: needs redis-server: {error}"),
        }
    });
}

async fn redis_only() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
    let text = "detector_filter_list = [\"127.0.0.1\", \"::1\"]\n";
    std::fs::write(dir.join("app_config.toml"), text).unwrap();
    let frames = balancer(dir);
    let tap = tap();
    let _publisher = RedisPublisher::start("redis://127.0.0.1/", Arc::new(One));
    let syn = tcp4((CLIENT, 4000), (PHANTOM, 443), SYN, &[]);
    let mut detector = Detector::start(dir);
    tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn));
    for _ in 0..3 {
        // The application answers one hello a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        detector.signal(rustix::process::Signal::KILL);
        detector.0.wait().unwrap();
        detector = Detector::start(dir);
        let gap = tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn));
        println!("gap after kill -9 with Redis only, start included: {gap:?}");
    }
}

#[test]
fn wrong_starts_say_why() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_detector"))
            .args(arguments)
            .env("CJ_STATION_CONFIG", "/nonexistent/app_config.toml")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = run(&["-n", "1"]);
    assert_eq!(code, 64);
    assert!(text.contains("required -c cluster_id"), "{text}");
    let (code, text) = run(&["-c", "98"]);
    assert_eq!(code, 78);
    assert!(text.contains("-K"), "{text}");
    let (code, text) = run(&["-c", "98", "-K", "/nonexistent/key"]);
    assert_eq!(code, 78);
    assert!(text.contains("/nonexistent/key"), "{text}");
    let (code, text) = run(&["--check-config", "-K", "/nonexistent/key"]);
    assert_eq!(code, 78, "{text}");
    assert_eq!(run(&["--help"]).0, 0);
    assert_eq!(run(&["--version"]).0, 0);
}

/// Frames of an interface, without zbalance; an operator's probe shows up in the log, and its
/// sender does not.
#[test]
fn a_daemon_on_an_interface() {
    in_namespace("a_daemon_on_an_interface", || {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_detector"))
            .args(["-i", "afp:lo", "--allow-unpinned", "-l", "1", "-K"])
            .arg(dir.join("privkey"))
            .env("CJ_IPC_DIR", dir)
            .env("LOG_CLIENT_IP", "TRUE")
            .env_remove("CJ_STATION_CONFIG")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut detector = Detector(child);
        let mut kept = records::file("detector", records::Clients::Hidden);
        let log = std::io::BufReader::new(detector.0.stdout.take().unwrap());
        let (line, found) = channel();
        std::thread::spawn(move || {
            for text in std::io::BufRead::lines(log).map_while(Result::ok) {
                if let Some(kept) = &mut kept {
                    std::io::Write::write_all(kept, format!("{text}\n").as_bytes()).unwrap();
                }
                if text.contains("Validated UDP traffic") {
                    line.send(text).unwrap();
                    return;
                }
            }
        });
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let start = Instant::now();
        let text = loop {
            // Nobody listens there, which the probe hears about and need not mind.
            let _ = probe.send_to(detector::test_strings::UDP, "127.0.0.1:53");
            match found.recv_timeout(Duration::from_millis(50)) {
                Ok(text) => break text,
                Err(_) => assert!(start.elapsed() < PATIENCE, "the probe was not seen"),
            }
        };
        let wanted = "(Core 0) DEBUG: Validated UDP traffic from _ -> 127.0.0.1:53";
        assert!(text.ends_with(wanted), "{text}");
    });
}

/// A recording is replayed with its own time and ends with a summary.
#[test]
fn a_replay_ends_with_a_summary() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let vector = vectors::load("detector-upstream.json")["vectors"][0].clone();
    std::fs::write(dir.join("privkey"), vectors::hex(&vector["station_private_key"])).unwrap();
    let record = vectors::hex(&vector["tls_record"]);
    let decoy = ([198, 51, 100, 9], 443);
    let mut file: Vec<u8> = [0xa1b2_c3d4u32, 0x0002_0004, 0, 0, 65_535, 1]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    // Port 5000 sends its record in time, port 5001 half a minute too late.
    for (second, port, flags, payload) in [
        (0, 5000, SYN, &[][..]),
        (1, 5001, SYN, &[]),
        (2, 5000, PUSH, &record),
        (40, 5001, PUSH, &record),
    ] {
        let frame = tcp4((CLIENT, port), decoy, flags, payload);
        for value in [second, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(u32::to_le_bytes(value));
        }
        file.extend(frame);
    }
    std::fs::write(dir.join("recording.pcap"), file).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_detector"))
        .arg("-i")
        .arg(format!("pcap:{}", dir.join("recording.pcap").display()))
        .arg("-K")
        .arg(dir.join("privkey"))
        .env_remove("CJ_STATION_CONFIG")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    records::text("detector", records::Clients::Hidden, &*text);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("replayed 4 packets"), "{text}");
    assert!(text.ends_with("registrations found: 1\n"), "{text}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains('\r'), "a bar where nobody looks: {told}");

    // In a terminal there is a bar, which goes away.
    let line = format!(
        "{} -i pcap:{} -K {}",
        env!("CARGO_BIN_EXE_detector"),
        dir.join("recording.pcap").display(),
        dir.join("privkey").display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = command.env_remove("CJ_STATION_CONFIG").output().expect("script");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(" %, "), "{text}");
    assert!(text.contains("\r\u{1b}[K") && text.contains("registrations found: 1"), "{text}");
}

/// P43: a container whose runtime gives it no tun device. One line says what is missing and what to do, and
/// the exit code tells a supervisor that another start changes nothing.
#[test]
fn a_missing_device_is_one_line_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("privkey"), [7; 32]).unwrap();
    let mut command = std::process::Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" -c 98 -n 1 -K \"$1\"";
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_detector")]);
    command.arg(dir.path().join("privkey")).env("CJ_IPC_DIR", dir.path());
    let output = command.env_remove("CJ_STATION_CONFIG").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("/dev/net/tun")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("`devices:`") && lines[0].contains("modprobe tun"), "{said}");
}
