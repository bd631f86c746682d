//! Troubles that people had with software like this, against the real daemon.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use session::hub::{DEFAULT_QUEUE, Hub, Snapshot};
use session::{Proto, SessionKey};
use socket2::Socket;

use crate::frames::{tcp4, tcp6};
use crate::{
    CLIENT, Detector, One, PATIENCE, PHANTOM, PUSH, SYN, balancer, configure, forwarded,
    in_namespace, key, tap,
};

/// Whether `frame` shows up behind the tun device before `marker`, which is sent after it.
fn passes(frames: &Sender<Vec<u8>>, tap: &Socket, frame: &[u8], marker: &[u8]) -> bool {
    drain(tap);
    frames.send(frame.to_vec()).unwrap();
    frames.send(marker.to_vec()).unwrap();
    let start = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut passed = false;
    while start.elapsed() < PATIENCE {
        let Ok(n) = (&mut &*tap).read(&mut buffer) else { continue };
        passed |= buffer[..n] == frame[14..];
        if buffer[..n] == marker[14..] {
            return passed;
        }
    }
    panic!("the marker did not come");
}

fn drain(tap: &Socket) {
    let mut buffer = vec![0; 65_536];
    while (&mut &*tap).read(&mut buffer).is_ok() {}
}

fn syn(port: u16) -> Vec<u8> {
    tcp4((CLIENT, 4000), (PHANTOM, port), SYN, &[])
}

/// Where Debian keeps the library.
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// P08: steps of the wall clock end no session and no followed flow, and keep none for ever.
#[test]
fn p08_steps_of_the_wall_clock_touch_no_lifetime() {
    in_namespace("cases::p08_steps_of_the_wall_clock_touch_no_lifetime", || {
        assert!(Path::new(LIBFAKETIME).exists(), "needs libfaketime: apt-get install faketime");
        tokio::runtime::Runtime::new().unwrap().block_on(clock_steps());
    });
}

async fn clock_steps() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let record = configure(dir);
    let clock = dir.join("clock");
    let step = |offset: &str| {
        std::fs::write(dir.join("clock.new"), offset).unwrap();
        std::fs::rename(dir.join("clock.new"), &clock).unwrap();
    };
    step("+0");
    let frames = balancer(dir);
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(One));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    let mut bus = bus::Subscriber::connect("ipc://@detector", Default::default()).unwrap();
    let tap = tap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut detector = Detector::start_with(dir, |command| {
        command
            .env("LD_PRELOAD", LIBFAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("LOG_CLIENT_IP", "true")
            .stdout(log);
    });
    tokio::time::timeout(PATIENCE, bus.connected()).await.unwrap();
    tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn(443)));

    let decoy = ([198, 51, 100, 9], 443);
    for (port, offset, date) in [(5000, "-1h", "-1 hour"), (5001, "+30d", "+30 days")] {
        // One flow is followed and one session announced before the step.
        frames.send(tcp4((CLIENT, port), decoy, SYN, &[])).unwrap();
        let session = key(port);
        hub.upsert(session, Duration::from_secs(5));
        tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn(port)));
        step(offset);
        // The clock did move: the line about a registration carries it. Sweeps run once a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        for port in [443, port] {
            tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn(port)));
        }
        frames.send(tcp4((CLIENT, port), decoy, PUSH, &record)).unwrap();
        let message = tokio::time::timeout(PATIENCE, bus.recv()).await;
        message.expect("the step ended a followed flow");
        let date = Command::new("date").args(["-u", "-d", date, "+%Y-%m-%d %H:"]).output().unwrap();
        let date = String::from_utf8(date.stdout).unwrap();
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(log.contains(date.trim_end()), "{offset}: no line of {date}: {log}");
    }
    // A session that traffic does not keep ends in its own time, whatever the wall clock says.
    hub.upsert(key(6000), Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(100)).await;
    step("-1h");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let passed = tokio::task::block_in_place(|| passes(&frames, &tap, &syn(6000), &syn(443)));
    assert!(!passed, "a session became immortal");
    assert!(detector.0.try_wait().unwrap().is_none(), "the detector crashed");
    let log = std::fs::read(dir.join("log")).unwrap();
    records::text("detector", records::Clients::Shown, log);
}

const OTHER_STATION: [u8; 4] = [192, 0, 2, 66];
const OTHER_STATION_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x66];
const OWN: &str = "192.0.2.50";
const OWN_V6: &str = "2001:db8:9::50";
pub(crate) const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const PHANTOM_V6: [u8; 16] = [0x20, 1, 0x48, 0xa8, 0x68, 0x7f, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];

/// A session of each family.
struct Both;

