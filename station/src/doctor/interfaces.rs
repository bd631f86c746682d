//! N: the capture interfaces.

use conf::{IngestBackend, Mode};
use host::{Action, Step, tool};
use serde_json::Value;

use super::finding::{Checked, Finding, Fix, Outcome};
use super::probe::{Probe, flag};
use super::sample::Sample;

/// Drivers that PF_RING has a zero-copy version of.
pub(crate) const ZERO_COPY: [&str; 8] =
    ["e1000e", "igb", "ixgbe", "ixgbevf", "i40e", "iavf", "ice", "mlx5_core"];
/// Flows of a sample that allow a judgement.
const FLOWS: usize = 5;

fn interfaces() -> String {
    let text = tool::output("ip", &["-j", "link", "show"]).unwrap_or_default();
    let links: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let names: Vec<&str> =
        links.iter().filter_map(|l| l["ifname"].as_str()).filter(|n| *n != "lo").collect();
    names.join(", ")
}

/// N01.
pub(crate) fn usable(probe: &Probe) -> Checked {
    let names = probe.interfaces()?;
    if names.is_empty() {
        return Ok(Outcome::Found(vec![Finding::error(
            "no capture interface is configured: zbalance does not start",
            "CJ_IFACE is empty",
            format!("set CJ_IFACE in {} to one of: {}", conf::LOCAL_FILE, interfaces()),
        )]));
    }
    let defaults = host::default_interfaces(false).unwrap_or_default();
    let mut findings = Vec::new();
    for name in &names {
        let Some(link) = super::probe::link(name) else {
            findings.push(Finding::error(
                format!("there is no interface {name}"),
                format!("CJ_IFACE={name}; here are: {}", interfaces()),
                "correct CJ_IFACE, or load the driver of the interface",
            ));
            continue;
        };
        if link["link_type"] != "ether" {
            findings.push(Finding::error(
                format!("{name} carries no Ethernet frames"),
                format!("its type is {}", link["link_type"]),
                "set CJ_IFACE to the interface of the tap",
            ));
        } else if !flag(&link, "UP") {
            let step = run(format!("{name} up"), &["ip", "link", "set", "dev", name, "up"]);
            findings.push(
                Finding::error(
                    format!("{name} is down"),
                    "ip link show",
                    format!("ip link set dev {name} up"),
                )
                .with_fix(Fix::Steps(vec![step])),
            );
        } else if !flag(&link, "LOWER_UP") {
            findings.push(Finding::error(
                format!("{name} has no carrier: nothing is plugged in, or the other end is down"),
                "ip link show says NO-CARRIER",
                "check the cable and the port of the tap",
            ));
        }
        if defaults.contains(name) {
            findings.push(Finding::error(
                format!("{name} is the interface of the default route: capture would see and disturb the host's own traffic"),
                "ip route show default",
                "set CJ_IFACE to the interface of the tap",
            ));
        }
    }
    Ok(Outcome::of(findings, format!("{} up, with carrier", names.join(", "))))
}

/// N02.
pub(crate) fn driver(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let pf_ring = probe.backend()? == IngestBackend::PfRing;
    let variables = &station.variables;
    let wanted = variables.filled("PF_DRIVER").unwrap_or_default();
    let chosen = variables.origin("PF_DRIVER") != conf::Origin::Default;
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    for (name, _) in probe.links()? {
        let driver = probe.driver(&name).unwrap_or_else(|| "none".to_owned());
        let evidence = format!("{name} has the driver {driver}, PF_DRIVER={wanted}");
        let remedy = format!("set PF_DRIVER={driver} in {}", conf::LOCAL_FILE);
        if pf_ring && !ZERO_COPY.contains(&driver.as_str()) {
            findings.push(Finding::error(
                format!("PF_RING has no zero-copy driver for {name}"),
                format!("{evidence}; there are ones for {}", ZERO_COPY.join(", ")),
                "set CJ_INGEST_BACKEND=afpacket, or use another card",
            ));
        } else if driver != wanted && pf_ring {
            findings.push(Finding::error(
                format!("PF_DRIVER is not the driver of {name}"),
                evidence,
                remedy,
            ));
        } else if driver != wanted && chosen {
            findings.push(Finding::warning(
                format!("PF_DRIVER is not the driver of {name}"),
                evidence,
                remedy,
            ));
        }
        seen.push(format!("{name} {driver}"));
    }
    Ok(Outcome::of(findings, seen.join(", ")))
}

