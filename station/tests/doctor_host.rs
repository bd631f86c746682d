//! `station doctor` on hosts that the test made: interfaces, packet filter, kernel settings, sockets and
//! daemons. Each test breaks the thing and sees it found.

#[path = "doctor/patient.rs"]
mod patient;
mod stage;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use patient::Patient;
use signalling::station::status_reply::Detail;
use signalling::station::{
    DetectorStatus, FileResult, InterfaceStatus, QueueStatus, WorkerStatus, ZbalanceStatus,
};
use stage::{Stage, inside, shell};
use telemetry::admin::{DaemonStatus, Identification};

/// A tap with its other end on the peer.
const TAP: &str = "ip link add tap0 type veth peer name wire0 netns peer && \
                   sysctl -qw net.ipv6.conf.tap0.disable_ipv6=1 && \
                   nsenter --net=/run/netns/peer sysctl -qw net.ipv6.conf.wire0.disable_ipv6=1 && \
                   ip link set tap0 up && ip -n peer link set wire0 up && \
                   ethtool -K tap0 gro off tso off";

/// A host with a tap, set up for the patient's configuration.
fn set_up(stage: &Stage, patient: &Patient) {
    shell(TAP);
    std::fs::copy(patient.path("/var/lib/conjure/conjure.conf"), stage.path("conjure.conf"))
        .unwrap();
    stage.station("setup", &[]).good();
    patient.link("/run", "/run");
}

#[test]
fn n01_interfaces() {
    inside("n01_interfaces", |_| {
        shell(TAP);
        let patient = Patient::here();
        patient.ask("N01").is_good("N01");
        patient.conf("CJ_IFACE=tap9\n");
        patient.ask("N01").finds("N01", "error", &["no interface tap9", "here are: ", "tap0"]);
        patient.conf("CJ_IFACE=\n");
        patient.ask("N01").finds("N01", "error", &["CJ_IFACE is empty", "tap0"]);
        patient.conf("CJ_IFACE=afp:lo\n");
        patient.ask("N01").finds("N01", "error", &["lo carries no Ethernet"]);
        patient.conf("CJ_IFACE=eth0\n");
        patient.ask("N01").finds("N01", "error", &["eth0 is the interface of the default route"]);
        patient.conf("");
        shell("ip -n peer link set wire0 down");
        patient.ask("N01").finds("N01", "error", &["tap0 has no carrier"]);
        shell("ip -n peer link set wire0 up; ip link set tap0 down");
        patient.ask("N01").finds("N01", "error", &["tap0 is down", "ip link set dev tap0 up"]);
        patient.ask_with("N01", &["--fix"]).is_good("N01");
    });
}

#[test]
fn n02_drivers() {
    inside("n02_drivers", |_| {
        shell(TAP);
        let patient = Patient::here();
        patient.ask("N02").is_good("N02");
        patient.conf("PF_DRIVER=ice\n");
        patient.ask("N02").finds("N02", "warning", &["tap0 has the driver veth, PF_DRIVER=ice"]);
        patient.conf("CJ_INGEST_BACKEND=pfring\nPF_DRIVER=veth\n");
        patient.ask("N02").finds(
            "N02",
            "error",
            &["no zero-copy driver for tap0", "CJ_INGEST_BACKEND=afpacket"],
        );
        patient.link("/sys/class/net/tap0/device/driver", "../../../../bus/pci/drivers/ixgbe");
        patient.conf("CJ_INGEST_BACKEND=pfring\nPF_DRIVER=i40e\n");
        patient.ask("N02").finds(
            "N02",
            "error",
            &["PF_DRIVER is not the driver", "set PF_DRIVER=ixgbe"],
        );
    });
}

/// Attaches a program that lets everything pass, made by the assembler.
const XDP: &str = r#"cd "$DIR"
printf '%s\n' '.section xdp,"ax"' '.globl pass' '.type pass,@function' 'pass:' \
    '.byte 0xb7,0,0,0,2,0,0,0,0x95,0,0,0,0,0,0,0' '.size pass,16' \
    '.section license,"aw"' '.asciz "GPL"' > pass.s
as -o pass.o pass.s
printf '\367\000' | dd of=pass.o bs=1 seek=18 conv=notrunc status=none
ip link set dev tap0 xdpgeneric obj pass.o sec xdp"#;

