//! Every check: its number, what it looks at, for whom, and what to do.

use super::finding::{Checked, Part};
use super::probe::Probe;
use super::{
    circuit, configuration, deployment, files, interfaces, kernel, live_frames, memory, numbering,
    passing, pf_ring, redis, running, selection, services, workers,
};

/// One check.
pub(crate) struct Check {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// `E`, `W` or both.
    pub(crate) severity: &'static str,
    pub(crate) parts: &'static [Part],
    /// Privilege without which it is not made; empty for none.
    pub(crate) needs: &'static str,
    /// What is usually wrong.
    pub(crate) cause: &'static str,
    /// What usually helps.
    pub(crate) remedy: &'static str,
    pub(crate) run: fn(&Probe) -> Checked,
}

const EVERYONE: &[Part] = &Part::ALL;
const INGEST: &[Part] = &[Part::Ingest];
const QUEUES: &[Part] = &[Part::Ingest, Part::Detector];
const PHANTOMS: &[Part] = &[Part::Detector, Part::Application];
const KEYS: &[Part] = &[Part::Detector, Part::Application, Part::Registrar];
const APPLICATION: &[Part] = &[Part::Application];
const GENERATIONS: &[Part] = &[Part::Application, Part::Registrar];
const REGISTRAR: &[Part] = &[Part::Registrar];

macro_rules! checks {
    ($(($id:literal, $title:literal, $severity:literal, $parts:expr, $needs:literal, $cause:literal, $remedy:literal, $run:path),)*) => {
        &[$(Check {
            id: $id, title: $title, severity: $severity, parts: $parts, needs: $needs, cause: $cause,
            remedy: $remedy, run: $run,
        }),*]
    };
}

