//! Every daemon is replaced while tunnels are open and clients connect: nobody is refused, nothing breaks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use client::{Client, Transport};

use crate::load::{self, Tunnels};

/// Tunnels that stay open, over Min and over DTLS.
const TUNNELS: usize = 180;
const DTLS_TUNNELS: usize = 20;
/// Connections in each second.
const CONNECTIONS: u64 = 50;

/// The station as it looks from the client's node.
pub(crate) fn inside(dir: PathBuf) {
    load::on_two_threads(run(&dir));
}

#[derive(Debug, Default)]
struct Connections {
    good: AtomicU64,
    bad: AtomicU64,
}

async fn run(dir: &Path) {
    load::echo();
    load::unlimited(dir);
    let client = load::client(dir, Transport::Min);
    let over_dtls = load::client(dir, Transport::Dtls { unordered: false });
    let (mut streams, dtls) =
        tokio::join!(load::open_many(&client, TUNNELS), load::open_many(&over_dtls, DTLS_TUNNELS));
    streams.extend(dtls);
    let tunnels = Tunnels::start(streams, Duration::from_millis(200));
    let connections = Arc::new(Connections::default());
    let begin = Instant::now();
    let connecting = tokio::spawn(connect(client, Arc::clone(&connections), begin));
    for daemon in ["application", "detector", "registrar", "zbalance"] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let old = load::pid(dir, daemon).await;
        let start = begin.elapsed();
        let output = upgrade(dir, daemon);
        let took = (begin.elapsed() - start).as_millis();
        assert!(output.status.success(), "{daemon}: {output:?}");
        let new = load::pid(dir, daemon).await;
        assert_ne!(old, new, "{daemon}");
        let (good, bad) = (connections.good.load(Relaxed), connections.bad.load(Relaxed));
        println!(
            "measured {daemon}: replaced in {took} ms, {:.3} s after the first connection; {good} connections \
             so far, {bad} bad",
            start.as_secs_f32()
        );
        if daemon == "application" {
            // Its tunnels are still open, so the old process lives.
            assert!(Path::new(&format!("/proc/{old}/status")).exists(), "the old process left");
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    connecting.abort();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (broken, rounds) = tunnels.stop().await;
    let (good, bad) = (connections.good.load(Relaxed), connections.bad.load(Relaxed));
    println!(
        "measured 4 upgrades: {good} connections good, {bad} bad; {broken} of {} tunnels broken, \
         {rounds} messages",
        TUNNELS + DTLS_TUNNELS
    );
    assert_eq!((bad, broken), (0, 0));
    assert!(good >= 8 * CONNECTIONS, "only {good} connections");
}

fn upgrade(dir: &Path, daemon: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
    command.args(["upgrade", daemon, "--drain", "60", "--ipc-dir"]).arg(load::ipc(dir));
    command.output().unwrap()
}

/// Connects on and on, with a registration for each connection.
async fn connect(client: Client, connections: Arc<Connections>, start: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / CONNECTIONS));
    loop {
        ticks.tick().await;
        let (client, connections) = (client.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            match attempt(&client, start).await {
                Ok(()) => connections.good.fetch_add(1, Relaxed),
                Err(error) => {
                    eprintln!("a connection failed: {error}");
                    connections.bad.fetch_add(1, Relaxed)
                }
            };
        });
    }
}

/// One connection and one message. What fails says when each step was, to be compared with what happened to
/// the station at that time.
async fn attempt(client: &Client, start: Instant) -> Result<(), String> {
    let at = || start.elapsed().as_secs_f32();
    let begun = at();
    let opened = load::open(client).await;
    let open = at();
    let mut stream = opened.map_err(|e| format!("begun at {begun:.3} s, at {open:.3} s: {e}"))?;
    load::round(&mut stream).await.map_err(|error| {
        format!("begun at {begun:.3} s, open at {open:.3} s, at {:.3} s echo: {error}", at())
    })
}
