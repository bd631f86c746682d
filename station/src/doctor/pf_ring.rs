//! P: PF_RING, where it is the capture back end.

use super::finding::{Checked, Finding, Outcome};
use super::interfaces::{self, ZERO_COPY};
use super::probe::Probe;

const INFO: &str = "/proc/net/pf_ring/info";
/// Where libpfring may be installed.
const LIBRARIES: [&str; 4] =
    ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"];

/// Version of the module, e.g. `8.9.0`.
fn module_version(probe: &Probe) -> Option<String> {
    let text = probe.root.read(INFO).ok()?;
    let line = text.lines().find(|line| line.starts_with("PF_RING Version"))?;
    line.split(':').nth(1)?.split_whitespace().next().map(str::to_owned)
}

/// P01.
pub(crate) fn module(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    if let Some(version) = module_version(probe) {
        return Ok(Outcome::Good(format!("pf_ring {version}")));
    }
    Ok(Outcome::Found(vec![Finding::error(
        "the kernel module pf_ring is not loaded",
        format!("no version in {INFO}"),
        "modprobe pf_ring (package pfring-dkms), or set CJ_INGEST_BACKEND=afpacket",
    )]))
}

/// The newest libpfring that is installed, with its version.
fn library(probe: &Probe) -> Option<(String, String)> {
    let mut found: Vec<(String, String)> = LIBRARIES
        .iter()
        .flat_map(|folder| probe.root.list(folder).into_iter().map(move |name| (folder, name)))
        .filter_map(|(folder, name)| {
            let version = name.strip_prefix("libpfring.so.")?;
            let number =
                version.contains('.') && version.split('.').all(|n| n.parse::<u32>().is_ok());
            number.then(|| (format!("{folder}/{name}"), version.to_owned()))
        })
        .collect();
    found.sort_by_key(|(_, version)| {
        version.split('.').filter_map(|n| n.parse().ok()).collect::<Vec<u32>>()
    });
    found.pop()
}

/// P02.
pub(crate) fn versions(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let Some(module) = module_version(probe) else {
        return Err(Outcome::Skipped("the module is not loaded (P01)".to_owned()));
    };
    let Some((path, library)) = library(probe) else {
        return Ok(Outcome::Found(vec![Finding::error(
            "libpfring is not installed: zbalance cannot use the module",
            format!("no libpfring.so in {}", LIBRARIES.join(", ")),
            format!("install the package pfring of version {module}"),
        )]));
    };
    let mut findings = Vec::new();
    if library != module {
        findings.push(Finding::error(
            "library and module of PF_RING have different versions and do not work together",
            format!("{path} is {library}, {INFO} says {module}"),
            format!("install pfring={module}, or build the image with pfring_ver={module}"),
        ));
    }
    let wanted = probe.station()?.variables.filled("PFRING_VER").unwrap_or("latest");
    let number = wanted.trim_start_matches("tags/").trim_end_matches("-stable");
    let numeric = number.starts_with(|c: char| c.is_ascii_digit());
    if numeric && number != module {
        findings.push(Finding::error(
            "images are built with another version of PF_RING than this host has",
            format!("PFRING_VER={wanted}, {INFO} says {module}"),
            format!("set PFRING_VER={module}, or install that version on the host"),
        ));
    }
    Ok(Outcome::of(findings, format!("library and module are {module}")))
}

/// What PF_RING says of an interface.
fn device(probe: &Probe, name: &str) -> Option<String> {
    probe.root.read(format!("/proc/net/pf_ring/dev/{name}/info")).ok()
}

fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let line = info.lines().find(|line| line.trim_start().starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

/// P03.
pub(crate) fn polling(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for name in probe.interfaces()? {
        let driver = probe.driver(&name).unwrap_or_else(|| "unknown".to_owned());
        let info = device(probe, &name);
        let mode =
            info.as_deref().and_then(|info| value(info, "Polling Mode")).unwrap_or("not listed");
        let zero_copy = mode.contains("ZC");
        let state = match zero_copy {
            true => "[Running ZC]",
            false if ZERO_COPY.contains(&driver.as_str()) => "[Supported by ZC]",
            false => "[Linux Driver]",
        };
        let line = format!("Name: {name} Driver: {driver} {state} Polling Mode: {mode}");
        if !zero_copy {
            findings.push(Finding::error(
                format!("{name} does not run with its zero-copy driver"),
                &line,
                match state {
                    "[Supported by ZC]" => format!(
                        "pf_ringcfg --configure-driver {driver} --rss-queues 1, or station setup --driver; both \
                         reload the driver"
                    ),
                    _ => format!("use a card with one of the drivers {}", ZERO_COPY.join(", ")),
                },
            ));
        }
        seen.push(line);
    }
    Ok(Outcome::of(findings, seen.join("; ")))
}

/// P04.
pub(crate) fn licence(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let files = probe.root.list("/etc/pf_ring");
    let mut findings = Vec::new();
    for name in probe.interfaces()? {
        let known = device(probe, &name)
            .as_deref()
            .and_then(|info| value(info, "Address"))
            .map(str::to_owned);
        let address = known.or_else(|| probe.root.word(format!("/sys/class/net/{name}/address")));
        let Some(address) = address else { continue };
        if !files.iter().any(|file| file.eq_ignore_ascii_case(&address)) {
            let address = address.to_uppercase();
            findings.push(Finding::warning(
                format!(
                    "PF_RING ZC stops on {name} five minutes after each start: it has no licence"
                ),
                format!("no file /etc/pf_ring/{address}"),
                format!(
                    "buy a licence for {address} from ntop and put it into /etc/pf_ring/{address}"
                ),
            ));
        }
    }
    Ok(Outcome::of(findings, "every interface has a licence"))
}

/// P05.
pub(crate) fn management(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let capture = probe.interfaces()?;
    let mut findings = Vec::new();
    for other in host::default_interfaces(false).unwrap_or_default() {
        let Some(driver) = probe.driver(&other) else { continue };
        if capture.iter().any(|name| probe.driver(name).as_ref() == Some(&driver)) {
            findings.push(Finding::warning(
                format!(
                    "the driver {driver} also drives {other}, by which this host is reached: reloading it \
                     (--driver, --force) cuts the connection"
                ),
                format!("default route by {other}, capture on {}", capture.join(", ")),
                "reload drivers only from a console, or move the management interface to another card",
            ));
        }
    }
    Ok(Outcome::of(findings, "the management interface has another driver"))
}

/// One check.
type Look = fn(&Probe) -> Checked;

/// P06.
pub(crate) fn cluster(probe: &Probe) -> Checked {
    probe.only_pf_ring()?;
    let mut causes = Vec::new();
    let checks: [(&str, Look); 4] = [
        ("P01", module),
        ("N01", interfaces::usable),
        ("N03", interfaces::owner),
        ("P03", polling),
    ];
    for (id, check) in checks {
        if let Ok(Outcome::Found(findings)) = check(probe) {
            causes.extend(findings.into_iter().map(|finding| format!("{id}: {}", finding.cause)));
        }
    }
    if causes.is_empty() {
        return Ok(Outcome::Good("nothing keeps a cluster from being made".to_owned()));
    }
    Ok(Outcome::Found(vec![Finding::error(
        "zbalance would end with `pfring_zc_create_cluster error [Socket operation on non-socket]`",
        causes.join("; "),
        "mend what is named here; each has its own remedy in this list",
    )]))
}