/// N03.
pub(crate) fn owner(probe: &Probe) -> Checked {
    let mut findings = Vec::new();
    let own = probe.status(crate::daemons::Daemon::Zbalance).and_then(|s| Some(s.identity?.pid));
    for (name, link) in probe.links()? {
        if !link["xdp"].is_null() && probe.backend()? != IngestBackend::Xdp {
            findings.push(Finding::error(
                format!("an XDP program on {name} takes packets before they can be captured"),
                format!("ip link show {name}: xdp {}", link["xdp"]["prog"]["id"]),
                format!("stop what attached it, or: ip link set dev {name} xdp off"),
            ));
        }
        for socket in probe.root.list("/proc/net/pf_ring") {
            // Sockets are called PID-INTERFACE.NUMBER.
            let Some((pid, rest)) = socket.split_once('-') else { continue };
            if rest.rsplit_once('.').is_some_and(|(bound, _)| bound == name)
                && Some(pid) != own.map(|p| p.to_string()).as_deref()
            {
                findings.push(Finding::error(
                    format!("a PF_RING application has {name} already"),
                    format!("/proc/net/pf_ring/{socket}: process {pid}"),
                    format!("stop process {pid}, or capture on another interface"),
                ));
            }
        }
        for (pid, line) in balancers(probe) {
            let mine = Some(pid) == own || line.iter().any(|word| *word == "--doctor");
            if !mine
                && line
                    .iter()
                    .any(|word| word.split(',').any(|w| w.rsplit(':').next() == Some(&name)))
            {
                findings.push(Finding::error(
                    format!("another zbalance captures on {name}"),
                    format!("process {pid}: {}", line.join(" ")),
                    format!("stop it: kill {pid}"),
                ));
            }
        }
    }
    Ok(Outcome::of(findings, "nobody else has the interfaces"))
}

