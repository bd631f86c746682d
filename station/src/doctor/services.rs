//! S02, S07, S09 and S10: sockets, sources of registrations, the clock.

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::{CurveClient, CurveKeys, State, Subscriber, SubscriberOptions};
use conf::ConnectSocket;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use crate::daemons::Daemon;

/// Longest wait for a source, P36.
const PATIENCE: Duration = Duration::from_secs(4);
/// Programs that keep the time.
const TIMEKEEPERS: [&str; 6] =
    ["chronyd", "ntpd", "systemd-timesyn", "openntpd", "ptp4l", "ntpd-rs"];

/// Names of the processes that hold the socket `inode`, as far as this user may look.
fn holders(probe: &Probe, inode: &str) -> Vec<String> {
    let wanted = format!("socket:[{inode}]");
    let pids = probe.root.list("/proc").into_iter().filter(|pid| pid.parse::<u32>().is_ok());
    pids.filter(|pid| {
        let folder = format!("/proc/{pid}/fd");
        probe.root.list(&folder).iter().any(|fd| {
            let link = std::fs::read_link(probe.root.path(format!("{folder}/{fd}")));
            link.is_ok_and(|link| link.as_os_str() == wanted.as_str())
        })
    })
    .map(|pid| probe.root.word(format!("/proc/{pid}/comm")).unwrap_or(pid))
    .collect()
}

/// Inode of the abstract or named socket that is bound to `name`.
fn bound(probe: &Probe, name: &str) -> Option<String> {
    let table = probe.root.read("/proc/net/unix").unwrap_or_default();
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(7) == Some(&name)).then(|| words.get(6).map(|inode| (*inode).to_owned()))?
    })
}

/// S02.
pub(crate) fn endpoints(probe: &Probe) -> Checked {
    let settings = probe.application()?;
    let fan_in = format!("@{}", settings.socket_name);
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    let expected: [(&str, Daemon, &[&str]); 2] = [
        ("@detector", Daemon::Detector, &["detector", "conjure"]),
        (&fan_in, Daemon::Application, &["application"]),
    ];
    for (name, daemon, programs) in expected {
        let Some(inode) = bound(probe, name) else {
            if let Some(pid) = probe.status(daemon).and_then(|s| Some(s.identity?.pid)) {
                let namespace = |of: &str| {
                    std::fs::read_link(probe.root.path(format!("/proc/{of}/ns/net"))).ok()
                };
                let apart = namespace(&pid.to_string()) != namespace("self");
                findings.push(Finding::error(
                    if apart {
                        format!("the {} runs in another network namespace: abstract sockets do not reach it", daemon.name())
                    } else {
                        format!("the {} runs and does not serve ipc://{name}", daemon.name())
                    },
                    format!("{name} is not in /proc/net/unix, process {pid}"),
                    "run all daemons in one network namespace (network_mode: host), with the default -a",
                ));
            }
            continue;
        };
        let who = holders(probe, &inode);
        if !who.is_empty() && !who.iter().any(|name| programs.contains(&name.as_str())) {
            findings.push(Finding::error(
                format!(
                    "another program serves ipc://{name}: registrations go to it or come from it"
                ),
                format!("{name} is bound by {}", who.join(", ")),
                format!("stop {}, then restart the {}", who.join(", "), daemon.name()),
            ));
        }
        seen.push(format!("{name} {}", who.join(", ")));
    }
    if findings.is_empty() && seen.is_empty() {
        return Err(Outcome::Skipped("neither detector nor application runs".to_owned()));
    }
    Ok(Outcome::of(findings, seen.join("; ")))
}

/// S07.
pub(crate) fn sources(probe: &Probe) -> Checked {
    let settings = probe.application()?;
    let station = probe.station()?;
    let key = settings.zmq_privkey_path.as_ref().or(station.zmq_privkey.as_ref());
    let keys = key.and_then(|path| {
        let content = std::fs::read(probe.root.path(path)).ok()?;
        Some(CurveKeys::new(content.first_chunk()?))
    });
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for source in
        settings.connect_sockets.iter().filter(|source| source.address.starts_with("tcp://"))
    {
        let place = source.address.trim_start_matches("tcp://");
        if let Err(error) = place.to_socket_addrs() {
            findings.push(Finding::warning(
                "a source of registrations cannot be resolved",
                format!("{}: {error}", source.address),
                "correct its address in [[connect_sockets]], or the name service of this host",
            ));
            continue;
        }
        if source.server_key.is_some() && keys.is_none() {
            continue;
        }
        match probe.block_on(reach(source, keys.clone())) {
            State::Connected => seen.push(format!("{} answers", source.address)),
            State::HandshakeFailed(reason) => findings.push(Finding::warning(
                "a source is there and the handshake with it fails: wrong server key, a station key that it \
                 does not admit, or another mechanism",
                format!("{}: handshake failed: {reason}", source.address),
                "compare type and pubkey with `registrar --check-config` there, and its station_pubkeys with \
                 `application --check-config` here",
            )),
            state => findings.push(Finding::warning(
                "nobody answers at a source of registrations",
                format!("{}: {state}", source.address),
                "start the registrar there; where its API is not wanted, remove the [[connect_sockets]] entry",
            )),
        }
    }
    let seen = if seen.is_empty() { "no source by TCP".to_owned() } else { seen.join(", ") };
    Ok(Outcome::of(findings, seen))
}