/// All checks in the order in which they are made. A table: one line each.
#[rustfmt::skip]
pub(crate) const CHECKS: &[Check] = checks![
    ("C01", "configuration loads", "E", EVERYONE, "", "a value is wrong or a file cannot be read", "correct the named line; `station config check`", configuration::loads),
    ("C02", "names are known, lines mean one thing", "W", EVERYONE, "", "a mistyped or old name; quotes, comments or expansions that bash, systemd and docker read differently", "write plain NAME=VALUE lines", configuration::names_and_lines),
    ("C03", "files have the configured names", "W", EVERYONE, "", "the file is there under the other spelling of the reference's documents", "set the variable to the file that exists", configuration::spellings),
    ("C04", "CJ_SKIP_CORE has a value", "W", &[Part::Detector], "", "empty, and the reference's detector is installed: it shifts its CPUs and loses its queue offset", "CJ_SKIP_CORE=-1", workers::skip_core),
    ("C05", "CPUs of the workers", "E/W", QUEUES, "", "a CPU is offline, barred, shared with zbalance, far from the interface, or half a core", "CJ_COREBASE, CJ_CORECOUNT, CJ_SKIP_CORE, CJ_INGEST_CORES", workers::cpu_list),
    ("C06", "number of workers", "W", QUEUES, "", "more than 16, or no CPU left for the rest", "lower CJ_CORECOUNT", workers::core_count),
    ("C07", "tun and queue numbers", "E", PHANTOMS, "", "OFFSET and CJ_QUEUE_OFFSET differ, or two stations share a device", "set both alike, CJ_CORECOUNT + 1 apart from other stations", numbering::devices),
    ("C08", "queues exist in the running zbalance", "E", QUEUES, "", "zbalance was started with fewer queues", "restart zbalance, or N_QUEUE_SETS=2", numbering::queue_range),
    ("N01", "capture interfaces", "E", INGEST, "", "missing, down, without carrier, not Ethernet, or the one of the default route", "correct CJ_IFACE; ip link set dev IF up", interfaces::usable),
    ("N02", "drivers of the interfaces", "E/W", INGEST, "", "PF_DRIVER is another driver, or one without zero copy", "set PF_DRIVER, or another back end", interfaces::driver),
    ("N03", "nobody else captures there", "E", INGEST, "", "an XDP program, a PF_RING application or another zbalance has the interface", "stop it", interfaces::owner),
    ("N04", "offloads, flow control, ring size", "W", INGEST, "", "the card joins frames, stops the tap, or has little room", "ethtool -K, -A, -G; --fix does it", interfaces::offloads),
    ("N05", "receive queues of the card", "E/W", INGEST, "", "PF_RING needs one; AF_XDP one socket each with a symmetric hash", "ethtool -L IF combined 1", interfaces::receive_queues),
    ("N06", "traffic arrives, without tunnels", "W", INGEST, "CAP_NET_RAW", "no frames, or most are GRE, ERSPAN, GTP or MPLS", "check the tap; ZBALANCE_HASH_MODE, PARSE_GRE_OFFSET", interfaces::traffic),
    ("N07", "both directions are seen", "W", INGEST, "CAP_NET_RAW", "the tap copies one direction", "connect both; CJ_IFACE=IF1,IF2", interfaces::directions),
    ("N08", "how interfaces are read", "W", INGEST, "CAP_NET_RAW", "one has an address, so that AF_XDP is not tried, or CJ_PREFILTER or CJ_FAST_PATH is on without AF_XDP", "ip addr flush dev IF, or CJ_IFACE=afp:IF", selection::back_ends),
    ("P01", "module pf_ring", "E", INGEST, "", "not loaded", "modprobe pf_ring", pf_ring::module),
    ("P02", "versions of PF_RING", "E", INGEST, "", "library, module or PFRING_VER differ", "install the same version", pf_ring::versions),
    ("P03", "zero-copy driver", "E", INGEST, "", "Polling Mode is NAPI: the interface runs with its ordinary driver", "pf_ringcfg --configure-driver, or station setup --driver", pf_ring::polling),
    ("P04", "licence of PF_RING ZC", "W", INGEST, "", "no file for the interface's address: capture ends after five minutes", "a licence in /etc/pf_ring/ADDRESS", pf_ring::licence),
    ("P05", "driver of the management interface", "W", INGEST, "", "reloading the driver cuts the connection to this host", "work at a console", pf_ring::management),
    ("P06", "a cluster can be made", "E", INGEST, "", "`Socket operation on non-socket`: one of P01, N01, N03, P03", "mend the one that is named", pf_ring::cluster),
    ("M01", "huge pages", "E", INGEST, "", "too few on the node of the interface, taken, or not mounted here", "station setup early after boot", memory::huge_pages),
    ("M02", "limit of locked memory", "E", INGEST, "", "below what AF_XDP needs", "LimitMEMLOCK=infinity, or CAP_IPC_LOCK", memory::locked),
    ("K01", "no reverse path filter on tun devices", "E", PHANTOMS, "", "rp_filter of all or of a device is not 0", "station setup", kernel::reverse_path),
    ("K02", "rules send phantom traffic to the application", "E/W", PHANTOMS, "CAP_NET_ADMIN", "rules are missing, in the wrong place, or name another address", "station setup", kernel::translation),
    ("K03", "the application's address is this host's", "E", PHANTOMS, "", "loopback, or an address that moved away", "IP4_ADDR, IP6_ADDR, then station setup", kernel::local_target),
    ("K04", "connection table", "W", PHANTOMS, "", "not loaded, forgets too early, or nearly full", "station setup; nf_conntrack_max", kernel::connections),
    ("K05", "names of routing tables", "W", PHANTOMS, "", "the reference's set-up added a line at each run", "--fix removes them", kernel::table_names),
    ("K06", "tun devices", "E", PHANTOMS, "", "missing, down, or with another owner or kind", "station setup", kernel::devices),
    ("K07", "port 41245 is closed", "W", PHANTOMS, "CAP_NET_ADMIN", "strangers can reach the application's port", "station setup without --iptables", kernel::closed_port),
    ("K08", "a SYN is answered by the phantom", "E", PHANTOMS, "CAP_NET_ADMIN", "the rules do not work as a whole; only with --loop", "mend K01 to K03", circuit::check),
    ("K09", "packets that pass in the kernel reach the application", "E", PHANTOMS, "CAP_NET_ADMIN", "CJ_FAST_PATH is on, and rules, rp_filter or the card keep packets of the tap from the host", "station setup; ethtool -K IF rxvlan off", passing::check),
    ("K10", "acknowledgements can go to the host together", "E", &[Part::Detector], "CAP_SYS_ADMIN", "CJ_LIVE_FRAMES is on, and the unit does not grant what it takes, packets are steered to other CPUs, or the kernel is older than 5.19", "systemctl edit conjure-det; echo 0 > rps_cpus; CJ_LIVE_FRAMES=false", live_frames::check),
    ("S01", "Redis", "E/W", PHANTOMS, "", "not there, or refuses", "start redis-server, or redis_url = \"\"", redis::check),
    ("S02", "sockets of the daemons", "E", KEYS, "", "served by another program, or in another network namespace", "one namespace for all; stop the other", services::endpoints),
    ("S03", "station keys", "E/W", KEYS, "root where the file is closed", "missing, halves that do not match, open to others", "genkey; chmod 0600", files::keys),
    ("S04", "key for CURVE sources", "E", APPLICATION, "", "none is named, or it cannot be read", "zmq_privkey_path or ZMQ_PRIVKEY", files::bus_key),
    ("S05", "files of the daemons", "E/W", KEYS, "", "a value is wrong, or detector_filter_list is missing", "correct the named line", files::settings),
    ("S06", "generations of phantoms", "E", GENERATIONS, "", "clients are given a generation that the phantom subnets lack", "add it to the file", files::generations),
    ("S07", "sources of registrations", "W", APPLICATION, "", "not resolved, nobody there, or the handshake fails", "correct [[connect_sockets]], its type and pubkey", services::sources),
    ("S08", "databases of countries and networks", "W", APPLICATION, "", "missing or older than 60 days", "geoipupdate", files::databases),
    ("S09", "port of the DNS channel", "E", REGISTRAR, "", "taken, often by systemd-resolved", "DNSStubListener=no", services::name_port),
    ("S10", "clock", "W", EVERYONE, "", "nothing keeps it right", "systemd-timesyncd or chrony", services::clock),
    ("D01", "containers", "E/W", EVERYONE, "", "no compose, no image, a network of their own, volumes or devices that are not there", "make container; correct the compose file", deployment::containers),
    ("D02", "compose sees PFRING_VER", "W", INGEST, "", "conjure.conf has it, compose does not", "docker/.env", deployment::build_version),
    ("D03", "systemd units", "W", EVERYONE, "", "not enabled, both deployments, a start limit, or not reloaded", "systemctl enable, disable, edit, daemon-reload", deployment::units),
    ("R01", "what the running daemons report", "W", EVERYONE, "", "drops, silent consumers, restarts, processors in full use", "raise CJ_CORECOUNT; see station status", running::check),
];

/// The table of `docs/doctor.md`.
pub(crate) fn table() -> String {
    let mut text = "| Id | Looks at | Severity | For | Needs | Usual cause | Usual remedy |\n|---|---|---|---|---|---|---|\n".to_owned();
    for check in CHECKS {
        let parts = if check.parts.len() == Part::ALL.len() {
            "all".to_owned()
        } else {
            check.parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
        };
        let needs = if check.needs.is_empty() { "–" } else { check.needs };
        text.push_str(&format!(
            "| {} | {} | {} | {parts} | {needs} | {} | {} |\n",
            check.id, check.title, check.severity, check.cause, check.remedy
        ));
    }
    text
}