/// Processes that are balancers, with their command lines, in this network namespace.
fn balancers(probe: &Probe) -> Vec<(u32, Vec<String>)> {
    let namespace =
        |of: &str| std::fs::read_link(probe.root.path(format!("/proc/{of}/ns/net"))).ok();
    let here = namespace("self");
    let pids = probe.root.list("/proc").into_iter().filter_map(|pid| pid.parse::<u32>().ok());
    pids.filter(|pid| namespace(&pid.to_string()) == here)
        .filter_map(|pid| {
            let line = probe.root.read(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<String> = line.split('\0').map(str::to_owned).collect();
            let program = words.first()?.rsplit('/').next()?;
            matches!(program, "zbalance" | "zbalance_ipc").then_some((pid, words))
        })
        .collect()
}

/// Values of `ethtool OPTION INTERFACE`, by name.
fn ethtool(option: &str, interface: &str) -> Vec<(String, String)> {
    let text = tool::output("ethtool", &[option, interface]).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn run(reason: String, words: &[&str]) -> Step {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let (program, arguments) =
        words.split_first().map_or((String::new(), Vec::new()), |(p, a)| (p.clone(), a.to_vec()));
    Step { reason, action: Action::Run { program, arguments, input: String::new() } }
}

/// N04.
pub(crate) fn offloads(probe: &Probe) -> Checked {
    let direct = probe.backend()?;
    // AF_PACKET hands a stripped VLAN tag over beside the frame; the others lose it.
    let strips = matches!(direct, IngestBackend::PfRing | IngestBackend::Xdp);
    let mut harmful = vec![
        ("generic-receive-offload", "gro"),
        ("large-receive-offload", "lro"),
        ("tcp-segmentation-offload", "tso"),
    ];
    if strips {
        harmful.push(("rx-vlan-offload", "rxvlan"));
    }
    let mut findings = Vec::new();
    let mut names = Vec::new();
    for (name, _) in probe.links()? {
        let features = ethtool("-k", &name);
        let on: Vec<&str> = harmful
            .iter()
            .filter(|(feature, _)| features.iter().any(|(n, v)| n == feature && v == "on"))
            .map(|(_, short)| *short)
            .collect();
        if !on.is_empty() {
            let mut words = vec!["ethtool", "-K", &name];
            words.extend(on.iter().flat_map(|short| [*short, "off"]));
            findings.push(
                Finding::warning(
                    format!("{name} joins or changes frames before they are captured"),
                    format!("ethtool -k {name}: {} on", on.join(", ")),
                    words.join(" "),
                )
                .with_fix(Fix::Steps(vec![run(format!("{name}: offloads off"), &words)])),
            );
        }
        let pause = ethtool("-a", &name);
        if pause.iter().any(|(n, v)| (n == "RX" || n == "TX") && v == "on") {
            let words = ["ethtool", "-A", &name, "autoneg", "off", "rx", "off", "tx", "off"];
            findings.push(
                Finding::warning(
                    format!("{name} may stop the tap with pause frames"),
                    format!("ethtool -a {name}: flow control on"),
                    words.join(" "),
                )
                .with_fix(Fix::Steps(vec![run(format!("{name}: no flow control"), &words)])),
            );
        }
        let ring = ethtool("-g", &name);
        let mut sizes =
            ring.iter().filter(|(n, _)| n == "RX").filter_map(|(_, v)| v.parse::<u32>().ok());
        if let (Some(most), Some(now)) = (sizes.next(), sizes.next())
            && now < most
        {
            let most = most.to_string();
            let words = ["ethtool", "-G", &name, "rx", &most];
            findings.push(
                Finding::warning(
                    format!("{name} has room for fewer frames than it could"),
                    format!("ethtool -g {name}: {now} of {most}"),
                    words.join(" "),
                )
                .with_fix(Fix::Steps(vec![run(format!("{name}: largest ring"), &words)])),
            );
        }
        names.push(name);
    }
    Ok(Outcome::of(findings, format!("{}: offloads off", names.join(", "))))
}

/// N05.
pub(crate) fn receive_queues(probe: &Probe) -> Checked {
    let backend = probe.backend()?;
    if !matches!(backend, IngestBackend::PfRing | IngestBackend::Xdp) {
        return Err(Outcome::Skipped("AF_PACKET takes frames of every receive queue".to_owned()));
    }
    let mut findings = Vec::new();
    for (name, _) in probe.links()? {
        let channels = ethtool("-l", &name);
        let now = channels.iter().skip_while(|(n, _)| n != "Current hardware settings");
        let set: Vec<(&str, u32)> = now
            .filter(|(n, _)| n == "Combined" || n == "RX")
            .filter_map(|(n, v)| Some((n.as_str(), v.parse().ok()?)))
            .collect();
        let count: u32 = set.iter().map(|(_, count)| count).sum();
        let kind =
            if set.iter().any(|(n, c)| *n == "Combined" && *c > 0) { "combined" } else { "rx" };
        if backend == IngestBackend::PfRing && count > 1 {
            findings.push(Finding::error(
                format!(
                    "PF_RING ZC sees one receive queue only, {name} spreads frames over {count}"
                ),
                format!("ethtool -l {name}: {count} queues"),
                format!("ethtool -L {name} {kind} 1 (or station setup --driver)"),
            ));
        }
        if backend == IngestBackend::Xdp && count > 1 {
            findings.push(Finding::warning(
                format!(
                    "{name} spreads frames over {count} receive queues: each needs a socket, and the card's \
                     hash must send both directions to the same one"
                ),
                format!("ethtool -l {name}: {count} queues"),
                format!("ethtool -L {name} {kind} 1, or ethtool -X {name} with a symmetric key"),
            ));
        }
    }
    Ok(Outcome::of(findings, "one receive queue"))
}

/// N06.
pub(crate) fn traffic(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for (name, sample) in probe.samples()?.iter() {
        let sample = sample.clone()?;
        if sample.frames == 0 {
            findings.push(Finding::warning(
                format!("nothing arrives on {name}"),
                "0 frames in 2 s",
                "check that the tap sends to this port; with VMs, that the port group is promiscuous",
            ));
            continue;
        }
        let share = |part: u64| part * 100 / sample.frames;
        let evidence = format!(
            "{} frames on {name}: VLAN {} %, GRE {} %, ERSPAN {} %, GTP {} %, MPLS {} %",
            sample.frames,
            share(sample.vlan),
            share(sample.gre),
            share(sample.erspan),
            share(sample.gtp),
            share(sample.mpls)
        );
        let mut tell = |what: &str, remedy: &str| {
            let cause =
                format!("most frames on {name} are {what}: flows inside are not recognised");
            findings.push(Finding::warning(cause, &evidence, remedy));
        };
        if station.decap {
            seen.push(evidence);
            continue;
        }
        if share(sample.erspan) >= 50 && !matches!(station.hash_mode, Mode::Erspan | Mode::Auto) {
            tell(
                "ERSPAN",
                "set ZBALANCE_HASH_MODE=7, and CJ_DECAP=true or PARSE_GRE_OFFSET=50 (42 without its own \
                 header)",
            );
        }
        if share(sample.gre) >= 50 && station.gre_offset == 0 {
            tell("GRE", "set ZBALANCE_HASH_MODE=auto and CJ_DECAP=true, or PARSE_GRE_OFFSET=42");
        }
        if share(sample.gtp) >= 50 {
            tell("GTP", "set ZBALANCE_HASH_MODE=auto and CJ_DECAP=true");
        }
        if share(sample.mpls) >= 50 {
            tell("MPLS", "set CJ_DECAP=true, or move the tap to where labels are removed");
        }
        seen.push(evidence);
    }
    Ok(Outcome::of(findings, seen.join("; ")))
}

/// N07.
pub(crate) fn directions(probe: &Probe) -> Checked {
    let samples = probe.samples()?;
    let mut sample = Sample::default();
    let mut names = Vec::new();
    for (name, one) in samples.iter() {
        // Two ports may carry a direction each.
        sample.add(&one.clone()?);
        names.push(name.as_str());
    }
    let (all, both) = sample.flows();
    let evidence = format!("{both} of {all} TCP flows on {} in both directions", names.join(", "));
    if all < FLOWS || both * 5 >= all {
        return Ok(Outcome::Good(evidence));
    }
    Ok(Outcome::Found(vec![Finding::warning(
        "the tap shows one direction of most flows: tags and phantom traffic are found only where clients' \
         packets pass",
        format!("{evidence} within 2 s"),
        "connect both directions of the tap; two ports are aggregated with CJ_IFACE=IF1,IF2",
    )]))
}