#[test]
fn n03_somebody_else() {
    inside("n03_somebody_else", |stage| {
        shell(TAP);
        let patient = Patient::here();
        patient.ask("N03").is_good("N03");
        let mut other = Command::new("sh");
        other.arg0("/usr/sbin/zbalance_ipc").args(["-c", "sleep 60 & wait", "x", "-i", "zc:tap0"]);
        let other = Running(other.spawn().unwrap());
        stage::until("its name", || {
            shell("cat /proc/*/cmdline | tr '\\0' ' '").contains("zbalance_ipc")
        });
        let kill = format!("stop it: kill {}", other.0.id());
        patient.ask("N03").finds("N03", "error", &["another zbalance captures on tap0", &kill]);
        drop(other);
        shell(&XDP.replace("$DIR", &stage.path("").display().to_string()));
        patient.ask("N03").finds(
            "N03",
            "error",
            &["XDP program on tap0", "ip link set dev tap0 xdp off"],
        );
        shell("ip link set dev tap0 xdpgeneric off");
        patient.ask("N03").is_good("N03");
        let planted = Patient::planted();
        planted.plant("/proc/net/pf_ring/4711-tap0.3", "");
        planted.ask("N03").finds("N03", "error", &["process 4711", "capture on another interface"]);
    });
}

#[test]
fn n04_offloads() {
    inside("n04_offloads", |_| {
        shell(TAP);
        let patient = Patient::here();
        patient.ask("N04").is_good("N04");
        shell("ethtool -K tap0 gro on tso on");
        patient.ask("N04").finds(
            "N04",
            "warning",
            &["gro, tso on", "ethtool -K tap0 gro off tso off"],
        );
        let mended = patient.ask_with("N04", &["--fix"]);
        mended.is_good("N04");
        assert!(mended.fixed().contains("tap0: offloads off"), "{mended:?}");
        // Only those that lose a stripped tag mind that it is stripped.
        patient.conf("CJ_INGEST_BACKEND=xdp\n");
        patient.ask("N04").finds("N04", "warning", &["ethtool -K tap0 rxvlan off"]);
    });
}

#[test]
fn n05_receive_queues() {
    inside("n05_receive_queues", |_| {
        shell("ip link add tap0 numrxqueues 4 type veth peer name wire0");
        let patient = Patient::here();
        patient.ask("N05").is_skipped("N05");
        patient.conf("CJ_INGEST_BACKEND=pfring\n");
        shell("ethtool -L tap0 rx 4");
        patient.ask("N05").finds(
            "N05",
            "error",
            &["one receive queue only", "4 queues", "ethtool -L tap0 rx 1"],
        );
        patient.conf("CJ_INGEST_BACKEND=xdp\n");
        patient.ask("N05").finds("N05", "warning", &["4 queues", "symmetric"]);
        shell("ethtool -L tap0 rx 1");
        patient.ask("N05").is_good("N05");
    });
}

#[test]
fn n06_no_traffic_or_tunnels() {
    inside("n06_no_traffic_or_tunnels", |_| {
        shell(TAP);
        let patient = Patient::here();
        patient.ask("N06").finds("N06", "warning", &["nothing arrives on tap0", "0 frames in 2 s"]);
        shell(
            "ip -n peer addr add 10.9.0.1/24 dev wire0; \
               ip -n peer neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev wire0",
        );
        let _noise = Noise::start(|| {
            use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, sendto, socket};
            let gre = std::num::NonZero::new(47).map(Protocol::from_raw);
            let socket = socket(AddressFamily::INET, SocketType::RAW, gre).unwrap();
            // ERSPAN, version 1, with a sequence number.
            let packet = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 0];
            let to: SocketAddr = "10.9.0.2:0".parse().unwrap();
            sendto(&socket, &packet, SendFlags::empty(), &to).unwrap();
        });
        patient.ask("N06").finds("N06", "warning", &["are ERSPAN", "ZBALANCE_HASH_MODE=7"]);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_raw", "--", env!("CARGO_BIN_EXE_station")]);
        let blind = patient.run(command, &["--only", "N06"], &[]);
        assert_eq!(blind.all["checks"][0]["status"], "needs-root", "{blind:?}");
        assert!(blind.all["checks"][0]["evidence"].as_str().unwrap().contains("CAP_NET_RAW"));
        assert_eq!(blind.code, 0);
    });
}