/// Connects to a source as the application does; the state once it is decided.
async fn reach(source: &ConnectSocket, keys: Option<CurveKeys>) -> State {
    let curve = match (source.server_key, keys) {
        (Some(server), Some(keys)) => Some(Arc::new(CurveClient { keys, server })),
        _ => None,
    };
    let options = SubscriberOptions {
        topics: vec!["conjure-doctor".into()],
        handshake_timeout: PATIENCE / 2,
        curve,
        ..SubscriberOptions::default()
    };
    let subscriber = match Subscriber::connect(&source.address, options) {
        Ok(subscriber) => subscriber,
        Err(error) => return State::Disconnected(error.to_string()),
    };
    let mut state = subscriber.watch();
    let decided = async {
        loop {
            let now = state.borrow_and_update().clone();
            if now != State::Connecting || state.changed().await.is_err() {
                return now;
            }
        }
    };
    tokio::time::timeout(PATIENCE, decided).await.unwrap_or(State::Connecting)
}

/// S09.
pub(crate) fn name_port(probe: &Probe) -> Checked {
    let registrar = probe.registrar()?;
    if registrar.dns_listen_addr.is_empty() {
        return Err(Outcome::Skipped("the registrar has no DNS channel".to_owned()));
    }
    let port = registrar
        .dns_listen_addr
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok())
        .unwrap_or(53);
    let suffix = format!(":{port:04X}");
    let mut findings = Vec::new();
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = probe.root.read(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(inode)) = (words.get(1), words.get(9)) else { continue };
            if !local.ends_with(&suffix) {
                continue;
            }
            let who = holders(probe, inode);
            let ours =
                who.iter().any(|name| name == "registrar" || name.starts_with("registration"));
            if ours || who.is_empty() && probe.status(Daemon::Registrar).is_some() {
                continue;
            }
            let name = if who.is_empty() {
                "a process of another user".to_owned()
            } else {
                who.join(", ")
            };
            findings.push(Finding::error(
                format!("UDP port {port} is taken: the registrar cannot answer DNS"),
                format!("{table}: {local} belongs to {name}"),
                if name.contains("systemd-resolve") {
                    "set DNSStubListener=no in /etc/systemd/resolved.conf, then systemctl restart systemd-resolved".to_owned()
                } else {
                    format!("stop {name}, or set dns_listen_addr to another address or port")
                },
            ));
        }
    }
    Ok(Outcome::of(findings, format!("UDP port {port} is free, or the registrar's")))
}

/// S10.
pub(crate) fn clock(probe: &Probe) -> Checked {
    let remedy = "install and start one: apt-get install systemd-timesyncd (or chrony)";
    let newest = [conf::DEFAULT_FILE, conf::LOCAL_FILE, "/etc/passwd"]
        .into_iter()
        .filter_map(|path| std::fs::metadata(probe.root.path(path)).ok()?.modified().ok())
        .max();
    if let Some(ahead) = newest
        .and_then(|at| at.duration_since(SystemTime::now()).ok())
        .filter(|by| by.as_secs() > 60)
    {
        return Ok(Outcome::Found(vec![Finding::warning(
            "the clock is wrong: files of this host are from the future",
            format!("by {} s", ahead.as_secs()),
            remedy,
        )]));
    }
    if probe.exists("/run/systemd/timesync/synchronized") {
        return Ok(Outcome::Good("synchronised by systemd-timesyncd".to_owned()));
    }
    let running = probe.root.list("/proc").into_iter().find_map(|pid| {
        let name = probe.root.word(format!("/proc/{pid}/comm"))?;
        TIMEKEEPERS.contains(&name.as_str()).then_some(name)
    });
    match running {
        Some(name) => Ok(Outcome::Good(format!("{name} runs"))),
        None => Ok(Outcome::Found(vec![Finding::warning(
            "nothing keeps the clock right: certificates and lifetimes depend on it",
            "no systemd-timesyncd, chronyd, ntpd or ptp4l runs",
            remedy,
        )])),
    }
}
