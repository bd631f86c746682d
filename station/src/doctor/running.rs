//! R: what the daemons that run say of themselves.

use std::time::{Duration, Instant};

use signalling::station::status_reply::Detail;
use signalling::station::{
    ApplicationStatus, DetectorStatus, RegistrarStatus, StatusReply, ZbalanceStatus,
};

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use crate::daemons::Daemon;

/// Share of frames that may be lost, per million.
const LOSS: u64 = 1000;
/// Time over which the need of processors is measured.
const WATCH: Duration = Duration::from_millis(300);
/// Part of the processors from which they are too few.
const SATURATED: f64 = 0.95;
/// A consumer that was silent for this long, seconds, does not work.
const SILENT: f64 = 5.0;

fn lost(dropped: u64, all: u64) -> bool {
    dropped > 0 && dropped.saturating_mul(1_000_000) > all.saturating_mul(LOSS)
}

fn warn(findings: &mut Vec<Finding>, cause: &str, evidence: String, remedy: &str) {
    findings.push(Finding::warning(cause, evidence, remedy));
}

/// R01.
pub(crate) fn check(probe: &Probe) -> Checked {
    let statuses = probe.statuses();
    if statuses.is_empty() {
        return Err(Outcome::Skipped("no daemon runs".to_owned()));
    }
    let mut findings = Vec::new();
    for (daemon, reply) in statuses.iter() {
        if reply.state == "degraded" {
            warn(
                &mut findings,
                "a daemon works without something that it should have",
                format!("{}: {}", daemon.name(), reply.notes.join("; ")),
                "see its notes; station status shows them too",
            );
        }
        match &reply.detail {
            Some(Detail::Zbalance(status)) => zbalance(status, &mut findings),
            Some(Detail::Detector(status)) => detector(status, &mut findings),
            Some(Detail::Application(status)) => application(status, &mut findings),
            Some(Detail::Registrar(status)) => registrar(status, &mut findings),
            None => {}
        }
    }
    saturation(probe, &statuses, &mut findings);
    let names: Vec<&str> = statuses.iter().map(|(daemon, _)| daemon.name()).collect();
    Ok(Outcome::of(findings, format!("{} without complaint", names.join(", "))))
}

fn zbalance(status: &ZbalanceStatus, findings: &mut Vec<Finding>) {
    for interface in &status.interfaces {
        if interface.down {
            warn(
                findings,
                "a capture interface went away",
                interface.interface.clone(),
                "ip link set dev IF up",
            );
        }
        if lost(interface.dropped, interface.received) {
            warn(
                findings,
                "the kernel drops frames before zbalance reads them",
                format!(
                    "{}: {} of {} dropped",
                    interface.interface, interface.dropped, interface.received
                ),
                "give zbalance a CPU of its own (CJ_INGEST_CORES)",
            );
        }
    }
    for queue in &status.queues {
        let name = format!("queue {}.{}", queue.set, queue.queue);
        if queue.hung || queue.attached && queue.heartbeat_age_seconds > SILENT {
            warn(
                findings,
                "a consumer holds a queue and does not read it",
                format!("{name}: silent for {:.0} s", queue.heartbeat_age_seconds),
                "restart the detector",
            );
        }
        if lost(queue.dropped_full + queue.dropped_quota, queue.enqueued) {
            warn(
                findings,
                "a worker of the detector is slower than its traffic",
                format!(
                    "{name}: {} of {} dropped",
                    queue.dropped_full + queue.dropped_quota,
                    queue.enqueued
                ),
                "raise CJ_CORECOUNT, or give the workers CPUs that nobody shares",
            );
        }
    }
}

fn detector(status: &DetectorStatus, findings: &mut Vec<Finding>) {
    for worker in &status.workers {
        let name = format!("worker {}", worker.worker);
        for (dropped, all, cause, remedy) in [
            (
                worker.dropped_source,
                worker.packets,
                "packets are lost before a worker reads them",
                "raise CJ_CORECOUNT",
            ),
            (
                worker.dropped_candidates,
                worker.candidates,
                "tags are not looked for in every record",
                "raise CJ_CORECOUNT",
            ),
            (
                worker.dropped_tun,
                worker.forwarded,
                "a tun device refuses packets of sessions",
                "station setup; see K06",
            ),
        ] {
            if lost(dropped, all) {
                warn(findings, cause, format!("{name}: {dropped} of {all}"), remedy);
            }
        }
        if worker.restarts > 0 {
            warn(
                findings,
                "a worker of the detector had to be restarted",
                format!("{name}: {} times", worker.restarts),
                "report what its log says",
            );
        }
    }
}

fn application(status: &ApplicationStatus, findings: &mut Vec<Finding>) {
    if status.ingest_capacity > 0 && status.ingest_waiting * 10 >= status.ingest_capacity * 9 {
        warn(
            findings,
            "registrations come faster than they are processed",
            format!("{} of {} places taken", status.ingest_waiting, status.ingest_capacity),
            "raise ingest_worker_count",
        );
    }
}

fn registrar(status: &RegistrarStatus, findings: &mut Vec<Finding>) {
    if lost(status.dropped, status.published) {
        warn(
            findings,
            "stations do not get every registration",
            format!("{} of {} not delivered", status.dropped, status.published),
            "look for a station that is slow or cut off",
        );
    }
}

/// Threads of a daemon that work on packets.
fn pinned(reply: &StatusReply) -> usize {
    match &reply.detail {
        Some(Detail::Zbalance(status)) => status.interfaces.len().max(1),
        Some(Detail::Detector(status)) => status.workers.len().max(1),
        _ => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

/// Seconds for which the threads of a process ran or waited for a processor.
fn wanted(probe: &Probe, pid: u32) -> Option<f64> {
    let folder = format!("/proc/{pid}/task");
    let threads = probe.root.list(&folder);
    let nanoseconds: Vec<u64> = threads
        .iter()
        .filter_map(|thread| {
            let text = probe.root.read(format!("{folder}/{thread}/schedstat")).ok()?;
            let mut fields = text.split_whitespace().map_while(|field| field.parse::<u64>().ok());
            Some(fields.next()? + fields.next()?)
        })
        .collect();
    (!nanoseconds.is_empty()).then(|| nanoseconds.iter().sum::<u64>() as f64 / 1e9)
}

fn saturation(probe: &Probe, statuses: &[(Daemon, StatusReply)], findings: &mut Vec<Finding>) {
    let look = |reply: &StatusReply| wanted(probe, reply.identity.as_ref()?.pid);
    let before: Vec<Option<f64>> = statuses.iter().map(|(_, reply)| look(reply)).collect();
    let start = Instant::now();
    std::thread::sleep(WATCH);
    let elapsed = start.elapsed().as_secs_f64();
    for ((daemon, reply), before) in statuses.iter().zip(before) {
        let (Some(before), Some(after)) = (before, look(reply)) else { continue };
        let used = (after - before) / elapsed;
        let most = pinned(reply) as f64;
        if used > most * SATURATED {
            warn(
                findings,
                "a daemon would use more processors than it has",
                format!("{}: {used:.1} wanted, {most:.0} there", daemon.name()),
                "raise CJ_CORECOUNT, or move other work away",
            );
        }
    }
}