#[test]
fn n07_one_direction() {
    inside("n07_one_direction", |_| {
        shell(TAP);
        let patient = Patient::here();
        shell(
            "ip -n peer addr add 10.9.0.1/24 dev wire0; for host in 2 3; do \
             ip -n peer neigh add 10.9.0.$host lladdr 02:00:00:00:00:09 dev wire0; done",
        );
        let noise = Noise::start(|| flows(false));
        let parts = ["one direction of most flows", "CJ_IFACE=IF1,IF2"];
        patient.ask("N07").finds("N07", "warning", &parts);
        drop(noise);
        let _noise = Noise::start(|| flows(true));
        patient.ask("N07").is_good("N07");
    });
}

#[test]
fn n08_how_interfaces_are_read() {
    inside("n08_how_interfaces_are_read", |_| {
        shell(TAP);
        let patient = Patient::here();
        let seen = |patient: &Patient, text: &str| {
            let asked = patient.ask("N08");
            asked.is_good("N08");
            let evidence = asked.all["checks"][0]["evidence"].as_str().unwrap().to_owned();
            assert!(evidence.contains(text), "{evidence}");
        };
        seen(&patient, "tap0: AF_PACKET: packets of a veth");
        patient.conf("CJ_IFACE=xdp:tap0,pcap:/tmp/x.pcap,afp:tap0\n");
        seen(
            &patient,
            "tap0: AF_XDP, as configured; /tmp/x.pcap: a recording; tap0: AF_PACKET, as",
        );
        shell("ip link add tap1 type bridge && ip link set tap1 up");
        patient.conf("CJ_IFACE=tap1\n");
        seen(&patient, "tap1: AF_XDP, otherwise AF_PACKET");
        shell("ip addr add 192.0.2.7/24 dev tap1");
        let parts = ["because it has an address", "192.0.2.7", "ip addr flush dev tap1"];
        patient.ask("N08").finds("N08", "warning", &parts);
        patient.conf("CJ_IFACE=afp:tap1\n");
        seen(&patient, "tap1: AF_PACKET, as configured");
        patient.conf("CJ_IFACE=xdp:tap0\nCJ_PREFILTER=true\n");
        seen(&patient, "tap0: AF_XDP, as configured");
        patient.conf("CJ_IFACE=afp:tap1\nCJ_PREFILTER=true\n");
        let parts = ["frames of tap1 are not filtered in the kernel", "CJ_IFACE=xdp:tap1"];
        patient.ask("N08").finds("N08", "warning", &parts);
        patient.conf("CJ_IFACE=afp:tap1\nN_QUEUE_SETS=1\nCJ_FAST_PATH=true\n");
        let parts = ["no packets of sessions pass in the kernel on tap1", "CJ_IFACE=xdp:tap1"];
        patient.ask("N08").finds("N08", "warning", &parts);
    });
}

/// Sends segments between two hosts beyond the tap, in one direction or both.
fn flows(both: bool) {
    use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, sendto, socket};
    let raw = std::num::NonZero::new(255).map(Protocol::from_raw);
    let socket = socket(AddressFamily::INET, SocketType::RAW, raw).unwrap();
    let send = |from: (u8, u16), to: (u8, u16)| {
        let address = |host: u8| [10, 9, 0, host];
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4(address(from.0), address(to.0), 64);
        builder.tcp(from.1, to.1, 1, 1000).write(&mut packet, &[]).unwrap();
        let to = SocketAddr::from((address(to.0), 0));
        sendto(&socket, &packet, SendFlags::empty(), &to).unwrap();
    };
    for port in 1000..1010 {
        send((2, port), (3, 443));
        if both {
            send((3, 443), (2, port));
        }
    }
}

