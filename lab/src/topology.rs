//! The network of `spec/lab.md` 2.

use std::process::Command;
use std::time::{Duration, Instant};

use host::tool::{CommandError, run};
use host::{Change, Plan, Records, Root, Route, SetupError};

use crate::Node;

/// Addresses of the lab. Decoy and covert are public documentation addresses on purpose: shipped
/// configurations refuse private coverts.
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The client.
    pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 2);
    /// The client.
    pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 1, 0, 0, 0, 0, 0, 2);
    /// Decoy and covert.
    pub const DECOY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    /// Decoy and covert.
    pub const DECOY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 4, 0, 0, 0, 0, 2);
    /// The station's uplink: registrar, and target of DNAT.
    pub const STATION_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 3, 2);
    /// The station's uplink.
    pub const STATION_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 3, 0, 0, 0, 0, 0, 2);
    /// IPv4 phantoms.
    pub const PHANTOMS_V4: &str = "192.122.190.0/24";
    /// IPv6 phantoms.
    pub const PHANTOMS_V6: &str = "2001:48a8:687f:1::/64";
    /// Interface of the station that receives the copies.
    pub const TAP_INTERFACE: &str = "tap0";
}

/// Why the lab could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The process is not in namespaces of its own.
    #[error("the lab is built only inside namespaces of its own (lab::isolate::enter)")]
    NotIsolated,
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The station's host could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The station's node cannot be entered.
    #[error(transparent)]
    Node(#[from] std::io::Error),
}

/// A built network. It ends with the namespaces of its process.
#[derive(Debug)]
pub struct Lab {
    tuns: u32,
    built_in: Duration,
}

impl Lab {
    /// Builds the network with `tuns` tun devices (tun0, …) on the station.
    ///
    /// # Errors
    /// When the process is not isolated, or a tool is missing or refuses.
    pub fn build(tuns: u32) -> Result<Self, LabError> {
        if crate::isolate::inside().is_none() {
            return Err(LabError::NotIsolated);
        }
        let start = Instant::now();
        tool("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
        for node in Node::ALL {
            tool("ip", &["netns", "add", node.name()])?;
            // Links take these when they are made.
            switches(node, DEFAULT_SWITCHES)?;
        }
        batch(None, LINKS)?;
        for (node, commands) in NODES {
            batch(Some(node), commands)?;
        }
        for (node, settings) in SWITCHES {
            switches(node, settings)?;
        }
        without_offloads()?;
        mirror()?;
        station(tuns)?;
        Ok(Self { tuns, built_in: start.elapsed() })
    }

    /// Sends packets for phantoms straight to the station's uplink and from there to the
    /// application, without tap and detector; the station's own probes still end in silence. For
    /// tests of the application alone.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn bypass_detector(&self) -> Result<(), LabError> {
        batch(
            Some(Node::Inet),
            "route replace 192.122.190.0/24 via 10.10.3.2\n\
             route del blackhole 2001:48a8:687f:1::/64\n\
             route add 2001:48a8:687f:1::/64 via fd10:3::2\n\
             rule add iif sta0 lookup 100\n\
             route add blackhole 192.122.190.0/24 table 100\n",
        )?;
        let mut command = Node::Station.command("nft");
        command.args(["-f", "-"]);
        run(command, BYPASS_RULES)?;
        Ok(())
    }

    /// Time that building took.
    pub const fn built_in(&self) -> Duration {
        self.built_in
    }

    /// Tun devices on the station.
    pub const fn tuns(&self) -> u32 {
        self.tuns
    }
}

/// Every link, with its ends in their namespaces.
const LINKS: &str = "\
link add eth0 netns client type veth peer name cli0 netns isp
link add up0 netns isp type veth peer name p0 netns tap
link add p1 netns tap type veth peer name isp0 netns inet
link add dec0 netns inet type veth peer name eth0 netns decoy
link add sta0 netns inet type veth peer name eth0 netns station
link add p2 netns tap type veth peer name tap0 netns station
";

