//! `station setup` on hosts that the test made (`spec/operations.md` 7).

mod stage;
#[path = "stage/wire.rs"]
mod wire;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use capture::tun::Tun;
use stage::{
    CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, PHANTOM_V4, PHANTOM_V6, Said, Stage, inside, shell,
    snapshot,
};
use wire::{Segment, answer, syn};

const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a SYN of each family into `tun`; both must be answered by the phantom.
#[track_caller]
fn both_families_are_answered(tun: &str, heard: &Receiver<Segment>, port: u16) {
    let tun = Tun::open(tun).unwrap();
    let pairs: [(IpAddr, IpAddr); 2] =
        [(CLIENT_V4.into(), PHANTOM_V4.into()), (CLIENT_V6.into(), PHANTOM_V6.into())];
    for (client, phantom) in pairs {
        let (client, phantom) = (SocketAddr::new(client, port), SocketAddr::new(phantom, 443));
        syn(&tun, client, phantom);
        let segment = answer(heard, client, PATIENCE);
        let segment = segment.unwrap_or_else(|| panic!("no answer for {phantom}: {}", snapshot()));
        assert_eq!((segment.source, segment.syn, segment.ack), (phantom, true, true));
    }
}

fn application() -> TcpListener {
    TcpListener::bind("[::]:41245").unwrap()
}

#[test]
fn a_syn_is_answered_by_the_phantom() {
    inside("a_syn_is_answered_by_the_phantom", |stage| {
        let said = stage.station("setup", &[]).good();
        // The shipped addresses are loopback, which would receive nothing.
        let replaced = |name: &str, by: IpAddr| {
            assert!(
                said.err.contains(&format!("{name} is replaced by {by}, the address of eth0")),
                "{said:?}"
            );
        };
        replaced("IP4_ADDR=127.0.0.1", HOST_V4.into());
        replaced("IP6_ADDR=::1", HOST_V6.into());
        let (_application, heard) = (application(), wire::listen());
        for tun in ["tun0", "tun1", "tun2"] {
            both_families_are_answered(tun, &heard, 3000);
        }
        // A phantom may have the application's own port.
        let (client, phantom) =
            (SocketAddr::from((CLIENT_V4, 3001)), SocketAddr::from((PHANTOM_V4, 41245)));
        syn(&Tun::open("tun0").unwrap(), client, phantom);
        assert_eq!(answer(&heard, client, PATIENCE).unwrap().source, phantom);
    });
}

#[test]
fn a_forgotten_connection_shows_nothing() {
    inside("a_forgotten_connection_shows_nothing", |stage| {
        stage.station("setup", &[]).good();
        let (_application, heard) = (application(), wire::listen());
        both_families_are_answered("tun0", &heard, 3000);
        forget_connections();
        // The kernel sends the SYN-ACK again after a second, and would do it under its own address.
        std::thread::sleep(Duration::from_millis(2500));
        let leaked: Vec<Segment> = heard.try_iter().filter(|s| s.source.port() == 41245).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
        let dropped = dropped("postrouting");
        assert!(dropped >= 2, "nothing was there to drop: the test proves nothing ({dropped})");
    });
}

/// Packets that the last rule of a chain dropped.
fn dropped(chain: &str) -> u64 {
    let text = shell(&format!("nft list chain inet conjure {chain}"));
    let line = text.lines().rev().find(|line| line.contains("counter packets")).unwrap();
    line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Empties the kernel's table of connections.
fn forget_connections() {
    use rustix::net::{AddressFamily, SendFlags, SocketType, netlink, send, socket};
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).unwrap();
    // IPCTNL_MSG_CT_DELETE without a connection, for every family.
    let mut message = 20u32.to_ne_bytes().to_vec();
    message.extend(0x0102u16.to_ne_bytes());
    message.extend(0x0005u16.to_ne_bytes());
    message.extend([0; 12]);
    send(&socket, &message, SendFlags::empty()).unwrap();
    let mut reply = [0; 64];
    let (read, _) =
        rustix::net::recv(&socket, &mut reply[..], rustix::net::RecvFlags::empty()).unwrap();
    assert!(read >= 20 && reply[16..20] == [0; 4], "{:?}", &reply[..read]);
}

