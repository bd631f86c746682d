//! `detector-packets.json` and `detector-upstream.json` through the real worker, session table,
//! candidate queue and checker, once with recorded exits and once with a real tun device.

use arc_swap::ArcSwap;
use capture::tun::Sent;
use detector::candidates::{Bell, Candidates};
use detector::checker::{Checkers, Inlet};
use detector::clock::{Clock, Millis};
use detector::counters::Counters;
use detector::feed::Feed;
use detector::filter::Filter;
use detector::pending::{Outcome, Pending};
use detector::sessions::{PackedKey, Sessions};
use detector::worker::{Bounds, Endpoints, Exits, Shared, TestString, Worker};
use keys::StationKey;
use parking_lot::Mutex;
use session::SessionSink;
use session::command::{Command, decode};
use std::net::SocketAddr;
use std::sync::Arc;
use tag::TagChecker;
use vectors::{Tally, Value, hex, load};

/// Records that straddle segments are not joined, as `detector.md` 21 has it for the scenarios.
const BOUNDS: Bounds = Bounds { flows: 1024, straddling: 0 };

/// A tun device, and a socket on which the kernel shows what arrives at it.
struct RealTun {
    device: capture::tun::Tun,
    tap: socket2::Socket,
}

impl RealTun {
    fn open() -> Self {
        use socket2::{Domain, Protocol, Socket, Type};
        // ETH_P_ALL in network order: every packet of this network namespace.
        let all = Protocol::from(i32::from(0x0003u16.to_be()));
        let tap = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap();
        tap.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        Self { device: capture::tun::Tun::open("tun0").unwrap(), tap }
    }

    /// Writes `packet` and returns what the kernel received.
    fn pass(&self, packet: &[u8]) -> Vec<u8> {
        self.device.send(packet).unwrap();
        let mut buffer = vec![0; 65_536];
        loop {
            let n = std::io::Read::read(&mut &self.tap, &mut buffer).unwrap();
            // The host speaks to its own link by multicast as soon as an interface is up.
            let own = buffer[0] >> 4 == 6 && buffer[24] == 0xff;
            if !own {
                return buffer[..n].to_vec();
            }
        }
    }
}

/// Exits that record what left through them.
struct Recorder {
    tun: Option<Arc<RealTun>>,
    candidates: Arc<Candidates>,
    forwarded: Vec<Vec<u8>>,
    sent: Sent,
    logged: Vec<&'static str>,
}

impl Exits for Recorder {
    fn forward(&mut self, packet: &[u8]) {
        self.sent.note(1, packet.len() as u64, Ok(()));
        self.forwarded.push(match &self.tun {
            Some(tun) => tun.pass(packet),
            None => packet.to_vec(),
        });
    }

    fn finish(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }

    fn candidate(&mut self, flow: Endpoints, payload: &[u8]) -> bool {
        self.candidates.push(flow, payload)
    }

    fn hold(&mut self, _: PackedKey, _: &[u8], _: Millis) -> Outcome {
        Outcome::Ignored
    }

    fn test_string(&mut self, which: TestString, _: SocketAddr, _: SocketAddr) {
        self.logged.push(match which {
            TestString::Tcp => "tcp_test",
            TestString::Udp => "udp_test",
        });
    }
}

struct Detector {
    worker: Worker<Recorder>,
    checkers: Checkers,
    published: Arc<Mutex<Vec<Vec<u8>>>>,
    now: Millis,
}

fn station_keys(values: &Value) -> Vec<StationKey> {
    let private = |value: &Value| hex(value).try_into().unwrap();
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|v| StationKey::from_private(&private(v)).unwrap())
        .collect()
}

impl Detector {
    fn new(scenario: &Value, tun: Option<Arc<RealTun>>) -> Self {
        let nets = scenario["filter_list"].as_array().unwrap().iter();
        let nets =
            nets.map(|text| text.as_str().unwrap().parse::<std::net::IpAddr>().unwrap().into());
        let shared = Shared {
            sessions: Arc::new(Sessions::new()),
            filter: Arc::new(ArcSwap::from_pointee(Filter::new(nets.collect(), &[]))),
            counters: Arc::new(Counters::default()),
        };
        let bell = Arc::new(Bell::default());
        let candidates = Arc::new(Candidates::new(Arc::clone(&bell)));
        let published: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let sink = Arc::clone(&published);
        let checkers = Checkers::new(
            Arc::new(ArcSwap::from_pointee(TagChecker::new(station_keys(
                &scenario["station_private_keys"],
            )))),
            vec![Inlet {
                candidates: Arc::clone(&candidates),
                counters: Arc::clone(&shared.counters),
            }],
            bell,
            Box::new(move |message| sink.lock().push(message)),
        );
        let exits = Recorder {
            tun,
            candidates,
            forwarded: Vec::new(),
            sent: Sent::default(),
            logged: Vec::new(),
        };
        let offset = scenario["gre_offset"].as_u64().unwrap() as usize;
        let worker = Worker::new(shared, offset, BOUNDS, exits);
        Self { worker, checkers, published, now: Millis(1_000_000) }
    }