/// Does something again and again on the peer.
struct Noise(Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Noise {
    fn start(once: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            stage::enter_peer();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                once();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn p05_the_management_interface() {
    inside("p05_the_management_interface", |_| {
        shell(TAP);
        let patient = Patient::here();
        patient.conf("CJ_INGEST_BACKEND=pfring\n");
        for (interface, driver) in [("eth0", "igb"), ("tap0", "ixgbe")] {
            patient
                .link(&format!("/sys/class/net/{interface}/device/driver"), format!("/x/{driver}"));
        }
        patient.ask("P05").is_good("P05");
        std::fs::remove_file(patient.path("/sys/class/net/eth0/device/driver")).unwrap();
        patient.link("/sys/class/net/eth0/device/driver", "/x/ixgbe");
        patient.ask("P05").finds("P05", "warning", &["ixgbe also drives eth0", "console"]);
    });
}

#[test]
fn k01_reverse_path_filter() {
    inside("k01_reverse_path_filter", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K01").is_good("K01");
        for setting in ["net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.tun1.rp_filter=2"] {
            shell(&format!("sysctl -qw {setting}"));
            patient.ask("K01").finds("K01", "error", &[setting, "station setup"]);
            let mended = patient.ask_with("K01", &["--fix"]);
            mended.is_good("K01");
            assert!(mended.fixed().contains("rp_filter"), "{mended:?}");
        }
    });
}

#[test]
fn k02_rules() {
    inside("k02_rules", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K02").is_good("K02");
        shell("nft delete table inet conjure");
        patient.ask("K02").finds("K02", "error", &["neither the table inet conjure nor"]);
        patient.ask_with("K02", &["--fix"]).is_good("K02");
        patient.conf("CJ_CORECOUNT=3\n");
        patient.ask("K02").finds("K02", "error", &["no DNAT for tun3"]);
        patient.conf("");
        shell("ip addr add 192.0.2.77/24 dev eth0");
        patient.conf("IP4_ADDR=192.0.2.77\n");
        patient.ask("K02").finds("K02", "error", &["tun0: 192.0.2.10 instead of 192.0.2.77"]);
        patient.conf("");
        stage.station("setup", &["--iptables"]).good();
        patient.ask("K02").is_good("K02");
        shell("iptables -t nat -I PREROUTING -p icmp -j ACCEPT");
        let parts = [
            "rules of others come before",
            "iptables: 1 jumps from PREROUTING",
            "setup --iptables",
        ];
        patient.ask("K02").finds("K02", "error", &parts);
        shell(
            "iptables -t nat -D PREROUTING 1; nft add table inet conjure; nft add chain inet conjure x",
        );
        patient.ask("K02").finds("K02", "warning", &["rules of both kinds"]);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", "--", env!("CARGO_BIN_EXE_station")]);
        let blind = patient.run(command, &["--only", "K02"], &[]);
        assert_eq!(blind.all["checks"][0]["status"], "needs-root", "{blind:?}");
    });
}

#[test]
fn k03_the_target() {
    inside("k03_the_target", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K03").is_good("K03");
        shell("ip addr del 192.0.2.10/24 dev eth0");
        patient.ask("K03").finds(
            "K03",
            "error",
            &["DNAT to 192.0.2.10, no interface has it", "IP4_ADDR"],
        );
        let chain = |target: &str| {
            shell(&format!(
                "nft add table inet conjure; nft flush table inet conjure; nft add rule inet conjure prerouting \
                 iifname tun0 meta l4proto tcp dnat {target}"
            ));
        };
        chain("ip to 127.0.0.1:41245");
        patient.ask("K03").finds(
            "K03",
            "error",
            &["loopback receives nothing", "route_localnet=0"],
        );
        shell("sysctl -qw net.ipv4.conf.all.route_localnet=1");
        patient.ask("K03").is_good("K03");
        chain("ip6 to [::1]:41245");
        patient.ask("K03").finds("K03", "error", &["DNAT to ::1"]);
    });
}

#[test]
fn k04_connection_table() {
    inside("k04_connection_table", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K04").is_good("K04");
        shell("echo 30 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_last_ack");
        // P44: the setting is named.
        let setting = "net.netfilter.nf_conntrack_tcp_timeout_last_ack=30";
        patient.ask("K04").finds("K04", "warning", &[setting, "sysctl -w"]);
        patient.ask_with("K04", &["--fix"]).is_good("K04");
        let planted = Patient::planted();
        planted.ask("K04").finds("K04", "warning", &["modprobe nf_conntrack"]);
        let folder = "/proc/sys/net/netfilter";
        planted.plant(&format!("{folder}/nf_conntrack_tcp_timeout_last_ack"), "2000\n");
        planted.plant(&format!("{folder}/nf_conntrack_max"), "1000\n");
        planted.plant(&format!("{folder}/nf_conntrack_count"), "900\n");
        planted.ask("K04").finds("K04", "warning", &["nearly full", "nf_conntrack_max=4000"]);
    });
}