#[test]
fn the_port_is_closed_from_outside() {
    inside("the_port_is_closed_from_outside", |stage| {
        stage.station("setup", &[]).good();
        let _application = application();
        let reach = |address: SocketAddr| {
            let connect = move || {
                stage::enter_peer();
                TcpStream::connect_timeout(&address, Duration::from_millis(800)).is_ok()
            };
            std::thread::spawn(connect).join().unwrap()
        };
        for address in [IpAddr::from(HOST_V4), HOST_V6.into()] {
            assert!(!reach((address, 41245).into()), "{address} answers");
        }
        assert!(dropped("input") >= 2);
        // On the host itself the application can be asked.
        assert!(TcpStream::connect((HOST_V4, 41245)).is_ok());
        // Without the rules the same attempt succeeds.
        shell("nft delete table inet conjure");
        assert!(reach((HOST_V4, 41245).into()));
    });
}

#[test]
fn the_chains_of_the_reference() {
    inside("the_chains_of_the_reference", |stage| {
        shell("iptables -A INPUT -p icmp -j ACCEPT");
        let before = snapshot();
        let said = stage.station("setup", &["--iptables"]).good();
        assert!(said.err.contains("port 41245 is open"), "{said:?}");
        let (_application, heard) = (application(), wire::listen());
        both_families_are_answered("tun1", &heard, 3000);
        let rules =
            |tool: &str, table: &str, chain: &str| shell(&format!("{tool} -t {table} -S {chain}"));
        let tuns = ["tun2", "tun1", "tun0"];
        for (tool, address) in [("iptables", "192.0.2.10"), ("ip6tables", "[2001:db8:1::10]")] {
            let nat: String = tuns
                .iter()
                .flat_map(|tun| ["udp", "tcp"].map(|p| (tun, p)))
                .map(|(tun, protocol)| {
                    format!(
                        "-A CJ_PREROUTING -i {tun} -p {protocol} -j DNAT --to-destination {address}:41245\n"
                    )
                })
                .collect();
            assert_eq!(rules(tool, "nat", "CJ_PREROUTING"), format!("-N CJ_PREROUTING\n{nat}"));
            let input: String =
                tuns.iter().map(|tun| format!("-A CJ_INPUT -i {tun} -j ACCEPT\n")).collect();
            assert_eq!(rules(tool, "filter", "CJ_INPUT"), format!("-N CJ_INPUT\n{input}"));
            assert_eq!(
                rules(tool, "nat", "PREROUTING"),
                "-P PREROUTING ACCEPT\n-A PREROUTING -j CJ_PREROUTING\n"
            );
        }
        let own = rules("iptables", "filter", "INPUT");
        assert_eq!(own, "-P INPUT ACCEPT\n-A INPUT -j CJ_INPUT\n-A INPUT -p icmp -j ACCEPT\n");
        assert!(!shell("nft list tables").contains("inet conjure"));
        nothing_to_do(stage, &["--iptables"]);

        // A jump in the wrong place is mended, whatever is there.
        shell(
            "iptables -t nat -I PREROUTING -j CJ_PREROUTING; iptables -t nat -I PREROUTING -p icmp -j ACCEPT",
        );
        stage.station("setup", &["--iptables"]).good();
        let mended = rules("iptables", "nat", "PREROUTING");
        assert!(mended.contains("ACCEPT\n-A PREROUTING -j CJ_PREROUTING\n"), "{mended}");
        assert_eq!(mended.matches("CJ_PREROUTING").count(), 1, "{mended}");
        shell("iptables -t nat -D PREROUTING -p icmp -j ACCEPT");

        // The table takes over, with the routing rule of the reference.
        shell("ip rule add iif tun1 lookup 200");
        stage.station("setup", &[]).good();
        assert!(!shell("iptables-save; ip6tables-save; ip rule show").contains("CJ_"));
        assert!(!shell("ip rule show").contains("tun1"));
        both_families_are_answered("tun1", &heard, 3001);
        nothing_to_do(stage, &[]);

        stage.station("setup", &["--iptables"]).good();
        both_families_are_answered("tun0", &heard, 3002);
        stage.station("setup", &["--undo"]).good();
        pretty_assert(&before, &snapshot());
    });
}

