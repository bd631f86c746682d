//! The balancer as a producer of PF_RING ZC: it opens interfaces with a ZC driver in a cluster of ntop's library and
//! fills the queues of that cluster, whose consumers are those of `zbalance_ipc` (`spec/ingest.md` 3.2 and 4). How
//! packets are spread is the same as ever; the library's own hash is not used.

mod pump;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pfring::system::Device;
use pfring::{Cluster, Library, Settings};
use sandbox::{Capability, Sandbox};
use telemetry::process::{self, Signals};

use crate::arguments::Arguments;
use crate::balancer::Balancer;
use crate::cpu::{check_cores, online, pin};
use crate::daemon::{self, StartError};
use crate::live::Live;
use crate::log;
use pump::Pump;

/// Longest packet of an interface that does not tell.
const PACKET: u32 = 1536;
/// What an Ethernet frame has beside its payload: header and check sum.
const FRAMING: u32 = 18;
/// What the library takes (`spec/operations.md` 9.5), and the right to the station's folders, which are not root's.
const CAPABILITIES: [Capability; 5] = [
    Capability::SysAdmin,
    Capability::IpcLock,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::DacOverride,
];
/// How often the main thread looks whether it is time to end.
const LOOK: Duration = Duration::from_millis(20);

/// The library, when the sources are meant for it and it can read them; otherwise they are read as if they had no
/// `zc:` before their names, and the reason is said.
pub(crate) fn choose(arguments: &Arguments) -> Option<&'static Library> {
    let names = devices(arguments);
    if names.is_empty() {
        return None;
    }
    match usable(arguments, &names) {
        Ok(library) => {
            let version = library.version();
            log::say(format_args!("{}: PF_RING ZC {version}", names.join(", ")));
            Some(library)
        }
        Err(reason) => {
            log::say(format_args!("{}: not PF_RING: {reason}", names.join(", ")));
            None
        }
    }
}

/// The interfaces that are named as ZC devices, without queue numbers.
fn devices(arguments: &Arguments) -> Vec<&str> {
    let bare = |name: &&str| !name.is_empty() && !name.contains(':');
    let names = arguments.interfaces.iter().filter_map(|name| name.strip_prefix("zc:"));
    names.filter(bare).map(|name| name.split('@').next().unwrap_or(name)).collect()
}

/// The loaded library, or why it is not used.
fn usable(arguments: &Arguments, names: &[&str]) -> Result<&'static Library, String> {
    if names.len() < arguments.interfaces.len() {
        let reason = "other sources stand beside it, and a cluster has ZC devices alone (two balancers have a \
                      cluster each)";
        return Err(reason.to_owned());
    }
    let library = Library::load().map_err(|error| error.to_string())?;
    for name in names {
        match Device::of(name) {
            Some(device) if device.is_zero_copy() => {}
            Some(device) => {
                return Err(format!(
                    "the driver of {name} is not a ZC driver (Polling Mode: {}): pf_ringcfg --configure-driver, or \
                     station setup --driver",
                    device.polling
                ));
            }
            None => {
                return Err(format!(
                    "the module does not know {name} (no /proc/net/pf_ring/dev/{name}/info): is it up?"
                ));
            }
        }
    }
    Ok(library)
}

/// The cluster that the arguments describe.
fn settings(arguments: &Arguments) -> Settings {
    let first = devices(arguments).first().map(|name| (*name).to_owned()).unwrap_or_default();
    Settings {
        cluster: arguments.cluster,
        devices: arguments.interfaces.clone(),
        queues: arguments.queues.iter().sum(),
        slots: arguments.slots.next_power_of_two(),
        buffers: arguments.buffers.next_power_of_two(),
        packet: Device::of(&first).and_then(|device| device.slot).unwrap_or_else(|| frame(&first)),
        node: arguments.core(0, online()).map_or(-1, node),
        copies: arguments.queues.len() > 1 || arguments.mode.copies(),
    }
}

/// Longest frame of an interface by its MTU.
fn frame(interface: &str) -> u32 {
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok();
    let mtu: Option<u32> = mtu.and_then(|text| text.trim().parse().ok());
    mtu.map_or(PACKET, |mtu| mtu + FRAMING)
}

/// NUMA node of a CPU, -1 where there is none.
fn node(cpu: usize) -> i32 {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}"));
    let mut entries = entries.into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("node")?.parse().ok();
    entries.find_map(|entry| number(entry.file_name().to_str()?)).unwrap_or(-1)
}