#[test]
fn k06_tun_devices() {
    inside("k06_tun_devices", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K06").is_good("K06");
        shell("ip link set tun1 down");
        patient.ask("K06").finds("K06", "error", &["tun1: it is down"]);
        shell("ip tuntap del dev tun0 mode tun");
        patient.ask("K06").finds("K06", "error", &["tun0 does not exist"]);
        let mended = patient.ask_with("K06", &["--fix"]);
        mended.is_good("K06");
        patient.conf("CJ_TUN_OWNER=4242\n");
        patient.ask("K06").finds("K06", "error", &["tun2: it belongs to uid 0, not to uid 4242"]);
        // A device that somebody holds is not taken away.
        let _held = capture::tun::Tun::open("tun1").unwrap();
        let refused = patient.ask_with("K06", &["--fix"]);
        assert!(
            refused.fixed().contains("not fixed: K06: station setup: tun1 is in use by"),
            "{refused:?}"
        );
    });
}

#[test]
fn k07_the_open_port() {
    inside("k07_the_open_port", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K07").is_good("K07");
        stage.station("setup", &["--iptables"]).good();
        patient.ask("K07").finds("K07", "warning", &["port 41245", "without --iptables"]);
        // A rule of the site's own does as well.
        shell("iptables -A INPUT -p tcp --dport 41245 -j DROP");
        patient.ask("K07").is_good("K07");
    });
}

#[test]
fn k08_the_whole_way() {
    inside("k08_the_whole_way", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K08").is_skipped("K08");
        patient.ask_with("K08", &["--loop"]).is_good("K08");
        shell("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let found = patient.ask_with("K08", &["--loop"]);
        found.finds("K08", "error", &["no SYN-ACK from 198.51.100.1:443", "K01"]);
        shell("sysctl -qw net.ipv4.conf.all.rp_filter=0; nft flush chain inet conjure prerouting");
        patient.ask_with("K08", &["--loop"]).finds("K08", "error", &["[2001:db8:1::1]:443"]);
    });
}

#[test]
fn k09_packets_that_pass() {
    inside("k09_packets_that_pass", |stage| {
        let patient = Patient::here();
        set_up(stage, &patient);
        patient.ask("K09").is_skipped("K09");
        let conf = std::fs::read_to_string(stage.path("conjure.conf")).unwrap();
        let wanted = "CJ_IFACE=xdp:tap0\nN_QUEUE_SETS=1\nCJ_FAST_PATH=true\n";
        patient.conf(wanted);
        stage.write("conjure.conf", format!("{conf}{wanted}"));
        shell("ethtool -K tap0 rxvlan on; sysctl -qw net.ipv4.conf.tap0.rp_filter=2");
        patient.ask("K09").finds("K09", "error", &["tap0", "ethtool -K tap0 rxvlan off"]);
        shell("ethtool -K tap0 rxvlan off");
        let parts =
            ["net.ipv4.conf.tap0.rp_filter is 2", "sysctl -w net.ipv4.conf.tap0.rp_filter=0"];
        patient.ask("K09").finds("K09", "error", &parts);
        stage.station("setup", &[]).good();
        patient.ask("K09").is_good("K09");
        // What is not translated goes nowhere.
        shell("nft list chain inet conjure forward | grep 'tap0.* drop'");
        // An interface that AF_XDP does not read may be one by which this host forwards, and a recording is none.
        let more = wanted.replace("xdp:tap0", "xdp:tap0,afp:eth0,pcap:/tmp/x.pcap");
        stage.write("conjure.conf", format!("{conf}{more}"));
        stage.station("setup", &[]).good();
        shell("! nft list chain inet conjure forward | grep eth0");
        // The table of an earlier build.
        shell(
            "handle=$(nft -a list chain inet conjure input | grep 'dport 41245 ct status' | sed 's/.*handle //'); \
             nft delete rule inet conjure input handle $handle",
        );
        patient.ask("K09").finds("K09", "error", &["drops packets of sessions", "station setup"]);
        stage.station("setup", &[]).good();
        patient.ask("K09").is_good("K09");
        shell(
            "nft flush chain inet conjure forward; nft add rule inet conjure forward iifname tap0 tcp dport 1 drop",
        );
        patient.ask("K09").finds(
            "K09",
            "error",
            &["may forward", "what comes by tap0", "station setup"],
        );
        // The chains of the reference have nothing for it.
        let refused = stage.station("setup", &["--iptables"]);
        assert!(
            refused.code == 78 && refused.err.contains("CJ_FAST_PATH=true with --iptables"),
            "{refused:?}"
        );
        assert!(!shell("iptables-save").contains("CJ_"));
        stage.station("setup", &["--iptables", "--undo"]).good();
    });
}