/// Addresses, routes and links of each node, for `ip -batch`.
const NODES: [(Node, &str); 6] = [
    (
        Node::Client,
        "link set lo up\nlink set eth0 up\n\
         addr add 10.10.1.2/24 dev eth0\naddr add fd10:1::2/64 dev eth0 nodad\n\
         route add default via 10.10.1.1\nroute add default via fd10:1::1\n",
    ),
    (
        Node::Isp,
        "link set lo up\nlink set cli0 up\nlink set up0 up\n\
         addr add 10.10.1.1/24 dev cli0\naddr add fd10:1::1/64 dev cli0 nodad\n\
         addr add 10.10.2.1/30 dev up0\naddr add fd10:2::1/64 dev up0 nodad\n\
         route add default via 10.10.2.2\nroute add default via fd10:2::2\n",
    ),
    (
        Node::Tap,
        "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         link set p0 master br0\nlink set p1 master br0\n\
         link set br0 up\nlink set p0 up\nlink set p1 up\nlink set p2 up\n",
    ),
    (
        Node::Inet,
        "link set lo up\nlink set isp0 up\nlink set dec0 up\nlink set sta0 up\n\
         addr add 10.10.2.2/30 dev isp0\naddr add fd10:2::2/64 dev isp0 nodad\n\
         addr add 198.51.100.1/24 dev dec0\naddr add 2001:db8:4::1/64 dev dec0 nodad\n\
         addr add 10.10.3.1/24 dev sta0\naddr add fd10:3::1/64 dev sta0 nodad\n\
         route add 10.10.1.0/24 via 10.10.2.1\nroute add fd10:1::/64 via fd10:2::1\n\
         route add blackhole 192.122.190.0/24\nroute add blackhole 2001:48a8:687f:1::/64\n",
    ),
    (
        Node::Decoy,
        "link set lo up\nlink set eth0 up\n\
         addr add 198.51.100.2/24 dev eth0\naddr add 2001:db8:4::2/64 dev eth0 nodad\n\
         route add default via 198.51.100.1\nroute add default via 2001:db8:4::1\n",
    ),
    (
        Node::Station,
        "link set lo up\nlink set eth0 up\nlink set tap0 up promisc on\n\
         addr add 10.10.3.2/24 dev eth0\naddr add fd10:3::2/64 dev eth0 nodad\n\
         route add default via 10.10.3.1\nroute add default via fd10:3::1\n",
    ),
];

/// Set on every node before it gets its links.
const DEFAULT_SWITCHES: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
];

/// Set on single nodes.
const SWITCHES: [(Node, &[(&str, &str)]); 4] = [
    (Node::Isp, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]),
    (Node::Inet, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]),
    (Node::Tap, &[("ipv6/conf/all/disable_ipv6", "1")]),
    (Node::Station, &[("ipv6/conf/tap0/addr_gen_mode", "1")]),
];

fn tool(program: &str, arguments: &[&str]) -> Result<(), CommandError> {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, "").map(drop)
}

/// Feeds `commands` to one `ip`.
fn batch(node: Option<Node>, commands: &str) -> Result<(), CommandError> {
    let mut command = Command::new("ip");
    if let Some(node) = node {
        command.args(["-n", node.name()]);
    }
    command.args(["-batch", "-"]);
    run(command, commands).map(drop)
}

/// Writes kernel settings of one node; they are found through the namespace of the writer.
fn switches(node: Node, settings: &[(&str, &str)]) -> Result<(), CommandError> {
    let script: String = settings
        .iter()
        .map(|(path, value)| format!("echo {value} > /proc/sys/net/{path}\n"))
        .collect();
    let mut command = node.command("sh");
    command.arg("-e");
    run(command, &script).map(drop)
}

/// Turns off what would make a capture see super-frames or unfinished checksums.
fn without_offloads() -> Result<(), CommandError> {
    let interfaces = [
        (Node::Client, "eth0"),
        (Node::Isp, "cli0 up0"),
        (Node::Tap, "p0 p1 p2"),
        (Node::Inet, "isp0 dec0 sta0"),
        (Node::Decoy, "eth0"),
        (Node::Station, "eth0 tap0"),
    ];
    for (node, names) in interfaces {
        let mut command = node.command("sh");
        command.arg("-e");
        let script = format!(
            "for i in {names}; do ethtool -K $i tx off rx off tso off gso off gro off rxvlan off; done"
        );
        run(command, &script)?;
    }
    Ok(())
}

/// Copies both directions of the wire to the station's port, like an optical tap.
fn mirror() -> Result<(), CommandError> {
    let script = "for p in p0 p1; do\n\
                  tc qdisc add dev $p clsact\n\
                  tc filter add dev $p ingress protocol all u32 match u32 0 0 action mirred egress mirror dev p2\n\
                  done\n";
    let mut command = Node::Tap.command("sh");
    command.arg("-e");
    run(command, script).map(drop)
}

/// Sets the station's host up as `station setup` does.
fn station(tuns: u32) -> Result<(), LabError> {
    let route = Route {
        tuns: (0..tuns).map(|n| format!("tun{n}")).collect(),
        v4: Some(address::STATION_V4),
        v6: Some(address::STATION_V6),
        taps: vec![address::TAP_INTERFACE.to_owned()],
    };
    Node::Station.run(|| {
        let records = Records::default();
        let set_up = || {
            let change = Change::compute(&Root::default(), &Plan::new(0, route, None), &[])?;
            change.apply(&records, |_| {})
        };
        Ok(set_up())
    })??;
    Ok(())
}

/// Stands in for the detector: what it would write into a tun arrives at the uplink.
const BYPASS_RULES: &str = r#"
add rule inet conjure prerouting iifname "eth0" ip daddr 192.122.190.0/24 meta l4proto tcp dnat ip to 10.10.3.2:41245
add rule inet conjure prerouting iifname "eth0" ip6 daddr 2001:48a8:687f:1::/64 meta l4proto tcp dnat ip6 to [fd10:3::2]:41245
insert rule inet conjure input ct status dnat accept
"#;