impl Snapshot for Both {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let v6 = SessionKey::new(Proto::Tcp, PHANTOM_V6.into(), CLIENT_V6.into(), 443).unwrap();
        [key(443), v6].map(|key| (key, Duration::from_secs(600))).to_vec()
    }
}

/// P09: another station on the same tap probes phantoms that live here, and so does this one.
#[test]
fn p09_probes_of_stations_are_no_clients() {
    in_namespace("cases::p09_probes_of_stations_are_no_clients", || {
        let ip = |words: &str| {
            assert!(
                Command::new("ip").args(words.split(' ')).status().unwrap().success(),
                "{words}"
            );
        };
        ip("link add own0 type veth peer name own1");
        ip("link set own0 up");
        ip(&format!("addr add {OWN}/24 dev own0"));
        ip(&format!("addr add {OWN_V6}/64 dev own0 nodad"));
        tokio::runtime::Runtime::new().unwrap().block_on(probes());
    });
}

async fn probes() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
    let list = |addresses: &[&str]| {
        let text = format!("detector_filter_list = {addresses:?}\nredis_url = \"\"\n");
        std::fs::write(dir.join("app_config.toml"), text).unwrap();
    };
    let other_v6 = std::net::Ipv6Addr::from(OTHER_STATION_V6).to_string();
    let all = [OWN, OWN_V6, "192.0.2.66", &other_v6];
    list(&all);
    let frames = balancer(dir);
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(Both));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    let tap = tap();
    let start = |dir: &Path| {
        let log = std::fs::File::create(dir.join("errors")).unwrap();
        Detector::start_with(dir, |command| {
            command.stderr(Stdio::from(log));
        })
    };
    let errors = || std::fs::read_to_string(dir.join("errors")).unwrap();
    let marker = syn(443);
    let v6 = |source| tcp6((source, 4000), (PHANTOM_V6, 443), SYN, &[]);
    let own_v6: std::net::Ipv6Addr = OWN_V6.parse().unwrap();
    let probe = |source| tcp4((source, 4000), (PHANTOM, 443), SYN, &[]);
    let own = [192, 0, 2, 50];

    let mut detector = start(dir);
    tokio::task::block_in_place(|| {
        forwarded(&frames, &tap, &marker);
        let passed = |frame: &[u8]| passes(&frames, &tap, frame, &marker);
        assert!(passed(&v6(CLIENT_V6)), "a client");
        for (frame, who) in [
            (probe(OTHER_STATION), "the other station"),
            (v6(OTHER_STATION_V6), "the other station by IPv6"),
            (probe(own), "this station"),
            (v6(own_v6.octets()), "this station by IPv6"),
        ] {
            assert!(!passed(&frame), "answered {who}");
        }
    });
    assert!(!errors().contains("lacks"), "{}", errors());
    // The own probe of a registration does not count as its client's first packet.
    let probed = SessionKey::new(Proto::Tcp, PHANTOM_V6.into(), CLIENT_V6.into(), 8080).unwrap();
    hub.pending(probed, Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let own_probe = tcp6((own_v6.octets(), 4000), (PHANTOM_V6, 8080), SYN, &[]);
    frames.send(own_probe.clone()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    hub.upsert(probed, Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut buffer = vec![0; 65_536];
    while let Ok(n) = (&mut &tap).read(&mut buffer) {
        assert_ne!(buffer[..n], own_probe[14..], "the own probe was held for a session");
    }
    let socket = telemetry::admin::socket_path(dir, "detector", 0);
    let mut admin =
        telemetry::admin::AdminClient::new(telemetry::admin::channel(&socket).await.unwrap());
    let status = admin.status(signalling::station::StatusRequest {}).await.unwrap().into_inner();
    let Some(signalling::station::status_reply::Detail::Detector(detail)) = status.detail else {
        panic!("{:?}", status.detail);
    };
    assert_eq!(detail.sessions, 3, "two of the snapshot and one of the application's");

    // Only loopback is listed, as shipped: the start says what is missing, and a station that
    // probes by IPv4 still gets no answer, because it is not the client of the session.
    detector.signal(rustix::process::Signal::TERM);
    detector.0.wait().unwrap();
    list(&["127.0.0.1", "::1"]);
    let _detector = start(dir);
    tokio::task::block_in_place(|| {
        forwarded(&frames, &tap, &marker);
        for source in [OTHER_STATION, own] {
            assert!(!passes(&frames, &tap, &probe(source), &marker), "{source:?}");
        }
    });
    let errors = errors();
    for address in [OWN, OWN_V6] {
        let line = errors.lines().find(|line| line.contains(&format!("lacks {address},")));
        assert!(line.is_some_and(|l| l.contains("app_config.toml")), "{address}: {errors}");
    }
    assert_eq!(errors.matches("lacks").count(), 2, "{errors}");
}
