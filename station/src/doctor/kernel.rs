//! K: tun devices, packet filter and kernel settings.

use std::net::IpAddr;

use host::{Action, Capability, Plan, Route, Rules, Step};

use super::filter::{self, Filter};
use super::finding::{Checked, Finding, Fix, Outcome};
use super::probe::Probe;

pub(super) const SETUP: &str = "sudo station setup";
const RT_TABLES: &str = "/etc/iproute2/rt_tables";
/// Part of the connection table that may be in use, per cent.
const FULL: u64 = 80;

/// What set-up would make here.
fn plan(probe: &Probe) -> Result<Plan, Outcome> {
    Plan::of_station(&probe.root, probe.station()?, Rules::Nftables, false).map_err(|error| {
        Outcome::Found(vec![Finding::error(
            "host set-up cannot work",
            error.to_string(),
            "see the message",
        )])
    })
}

fn tuns(probe: &Probe) -> Result<Vec<String>, Outcome> {
    let station = probe.station()?;
    let mut tuns = station.placement.prepared_tuns();
    tuns.pop();
    if !tuns.contains(&station.dnat_tun) {
        tuns.push(station.dnat_tun.clone());
    }
    Ok(tuns)
}

pub(super) fn rules(probe: &Probe) -> Result<Filter, Outcome> {
    probe.needs(Capability::NetAdmin, "read the packet filter")?;
    filter::read(&probe.root)
        .map_err(|error| Outcome::Skipped(format!("the packet filter cannot be read: {error}")))
}

/// K01.
pub(crate) fn reverse_path(probe: &Probe) -> Checked {
    let read = |device: &str| -> Option<(String, u32)> {
        let name = format!("net/ipv4/conf/{device}/rp_filter");
        let value = probe.root.sysctl(&name)?.parse().ok()?;
        (value > 0).then(|| (name.replace('/', "."), value))
    };
    let devices = tuns(probe)?;
    let all: Vec<(String, u32)> =
        std::iter::once("all").chain(devices.iter().map(String::as_str)).filter_map(read).collect();
    if all.is_empty() {
        return Ok(Outcome::Good("rp_filter is 0 on all and on each tun device".to_owned()));
    }
    let seen: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let commands: Vec<String> = all.iter().map(|(name, _)| format!("{name}=0")).collect();
    Ok(Outcome::Found(vec![
        Finding::error(
            "the kernel drops phantom traffic: its sources have no route back by the tun devices, and the \
             larger of all and the device counts",
            seen.join(", "),
            format!("sysctl -w {}, or {SETUP}", commands.join(" ")),
        )
        .with_fix(Fix::Setup),
    ]))
}

/// K02.
pub(crate) fn translation(probe: &Probe) -> Checked {
    let wanted = plan(probe)?.route;
    let filter = rules(probe)?;
    let mut findings = Vec::new();
    let mode = if filter.nftables || filter.iptables.is_empty() {
        SETUP
    } else {
        "sudo station setup --iptables"
    };
    let mut fault = |cause: &str, evidence: String| {
        let finding = Finding::error(cause, evidence, mode);
        findings.push(if mode == SETUP { finding.with_fix(Fix::Setup) } else { finding });
    };
    if !filter.nftables && filter.iptables.is_empty() {
        fault(
            "no rule sends phantom traffic to the application",
            "neither the table inet conjure nor the chain CJ_PREROUTING is there".to_owned(),
        );
    } else {
        for chain in filter.iptables.iter().filter(|chain| !chain.first || chain.jumps != 1) {
            fault(
                "rules of others come before those of the station",
                format!(
                    "{}: {} jumps from {} to {}, the first rule is {}one of them",
                    chain.tools.program,
                    chain.jumps,
                    chain.hook,
                    chain.name,
                    if chain.first { "" } else { "not " }
                ),
            );
        }
        let missing: Vec<&str> = wanted
            .tuns
            .iter()
            .filter(|tun| !filter.targets.contains_key(*tun))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            fault(
                "tun devices without a rule: their phantom traffic is lost",
                format!("no DNAT for {}", missing.join(", ")),
            );
        }
        let wrong = wrong_targets(&wanted, &filter);
        if !wrong.is_empty() {
            fault(
                "phantom traffic goes to another address than the configured one",
                wrong.join(", "),
            );
        }
    }
    if filter.nftables && !filter.iptables.is_empty() {
        findings.push(
            Finding::warning(
                "rules of both kinds are there, and the kernel goes through both",
                "table inet conjure and chains CJ_PREROUTING or CJ_INPUT",
                SETUP,
            )
            .with_fix(Fix::Setup),
        );
    }
    if filter.nftables && !filter.guarded {
        findings.push(
            Finding::warning(
                "nothing keeps a reply whose translation is forgotten from leaving with the station's address",
                "no rule drops source port 41245 in the table inet conjure",
                SETUP,
            )
            .with_fix(Fix::Setup),
        );
    }
    Ok(Outcome::of(
        findings,
        format!("{} to {}", wanted.tuns.join(", "), addresses(&wanted).join(" and ")),
    ))
}

