//! K10: whether the detector can give acknowledgements to the host together.

use capture::LiveFrames;
use host::Capability;

use super::deployment;
use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;

const UNIT: &str = "conjure-det.service";
/// What a daemon has from the beginning that is not root.
const AMBIENT: &str = "AmbientCapabilities";
/// What the unit has to let the detector have, by setting.
const GRANTS: [(&str, &[&str]); 3] = [
    (AMBIENT, &["CAP_BPF", "CAP_NET_ADMIN"]),
    ("CapabilityBoundingSet", &["CAP_BPF", "CAP_NET_ADMIN"]),
    ("SystemCallFilter", &["bpf"]),
];
/// How it is left out.
const OFF: &str = "or CJ_LIVE_FRAMES=false";

/// K10.
pub(crate) fn check(probe: &Probe) -> Checked {
    let station = probe.station()?;
    if !station.live_frames {
        return Err(Outcome::Skipped("CJ_LIVE_FRAMES is off".to_owned()));
    }
    let mut findings: Vec<Finding> = station
        .placement
        .prepared_tuns()
        .iter()
        .filter_map(|tun| LiveFrames::not_steered(tun).err())
        .map(|error| {
            let text = error.to_string();
            let (evidence, reason) = text.split_once(": ").unwrap_or((&text, ""));
            let file = evidence.split(' ').next().unwrap_or_default();
            let remedy = format!("echo 0 > {file}, {OFF}");
            Finding::error(format!("the detector does not start: {reason}"), evidence, remedy)
        })
        .collect();
    findings.extend(ungranted(probe));
    probe.needs(Capability::SysAdmin, "try live frames in a namespace")?;
    if let Err(error) = LiveFrames::try_apart() {
        let cause = "the detector does not start: this host does not take packets together";
        findings.push(Finding::error(cause, error.to_string(), format!("Linux 5.19, {OFF}")));
    }
    Ok(Outcome::of(findings, "the kernel takes acknowledgements together"))
}

/// What the unit of the detector, where it is installed, keeps from it.
fn ungranted(probe: &Probe) -> Option<Finding> {
    if !deployment::is_installed(probe, UNIT) {
        return None;
    }
    let has_user = deployment::words(probe, UNIT, "User").is_some();
    let mut missing = Vec::new();
    for (setting, wanted) in GRANTS {
        let granted = match deployment::words(probe, UNIT, setting) {
            Some(granted) => granted,
            None if setting == AMBIENT && has_user => Vec::new(),
            // Nothing is kept from it, or it is root.
            None => continue,
        };
        let has = |word: &str| granted.iter().any(|have| have.eq_ignore_ascii_case(word));
        let lacking: Vec<&str> = wanted.iter().copied().filter(|word| !has(word)).collect();
        if !lacking.is_empty() {
            missing.push(format!("{setting}={}", lacking.join(" ")));
        }
    }
    let lines = missing.join(", ");
    (!missing.is_empty()).then(|| {
        Finding::error(
            "the detector does not start: its unit keeps from it what live frames take",
            format!("{UNIT} is without {lines}"),
            format!("systemctl edit {UNIT}: [Service] {lines}; {OFF}"),
        )
    })
}