#[track_caller]
fn nothing_to_do(stage: &Stage, arguments: &[&str]) {
    let before = snapshot();
    let said = stage.station("setup", arguments).good();
    assert!(said.out.starts_with("nothing to do: "), "{said:?}");
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    pretty_assert(&before, &snapshot());
}

#[track_caller]
fn pretty_assert(before: &str, after: &str) {
    let only = |these: &str, those: &str| -> Vec<String> {
        let those: Vec<&str> = those.lines().collect();
        these.lines().filter(|line| !those.contains(line)).map(str::to_owned).collect()
    };
    assert!(before == after, "gone: {:#?}\nnew: {:#?}", only(before, after), only(after, before));
}

#[test]
fn what_was_made_can_be_taken_back() {
    inside("what_was_made_can_be_taken_back", |stage| {
        shell("echo 30 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_last_ack");
        let before = snapshot();
        stage.write("conjure.conf", "CJ_CORECOUNT=2\nCJ_TUN_OWNER=4242\n");
        let dry = stage.station("setup", &["--dry-run"]).good();
        for command in [
            "ip tuntap add dev tun2 mode tun user 4242",
            "ip link set dev tun0 up",
            "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter",
            "echo 0 > /proc/sys/net/ipv4/conf/tun1/rp_filter",
            "nft -f - <<'END'\ntable inet conjure\ndelete table inet conjure\n",
            "echo 1046 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_last_ack",
        ] {
            assert!(dry.out.contains(command), "{command}: {dry:?}");
        }
        pretty_assert(&before, &snapshot());

        // Exactly what was printed is done.
        let said = stage.station("setup", &[]).good();
        let steps = dry.out.lines().filter(|line| line.starts_with("# ")).count();
        assert_eq!(said.out.lines().count(), steps + 1, "{dry:?}\n{said:?}");
        assert!(shell("ip -d link show tun0").contains("user 4242"));
        assert_eq!(shell("stat -c %u:%g:%a /run/conjure"), "4242:4242:755\n");
        nothing_to_do(stage, &[]);

        let dry = stage.station("setup", &["--undo", "--dry-run"]).good();
        assert!(dry.out.contains("nft delete table inet conjure"), "{dry:?}");
        nothing_to_do(stage, &[]);
        stage.station("setup", &["--undo"]).good();
        pretty_assert(&before, &snapshot());
        assert_eq!(stage.station("setup", &["--undo"]).good().out, "nothing to undo\n");
    });
}

#[test]
fn a_device_in_use_survives() {
    inside("a_device_in_use_survives", |stage| {
        stage.station("setup", &[]).good();
        let held = Tun::open("tun1").unwrap();
        let index = || shell("cat /proc/net/dev_snmp6/tun1 | head -1");
        let before = index();
        // More workers: devices are added, and the one in use stays the same.
        stage.write("conjure.conf", "CJ_CORECOUNT=4\n");
        stage.station("setup", &[]).good();
        let (_application, heard) = (application(), wire::listen());
        let (client, phantom) =
            (SocketAddr::from((CLIENT_V4, 1)), SocketAddr::from((PHANTOM_V4, 443)));
        syn(&held, client, phantom);
        assert!(answer(&heard, client, PATIENCE).is_some());
        assert_eq!(index(), before);

        // What does not fit is not taken away from its holder.
        stage.write("conjure.conf", "CJ_CORECOUNT=4\nCJ_TUN_OWNER=4242\n");
        let me = format!("process {}", std::process::id());
        let refused = stage.station("setup", &[]);
        assert_eq!(refused.code, 71, "{refused:?}");
        assert!(
            refused.err.contains("tun1 is in use by ") && refused.err.contains(&me),
            "{refused:?}"
        );
        assert!(refused.err.contains("belongs to nobody, not to uid 4242"), "{refused:?}");
        let refused = stage.station("setup", &["--undo"]);
        assert!(refused.err.contains("tun1 is in use by "), "{refused:?}");
        assert_eq!(index(), before);

        drop(held);
        stage.station("setup", &[]).good();
        assert!(shell("ip -d link show tun1").contains("user 4242"));
        // Fewer workers: what is too much goes.
        stage.write("conjure.conf", "CJ_CORECOUNT=1\nCJ_TUN_OWNER=4242\n");
        stage.station("setup", &[]).good();
        let left = shell("ls /proc/sys/net/ipv4/conf");
        assert!(left.contains("tun1") && !left.contains("tun2"), "{left}");
    });
}

