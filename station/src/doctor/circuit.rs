//! K08: a SYN for a phantom goes through the rules of this host, in a namespace that is made for it, and
//! the phantom answers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use capture::tun::Tun;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use host::{APPLICATION_PORT, Route, tool};
use serde::{Deserialize, Serialize};
use telemetry::process::Exit;

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;

const PATIENCE: Duration = Duration::from_secs(2);
const UPLINK: &str = "wan0";
/// Addresses that are for documentation.
const PHANTOM: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(203, 0, 113, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));

/// What is taken from the host.
#[derive(Debug, Serialize, Deserialize)]
struct Copy {
    rules: String,
    route: Route,
    rp_filter: [String; 2],
}

/// K08.
pub(crate) fn check(probe: &Probe) -> Checked {
    if !probe.packets {
        return Err(Outcome::Skipped("only with --loop".to_owned()));
    }
    probe.needs(host::Capability::NetAdmin, "read the packet filter")?;
    let route = host::Plan::of_station(&probe.root, probe.station()?, host::Rules::Nftables, false)
        .map_err(|error| Outcome::Skipped(error.to_string()))?
        .route;
    let listing = host::nft_listing().map_err(|error| Outcome::Skipped(error.to_string()))?;
    let Some(rules) = listing else {
        return Err(Outcome::Skipped("the table inet conjure is not there (K02)".to_owned()));
    };
    let tun = route.tuns.first().cloned().unwrap_or_default();
    let value = |device: &str| {
        probe
            .root
            .sysctl(&format!("net/ipv4/conf/{device}/rp_filter"))
            .unwrap_or_else(|| "0".to_owned())
    };
    let copy = Copy { rules, rp_filter: [value("all"), value(&tun)], route };
    let said = apart(&copy).map_err(Outcome::Skipped)?;
    if said.trim().is_empty() {
        return Ok(Outcome::Good(
            "a SYN for a phantom is answered from the phantom's address".to_owned(),
        ));
    }
    Ok(Outcome::Found(vec![Finding::error(
        "a SYN for a phantom is not answered from the phantom's address",
        said.trim().replace('\n', "; "),
        "mend what K01, K02 and K03 say; then run sudo station setup",
    )]))
}

/// Runs this program in a network namespace of its own; what it complains of.
fn apart(copy: &Copy) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = tool::command("unshare");
    command.args(["--net", "--"]).arg(program).arg("doctor-circuit");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
    let text = serde_json::to_vec(copy).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("no namespace could be made for it: {}", said.trim()))
}

/// The part in the namespace: prints one line per family that gets no answer.
pub(crate) fn main() -> Exit {
    match circuit() {
        Ok(missing) => {
            for line in missing {
                println!("{line}");
            }
            Exit::Ok
        }
        Err(error) => {
            eprintln!("{error}");
            Exit::OsErr
        }
    }
}

fn circuit() -> Result<Vec<String>, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    let copy: Copy = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let tun = copy.route.tuns.first().ok_or("no tun device")?;
    let run = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        tool::output("ip", &words).map_err(|error| error.to_string())
    };
    run("link set lo up".to_owned())?;
    for device in [tun, UPLINK] {
        run(format!("tuntap add dev {device} mode tun"))?;
        run(format!("link set dev {device} up"))?;
    }
    for (address, width) in targets(&copy.route).map(|t| (t, if t.is_ipv4() { 32 } else { 128 })) {
        let quiet = if address.is_ipv6() { " nodad" } else { "" };
        run(format!("address add {address}/{width} dev {UPLINK}{quiet}"))?;
        run(format!(
            "{} route add default dev {UPLINK}",
            if address.is_ipv4() { "-4" } else { "-6" }
        ))?;
    }
    for (device, value) in ["all", tun].into_iter().zip(&copy.rp_filter) {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
        std::fs::write(&path, value).map_err(|error| format!("{path}: {error}"))?;
    }
    let mut nft = tool::command("nft");
    nft.args(["-f", "-"]);
    tool::run(nft, &copy.rules).map_err(|error| error.to_string())?;
    let _application =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, APPLICATION_PORT)).map_err(|e| e.to_string())?;
    let enter = Tun::open(tun).map_err(|error| error.to_string())?;
    let leave = Tun::open(UPLINK).map_err(|error| error.to_string())?;
    let mut missing = Vec::new();
    for target in targets(&copy.route) {
        let (client, phantom) = match target {
            IpAddr::V4(_) => (IpAddr::from(CLIENT.0), IpAddr::from(PHANTOM.0)),
            IpAddr::V6(_) => (CLIENT.1.into(), PHANTOM.1.into()),
        };
        let (client, phantom) = (SocketAddr::new(client, 50_000), SocketAddr::new(phantom, 443));
        enter.send(&syn(client, phantom)?).map_err(|error| error.to_string())?;
        if !answered(&leave, client, phantom) {
            missing.push(format!("no SYN-ACK from {phantom} within {PATIENCE:?}"));
        }
    }
    Ok(missing)
}

fn targets(route: &Route) -> impl Iterator<Item = IpAddr> {
    route.v4.map(IpAddr::from).into_iter().chain(route.v6.map(IpAddr::from))
}

fn syn(client: SocketAddr, phantom: SocketAddr) -> Result<Vec<u8>, String> {
    let packet = match (client.ip(), phantom.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => return Err("two families".to_owned()),
    };
    let mut bytes = Vec::new();
    let packet = packet.tcp(client.port(), phantom.port(), 1, 64_000).syn();
    packet.write(&mut bytes, &[]).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn answered(leave: &Tun, client: SocketAddr, phantom: SocketAddr) -> bool {
    let start = Instant::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < PATIENCE {
        match leave.receive(&mut buffer) {
            Ok(length) if is_answer(&buffer[..length], client, phantom) => return true,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

fn is_answer(packet: &[u8], client: SocketAddr, phantom: SocketAddr) -> bool {
    let Ok(packet) = SlicedPacket::from_ip(packet) else { return false };
    let (from, to): (IpAddr, IpAddr) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(NetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return false,
    };
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return false };
    tcp.syn()
        && tcp.ack()
        && SocketAddr::new(from, tcp.source_port()) == phantom
        && SocketAddr::new(to, tcp.destination_port()) == client
}