    fn frame(&mut self, frame: &[u8]) {
        self.worker.packet(frame, self.now);
        self.worker.finish();
        self.checkers.check_some(0, &mut Vec::new());
    }

    fn control(&mut self, message: &[u8]) -> Result<(), String> {
        let sessions = &self.worker.shared().sessions;
        match decode(message) {
            Ok(Command::Upsert(key, remaining)) => {
                sessions.upsert(&key, remaining, self.now);
                Ok(())
            }
            Ok(Command::Clear) => {
                sessions.retain(|_| false);
                Ok(())
            }
            Err(refused) => Err(refused.to_string()),
        }
    }

    fn clean(&mut self) {
        let now = self.now;
        self.worker.flows().sweep_all(now);
        self.worker.shared().sessions.sweep(now);
    }

    /// Counter of the vectors' `state`.
    fn counter(&mut self, name: &str) -> u64 {
        let counters = self.worker.shared().counters.snapshot();
        match name {
            "packets" => counters.packets,
            "bytes" => counters.bytes,
            "v4" => counters.v4,
            "v6" => counters.v6,
            "tcp" => counters.tcp,
            "tls" => counters.tls,
            "tls_bytes" => counters.tls_bytes,
            "syn443" => counters.syns,
            "tags" => counters.candidates,
            "tracked" => self.worker.flows().tracked() as u64,
            "sessions" => self.worker.shared().sessions.len() as u64,
            other => panic!("unknown counter {other}"),
        }
    }
}

/// What differs from the reference on purpose: scenario, step, and what is expected instead.
/// `detector.md` 21 lists exactly these.
fn deviation(scenario: &str, step: usize, counter: &str) -> Option<u64> {
    match (scenario, step, counter) {
        // The stale event of an earlier flow does not remove its successor.
        ("stale-tracking", 7, "tracked") => Some(1),
        ("stale-tracking", 8, "tags") => Some(1),
        _ => None,
    }
}

#[test]
fn packets() {
    run_scenarios(None);
}