#[test]
fn k10_acknowledgements_together() {
    inside("k10_acknowledgements_together", |stage| {
        let patient = Patient::here();
        shell("mount -t sysfs none /sys");
        set_up(stage, &patient);
        patient.ask("K10").is_skipped("K10");
        patient.conf("CJ_LIVE_FRAMES=true\n");
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        patient.ask("K10").is_good("K10");
        let steering = "/sys/class/net/tun1/queues/rx-0/rps_cpus";
        shell(&format!("echo 1 > {steering}"));
        let parts = [&format!("{steering} is 1"), &format!("echo 0 > {steering}")];
        patient.ask("K10").finds("K10", "error", &parts.map(String::as_str));
        shell(&format!("echo 0 > {steering}"));
        // The unit that is shipped lets the detector have nothing.
        let unit = "/etc/systemd/system/conjure-det.service";
        patient.plant(unit, include_str!("../../sysconfig/conjure-det.service"));
        let line = "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN, CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN, \
                    SystemCallFilter=bpf";
        patient.ask("K10").finds("K10", "error", &["conjure-det.service is without", line]);
        let page = include_str!("../../docs/ingest.md");
        let (_, recipe) = page.split_once("```ini\n").unwrap();
        let (recipe, _) = recipe.split_once("```").unwrap();
        patient.plant(&format!("{unit}.d/override.conf"), recipe);
        patient.ask("K10").is_good("K10");
        // What comes later by its name takes all away again, wherever it is.
        let last = "/lib/systemd/system/conjure-det.service.d/zz.conf";
        patient.plant(last, "[Service]\nCapabilityBoundingSet=\n");
        let line = "is without CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN";
        patient.ask("K10").finds("K10", "error", &[line]);
        // The administrator's file of the name is the one that counts.
        patient.plant(&format!("{unit}.d/zz.conf"), "");
        patient.ask("K10").is_good("K10");
        let program = env!("CARGO_BIN_EXE_station");
        let mut confined = Command::new("setpriv");
        confined.args(["--bounding-set=-net_admin", program]);
        let said = patient.run(confined, &["--only", "K10"], &[]);
        said.finds("K10", "error", &["does not take packets together", "cjtry0"]);
    });
}

fn application(patient: &Patient, change: &str) {
    let shipped = include_str!("../../conf/app_config.toml");
    patient.plant("/var/lib/conjure/app_config.toml", format!("{change}\n{shipped}"));
}

#[test]
fn s01_redis() {
    inside("s01_redis", |stage| {
        let patient = Patient::here();
        application(&patient, "");
        patient.ask("S01").finds("S01", "warning", &["127.0.0.1:6379", "start redis-server"]);
        application(&patient, "session_socket = \"\"");
        patient.ask("S01").finds("S01", "error", &["the only way"]);
        application(&patient, "redis_url = \"\"");
        patient.ask("S01").is_skipped("S01");
        application(&patient, "redis_url = \"redis://:secret@127.0.0.1/\"");
        let server = |password: &str| {
            let mut command = Command::new("redis-server");
            command.args(["--save", "", "--requirepass", password]).current_dir(stage.path(""));
            let running = Running(command.stdout(Stdio::null()).spawn().unwrap());
            stage::until("redis", || TcpStream::connect("127.0.0.1:6379").is_ok());
            running
        };
        let running = server("secret");
        patient.ask("S01").is_good("S01");
        drop(running);
        let _running = server("other");
        let refused = patient.ask("S01");
        refused.finds("S01", "warning", &["127.0.0.1/: WRONGPASS"]);
        assert!(!refused.all.to_string().contains("secret"), "{refused:?}");
    });
}

