//! M: memory that capture locks.

use conf::IngestBackend;
use host::Capability;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use crate::daemons::Daemon;

/// Bytes of a frame, frames that AF_XDP takes on loan for an interface with one receive queue, and frames that
/// a queue of the detector may hold.
const FRAME: u64 = 2048;
const LOANS: u64 = 36_864;
const SLOTS: u64 = 8192;

/// M01.
pub(crate) fn huge_pages(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let station = probe.station()?;
    let sets = if station.two_queue_sets { 2 } else { 1 };
    let queues = station.placement.core_count as u64 * sets;
    let need = host::pages_needed(&probe.root, &station.interfaces, queues);
    let pools = host::pools(&probe.root);
    let place = need.node.map_or("this host".to_owned(), |node| format!("NUMA node {node}"));
    let mut findings = Vec::new();
    let all: Vec<String> = pools
        .iter()
        .map(|pool| {
            let node = pool.node.map_or(String::new(), |node| format!("node {node}: "));
            format!("{node}{} pages, {} free", pool.total, pool.free)
        })
        .collect();
    let evidence = format!(
        "{} of {} pages are needed on {place}; {}",
        need.pages,
        host::PAGE_KIB,
        all.join(", ")
    );
    let there = pools.iter().find(|pool| pool.node == need.node);
    let running = probe.status(Daemon::Zbalance).is_some();
    if there.is_none_or(|pool| pool.total < need.pages) {
        findings.push(Finding::error(
            format!("too few huge pages on {place}: PF_RING cannot make its cluster"),
            &evidence,
            "station setup (early after boot), or hugepages= on the kernel's command line",
        ));
    } else if there.is_some_and(|pool| pool.free < need.pages) && !running {
        findings.push(Finding::error(
            format!("huge pages of {place} are taken, perhaps by a cluster that nobody uses any more"),
            &evidence,
            "end what holds them (grep -l hugetlbfs /proc/*/maps), or remove its files in the mount",
        ));
    }
    if host::mount_points(&probe.root).is_empty() {
        findings.push(Finding::error(
            "no file system of huge pages is mounted here, or the container does not see it",
            "no hugetlbfs in /proc/self/mounts",
            "station setup, or: mount -t hugetlbfs nodev /dev/hugepages; in a container: volume /dev/hugepages",
        ));
    }
    Ok(Outcome::of(findings, evidence))
}

/// The soft limit of locked memory in the text of `/proc/PID/limits`; `None` for no limit.
fn limit(text: &str) -> Option<Option<u64>> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let soft = line.split_whitespace().next()?;
    Some(soft.parse().ok())
}

/// M02.
pub(crate) fn locked(probe: &Probe) -> Checked {
    if probe.backend()? != IngestBackend::Xdp {
        return Err(Outcome::Skipped("the capture back end is not AF_XDP".to_owned()));
    }
    let running = probe.status(Daemon::Zbalance).and_then(|status| Some(status.identity?.pid));
    let who = running.map_or("self".to_owned(), |pid| pid.to_string());
    let text = probe.root.read(format!("/proc/{who}/limits")).unwrap_or_default();
    let Some(limit) = limit(&text) else {
        return Err(Outcome::Skipped(format!("/proc/{who}/limits cannot be read")));
    };
    let station = probe.station()?;
    let sets = if station.two_queue_sets { 2 } else { 1 };
    let queues = station.placement.core_count as u64 * sets;
    let need = (LOANS + SLOTS * queues) * FRAME * station.interfaces.len().max(1) as u64;
    let exempt = running.is_none() && host::has_capability(&probe.root, Capability::IpcLock);
    match limit {
        Some(limit) if limit < need && !exempt => Ok(Outcome::Found(vec![Finding::error(
            "the limit of locked memory is below what AF_XDP needs: XDP_UMEM_REG fails with ENOBUFS",
            format!("/proc/{who}/limits: {limit} bytes, {need} are needed"),
            "LimitMEMLOCK=infinity in zbalance.service, ulimits: memlock: -1 in compose, or CAP_IPC_LOCK",
        )])),
        _ => Ok(Outcome::Good(format!("enough for {need} bytes"))),
    }
}
