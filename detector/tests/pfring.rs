//! The detector as a consumer of PF_RING ZC, and on an interface without ZC, with a recording fake in the library's place
//! and its own view of `/proc/net`. Runs in a network namespace of its own.
#![cfg(feature = "pfring")]

#[allow(dead_code)]
mod frames;

use frames::tcp4;
use pfring::{Cluster, Library, Settings};
use pfring_fake::Fake;
use session::hub::{DEFAULT_QUEUE, Hub, Snapshot};
use session::{Proto, SessionKey};
use signalling::station::{StatusRequest, WorkerStatus, status_reply::Detail};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const PHANTOM: [u8; 4] = [192, 122, 190, 7];
const SYN: u8 = 0x02;
/// Nothing here takes longer on a busy machine; it is no measurement.
const PATIENCE: Duration = Duration::from_secs(20);
const INFO: &str = "PF_RING Version          : 8.9.0 (unknown)\n";

/// One session, to port 443.
struct One;

impl Snapshot for One {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let key = SessionKey::new(Proto::Tcp, PHANTOM.into(), CLIENT.into(), 443).unwrap();
        vec![(key, Duration::from_secs(600))]
    }
}

/// The fake, what the kernel's module says, and the station's files.
struct Stage {
    dir: PathBuf,
    fake: Fake,
    library: &'static Library,
    _hub: Arc<Hub>,
}

