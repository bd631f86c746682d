//! Variables of `conjure.conf` (`spec/operations.md` 4.2).

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: &'static str,
    /// Who reads it.
    pub read_by: &'static str,
    /// Meaning, with units.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, read_by: &'static str, meaning: &'static str) -> Variable {
    Variable { name, read_by, meaning }
}

/// Every variable; defaults are those of [`crate::Sources`].
pub const STATION: &[Variable] = &[
    variable(
        "CJ_IFACE",
        "zbalance",
        "Capture interfaces, separated by commas; each may name its back end: afp:eth1, xdp:eth1, zc:eth1, pcap:FILE.",
    ),
    variable(
        "CJ_INGEST_BACKEND",
        "zbalance, detector, setup",
        "Back end of bare interface names: auto, xdp, afpacket, pfring or pcap; with pfring the detector attaches to \
         queues of PF_RING ZC.",
    ),
    variable(
        "CJ_INGEST_CORES",
        "zbalance",
        "CPUs of the capture threads, as a list such as 0,2-3. Unset: beside the detector's.",
    ),
    variable(
        "N_QUEUE_SETS",
        "zbalance",
        "1: one set of queues. Anything else: two, for a second station on the same traffic.",
    ),
    variable("CJ_CLUSTER_ID", "zbalance, detector", "Label that zbalance and the detector share."),
    variable(
        "CJ_CORECOUNT",
        "zbalance, detector, application, setup",
        "Workers of the detector; also queues per set, and tun devices less one.",
    ),
    variable("CJ_COREBASE", "zbalance, detector", "First CPU of the workers, and of the balancer."),
    variable("CJ_SKIP_CORE", "detector", "CPU that the workers leave out; empty or -1 for none."),
    variable("CJ_QUEUE_OFFSET", "detector", "First queue of this detector. Must equal OFFSET."),
    variable(
        "OFFSET",
        "detector, application, setup",
        "First tun device of this station. Must equal CJ_QUEUE_OFFSET.",
    ),
    variable(
        "CJ_DNAT_TUN",
        "application, setup",
        "Tun device of the application. Unset: the one after the detector's.",
    ),
    variable(
        "CJ_TUN_OWNER",
        "setup",
        "Uid that may open the tun devices. Unset: that of the user conjure, if there is one.",
    ),
    variable("CJ_LOG_INTERVAL", "detector", "Seconds between statistics lines."),
    variable(
        "ZBALANCE_HASH_MODE",
        "zbalance",
        "Distribution over queues: 1 (ip) by the pair of addresses, 7 (erspan) by the pair inside ERSPAN, auto by the innermost pair of any tunnel; gre, gtp and others.",
    ),
    variable(
        "CJ_DECAP",
        "zbalance",
        "Send what is inside GRE, ERSPAN, GTP, VXLAN and MPLS without their headers; PARSE_GRE_OFFSET stays 0.",
    ),
    variable(
        "CJ_PREFILTER",
        "zbalance",
        "Drop in the kernel frames that are neither TCP nor UDP, and count them apart; for interfaces read through AF_XDP. Not with CJ_DECAP, PARSE_GRE_OFFSET or a ZBALANCE_HASH_MODE that looks into tunnels.",
    ),
    variable(
        "CJ_FAST_PATH",
        "zbalance",
        "Give packets of live sessions to the host in the kernel, past queue and detector, and count them apart; for interfaces read through AF_XDP. With N_QUEUE_SETS=1, and not with CJ_DECAP, PARSE_GRE_OFFSET or a ZBALANCE_HASH_MODE that looks into tunnels.",
    ),
    variable(
        "CJ_LIVE_FRAMES",
        "detector",
        "Give bursts of acknowledgements to the host in one call for all of them. Takes Linux 5.19, and CAP_BPF and CAP_NET_ADMIN at the start of the detector.",
    ),
    variable(
        "ZBALANCE_CORE",
        "nobody",
        "Named by the reference's file and read by nothing; CJ_INGEST_CORES is what places the balancer.",
    ),
    variable(
        "PARSE_GRE_OFFSET",
        "detector",
        "Bytes to skip before the Ethernet header of a frame.",
    ),
    variable(
        "CJ_PRIVKEY",
        "detector, application",
        "Station key: a file, or a folder of key files.",
    ),
    variable("ZMQ_PRIVKEY", "application", "Key for sources with CURVE."),
    variable("CJ_STATION_CONFIG", "application, detector", "Path of app_config.toml."),
    variable("CJ_REGISTRAR_CONFIG", "registrar", "Path of reg_config.toml."),
    variable("PHANTOM_SUBNET_LOCATION", "application, registrar", "Path of phantom_subnets.toml."),
    variable(
        "LOG_CLIENT_IP",
        "all daemons",
        "Whether addresses of clients may be printed: true or false.",
    ),
    variable("IP4_ADDR", "setup", "IPv4 address of this host that phantom traffic is sent to."),
    variable(
        "IP6_ADDR",
        "setup",
        "IPv6 address of this host that phantom traffic is sent to, in brackets.",
    ),
    variable("CJ_IP4_ADDR", "setup", "Another name of IP4_ADDR, which it wins over."),
    variable("CJ_IP6_ADDR", "setup", "Another name of IP6_ADDR, which it wins over."),
    variable(
        "CJ_IPC_DIR",
        "all daemons",
        "Folder of the daemons' Unix sockets. Unset: /run/conjure.",
    ),
    variable(
        "CJ_SESSION_SOCKET",
        "application, detector",
        "Unix socket over which our detectors hear of sessions; wins over session_socket. Empty switches it off.",
    ),
    variable(
        "CJ_METRICS_LISTEN",
        "all daemons",
        "ADDRESS:PORT on loopback for metrics: zbalance at that port, detector one above, application two, registrar three. Each has a Unix socket in any case.",
    ),
    variable(
        "CJ_METRICS_LISTEN_ZBALANCE",
        "zbalance",
        "ADDRESS:PORT on loopback for metrics of this daemon alone.",
    ),
    variable(
        "CJ_METRICS_LISTEN_DETECTOR",
        "detector",
        "ADDRESS:PORT on loopback for metrics of this daemon alone.",
    ),
    variable(
        "CJ_METRICS_LISTEN_APPLICATION",
        "application",
        "ADDRESS:PORT on loopback for metrics of this daemon alone.",
    ),
    variable(
        "CJ_METRICS_LISTEN_REGISTRAR",
        "registrar",
        "ADDRESS:PORT on loopback for metrics of this daemon alone.",
    ),
    variable(
        "CJ_METRICS_FLOOR",
        "all daemons",
        "Fewest clients that a labelled series stands for; smaller ones are counted under other.",
    ),
    variable(
        "CJ_LOG_FORMAT",
        "all daemons",
        "text, or reference: lines as the reference prints them.",
    ),
    variable(
        "CJ_SANDBOX",
        "all daemons",
        "on, log or off: whether a daemon gives up what it does not need. For finding faults alone.",
    ),
    variable("CJ_USER", "all daemons", "User that a daemon becomes when it was started as root."),
    variable(
        "PF_DRIVER",
        "setup",
        "PF_RING driver of the capture interface: e1000e, i40e, ixgbe or ice; read for the PF_RING back end alone.",
    ),
    variable(
        "PFRING_VER",
        "make container, compose",
        "Version of PF_RING in the images; read for the PF_RING back end alone.",
    ),
    variable("CJ_PATH", "setup", "Folder of the installation."),
    variable(
        "CJ_CONF",
        "all daemons",
        "Path of the default file, in the environment. Unset: /opt/conjure/sysconfig/conjure.conf.",
    ),
    variable(
        "CJ_CONF_SHELL",
        "all daemons",
        "0: never ask bash about a file that is more than NAME=VALUE lines.",
    ),
    variable("CJ_PROXY_CONFIG", "application, detector", "An old name of CJ_STATION_CONFIG."),
    variable("CONJURE_STATION_REPO", "nobody", "Named by the reference's simulation alone."),
    variable("CONJURE_H1_REPO", "nobody", "Named by the reference's simulation alone."),
];
