//! C07 and C08: numbers of tun devices and queues, which several daemons must agree on.

use host::Records;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use crate::daemons::Daemon;

/// C07.
pub(crate) fn devices(probe: &Probe) -> Checked {
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