#[test]
fn a_device_that_does_not_fit_is_made_again() {
    inside("a_device_that_does_not_fit_is_made_again", |stage| {
        shell("ip tuntap add dev tun0 mode tun multi_queue; ip tuntap add dev tun1 mode tap");
        stage.station("setup", &[]).good();
        let text = shell("ip -d link show tun0; ip -d link show tun1");
        assert_eq!(text.matches("tun type tun pi off").count(), 2, "{text}");
        assert!(!text.contains("multi_queue on"), "{text}");
        shell("ip link add tun3 type veth peer name other");
        stage.write("conjure.conf", "CJ_CORECOUNT=3\n");
        let refused = stage.station("setup", &[]);
        assert!(refused.err.contains("interface tun3 that is no tun device"), "{refused:?}");
    });
}

#[test]
fn two_stations_share_a_host() {
    inside("two_stations_share_a_host", |stage| {
        let before = snapshot();
        let second = "CJ_CORECOUNT=2\nOFFSET=3\nCJ_QUEUE_OFFSET=3\n";
        stage.station("setup", &[]).good();
        // Equal stations at adjacent offsets meet at the device of the first one's application.
        stage.write("conjure.conf", "CJ_CORECOUNT=2\nOFFSET=2\nCJ_QUEUE_OFFSET=2\n");
        let refused = stage.station("setup", &[]);
        assert!(refused.err.contains("tun2 belongs to the station with OFFSET=0"), "{refused:?}");
        assert!(refused.err.contains("CJ_DNAT_TUN"), "{refused:?}");
        stage.write("conjure.conf", second);
        stage.station("setup", &[]).good();
        let (_application, heard) = (application(), wire::listen());
        both_families_are_answered("tun0", &heard, 3000);
        both_families_are_answered("tun4", &heard, 3001);
        // The first leaves; the second does not notice, and all goes with it.
        stage.write("conjure.conf", "CJ_CORECOUNT=2\n");
        stage.station("setup", &["--undo"]).good();
        both_families_are_answered("tun5", &heard, 3002);
        stage.write("conjure.conf", second);
        nothing_to_do(stage, &[]);
        stage.station("setup", &["--undo"]).good();
        pretty_assert(&before, &snapshot());
    });
}

#[test]
fn what_cannot_be_done_is_said() {
    inside("what_cannot_be_done_is_said", |stage| {
        let conf = stage.path("conjure.conf");
        let without = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-net_admin", "--"]).arg(stage::program());
            Said::of(command.args(["setup", "--conf"]).arg(&conf).args(arguments).output().unwrap())
        };
        let refused = without(&[]);
        assert_eq!(refused.code, 77, "{refused:?}");
        assert!(refused.err.contains("CAP_NET_ADMIN is needed"), "{refused:?}");
        // Looking is free.
        let dry = without(&["--dry-run"]).good();
        assert!(dry.out.contains("ip tuntap add dev tun0 mode tun"), "{dry:?}");
        assert!(dry.err.contains("cannot be read without CAP_NET_ADMIN"), "{dry:?}");

        shell("ip route del default; ip -6 route del default");
        let refused = stage.station("setup", &[]);
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(
            refused.err.contains("IP4_ADDR=127.0.0.1 and IP6_ADDR=[::1] are loopback"),
            "{refused:?}"
        );
        stage.write("conjure.conf", "IP4_ADDR=198.51.100.1\n");
        let said = stage.station("setup", &["--dry-run"]).good();
        assert!(said.err.contains("IP4_ADDR=198.51.100.1 is no address of this host"), "{said:?}");
        assert!(said.err.contains("phantoms of that family are not served"), "{said:?}");
        stage.write("conjure.conf", "CJ_DNAT_TUN=tun 9\n");
        assert_eq!(stage.station("setup", &[]).code, 78);
    });
}

