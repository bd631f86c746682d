//! The command line of each daemon (`spec/operations.md` 5), as the start scripts build it.

use crate::placement::cpu_list;
use crate::problem::{Origin, Problem};
use crate::station::{IngestBackend, Station};

/// Arguments of `zbalance`, without the program's name.
///
/// # Errors
/// [`Problem`] when no interface is configured; the exit code for it is 78.
pub fn zbalance(station: &Station) -> Result<Vec<String>, Problem> {
    if station.interfaces.is_empty() {
        return Err(Problem {
            origin: station.variables.origin("CJ_IFACE"),
            key: "CJ_IFACE".to_owned(),
            found: "no interface".to_owned(),
            expected: match available() {
                list if list.is_empty() => "a comma-separated list of interfaces".to_owned(),
                list => format!("a comma-separated list of interfaces; here are: {list}"),
            },
        });
    }
    let source = |interface: &String| {
        let bare = !["zc:", "xdp:", "afp:", "pcap:"].iter().any(|p| interface.starts_with(p));
        let prefix = match station.backend {
            IngestBackend::PfRing => "zc:",
            IngestBackend::Xdp => "xdp:",
            IngestBackend::AfPacket => "afp:",
            IngestBackend::Pcap => "pcap:",
            IngestBackend::Auto => "",
        };
        if bare { format!("{prefix}{interface}") } else { interface.clone() }
    };
    let sources: Vec<String> = station.interfaces.iter().map(source).collect();
    let count = station.placement.core_count;
    let queues =
        if station.two_queue_sets { format!("{count},{count}") } else { count.to_string() };
    Ok(line(&[
        ("-i", sources.join(",")),
        ("-c", station.cluster_id.to_string()),
        ("-n", queues),
        ("-m", station.hash_mode.argument().to_owned()),
        ("-g", ingest_cpus(station)),
    ])
    .into_iter()
    .chain(station.decap.then(|| "--decap".to_owned()))
    .chain(station.prefilter.then(|| "--prefilter".to_owned()))
    .chain(station.fast_path.then(|| "--fast-path".to_owned()))
    .chain(["-z".to_owned()])
    .collect())
}

/// CPUs of the ingest threads, in their order; without `CJ_INGEST_CORES` the first of the workers.
fn ingest_cpus(station: &Station) -> String {
    let cpus = station.ingest_cores.as_deref().and_then(cpu_list);
    let cpus = cpus.unwrap_or_else(|| vec![station.placement.core_base]);
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(":")
}

/// Arguments of `detector`, without the program's name.
pub fn detector(station: &Station) -> Vec<String> {
    let placement = &station.placement;
    line(&[
        ("-c", station.cluster_id.to_string()),
        ("-o", placement.core_base.to_string()),
        ("-n", placement.core_count.to_string()),
        ("-l", station.log_interval.as_secs().to_string()),
        ("-K", station.privkey.display().to_string()),
        ("-s", placement.skip_core.map_or("-1".to_owned(), |cpu| cpu.to_string())),
        ("-z", placement.queue_offset.to_string()),
    ])
    .into_iter()
    .chain(station.live_frames.then(|| "--live-frames".to_owned()))
    .collect()
}

/// What the kernel must offer before zbalance may start on the PF_RING back end: 512 huge pages,
/// and a ZC driver on each interface. `has_zc` looks an interface up.
///
/// # Errors
/// [`Problem`] with the remedy.
pub fn check_pf_ring(
    station: &Station,
    huge_pages: u64,
    has_zc: impl Fn(&str) -> bool,
) -> Result<(), Problem> {
    if station.backend != IngestBackend::PfRing {
        return Ok(());
    }
    if huge_pages < 512 {
        return Err(Problem {
            origin: Origin::Environment,
            key: "vm.nr_hugepages".to_owned(),
            found: huge_pages.to_string(),
            expected: "at least 512 (sysctl -w vm.nr_hugepages=512)".to_owned(),
        });
    }
    let names = station.interfaces.iter().map(|i| i.strip_prefix("zc:").unwrap_or(i));
    for name in names.filter(|name| !name.contains(':')) {
        if !has_zc(name) {
            return Err(Problem {
                origin: station.variables.origin("CJ_IFACE"),
                key: "CJ_IFACE".to_owned(),
                found: format!("{name}, whose driver is not a ZC driver"),
                expected: "an interface with its PF_RING ZC driver loaded".to_owned(),
            });
        }
    }
    Ok(())
}

fn line(options: &[(&str, String)]) -> Vec<String> {
    options.iter().flat_map(|(option, value)| [(*option).to_owned(), value.clone()]).collect()
}

/// Names of the network interfaces of this host.
fn available() -> String {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n != "lo").collect();
    names.sort();
    names.join(", ")
}
