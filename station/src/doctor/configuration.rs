//! C: the configuration, and whether it fits this host.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use conf::{Origin, Precedence, Sources};
use host::Records;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use super::readers::{self, Reading};
use crate::daemons::Daemon;

/// Names that documents of the reference use and nothing there reads, with those that are read.
const OBSOLETE: [(&str, &str); 3] = [
    ("CJ_IP4_ADDR", "IP4_ADDR"),
    ("CJ_IP6_ADDR", "IP6_ADDR"),
    ("CJ_PROXY_CONFIG", "CJ_STATION_CONFIG"),
];

/// C01.
pub(crate) fn loads(probe: &Probe) -> Checked {
    let loaded = match &probe.station {
        Ok(loaded) => loaded,
        Err(problems) => {
            let finding = |problem: &conf::Problem| {
                let place = match &problem.origin {
                    Origin::File { path, .. } => format!("edit {}", path.display()),
                    origin => format!("change the {origin}"),
                };
                let key = if problem.key.is_empty() { "it" } else { &problem.key };
                Finding::error(
                    "the configuration cannot be used: no daemon starts",
                    problem.to_string(),
                    format!("{place}: {key} must be {}", problem.expected),
                )
            };
            return Ok(Outcome::Found(problems.0.iter().map(finding).collect()));
        }
    };
    let files: Vec<String> = files(probe).iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(", ") };
    Ok(Outcome::Good(format!("{} variables from {files}", loaded.value.variables.iter().count())))
}

/// The files that are read, in order.
fn files(probe: &Probe) -> Vec<PathBuf> {
    let sources = &probe.sources;
    [&sources.default_file, &sources.local_file]
        .into_iter()
        .flatten()
        .filter(|path| path.is_file())
        .cloned()
        .collect()
}

/// C02.
pub(crate) fn names_and_lines(probe: &Probe) -> Checked {
    let mut findings = Vec::new();
    if let Ok(loaded) = &probe.station {
        for notice in loaded.notices.iter().filter(|n| n.text.starts_with("unknown key")) {
            findings.push(Finding::warning(
                "a variable that nothing reads, perhaps a mistyped one",
                notice.to_string(),
                format!("correct or remove the variable in {}", notice.origin),
            ));
        }
        let variables = &loaded.value.variables;
        for (old, new) in OBSOLETE {
            if let Some(value) = variables.filled(old) {
                findings.push(Finding::warning(
                    format!("{old} is a name that the reference documents and does not read"),
                    format!("{}: {old}={value}", variables.origin(old)),
                    format!("write {new}={value} instead"),
                ));
            }
        }
    }
    for path in files(probe) {
        if let Ok(text) = std::fs::read_to_string(&path) {
            findings.extend(read_differently(&path, &text, &probe.sources.environment));
        }
    }
    Ok(Outcome::of(findings, "every name is known, and every reader reads every line alike"))
}

/// One finding for each line that bash, systemd and docker do not read alike.
fn read_differently(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    let mut program: Option<(usize, usize)> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = assigned(line) else {
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                program = Some((program.map_or(at + 1, |(first, _)| first), at + 1));
            }
            continue;
        };
        let (systemd, docker) = (readers::systemd(line), readers::docker(line));
        let plain =
            |reading: &Reading| matches!(reading, Reading::Value(n, v) if n == name && is_plain(v));
        if plain(&systemd) && systemd == docker {
            continue;
        }
        let shell = by_shell(&lines[..=at], name, environment);
        let same = |reading: &Reading| matches!((reading, &shell), (Reading::Value(n, v), Some(s)) if n == name && v == s);
        if same(&systemd) && same(&docker) {
            continue;
        }
        let shown =
            shell.as_ref().map_or("a program".to_owned(), |value| format!("{name} as `{value}`"));
        findings.push(Finding::warning(
            "this line means different things to different readers",
            format!(
                "{}:{}: `{line}`: bash and the station read {shown}, systemd's EnvironmentFile= {systemd}, \
                 docker's --env-file {docker}",
                path.display(),
                at + 1,
            ),
            match &shell {
                Some(value) if is_plain(value) => {
                    format!("write {name}={value} alone on line {} of {}", at + 1, path.display())
                }
                _ => "write NAME=VALUE with nothing that needs quotes, and comments on lines of their own"
                    .to_owned(),
            },
        ));
    }
    if let Some((first, last)) = program {
        findings.push(Finding::warning(
            "this file is a program of the shell, which systemd and docker do not run",
            format!("{}:{first}: the first of the statements up to line {last}", path.display()),
            format!("station config migrate writes a plain file; install it as {}", path.display()),
        ));
    }
    findings
}

/// The variable that a line assigns.
fn assigned(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (name, _) = line.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    good.then_some(name)
}

/// True for a value that no reader changes.
fn is_plain(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "_./:,@%+=[]-".contains(c))
}

