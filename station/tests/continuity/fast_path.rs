//! Packets of sessions that go to the application in the kernel, past balancer and detector.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use client::{Client, Families, Stream, Transport};
use signalling::station::status_reply::Detail;

use crate::load;

/// Messages there and back in each tunnel, between two looks at the counters.
const ROUNDS: u64 = 200;
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

/// The station as it looks from the client's node.
pub(crate) fn inside(dir: PathBuf) {
    load::on_two_threads(run(&dir));
}

async fn run(dir: &Path) {
    load::echo();
    load::unlimited(dir);
    let transports = [Transport::Min, Transport::Dtls { unordered: false }];
    let clients = transports.map(|transport| load::client(dir, transport));
    let v6 = |client: &Client| {
        let mut client = client.clone();
        client.options.families = Families { v4: false, v6: true };
        client.options.address = client::ClientAddress::Known(lab::address::CLIENT_V6.into());
        client
    };
    let mut tunnels = Vec::new();
    for client in clients.iter().cloned().chain([v6(&clients[0])]) {
        tunnels.push(load::open(&client).await.unwrap());
    }
    let flows = tunnels.len() as u64;
    let before = Counts::of(dir).await;
    assert_eq!((before.passing, before.passed), (0, 0), "nothing passes unless it has much to say");
    until(dir, &mut tunnels, |counts| counts.passing == flows).await;
    mostly_passes(dir, &mut tunnels, "at first").await;

    // The old balancer's program and table stay; the new one gives the table to detectors.
    let command = ["upgrade", "zbalance", "--drain", "60", "--ipc-dir"];
    let mut upgrade = Command::new(env!("CARGO_BIN_EXE_station"));
    let output = upgrade.args(command).arg(load::ipc(dir)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    mostly_passes(dir, &mut tunnels, "behind another balancer").await;
    tunnels.push(load::open(&clients[0]).await.unwrap());
    until(dir, &mut tunnels, |counts| counts.passing > 0).await;

    // Without a detector what passes goes on.
    let old = load::pid(dir, "detector").await;
    let passed = Counts::of(dir).await.passed;
    let status = Command::new("kill").args(["-KILL", &old.to_string()]).status().unwrap();
    assert!(status.success());
    rounds(&mut tunnels, 20).await;
    let deadline = Instant::now() + PATIENCE;
    while Counts::balancer(dir).await <= passed {
        assert!(Instant::now() < deadline, "nothing passed without a detector");
        rounds(&mut tunnels, 1).await;
    }
    println!(
        "measured fast path: {flows} flows, also behind another balancer, and without a detector"
    );
}

/// Moves data until the counters are as they are to be.
async fn until(dir: &Path, tunnels: &mut [Stream], is_good: impl Fn(&Counts) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = Counts::of(dir).await;
        if is_good(&counts) {
            return;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
        rounds(tunnels, 10).await;
    }
}

/// Moves data, of which the detector sees next to nothing.
async fn mostly_passes(dir: &Path, tunnels: &mut [Stream], when: &str) {
    let before = Counts::of(dir).await;
    rounds(tunnels, ROUNDS).await;
    let deadline = Instant::now() + PATIENCE;
    // The balancer reads the kernel's counters now and then.
    let sent = ROUNDS * tunnels.len() as u64;
    let passed = loop {
        let passed = Counts::of(dir).await.passed - before.passed;
        if passed >= sent {
            break passed;
        }
        assert!(Instant::now() < deadline, "{when}: {passed} packets passed of {sent} and more");
    };
    let forwarded = Counts::of(dir).await.forwarded - before.forwarded;
    println!("measured {when}: {passed} packets passed, {forwarded} came by the detector");
    assert!(forwarded * 4 < passed, "{when}: {forwarded} packets by the detector, {passed} passed");
}

async fn rounds(tunnels: &mut [Stream], count: u64) {
    for _ in 0..count {
        for tunnel in &mut *tunnels {
            load::round(tunnel).await.unwrap();
        }
    }
}

#[derive(Debug)]
struct Counts {
    /// Flows that pass.
    passing: u64,
    /// Packets that passed.
    passed: u64,
    /// Packets of sessions that came by the detector.
    forwarded: u64,
}

impl Counts {
    async fn of(dir: &Path) -> Self {
        let Some(Detail::Detector(detector)) = load::status(dir, "detector").await.detail else {
            panic!("no status of the detector");
        };
        Self {
            passing: detector.workers.iter().map(|worker| worker.passing).sum(),
            passed: Self::balancer(dir).await,
            forwarded: detector.workers.iter().map(|worker| worker.forwarded).sum(),
        }
    }

    /// Packets that passed.
    async fn balancer(dir: &Path) -> u64 {
        let Some(Detail::Zbalance(balancer)) = load::status(dir, "zbalance").await.detail else {
            panic!("no status of the balancer");
        };
        balancer.interfaces.iter().map(|interface| interface.passed).sum()
    }
}