fn targets(route: &Route) -> Vec<IpAddr> {
    route.v4.map(IpAddr::from).into_iter().chain(route.v6.map(IpAddr::from)).collect()
}

fn addresses(route: &Route) -> Vec<String> {
    targets(route).iter().map(IpAddr::to_string).collect()
}

fn wrong_targets(wanted: &Route, filter: &Filter) -> Vec<String> {
    let mut wrong = Vec::new();
    let targets = targets(wanted);
    for tun in &wanted.tuns {
        let Some(present) = filter.targets.get(tun) else { continue };
        for target in &targets {
            let same = present.iter().filter(|address| address.is_ipv4() == target.is_ipv4());
            let same: Vec<String> = same.map(IpAddr::to_string).collect();
            if !present.contains(target) {
                let found = if same.is_empty() { "nothing".to_owned() } else { same.join(" and ") };
                wrong.push(format!("{tun}: {found} instead of {target}"));
            }
        }
    }
    wrong
}

/// K03.
pub(crate) fn local_target(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let mut wanted: Vec<IpAddr> = match rules(probe) {
        Ok(filter) => filter.targets.into_values().flatten().collect(),
        // Without the privilege the configured addresses must do.
        Err(_) => [IpAddr::from(station.ip4), station.ip6.into()]
            .into_iter()
            .filter(|a| !a.is_loopback())
            .collect(),
    };
    wanted.sort();
    wanted.dedup();
    let own = host::addresses().map_err(|error| Outcome::Skipped(error.to_string()))?;
    let localnet =
        probe.root.sysctl("net/ipv4/conf/all/route_localnet").is_some_and(|value| value == "1");
    let remedy = format!("set IP4_ADDR or IP6_ADDR to an address of this host, then {SETUP}");
    let mut findings = Vec::new();
    for target in &wanted {
        if target.is_loopback() && !(target.is_ipv4() && localnet) {
            findings.push(Finding::error(
                "loopback receives nothing that came in by a tun device",
                format!(
                    "DNAT to {target}, net.ipv4.conf.all.route_localnet={}",
                    u8::from(localnet)
                ),
                &remedy,
            ));
        } else if !target.is_loopback() && !own.contains(target) {
            findings.push(Finding::error(
                "phantom traffic goes to an address that this host does not have",
                format!("DNAT to {target}, no interface has it"),
                &remedy,
            ));
        }
    }
    let seen: Vec<String> = wanted.iter().map(IpAddr::to_string).collect();
    Ok(Outcome::of(findings, seen.join(", ")))
}