/// Runs the balancer on `library` until it is told to end.
pub(crate) fn run(arguments: &Arguments, library: &'static Library) -> Result<(), StartError> {
    if arguments.take_over {
        return Err(StartError::OneProducer(arguments.cluster));
    }
    let (prefilter, fast_path) = (arguments.prefilter, arguments.fast_path);
    arguments
        .interfaces
        .iter()
        .for_each(|name| crate::stages::note_unstaged(name, prefilter, fast_path));
    let online = online();
    check_cores(arguments, online)?;
    let settings = settings(arguments);
    let live = Live::new(arguments)?;
    if arguments.check_config {
        // Making the cluster would take the interface away from whoever has it.
        let (buffers, memory) = (settings.total(), settings.memory() >> 20);
        let text = format_args!("{buffers} buffers, {memory} MiB; configuration good");
        log::say(text);
        return Ok(());
    }
    CAPABILITIES.into_iter().for_each(Capability::raise);
    for note in profile(arguments).enter()?.notes {
        log::warn(note);
    }
    let mut cluster = Cluster::create(library, &settings)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let signals = runtime.block_on(async { Signals::install() })?.user1_reloads();
    let own_log = daemon::own_files(arguments)?;
    let names = arguments.interfaces.clone();
    let balancer = Arc::new(Balancer::new(arguments, names, live, &stop));
    daemon::serve_operator(&runtime, signals, &balancer);
    log::say(format_args!("Starting balancer with {} consumer queues..", settings.queues));
    for id in cluster.queue_ids() {
        log::say(format_args!("queue {id}: detector -i zc:{}@{id}", arguments.cluster));
    }
    let distribution = daemon::distribution(arguments, &balancer.live);
    let core = arguments.core(0, online);
    let earliest = Instant::now() + Duration::from_secs(arguments.wait.min(10));
    let mut pump = Pump::new(&balancer, distribution, arguments, unlicensed(arguments));
    let thread = std::thread::Builder::new().name("ingest-0".to_owned()).spawn(move || {
        if let Err(error) = pin(core) {
            // It was possible a moment ago: somebody has just taken the CPU away.
            log::warn(format_args!("no longer bound: {error}"));
        }
        pump.wait_until(earliest);
        let ended = pump.run(&mut cluster);
        pump.publish(&cluster);
        ended
    })?;
    daemon::announce(arguments, own_log.as_ref())?;
    while !stop.load(Ordering::Relaxed) && !thread.is_finished() {
        balancer.beats.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(LOOK);
    }
    stop.store(true, Ordering::Relaxed);
    process::stopping();
    // A thread that panicked has said so.
    let ended = thread.join().unwrap_or(Ok(()));
    daemon::leave(arguments, &balancer);
    Ok(ended?)
}

/// The interfaces that have no licence.
fn unlicensed(arguments: &Arguments) -> Vec<String> {
    let names = devices(arguments).into_iter();
    let without = |name: &&str| Device::of(name).is_none_or(|device| !device.is_licensed());
    names.filter(without).map(str::to_owned).collect()
}

/// The bounds of a balancer that uses ntop's library: its capabilities alone.
fn profile(arguments: &Arguments) -> Sandbox {
    let profile = Sandbox::new("zbalance").user(arguments.user.clone());
    CAPABILITIES.into_iter().fold(profile.closed_library("PF_RING's library"), Sandbox::keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn arguments(line: &str) -> Arguments {
        Arguments::try_parse_from(format!("z {line}").split(' ')).unwrap()
    }

    #[test]
    fn only_bare_names_after_the_prefix_are_devices() {
        let of = |line: &str| {
            devices(&arguments(line)).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("-i zc:eth1,zc:eth2@3 -n 1"), ["eth1", "eth2"]);
        assert_eq!(of("-i eth1 -n 1"), [""; 0]);
        // The start script of the reference puts zc: before whatever there is.
        assert_eq!(of("-i zc:afp:eth1,zc:pcap:/tmp/a.pcap,zc: -n 1"), [""; 0]);
    }

    #[test]
    fn the_cluster_follows_the_command_line() {
        let made = settings(&arguments("-i zc:eth1,zc:eth2 -c 98 -n 4,2 -q 5000 -b 20 -g -1"));
        assert_eq!((made.cluster, made.queues, made.slots, made.buffers), (98, 6, 8192, 32));
        assert_eq!((made.devices.len(), made.node, made.copies), (2, -1, true));
        assert_eq!(made.packet, PACKET);
        assert!(!settings(&arguments("-i zc:eth1 -n 4 -m rr")).copies);
        assert!(settings(&arguments("-i zc:eth1 -n 4 -m all")).copies);
        assert!(settings(&arguments("-i zc:eth1 -n 4 -m all-rr")).copies);
    }
}