/// The scenarios with a real tun device, in a network namespace of this test's own.
#[test]
fn packets_through_a_real_tun() {
    const INSIDE: &str = "DETECTOR_TEST_INSIDE_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return run_scenarios(Some(Arc::new(RealTun::open())));
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = device {
        println!("skipped: needs /dev/net/tun: {error}");
        return;
    }
    let output = std::process::Command::new("unshare")
        .args(["--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "packets_through_a_real_tun", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    assert!(output.status.success());
}

fn run_scenarios(tun: Option<Arc<RealTun>>) {
    const FILE: &str = "detector-packets.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    let mut steps_run = 0;
    for scenario in file["scenarios"].as_array().unwrap() {
        let name = scenario["name"].as_str().unwrap();
        let mut detector = Detector::new(scenario, tun.clone());
        for (i, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            let at = format!("{name} step {i} ({})", step["note"]);
            match step["op"].as_str().unwrap() {
                "frame" => detector.frame(&hex(&step["frame"])),
                "s2d" => {
                    let done = detector.control(&hex(&step["message"]));
                    assert_eq!(done.is_ok(), step["result"] == "ok", "{at}: {done:?}");
                }
                "wait" => detector.now.0 += step["ms"].as_u64().unwrap(),
                "cleanup" => detector.clean(),
                other => panic!("{at}: unknown operation {other}"),
            }
            let expect = &step["expect"];
            let bytes = |name: &str| expect.get(name).map(hex).into_iter().collect::<Vec<_>>();
            assert_eq!(
                std::mem::take(&mut detector.worker.exits().forwarded),
                bytes("forward"),
                "{at}"
            );
            let published = std::mem::take(&mut *detector.published.lock());
            if (name, i) == ("stale-tracking", 8) {
                assert_eq!(published.len(), 1, "{at}");
            } else {
                assert_eq!(published, bytes("published"), "{at}");
            }
            let logs = expect.get("log").map(|log| log.as_str().unwrap());
            assert_eq!(
                std::mem::take(&mut detector.worker.exits().logged).first().copied(),
                logs,
                "{at}"
            );
            for (counter, value) in step["state"].as_object().into_iter().flatten() {
                let wanted = deviation(name, i, counter).unwrap_or(value.as_u64().unwrap());
                assert_eq!(detector.counter(counter), wanted, "{at}: {counter}");
            }
            steps_run += 1;
        }
        tally.pass();
    }
    assert!(steps_run >= file["scenarios"].as_array().unwrap().len());
    println!("vectors {FILE}: {steps_run} steps");
    tally.finish();
}

#[test]
fn test_strings() {
    let file = load("detector-packets.json");
    assert_eq!(hex(&file["tcp_test_payload"]), detector::test_strings::TCP);
    assert_eq!(hex(&file["udp_test_payload"]), detector::test_strings::UDP);
}

#[test]
fn upstream() {
    const FILE: &str = "detector-upstream.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    for (i, case) in file["vectors"].as_array().unwrap().iter().enumerate() {
        let record = hex(&case["tls_record"]);
        for (j, other) in file["vectors"].as_array().unwrap().iter().enumerate() {
            let scenario = vectors::json!({
                "filter_list": [], "gre_offset": 0,
                "station_private_keys": [other["station_private_key"]],
            });
            let mut detector = Detector::new(&scenario, None);
            for (flags, payload) in [(0x02, &[][..]), (0x18, &record)] {
                detector.frame(&segment(flags, payload));
            }
            let published = detector.published.lock().clone();
            assert_eq!(published.len(), usize::from(i == j), "{} with key {j}", case["name"]);
        }
        tally.pass();
    }
    tally.finish();
}

/// A segment of one flow to port 443.
fn segment(flags: u8, payload: &[u8]) -> Vec<u8> {
    use etherparse::PacketBuilder;
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 77], [198, 51, 100, 9], 64)
        .tcp(4000, 443, 7, 1024);
    let builder = if flags & 2 != 0 { builder.syn() } else { builder.psh().ack(1) };
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A pending key holds one SYN, and the announcement lets it through.
#[test]
fn feeds_release_what_was_held() {
    struct Sink(Mutex<Vec<Vec<u8>>>);
    impl detector::outlets::PacketSink for Sink {
        fn send(&self, packet: &[u8]) -> std::io::Result<()> {
            self.0.lock().push(packet.to_vec());
            Ok(())
        }
    }
    let (sessions, pending) = (Arc::new(Sessions::new()), Arc::new(Pending::default()));
    let sink = Arc::new(Sink(Mutex::default()));
    let counters = Arc::new(Counters::default());
    let holder = detector::feed::Holder { sink: sink.clone(), counters: Arc::clone(&counters) };
    let clock = Clock::default();
    let feed = Feed::new(Arc::clone(&sessions), Arc::clone(&pending), clock, vec![holder]);
    let key = session::SessionKey::new(
        session::Proto::Tcp,
        [198, 51, 100, 9].into(),
        [192, 0, 2, 77].into(),
        443,
    )
    .unwrap();
    let outlets = detector::outlets::Outlets {
        worker: 0,
        queue: 0,
        sink: sink.clone(),
        candidates: Arc::new(Candidates::new(Arc::default())),
        pending,
        sessions: Arc::clone(&sessions),
        patient: false,
        passage: detector::outlets::Passage::default(),
    };
    let shared = Shared { sessions, filter: Arc::default(), counters: Arc::clone(&counters) };
    let mut worker = Worker::new(shared, 0, BOUNDS, outlets);
    let syn = segment(2, &[]);
    worker.packet(&syn, clock.now());
    feed.pending(key, std::time::Duration::from_millis(1000));
    worker.packet(&syn, clock.now());
    worker.packet(&syn, clock.now());
    assert!(sink.0.lock().is_empty());
    feed.upsert(key, std::time::Duration::from_secs(60));
    assert_eq!(*sink.0.lock(), [syn[14..].to_vec()], "one SYN, from the IP header on");
    worker.packet(&syn, clock.now());
    worker.finish();
    assert_eq!(sink.0.lock().len(), 2);
    let counters = counters.snapshot();
    assert_eq!((counters.held, counters.released, counters.forwarded), (1, 1, 1));
}
