//! K09: whether the host takes the packets of sessions that the kernel gives it past the detector.

use super::finding::{Checked, Finding, Fix, Outcome};
use super::kernel::{SETUP, rules};
use super::probe::Probe;
use host::Capability;

/// K09.
pub(crate) fn check(probe: &Probe) -> Checked {
    let station = probe.station()?;
    if !station.fast_path {
        return Err(Outcome::Skipped("CJ_FAST_PATH is off".to_owned()));
    }
    let mut findings = Vec::new();
    let filter = rules(probe)?;
    if filter.closed && !filter.passes {
        findings.push(
            Finding::error(
                "the packet filter drops packets of sessions that pass in the kernel",
                "no rule accepts translated packets for port 41245 before it is closed",
                SETUP,
            )
            .with_fix(Fix::Setup),
        );
    }
    let all = host::taps(station);
    let open: Vec<&str> =
        all.iter().map(String::as_str).filter(|tap| !filter.not_forwarded.contains(*tap)).collect();
    if !open.is_empty() {
        let open = open.join(", ");
        findings.push(
            Finding::error(
                "this host may forward packets of clients that come by a tap and are not translated any more",
                format!("no rule drops in the hook forward what comes by {open}"),
                SETUP,
            )
            .with_fix(Fix::Setup),
        );
    }
    let mut taps = Vec::new();
    for name in all {
        probe.needs(Capability::NetRaw, "open a packet socket")?;
        match capture::against_fast_path(&name) {
            Ok(None) => taps.push(name),
            Ok(Some(why)) => findings.push(against(&name, &why)),
            // N01 says what is wrong with it.
            Err(error) => return Err(Outcome::Skipped(error.to_string())),
        }
    }
    Ok(Outcome::of(findings, format!("the host takes packets of sessions by {}", taps.join(", "))))
}

fn against(name: &str, why: &capture::AgainstFastPath) -> Finding {
    let text = why.to_string();
    let (evidence, remedy) = text.split_once(": ").unwrap_or((&text, SETUP));
    let cause = format!("the host does not take packets of sessions that come by {name}");
    Finding::error(cause, evidence, remedy)
}