impl Stage {
    fn new(dir: &Path) -> Self {
        let fake = Fake::build(dir);
        std::fs::create_dir_all(dir.join("net/pf_ring")).unwrap();
        std::fs::copy("/proc/self/net/dev", dir.join("net/dev")).unwrap();
        std::fs::write(dir.join("net/pf_ring/info"), INFO).unwrap();
        std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
        let text = "detector_filter_list = [\"127.0.0.1\", \"::1\"]\nredis_url = \"\"\n";
        std::fs::write(dir.join("app_config.toml"), text).unwrap();
        let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(One));
        hub.serve(&dir.join(session::socket_name(0))).unwrap();
        let library = Library::open(fake.library().as_os_str()).unwrap();
        Self { dir: dir.to_owned(), fake, library, _hub: hub }
    }

    /// A detector, which finds the fake's library and this module.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("mount --bind \"$STAGE\" /proc/$$/net && exec \"$0\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_detector")).args(line.split_whitespace());
        command.args(["-l", "1", "--allow-unpinned", "-K"]).arg(self.dir.join("privkey"));
        command.env("STAGE", self.dir.join("net")).env("CJ_IPC_DIR", &self.dir);
        command.env("CJ_STATION_CONFIG", self.dir.join("app_config.toml"));
        command.env("PFRING_FAKE_NAME", "detector");
        command
            .env_remove("CJ_SESSION_SOCKET")
            .env_remove("CJ_USER")
            .env_remove("CJ_INGEST_BACKEND");
        self.fake.offer(&mut command);
        command
    }

    fn start(&self, line: &str, change: impl FnOnce(&mut Command)) -> Detector {
        // There may be none yet.
        let _ = std::fs::remove_file(self.dir.join("log-detector"));
        let mut command = self.command(line);
        records::client(CLIENT);
        command.stdout(Stdio::null());
        if let Some((out, err)) = records::streams("detector", records::Clients::Hidden) {
            command.stdout(out).stderr(err);
        }
        change(&mut command);
        Detector(command.spawn().unwrap())
    }

    /// A detector that ends by itself.
    fn run(&self, line: &str, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut command = self.command(line);
        change(&mut command);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        (status.code().unwrap(), text)
    }

    /// A cluster of two queues; the module shows it as `entry`.
    fn cluster(&self, entry: &str) -> Cluster {
        let settings = Settings {
            cluster: 98,
            devices: vec!["zc:tap0".to_owned()],
            queues: 2,
            slots: 64,
            buffers: 16,
            packet: 1536,
            node: -1,
            copies: false,
        };
        // A new device begins at the start of its file.
        let _ = std::fs::remove_file(self.dir.join("packets-zc:tap0"));
        let cluster = Cluster::create(self.library, &settings).unwrap();
        let text = "Appl. Name         : pfring-zc-cluster-98\n";
        std::fs::write(self.dir.join("net/pf_ring").join(entry), text).unwrap();
        cluster
    }

    /// Puts the packets into a queue; how many of them had room.
    fn send(&self, cluster: &mut Cluster, queue: u32, packets: &[Vec<u8>]) -> u32 {
        self.fake.packets("zc:tap0", packets.iter().map(Vec::as_slice));
        let (mut seen, mut sent) = (0, 0);
        while seen < packets.len() {
            let count = cluster.receive(0).unwrap();
            sent += (0..count).map(|index| cluster.send(index, 1 << queue, true)).sum::<u32>();
            seen += count;
        }
        sent
    }

    fn calls_of(&self) -> Vec<String> {
        let calls = self.fake.calls("detector");
        let kept = |call: &String| !call.contains("recv");
        calls.into_iter().filter(kept).collect()
    }

    async fn workers(&self) -> Option<Vec<WorkerStatus>> {
        let socket = telemetry::admin::socket_path(&self.dir, "detector", 0);
        let channel = telemetry::admin::channel(&socket).await.ok()?;
        let mut admin = telemetry::admin::AdminClient::new(channel);
        match admin.status(StatusRequest {}).await.ok()?.into_inner().detail? {
            Detail::Detector(detail) => Some(detail.workers),
            _ => None,
        }
    }

    /// Waits until this holds for the workers.
    async fn until(&self, what: &str, holds: impl Fn(&[WorkerStatus]) -> bool) {
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < PATIENCE {
            last = self.workers().await;
            if last.as_deref().is_some_and(&holds) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never: {what}: {last:?}");
    }

    /// Waits until the detector has made this call so many times.
    fn calls(&self, call: &str, times: usize) {
        let start = Instant::now();
        let count = || self.fake.journal("detector").lines().filter(|line| *line == call).count();
        while count() < times {
            assert!(start.elapsed() < PATIENCE, "{call}: {:#?}", self.fake.calls("detector"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Detector(Child);

impl Detector {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops every thread; they stand still afterwards.
    fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let start = Instant::now();
        let stands =
            |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        loop {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().flatten();
            let mut stats = tasks.map(|task| std::fs::read_to_string(task.path().join("stat")));
            if stats.all(|stat| stat.is_ok_and(|stat| stands(&stat))) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn terminate(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel receives from tun devices.
struct Tap(socket2::Socket);

impl Tap {
    fn new() -> Self {
        use socket2::{Domain, Protocol, Socket, Type};
        let all = Protocol::from(i32::from(0x0003u16.to_be()));
        let tap = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap();
        tap.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self(tap)
    }

    fn sees(&self, frame: &[u8]) {
        let start = Instant::now();
        let mut buffer = vec![0; 65_536];
        while start.elapsed() < PATIENCE {
            if (&mut &self.0).read(&mut buffer).is_ok_and(|n| buffer[..n] == frame[14..]) {
                return;
            }
        }
        panic!("not forwarded within {PATIENCE:?}");
    }
}

/// A packet of the session, told from others by its source port.
fn syn(port: u16) -> Vec<u8> {
    tcp4((CLIENT, port), (PHANTOM, 443), SYN, &[])
}

/// How a worker attaches to a queue: the queue, the pool of its number, 16 buffers.
fn attaching(queue: u32) -> Vec<String> {
    vec![
        format!("ipc_attach_queue 98 {queue} = 0"),
        format!("ipc_attach_buffer_pool 98 {queue} = 0"),
        format!("get_packet_handle_from_pool 98@{queue} = 1"),
    ]
}

/// How it lets go of it; the fake writes a line that repeats itself once.
fn detaching(queue: u32) -> Vec<String> {
    vec![
        format!("queue_breakloop 98@{queue}"),
        format!("release_packet_handle_to_pool 98@{queue}"),
        format!("ipc_detach_queue 98@{queue}"),
        format!("ipc_detach_buffer_pool 98@{queue}"),
    ]
}

/// Before the producer is there, with it, with drops, without it, with the next one, to the end.
async fn a_queue(stage: &Stage, tap: &Tap) {
    let detector = stage.start("-i zc:98@1", |_| {});
    stage.calls("ipc_attach_queue 98 1 = 22", 1);
    let mut cluster = stage.cluster("4711-none.1");
    let wire = syn(4000);
    assert_eq!(stage.send(&mut cluster, 1, std::slice::from_ref(&wire)), 1);
    tap.sees(&wire);
    let attached = |workers: &[WorkerStatus]| workers[0].forwarded >= 1;
    stage.until("the packet is counted", attached).await;

    // While it stands still its queue overflows, which it reports as its own loss.
    detector.stop();
    let flood: Vec<Vec<u8>> = (0..100).map(|n| syn(5000 + n)).collect();
    assert_eq!(stage.send(&mut cluster, 1, &flood), 64);
    detector.signal(rustix::process::Signal::CONT);
    tap.sees(&flood[63]);
    stage.until("36 packets are lost", |workers| workers[0].dropped_source == 36).await;

    // The balancer is started again.
    drop(cluster);
    std::fs::remove_file(stage.dir.join("net/pf_ring/4711-none.1")).unwrap();
    stage.calls("ipc_detach_buffer_pool 98@1", 1);
    let mut cluster = stage.cluster("4712-none.1");
    stage.calls("ipc_attach_buffer_pool 98 1 = 0", 2);
    let wire = syn(4001);
    assert_eq!(stage.send(&mut cluster, 1, std::slice::from_ref(&wire)), 1);
    tap.sees(&wire);
    stage.until("earlier losses stay", |workers| workers[0].dropped_source == 36).await;
    detector.terminate();
    drop(cluster);
    std::fs::remove_file(stage.dir.join("net/pf_ring/4712-none.1")).unwrap();

    assert_eq!(stage.fake.violations("detector"), Vec::<String>::new());
    // The fake joins repeated lines, as the attempts before the balancer was ready.
    let refused = || vec!["ipc_attach_queue 98 1 = 22".to_owned()];
    let mut calls = stage.calls_of();
    let attempts = [refused(), attaching(1), detaching(1)];
    let first = attempts.concat();
    assert_eq!(calls[..first.len()], first, "{calls:#?}");
    calls.drain(..first.len());
    calls.retain(|call| *call != refused()[0]);
    assert_eq!(calls, [attaching(1), detaching(1)].concat());
}

/// Every worker of `-c` has the queue of its number, when the configuration asks for PF_RING.
async fn as_configured(stage: &Stage, tap: &Tap) {
    let pf_ring = |command: &mut Command| {
        command.env("CJ_INGEST_BACKEND", "pfring");
    };
    let mut cluster = stage.cluster("4713-none.1");
    let detector = stage.start("-c 98 -n 2", pf_ring);
    for queue in [0, 1] {
        let wire = syn(6000 + queue as u16);
        assert_eq!(stage.send(&mut cluster, queue, std::slice::from_ref(&wire)), 1);
        tap.sees(&wire);
    }
    let one_each = |workers: &[WorkerStatus]| workers.iter().all(|worker| worker.forwarded == 1);
    stage.until("each worker has forwarded one packet", one_each).await;
    detector.terminate();
    drop(cluster);
    std::fs::remove_file(stage.dir.join("net/pf_ring/4713-none.1")).unwrap();
    assert_eq!(stage.fake.violations("detector"), Vec::<String>::new());
    let calls = stage.calls_of();
    for queue in [0, 1] {
        // The two workers' calls are mixed.
        let own = |call: &String| {
            call.contains(&format!("98@{queue}")) || call.contains(&format!("98 {queue} "))
        };
        let mut of_it: Vec<String> = calls.iter().filter(|call| own(call)).cloned().collect();
        of_it.dedup();
        assert_eq!(of_it, [attaching(queue), detaching(queue)].concat());
    }

    // Without a cluster of the library a queue of our own balancer does as well.
    let detector = stage.start("-c 98 -n 1", pf_ring);
    stage.calls("ipc_attach_queue 98 0 = 22", 1);
    let mut options = shm::ServerOptions::new(stage.dir.clone(), 98, vec![1]);
    (options.slots, options.working_set) = (256, 64);
    let (mut server, mut producers) = shm::Server::bind(options, [1; 16]).unwrap();
    let wire = syn(6002);
    let start = Instant::now();
    loop {
        server.poll(Duration::from_millis(2), &mut |_| "{}".to_owned());
        producers[0].tick();
        if server.queues()[0].consumer.is_some() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it does not attach to a queue of our own");
    }
    producers[0].send(&wire, &shm::Meta::default(), 1);
    producers[0].flush();
    tap.sees(&wire);
    detector.terminate();
    assert_eq!(stage.fake.violations("detector"), Vec::<String>::new());
}

/// What was captured is parsed, whatever the length on the wire was.
async fn an_interface(stage: &Stage, tap: &Tap) {
    let whole = syn(7000);
    // Cut within the TCP header, with a length on the wire that would reach far behind it.
    stage.fake.cut_packets("tap0", [(&whole[..40], 1500), (&whole[..], 1500)]);
    let detector = stage.start("-i pfring:tap0 -c 98", |_| {});
    tap.sees(&whole);
    let counted = |workers: &[WorkerStatus]| {
        let WorkerStatus { packets, bytes, forwarded, dropped_source, .. } = &workers[0];
        (*packets, *bytes, *forwarded, *dropped_source) == (2, 40 + 54, 1, 3)
    };
    stage.until("the packet that is cut is counted", counted).await;
    detector.terminate();
    assert_eq!(stage.fake.violations("detector"), Vec::<String>::new());
    let once = [
        "pfring_open tap0 65535 8 = 0",
        "pfring_set_cluster tap0 98 2 = 0",
        "pfring_set_direction tap0 1 0 = 0",
        "pfring_set_socket_mode tap0 2 0 = 0",
        "pfring_enable_ring tap0 0 0 = 0",
        "pfring_breakloop tap0",
        "pfring_shutdown tap0",
        "pfring_close tap0",
    ];
    // What can never work is an error at the start, so it is tried there.
    assert_eq!(stage.calls_of(), [once, once].concat());
}

/// What is missing is named, with the exit code of something that is not available.
fn what_is_missing_is_named(stage: &Stage) {
    let run = |line: &str, change: &dyn Fn(&mut Command)| stage.run(line, change);
    let without = |command: &mut Command| {
        command.env_remove("LD_LIBRARY_PATH");
    };
    let (code, text) = run("-i zc:98@0 --discard", &without);
    assert!(code == 69 && text.contains("libpfring.so cannot be loaded"), "{code}: {text}");
    let (code, text) = run("-i zc:98@0 --discard", &|command| {
        command.env("PFRING_FAKE_VERSION", "8.8.0");
    });
    assert!(code == 69 && text.contains("8.8.0 and its kernel module 8.9.0"), "{code}: {text}");
    let (code, text) = run("-i pfring:tap0 --discard", &|command| {
        command.env("PFRING_FAKE_FAIL", "pfring_open=97");
    });
    assert!(code == 69 && text.contains("pfring_open error [Address family"), "{code}: {text}");
    // What the configuration alone asks for may be missing.
    let (code, text) = run("-c 98 --check-config", &|command| {
        without(command);
        command.env("CJ_INGEST_BACKEND", "pfring");
    });
    assert!(code == 0 && text.contains("cluster 98: not PF_RING: libpfring.so"), "{code}: {text}");
    std::fs::remove_file(stage.dir.join("net/pf_ring/info")).unwrap();
    let (code, text) = run("-i zc:98@0 --discard", &|_| ());
    assert!(code == 69 && text.contains("modprobe pf_ring"), "{code}: {text}");
    std::fs::write(stage.dir.join("net/pf_ring/info"), INFO).unwrap();
}

/// Both programs, from the device to the tun.
async fn behind_zbalance(stage: &Stage, tap: &Tap) {
    let zbalance = Path::new(env!("CARGO_BIN_EXE_detector")).with_file_name("zbalance");
    if !zbalance.exists() {
        println!("skipped: needs {}: cargo build --release -p zbalance", zbalance.display());
        return;
    }
    std::fs::create_dir_all(stage.dir.join("net/pf_ring/dev/tap0")).unwrap();
    std::fs::write(stage.dir.join("net/pf_ring/dev/tap0/info"), "Polling Mode: NAPI/ZC\n").unwrap();
    // There may be none.
    let _ = std::fs::remove_file(stage.dir.join("packets-zc:tap0"));
    let mut command = Command::new("sh");
    command.arg("-c").arg("mount --bind \"$STAGE\" /proc/$$/net && exec \"$0\" \"$@\"");
    command.arg(&zbalance).args(["-i", "zc:tap0", "-c", "98", "-n", "2,1", "-g", "-1", "-z"]);
    command.env("STAGE", stage.dir.join("net")).env("CJ_IPC_DIR", &stage.dir);
    command.env("PFRING_FAKE_NAME", "zbalance").env_remove("CJ_USER").stdout(Stdio::null());
    let balancer = Detector(stage.fake.offer(&mut command).spawn().unwrap());
    // The only queue of the second set, which gets everything.
    let detector = stage.start("-i zc:98@2", |_| {});
    stage.calls("ipc_attach_buffer_pool 98 2 = 0", 1);
    let packets: Vec<Vec<u8>> = (0..200).map(|n| syn(8000 + n)).collect();
    stage.fake.packets("zc:tap0", packets.iter().map(Vec::as_slice));
    tap.sees(&packets[199]);
    let all =
        |workers: &[WorkerStatus]| (workers[0].forwarded, workers[0].dropped_source) == (200, 0);
    stage.until("every packet is forwarded", all).await;
    detector.terminate();
    balancer.terminate();
    assert_eq!(stage.fake.violations("detector"), Vec::<String>::new());
    assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new());
    let last = stage.fake.calls("zbalance").pop();
    assert_eq!(last.as_deref(), Some("destroy_cluster 98"));
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    let Some(dir) = std::env::var_os("DETECTOR_TEST_PFRING") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let stage = Stage::new(Path::new(&dir));
    let tap = Tap::new();
    what_is_missing_is_named(&stage);
    runtime.block_on(async {
        a_queue(&stage, &tap).await;
        as_configured(&stage, &tap).await;
        an_interface(&stage, &tap).await;
        behind_zbalance(&stage, &tap).await;
    });
    assert_eq!(stage.fake.violations("test"), Vec::<String>::new());
    println!("all is consumed");
}

#[test]
fn as_a_consumer_of_zc() {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = device {
        println!("skipped: needs /dev/net/tun: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("DETECTOR_TEST_PFRING", dir.path())
        .env("PFRING_FAKE", dir.path())
        .env("PFRING_FAKE_NAME", "test")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all is consumed"), "{said}");
}