/// K04.
pub(crate) fn connections(probe: &Probe) -> Checked {
    let root = &probe.root;
    let number = |name: &str| -> Option<u64> { root.number(format!("/proc/sys/net/{name}")) };
    let Some(last_ack) = number("netfilter/nf_conntrack_tcp_timeout_last_ack") else {
        return Ok(Outcome::Found(vec![
            Finding::warning(
                "the kernel does not track connections, without which no reply gets the phantom's address",
                "net.netfilter.nf_conntrack_tcp_timeout_last_ack does not exist",
                format!("modprobe nf_conntrack, then {SETUP}"),
            )
            .with_fix(Fix::Setup),
        ]));
    };
    let setting =
        |name: &str, default| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
    let need = host::last_ack_seconds(
        setting("ipv4/tcp_retries2", 15),
        setting("ipv4/tcp_orphan_retries", 0),
    );
    let mut findings = Vec::new();
    if last_ack < need {
        findings.push(
            Finding::warning(
                "the kernel forgets a closing connection before its last FIN, which then has no translation",
                format!("net.netfilter.nf_conntrack_tcp_timeout_last_ack={last_ack}, {need} is needed"),
                format!("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_last_ack={need}, or {SETUP}"),
            )
            .with_fix(Fix::Setup),
        );
    }
    if let (Some(count), Some(max)) =
        (number("netfilter/nf_conntrack_count"), number("netfilter/nf_conntrack_max"))
        && max > 0
        && count * 100 > max * FULL
    {
        findings.push(Finding::warning(
            "the connection table is nearly full; new clients will be dropped",
            format!("net.netfilter.nf_conntrack_max={max}, {count} entries"),
            format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 4),
        ));
    }
    Ok(Outcome::of(findings, format!("last_ack {last_ack} s")))
}

/// K05.
pub(crate) fn table_names(probe: &Probe) -> Checked {
    let Ok(text) = probe.root.read(RT_TABLES) else {
        return Ok(Outcome::Good(format!("{RT_TABLES} does not exist")));
    };
    let custom = |line: &&str| line.split_whitespace().take(2).eq(["200", "custom"]);
    let count = text.lines().filter(custom).count();
    if count < 2 {
        return Ok(Outcome::Good(format!("`200 custom` stands {count} times in {RT_TABLES}")));
    }
    let mut first = true;
    let kept: String = text
        .lines()
        .filter(|line| !custom(line) || std::mem::replace(&mut first, false))
        .flat_map(|line| [line, "\n"])
        .collect();
    let step = Step {
        reason: format!("{RT_TABLES}: `200 custom` once"),
        action: Action::Write { path: probe.root.path(RT_TABLES), value: kept },
    };
    Ok(Outcome::Found(vec![
        Finding::warning(
            "the reference's host set-up added the same line at each run; this station does not need it",
            format!("{RT_TABLES}: `200 custom` {count} times"),
            format!("station doctor --fix, or remove the lines from {RT_TABLES}"),
        )
        .with_fix(Fix::Steps(vec![step])),
    ]))
}

/// K06.
pub(crate) fn devices(probe: &Probe) -> Checked {
    let owner = plan(probe)?.owner;
    let present = host::devices().map_err(|error| Outcome::Skipped(error.to_string()))?;
    let wanted = tuns(probe)?;
    let mut faults = Vec::new();
    for name in &wanted {
        match present.get(name) {
            None => faults.push(format!("{name} does not exist")),
            Some(device) => {
                let mut all = device.faults(owner);
                if !device.up {
                    all.push("it is down".to_owned());
                }
                if !all.is_empty() {
                    faults.push(format!("{name}: {}", all.join(", ")));
                }
            }
        }
    }
    if faults.is_empty() {
        return Ok(Outcome::Good(wanted.join(", ")));
    }
    Ok(Outcome::Found(vec![
        Finding::error(
            "tun devices are not as the detector and the application need them",
            faults.join("; "),
            format!("{SETUP} (stop the daemon first if a device is in use)"),
        )
        .with_fix(Fix::Setup),
    ]))
}

/// K07.
pub(crate) fn closed_port(probe: &Probe) -> Checked {
    if rules(probe)?.closed {
        return Ok(Outcome::Good(
            "port 41245 is dropped unless it comes by a tun device".to_owned(),
        ));
    }
    Ok(Outcome::Found(vec![Finding::warning(
        "anybody can reach the application's port 41245 on this host and learn that it is a station",
        "no rule of the input chains drops it",
        format!("{SETUP} (without --iptables), or drop TCP and UDP 41245 from other interfaces"),
    )]))
}