/// What `conjure-setup.service` leaves it.
#[test]
fn two_capabilities_are_enough() {
    inside("two_capabilities_are_enough", |stage| {
        stage.write("conjure.conf", "CJ_CORECOUNT=1\nCJ_TUN_OWNER=4242\n");
        let before = snapshot();
        let bound = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-all,+net_admin,+chown", "--"]).arg(stage::program());
            command.args(["setup", "--conf"]).arg(stage.path("conjure.conf")).args(arguments);
            Said::of(command.output().unwrap()).good()
        };
        bound(&[]);
        assert!(bound(&[]).out.starts_with("nothing to do"));
        let (_application, heard) = (application(), wire::listen());
        both_families_are_answered("tun1", &heard, 3000);
        bound(&["--undo"]);
        pretty_assert(&before, &snapshot());
    });
}

#[test]
fn pf_ring_comes_last_and_only_when_selected() {
    inside("pf_ring_comes_last_and_only_when_selected", |stage| {
        let dry = |conf: &str, arguments: &[&str]| {
            stage.write("conjure.conf", conf);
            stage.station("setup", &[&["--dry-run"], arguments].concat())
        };
        let plain = dry("PF_DRIVER=unheard-of\n", &["--driver"]).good();
        assert!(!plain.out.contains("huge"), "{plain:?}");
        assert!(plain.err.contains("--driver does nothing"), "{plain:?}");
        // On a real host there may be enough pages; the mount or the driver then stands last.
        let text = dry("CJ_INGEST_BACKEND=pfring\nCJ_IFACE=eth0\nPF_DRIVER=ice\n", &["--driver"])
            .good()
            .out;
        let last = text.lines().last().unwrap();
        assert_eq!(last, "pf_ringcfg --configure-driver ice --rss-queues 1");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(at("pf_ringcfg") > at("last_ack"));
        let unasked = dry("CJ_INGEST_BACKEND=pfring\n", &[]).good();
        assert!(!unasked.out.contains("pf_ringcfg"), "{unasked:?}");
        assert!(unasked.err.contains("--driver configures and reloads"), "{unasked:?}");
        let refused = dry("CJ_INGEST_BACKEND=pfring\nPF_DRIVER=virtio\n", &["--driver"]);
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(refused.err.contains("found `virtio`, expected e1000e"), "{refused:?}");
    });
}

#[test]
fn on_reboot_does_it_under_its_old_name() {
    inside("on_reboot_does_it_under_its_old_name", |stage| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../on-reboot.sh");
        stage.write("sysconfig/conjure.conf", "CJ_CORECOUNT=1\nOFFSET=7\nCJ_QUEUE_OFFSET=7\n");
        std::fs::create_dir(stage.path("bin")).unwrap();
        std::os::unix::fs::symlink(stage::program(), stage.path("bin/station")).unwrap();
        let run = |arguments: &[&str]| {
            // As in the reference, the file wins over the environment.
            let mut command = Command::new(script);
            command.args(arguments).env("CJ_PATH", stage.path("")).env("OFFSET", "9");
            Said::of(command.output().unwrap())
        };
        let said = run(&[]).good();
        assert!(
            said.out.ends_with(
                "set up: tun7, tun8 for phantom traffic, to 192.0.2.10 (IPv4) and \
                                    2001:db8:1::10 (IPv6)\n"
            ),
            "{said:?}"
        );
        assert!(run(&[]).good().out.starts_with("nothing to do"));
        run(&["--undo"]).good();
        assert!(!shell("ip link show").contains("tun7"));
    });
}