#[test]
fn s02_sockets() {
    inside("s02_sockets", |_| {
        let patient = Patient::here();
        application(&patient, "");
        patient.ask("S02").is_skipped("S02");
        let address = std::os::unix::net::SocketAddr::from_abstract_name("detector").unwrap();
        let held = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        let me = std::fs::read_to_string("/proc/self/comm").unwrap();
        let stop = format!("@detector is bound by {}", me.trim());
        patient.ask("S02").finds(
            "S02",
            "error",
            &["another program serves ipc://@detector", &stop],
        );
        drop(held);
        // A detector that runs, and serves nothing.
        let _detector = Served::start(&patient, "detector", DaemonStatus::default());
        patient.ask("S02").finds(
            "S02",
            "error",
            &["the detector runs and does not serve ipc://@detector"],
        );
    });
}

#[test]
fn s07_sources() {
    inside("s07_sources", |_| {
        let patient = Patient::here();
        let shipped = include_str!("../../conf/app_config.toml");
        let source = |place: &str, key: Option<&str>| {
            let (kind, key) = match key {
                Some(key) => ("CURVE", format!("pubkey = \"{key}\"\n")),
                None => ("NULL", String::new()),
            };
            let text = format!(
                "[[connect_sockets]]\naddress = \"tcp://{place}\"\ntype = \"{kind}\"\n{key}subscription = \"\"\n"
            );
            let at = shipped.find("[[connect_sockets]]").unwrap();
            patient.plant("/var/lib/conjure/app_config.toml", format!("{}{text}", &shipped[..at]));
        };
        source("127.0.0.1:5591", None);
        patient.ask("S07").finds("S07", "warning", &["nobody answers", "tcp://127.0.0.1:5591"]);
        source("registrar.invalid:5591", None);
        patient.ask("S07").finds("S07", "warning", &["cannot be resolved", "registrar.invalid"]);
        let pair = keys::KeyPair::generate(&mut rand::rng());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _guard = runtime.enter();
        let null = runtime.block_on(publisher("tcp://127.0.0.1:5592", None));
        let curve = runtime.block_on(publisher("tcp://127.0.0.1:5593", Some(&pair)));
        source("127.0.0.1:5592", None);
        patient.ask("S07").is_good("S07");
        // P36: wrong server key, and another mechanism.
        patient.conf("ZMQ_PRIVKEY=/var/lib/conjure/zmqkey\n");
        patient.plant("/var/lib/conjure/zmqkey", [7; 32]);
        source("127.0.0.1:5593", Some(&pair.public_z85()));
        patient.ask("S07").is_good("S07");
        source("127.0.0.1:5593", Some(&keys::KeyPair::generate(&mut rand::rng()).public_z85()));
        patient.ask("S07").finds("S07", "warning", &["tcp://127.0.0.1:5593: handshake failed"]);
        source("127.0.0.1:5592", Some(&pair.public_z85()));
        patient.ask("S07").finds("S07", "warning", &["tcp://127.0.0.1:5592: handshake failed"]);
        drop((null, curve));
    });
}

async fn publisher(endpoint: &str, pair: Option<&keys::KeyPair>) -> bus::Publisher {
    let curve = pair.map(|pair| {
        let secret: [u8; 32] = pair.private_file()[..32].try_into().unwrap();
        Arc::new(bus::CurveServer {
            keys: bus::CurveKeys::new(&secret),
            admitted: bus::Admitted::All.into(),
            observer: None,
        })
    });
    let options = bus::PublisherOptions { curve, ..bus::PublisherOptions::default() };
    bus::Publisher::bind(endpoint, options).await.unwrap()
}

#[test]
fn s09_port_53() {
    inside("s09_port_53", |_| {
        let patient = Patient::here();
        patient
            .plant("/var/lib/conjure/reg_config.toml", include_str!("../../conf/reg_config.toml"));
        patient.ask("S09").is_good("S09");
        let _taken = UdpSocket::bind("127.0.0.53:53").unwrap();
        let me = std::fs::read_to_string("/proc/self/comm").unwrap();
        patient.ask("S09").finds(
            "S09",
            "error",
            &["UDP port 53 is taken", me.trim(), "dns_listen_addr"],
        );
    });
}

/// A daemon that says of itself what the test wants.
struct Served {
    _runtime: tokio::runtime::Runtime,
}

