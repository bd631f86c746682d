//! The demo's matrix of channels, transports and families.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lab::{Node, address};
use signalling::station::status_reply::Detail;

use super::cell::Outcome;
use super::files::Files;
use super::progress;
use crate::daemons::Daemon;

/// Port of the registrar's HTTP API in the shipped settings.
const API_PORT: u16 = 8080;

/// Port of the registrar's DNS channel in the shipped settings.
const DNS_PORT: u16 = 53;
/// Port of the registrar's gRPC service, as the demo sets it.
const GRPC_PORT: u16 = 8443;
/// Cells that run at one time; those whose registration the detector sees run one by one, so that
/// it is known which of its workers saw each.
const AT_ONCE: usize = 6;

const CHANNELS: [&str; 8] = ["decoy", "api", "bdapi", "dns", "bddns", "amp", "bdamp", "grpc"];
const TRANSPORTS: [&str; 4] = ["min", "prefix", "obfs4", "dtls"];

#[derive(Debug, Clone, Copy)]
struct Cell {
    channel: &'static str,
    transport: &'static str,
    ipv6: bool,
}

impl Cell {
    const fn family(self) -> &'static str {
        if self.ipv6 { "ipv6" } else { "ipv4" }
    }

    fn matches(self, only: &[String]) -> bool {
        only.iter()
            .all(|name| [self.channel, self.transport, self.family()].contains(&name.as_str()))
    }
}

fn cells() -> impl Iterator<Item = Cell> {
    CHANNELS.into_iter().flat_map(|channel| {
        TRANSPORTS.into_iter().flat_map(move |transport| {
            [false, true].into_iter().map(move |ipv6| Cell { channel, transport, ipv6 })
        })
    })
}

/// How many cells passed; its text is the last line of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "demo: {} passed, {} failed", self.passed, self.failed)
    }
}

/// What became of a cell: who heard the registration, and how the transfer went.
type Row = (Cell, String, Result<Outcome, String>);

/// Runs the cells that `only` names, all when it is empty.
pub(super) fn run(files: &Files, stun: SocketAddr, only: &[String]) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let start = Instant::now();
    let wanted: Vec<Cell> = cells().filter(|cell| cell.matches(only)).collect();
    if wanted.is_empty() {
        return Err(format!("no cell is named {}", only.join(",")));
    }
    let bar = progress::of_transfers(wanted.len());
    let told = |row: Row| {
        bar.suspend(|| report(&row));
        bar.inc(1);
        row
    };
    let (tagged, others): (Vec<Cell>, Vec<Cell>) =
        wanted.into_iter().partition(|cell| cell.channel == "decoy");
    let mut rows: Vec<Row> = tagged
        .into_iter()
        .map(|cell| {
            let before = runtime.block_on(tags(&files.ipc_dir()));
            let outcome = transfer(cell, files, stun);
            let after = runtime.block_on(tags(&files.ipc_dir()));
            told((cell, format!("tag seen by worker {}", seen(&before, &after)), outcome))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let finished = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(others.len()) {
            scope.spawn(|| {
                while let Some((at, cell)) = pick(&others, &next) {
                    let row = told((cell, "registrar".to_owned(), transfer(cell, files, stun)));
                    finished.lock().unwrap_or_else(PoisonError::into_inner).push((at, row));
                }
            });
        }
    });
    let mut finished = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    finished.sort_by_key(|(at, _)| *at);
    rows.extend(finished.into_iter().map(|(_, row)| row));
    bar.finish_and_clear();
    print_table(&rows);
    println!("all cells in {:.0} s", start.elapsed().as_secs_f64());
    let failed = rows.iter().filter(|(_, _, outcome)| outcome.is_err()).count();
    Ok(Tally { passed: rows.len() - failed, failed })
}

/// The next cell that nobody has taken.
fn pick(cells: &[Cell], next: &AtomicUsize) -> Option<(usize, Cell)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    cells.get(at).map(|cell| (at, *cell))
}

/// Prints how a cell went.
fn report(row: &Row) {
    let (cell, by, outcome) = row;
    let head = format!("{:<6} {:<7} {}", cell.channel, cell.transport, cell.family());
    match outcome {
        Ok(o) => println!(
            "{head} registered in {} ms ({by}), phantom {}, first byte after {} ms, 1 MiB down and \
             up equal after {} ms",
            o.register_ms, o.phantom, o.first_byte_ms, o.transfer_ms
        ),
        Err(error) => println!("{head} FAILED: {error}"),
    }
}

fn transfer(cell: Cell, files: &Files, stun: SocketAddr) -> Result<Outcome, String> {
    let (registrar, covert): (IpAddr, IpAddr) = if cell.ipv6 {
        (address::STATION_V6.into(), address::DECOY_V6.into())
    } else {
        (address::STATION_V4.into(), address::DECOY_V4.into())
    };
    let mut command = super::own(Node::Client);
    command
        .args(["demo-cell", "--channel", cell.channel, "--transport", cell.transport])
        .args(["--registrar", &SocketAddr::new(registrar, API_PORT).to_string()])
        .args(["--resolver", &SocketAddr::new(registrar, DNS_PORT).to_string()])
        .args(["--grpc", &SocketAddr::new(registrar, GRPC_PORT).to_string()])
        .args(["--stun", &stun.to_string()])
        .args(["--covert", &SocketAddr::new(covert, 443).to_string()])
        .arg("--roots")
        .arg(files.path("cert.pem"))
        .arg("--client-conf")
        .arg(files.path(if cell.ipv6 { "ClientConf.6" } else { "ClientConf.4" }));
    if cell.ipv6 {
        command.arg("--ipv6");
    }
    let output = command.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the client's report: {e}"))
}

/// Tags seen so far by each worker of the detector.
async fn tags(ipc_dir: &Path) -> Vec<(u32, u64)> {
    let socket = Daemon::Detector.admin_socket(ipc_dir, 0);
    match crate::status::ask(&socket).await.map(|reply| reply.detail) {
        Ok(Some(Detail::Detector(d))) => d.workers.iter().map(|w| (w.worker, w.tags)).collect(),
        _ => Vec::new(),
    }
}

/// Names of the workers whose count rose.
fn seen(before: &[(u32, u64)], after: &[(u32, u64)]) -> String {
    let rose = |(worker, tags): &&(u32, u64)| {
        before.iter().any(|(known, earlier)| known == worker && earlier < tags)
    };
    let names: Vec<String> =
        after.iter().filter(rose).map(|(worker, _)| worker.to_string()).collect();
    if names.is_empty() { "?".to_owned() } else { names.join(" and ") }
}

fn print_table(rows: &[Row]) {
    println!();
    println!(
        "{:<8} {:<9} {:<6} {:<6} {:>11} {:>10} {:>10}  phantom",
        "channel", "transport", "family", "result", "register ms", "1st byte", "transfer"
    );
    for (cell, _, outcome) in rows {
        let head = format!("{:<8} {:<9} {:<6}", cell.channel, cell.transport, cell.family());
        match outcome {
            Ok(o) => println!(
                "{head} {:<6} {:>11} {:>10} {:>10}  {}",
                "ok", o.register_ms, o.first_byte_ms, o.transfer_ms, o.phantom
            ),
            Err(_) => println!("{head} FAILED"),
        }
    }
    println!();
}
