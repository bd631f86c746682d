//! How the capture interfaces are read.

use capture::AgainstXdp;
use conf::IngestBackend;
use host::Capability;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;

/// N08.
pub(crate) fn back_ends(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    for source in &station.interfaces {
        let name = source.strip_prefix("zc:").unwrap_or(source);
        let (back_end, name) = match name.split_once(':') {
            Some((back_end @ ("xdp" | "afp" | "pcap"), name)) => (back_end, name),
            _ => ("", name),
        };
        let text = match (back_end, station.backend) {
            ("pcap", _) => format!("{name}: a recording"),
            ("xdp", _) | ("", IngestBackend::Xdp) => format!("{name}: AF_XDP, as configured"),
            ("afp", _) | ("", IngestBackend::AfPacket) => {
                format!("{name}: AF_PACKET, as configured")
            }
            (_, IngestBackend::PfRing) => format!("{name}: PF_RING (P01 to P06)"),
            _ => {
                probe.needs(Capability::NetRaw, "open a packet socket")?;
                match capture::against_xdp(name) {
                    Ok(None) => format!("{name}: AF_XDP, otherwise AF_PACKET"),
                    Ok(Some(reason)) => {
                        if let AgainstXdp::Address { address, .. } = &reason {
                            findings.push(has_address(name, address));
                        }
                        format!("{name}: AF_PACKET: {reason}")
                    }
                    // N01 says what is wrong with it.
                    Err(error) => format!("{error}"),
                }
            }
        };
        if station.prefilter && !text.contains(": AF_XDP") {
            findings.push(not_filtered(name, &text));
        }
        if station.fast_path && !text.contains(": AF_XDP") {
            findings.push(no_fast_path(name, &text));
        }
        seen.push(text);
    }
    if seen.is_empty() {
        return Err(Outcome::Skipped("CJ_IFACE is empty (N01)".to_owned()));
    }
    Ok(Outcome::of(findings, seen.join("; ")))
}

fn not_filtered(name: &str, evidence: &str) -> Finding {
    Finding::warning(
        format!("frames of {name} are not filtered in the kernel: CJ_PREFILTER is for AF_XDP"),
        evidence,
        format!("CJ_IFACE=xdp:{name} when AF_XDP is to read it, otherwise CJ_PREFILTER=false"),
    )
}

fn no_fast_path(name: &str, evidence: &str) -> Finding {
    Finding::warning(
        format!("no packets of sessions pass in the kernel on {name}: CJ_FAST_PATH is for AF_XDP"),
        evidence,
        format!("CJ_IFACE=xdp:{name} when AF_XDP is to read it, otherwise CJ_FAST_PATH=false"),
    )
}

fn has_address(name: &str, address: &str) -> Finding {
    Finding::warning(
        format!("{name} is read through AF_PACKET, with two copies, because it has an address"),
        format!("address {address} on {name}"),
        format!(
            "take the address away when {name} is a tap alone: ip addr flush dev {name}; otherwise say what is \
             meant: CJ_IFACE=afp:{name}, or xdp:{name}, which takes its packets away from the host"
        ),
    )
}