struct Says(DaemonStatus);

impl telemetry::admin::Daemon for Says {
    fn status(&self) -> DaemonStatus {
        self.0.clone()
    }

    async fn reload(&self) -> Vec<FileResult> {
        Vec::new()
    }

    fn drain(&self, _: Duration) {}
}

impl Served {
    fn start(patient: &Patient, daemon: &str, status: DaemonStatus) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = patient.path("/run/conjure");
        std::fs::create_dir_all(&folder).unwrap();
        let socket = telemetry::admin::socket_path(&folder, daemon, 0);
        let who = Identification::new(daemon, "0", b"");
        runtime
            .block_on(async { telemetry::admin::serve(&socket, Arc::new(Says(status)), who) })
            .unwrap();
        Self { _runtime: runtime }
    }
}

fn zbalance(queues: Vec<QueueStatus>, interfaces: Vec<InterfaceStatus>) -> DaemonStatus {
    let status = ZbalanceStatus { queues, interfaces, ..ZbalanceStatus::default() };
    DaemonStatus {
        state: "ready".to_owned(),
        detail: Some(Detail::Zbalance(status)),
        ..DaemonStatus::default()
    }
}

#[test]
fn c08_queues_that_are_not_there() {
    inside("c08_queues_that_are_not_there", |_| {
        let patient = Patient::here();
        patient.ask("C08").is_skipped("C08");
        let queues = vec![QueueStatus::default(); 2];
        let _zbalance = Served::start(&patient, "zbalance", zbalance(queues, Vec::new()));
        patient.ask("C08").is_good("C08");
        patient.conf("CJ_CORECOUNT=3\n");
        patient.ask("C08").finds(
            "C08",
            "error",
            &["queues 0 to 2 are wanted, zbalance has 2", "restart zbalance"],
        );
    });
}

#[test]
fn r01_what_runs_badly() {
    inside("r01_what_runs_badly", |_| {
        let patient = Patient::here();
        patient.ask("R01").is_skipped("R01");
        let good = zbalance(
            vec![QueueStatus { enqueued: 1_000_000, dropped_full: 10, ..Default::default() }],
            Vec::new(),
        );
        let running = Served::start(&patient, "zbalance", good);
        patient.ask("R01").is_good("R01");
        drop(running);
        let queue = QueueStatus {
            enqueued: 1000,
            dropped_full: 10,
            attached: true,
            heartbeat_age_seconds: 9.0,
            ..Default::default()
        };
        let port = InterfaceStatus {
            interface: "tap0".to_owned(),
            received: 1000,
            dropped: 20,
            down: true,
            ..Default::default()
        };
        let _zbalance = Served::start(&patient, "zbalance", zbalance(vec![queue], vec![port]));
        let said = patient.ask("R01");
        said.finds("R01", "warning", &["queue 0.0: 10 of 1000 dropped", "raise CJ_CORECOUNT"]);
        said.finds("R01", "warning", &["silent for 9 s", "restart the detector"]);
        said.finds("R01", "warning", &["tap0: 20 of 1000 dropped", "CJ_INGEST_CORES"]);
        said.finds("R01", "warning", &["a capture interface went away"]);
        let worker = WorkerStatus {
            worker: 1,
            packets: 1000,
            dropped_source: 50,
            restarts: 2,
            ..Default::default()
        };
        let detector = DetectorStatus { workers: vec![worker], ..Default::default() };
        let status = DaemonStatus {
            state: "degraded".to_owned(),
            notes: vec!["redis: absent".to_owned()],
            detail: Some(Detail::Detector(detector)),
        };
        let _detector = Served::start(&patient, "detector", status);
        let said = patient.ask("R01");
        said.finds("R01", "warning", &["worker 1: 50 of 1000"]);
        said.finds("R01", "warning", &["worker 1: 2 times"]);
        said.finds("R01", "warning", &["detector: redis: absent"]);
        // This process plays the daemons; it is made to use the processors.
        let _busy: Vec<Busy> = (0..4).map(|_| Busy::start()).collect();
        patient.ask("R01").finds("R01", "warning", &["more processors than it has"]);
    });
}

/// A thread that does nothing but use a processor.
struct Busy(Arc<std::sync::atomic::AtomicBool>);

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
