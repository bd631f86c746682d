//! C04 to C06: the CPUs of the detector's workers.

use std::ops::RangeInclusive;

use conf::Origin;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;

/// C04.
pub(crate) fn skip_core(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let origin = station.variables.origin("CJ_SKIP_CORE");
    if station.variables.filled("CJ_SKIP_CORE").is_some() || origin == Origin::Default {
        return Ok(Outcome::Good("CJ_SKIP_CORE has a value, or is left to the default".to_owned()));
    }
    // Where this station is installed, that name is a link to its own detector.
    let reference = probe.root.path(station.path.join("bin/conjure"));
    if !std::fs::symlink_metadata(reference).is_ok_and(|meta| meta.is_file()) {
        return Ok(Outcome::Good("an empty CJ_SKIP_CORE is taken for -1".to_owned()));
    }
    Ok(Outcome::Found(vec![Finding::warning(
        "an empty CJ_SKIP_CORE makes the reference's detector leave out CPU 0 and lose its queue offset; \
         this one takes it for -1",
        format!("{origin}: CJ_SKIP_CORE="),
        "write CJ_SKIP_CORE=-1",
    )]))
}

/// The numbers of a list such as `0-3,5`.
fn cpus(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flat_map(|range| range.take(4096)).collect()
}

fn numbers(list: &[usize]) -> String {
    list.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// C05.
pub(crate) fn cpu_list(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let root = &probe.root;
    let cores = station.placement.cores();
    let used = numbers(&cores);
    let mut findings = Vec::new();
    let remedy = "choose other CPUs with CJ_COREBASE, CJ_CORECOUNT and CJ_SKIP_CORE";
    let online = cpus(&root.read("/sys/devices/system/cpu/online").unwrap_or_default());
    let missing: Vec<usize> = cores.iter().copied().filter(|cpu| !online.contains(cpu)).collect();
    if !online.is_empty() && !missing.is_empty() {
        findings.push(Finding::error(
            "the detector refuses to start: a worker's CPU is not online",
            format!("workers on CPUs {used}, not online: {}", numbers(&missing)),
            remedy,
        ));
    }
    let status = root.read("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = cpus(allowed.unwrap_or_default());
    let barred: Vec<usize> = cores
        .iter()
        .copied()
        .filter(|cpu| !allowed.contains(cpu) && !missing.contains(cpu))
        .collect();
    if !allowed.is_empty() && !barred.is_empty() {
        findings.push(Finding::error(
            "a worker's CPU is outside the set that processes here may use",
            format!("workers on CPUs {used}, allowed are {}", numbers(&allowed)),
            format!("{remedy}, or widen the CPU set of the container or service"),
        ));
    }
    let ingest = match &station.ingest_cores {
        Some(list) => cpus(list),
        None => vec![station.placement.core_base],
    };
    let shared: Vec<usize> = cores.iter().copied().filter(|cpu| ingest.contains(cpu)).collect();
    if !shared.is_empty() {
        findings.push(Finding::warning(
            "zbalance and a worker of the detector share a CPU and take it from each other",
            format!("workers on CPUs {used}, zbalance on {}", numbers(&ingest)),
            "set CJ_INGEST_CORES to a CPU that no worker has",
        ));
    }
    for interface in probe.interfaces().unwrap_or_default() {
        let Some(node) = host::node_of(root, &interface) else { continue };
        let near = cpus(
            &root.read(format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default(),
        );
        let far: Vec<usize> = cores.iter().copied().filter(|cpu| !near.contains(cpu)).collect();
        if !near.is_empty() && !far.is_empty() {
            findings.push(Finding::warning(
                format!("workers are on another NUMA node than {interface}: each packet crosses between them"),
                format!("{interface} is on node {node} with CPUs {}, workers on {}", numbers(&near), numbers(&far)),
                remedy,
            ));
        }
    }
    let mut pairs = Vec::new();
    for cpu in &cores {
        let siblings = root
            .read(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
            .unwrap_or_default();
        pairs.extend(
            cpus(&siblings).into_iter().filter(|s| s > cpu && cores.contains(s)).map(|s| (*cpu, s)),
        );
    }
    if let Some((first, second)) = pairs.first() {
        findings.push(Finding::warning(
            "two workers run on hyper-threads of one core and share its speed",
            format!("CPUs {first} and {second}{}", if pairs.len() > 1 { ", and more" } else { "" }),
            remedy,
        ));
    }
    Ok(Outcome::of(findings, format!("workers on CPUs {used}")))
}

/// C06.
pub(crate) fn core_count(probe: &Probe) -> Checked {
    let count = probe.station()?.placement.core_count;
    let online = cpus(&probe.root.read("/sys/devices/system/cpu/online").unwrap_or_default()).len();
    let mut findings = Vec::new();
    if count > 16 {
        findings.push(Finding::warning(
            "the reference's detector cannot attach to more than 16 queues",
            format!("CJ_CORECOUNT={count}"),
            "set CJ_CORECOUNT to at most 16 while the reference's detector may run",
        ));
    }
    if online > 0 && count > online.saturating_sub(1).max(1) {
        findings.push(Finding::warning(
            "no CPU is left for zbalance, the application and the kernel",
            format!("CJ_CORECOUNT={count}, {online} CPUs online"),
            format!("set CJ_CORECOUNT to at most {}", online.saturating_sub(1).max(1)),
        ));
    }
    Ok(Outcome::of(findings, format!("{count} workers, {online} CPUs")))
}