/// What the shell has for `name` after `lines`; `None` when that takes a shell.
fn by_shell(lines: &[&str], name: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    let file = tempfile::NamedTempFile::new().ok()?;
    std::fs::write(file.path(), lines.join("\n")).ok()?;
    let mut environment = environment.clone();
    environment.insert("CJ_CONF_SHELL".to_owned(), "0".to_owned());
    environment.remove("CJ_CONF");
    environment.remove("CJ_STOP_RECURSE");
    let sources = Sources {
        default_file: None,
        local_file: Some(file.path().to_owned()),
        environment,
        precedence: Precedence::Files,
    };
    sources.evaluate().ok()?.value.value(name).map(str::to_owned)
}

/// C03.
pub(crate) fn spellings(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let mut findings = Vec::new();
    let folder = Path::new("/var/lib/conjure");
    for (variable, path, names) in [
        (
            "CJ_STATION_CONFIG",
            &station.station_config,
            ["app_config.toml", "application_config.toml"],
        ),
        (
            "CJ_REGISTRAR_CONFIG",
            &station.registrar_config,
            ["reg_config.toml", "registration_config.toml"],
        ),
    ] {
        let Some(used) = names.iter().position(|name| *path == folder.join(name)) else { continue };
        let configured = station.variables.filled(variable).map(PathBuf::from);
        let other = folder.join(names[1 - used]);
        // The reader takes the other spelling by itself; what is configured is then another path.
        let replaced = configured.as_ref().is_some_and(|configured| configured != path);
        if replaced || !probe.exists(path) && probe.exists(&other) {
            let (missing, present) = if replaced { (&other, path) } else { (path, &other) };
            findings.push(Finding::warning(
                "the file is there under the other spelling of the reference's documents",
                format!("{} does not exist, {} does", missing.display(), present.display()),
                format!("set {variable}={} in {}", present.display(), conf::LOCAL_FILE),
            ));
        }
    }
    Ok(Outcome::of(findings, "the files have the configured names"))
}

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

/// C07.
pub(crate) fn numbering(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let placement = &station.placement;
    let mut findings = Vec::new();
    if !placement.offsets_agree() {
        findings.push(Finding::error(
            "the detector uses tun devices that host set-up does not prepare: phantom traffic disappears",
            format!("OFFSET={}, CJ_QUEUE_OFFSET={}", placement.tun_offset, placement.queue_offset),
            format!("set OFFSET={} and run station setup", placement.queue_offset),
        ));
    }
    if placement.detector_tuns().contains(&station.dnat_tun) {
        findings.push(Finding::error(
            "the application's tun device is also a worker's: one of the two cannot open it",
            format!(
                "CJ_DNAT_TUN={}, workers have {}",
                station.dnat_tun,
                placement.detector_tuns().join(", ")
            ),
            format!("set CJ_DNAT_TUN={} or leave it out", placement.dnat_tun()),
        ));
    }
    let mut own = placement.detector_tuns();
    own.push(station.dnat_tun.clone());
    let records = Records::of(&probe.root).load().unwrap_or_default();
    for other in records.iter().filter(|record| record.offset as usize != placement.tun_offset) {
        let common: Vec<&str> =
            own.iter().filter(|tun| other.route.tuns.contains(tun)).map(String::as_str).collect();
        if !common.is_empty() {
            findings.push(Finding::error(
                "two stations of this host use the same tun device; each takes CJ_CORECOUNT + 1",
                format!(
                    "{} also belong to the station with OFFSET={}",
                    common.join(", "),
                    other.offset
                ),
                "choose another OFFSET and CJ_QUEUE_OFFSET, or set CJ_DNAT_TUN to a free device",
            ));
        }
    }
    Ok(Outcome::of(findings, format!("{} are this station's alone", own.join(", "))))
}

/// C08.
pub(crate) fn queue_range(probe: &Probe) -> Checked {
    let placement = &probe.station()?.placement;
    use signalling::station::status_reply::Detail;
    let Some(Detail::Zbalance(zbalance)) = probe.status(Daemon::Zbalance).and_then(|s| s.detail)
    else {
        return Err(Outcome::Skipped("zbalance does not run".to_owned()));
    };
    let there = zbalance.queues.len();
    let last = placement.queue_offset + placement.core_count;
    if last <= there {
        return Ok(Outcome::Good(format!(
            "queues {} to {} of {there}",
            placement.queue_offset,
            last - 1
        )));
    }
    Ok(Outcome::Found(vec![Finding::error(
        "the detector wants queues that zbalance does not have, and waits for them for ever",
        format!(
            "queues {} to {} are wanted, zbalance has {there}",
            placement.queue_offset,
            last - 1
        ),
        "restart zbalance after a change of CJ_CORECOUNT, or set N_QUEUE_SETS=2 for a second station",
    )]))
}
