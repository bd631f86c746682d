//! 200 reloads while packets, registrations and tunnels flow: nothing is lost, and a bad file changes
//! nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use client::Transport;
use signalling::station::status_reply::Detail;

use crate::load::{self, Packets, Tunnels};

const RELOADS: usize = 200;
const TUNNELS: usize = 100;
/// Packets, and registrations, in each second.
const PACKETS: u64 = 50_000;
const REGISTRATIONS: u64 = 100;
/// Time between two reloads of all daemons.
const PAUSE: Duration = Duration::from_millis(150);

/// The station as it looks from the client's node.
pub(crate) fn inside(dir: PathBuf) {
    load::on_two_threads(run(&dir));
}

async fn run(dir: &Path) {
    load::echo();
    load::unlimited(dir);
    let client = load::client(dir, Transport::Min);
    let streams = load::open_many(&client, TUNNELS).await;
    let tunnels = Tunnels::start(streams, Duration::from_millis(100));
    survives(dir).await;
    let (heard_before, way_before) = (heard(dir).await, load::way(dir).await);
    let packets = Packets::start(PACKETS);
    let registering = tokio::spawn(register(dir.to_owned()));
    let start = Instant::now();
    for round in 0..RELOADS / 4 {
        let output = reload(dir, None);
        assert_eq!(output.status.code(), Some(0), "round {round}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for daemon in ["detector: ", "application: ", "registrar: ", "zbalance: "] {
            assert!(text.contains(daemon), "{text}");
        }
        tokio::time::sleep(PAUSE).await;
        if round % 10 == 5 {
            refuses_bad_files(dir).await;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    registering.abort();
    let registered = REGISTERED.load(Relaxed);
    let sent = packets.stop();
    // What is on its way arrives.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (broken, rounds) = tunnels.stop().await;
    let (heard_after, way_after) = (heard(dir).await, load::way(dir).await);
    let rate = sent as f64 / seconds;
    println!(
        "measured {RELOADS} reloads in {seconds:.1} s: {sent} packets ({rate:.0} per second), \
         {registered} registrations, {rounds} messages in {TUNNELS} tunnels"
    );
    assert!(rate >= PACKETS as f64 / 2.0, "too little load to prove anything");
    assert!(registered as f64 >= seconds * REGISTRATIONS as f64 / 2.0, "too few registrations");
    assert_eq!(broken, 0, "tunnels broke");
    let lost = way_after.dropped - way_before.dropped;
    assert_eq!(lost, 0, "packets lost: {way_before:?} {way_after:?}");
    let (enqueued, detected) =
        (way_after.enqueued - way_before.enqueued, way_after.detected - way_before.detected);
    assert!(enqueued >= sent, "{enqueued} of {sent} packets reached the queues");
    assert!(detected >= sent, "{detected} of {sent} packets reached the detector");
    assert!(heard_after - heard_before >= registered, "{heard_before} {heard_after} {registered}");
}

/// Registrations that the application has heard.
async fn heard(dir: &Path) -> u64 {
    let Some(Detail::Application(status)) = load::status(dir, "application").await.detail else {
        panic!("no status of an application")
    };
    let count = |name: &str| status.ingest.iter().find(|c| c.name == name).map_or(0, |c| c.value);
    for loss in ["dropped", "busy", "errors"] {
        assert_eq!(count(loss), 0, "registrations: {loss}");
    }
    count("received")
}

/// Registers on and on.
async fn register(dir: PathBuf) {
    let client = load::client(&dir, Transport::Min);
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / REGISTRATIONS));
    loop {
        ticks.tick().await;
        let client = client.clone();
        tokio::spawn(async move {
            client.register().await.unwrap();
            REGISTERED.fetch_add(1, Relaxed);
        });
    }
}

/// Registrations that were answered.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

fn reload(dir: &Path, daemon: Option<&str>) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.arg("reload").args(daemon).arg("--ipc-dir").arg(load::ipc(dir)).output().unwrap()
}

/// Each file that is wrong is refused by name, line and key, the refusal shows in the status, and goes away
/// with the next good one.
async fn refuses_bad_files(dir: &Path) {
    for (daemon, file, line, expected) in [
        ("application", "app_config.toml", "enable_v4 = 7", "enable_v4"),
        ("detector", "app_config.toml", "detector_filter_list = 7", "detector_filter_list"),
        ("registrar", "reg_config.toml", "api_port = \"seven\"", "api_port"),
    ] {
        let path = dir.join(file);
        let good = std::fs::read_to_string(&path).unwrap();
        let key = line.split(' ').next().unwrap();
        let number = good.lines().position(|l| l.starts_with(key)).unwrap();
        let mut lines: Vec<&str> = good.lines().collect();
        // A list may go on in the lines below.
        let end = (number..lines.len()).find(|n| !lines[*n].ends_with(['[', ','])).unwrap();
        lines.splice(number..=end, [line]);
        std::fs::write(&path, lines.join("\n")).unwrap();
        let output = reload(dir, Some(daemon));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        std::fs::write(&path, &good).unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let place = format!("{}:{}: {expected}", path.display(), number + 1);
        assert!(text.contains(&place) && text.contains("the old set holds"), "{place}: {text}");
        let notes = load::status(dir, daemon).await.notes;
        assert!(notes.iter().any(|n| n.starts_with("last reload refused: ")), "{notes:?}");
        assert_eq!(reload(dir, Some(daemon)).status.code(), Some(0));
        let notes = load::status(dir, daemon).await.notes;
        assert!(!notes.iter().any(|n| n.starts_with("last reload refused: ")), "{notes:?}");
    }
}

/// P40: signals in a burst end nobody, and a file that is missing or closed to the daemon is refused.
async fn survives(dir: &Path) {
    for daemon in ["zbalance", "detector", "application", "registrar"] {
        let pid = load::pid(dir, daemon).await;
        for signal in ["HUP"; 20].into_iter().chain(["USR1", "USR2"]) {
            let kill = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
            assert!(kill.unwrap().success(), "{daemon} ended");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(load::pid(dir, daemon).await, pid, "{daemon}");
    }
    let phantoms = dir.join("phantom_subnets.toml");
    let refused = |why: &str| {
        for daemon in ["application", "registrar"] {
            let output = reload(dir, Some(daemon));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            assert!(text.contains(&*phantoms.to_string_lossy()) && text.contains(why), "{text}");
        }
    };
    let away = dir.join("away");
    std::fs::rename(&phantoms, &away).unwrap();
    refused("No such file");
    std::fs::rename(&away, &phantoms).unwrap();
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&phantoms, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // Not even to root, which has no capability there.
    mode(0o000);
    refused("Permission denied");
    mode(0o644);
    assert_eq!(reload(dir, None).status.code(), Some(0));
}
