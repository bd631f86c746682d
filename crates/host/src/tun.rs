//! Tun devices that are there, and who holds them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::route::{RouteError, ip};
use crate::user::lookup;
use crate::{Root, Step};

/// A tun or tap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// It carries IP packets, not Ethernet frames.
    pub tun: bool,
    /// Several readers may attach.
    pub multi_queue: bool,
    /// Each packet has a header with its protocol before it.
    pub packet_info: bool,
    /// It stays when nobody holds it.
    pub persistent: bool,
    /// The only user, beside administrators, who may open it.
    pub owner: Option<u32>,
    /// It is set up.
    pub up: bool,
    /// A process holds it, as far as its link state tells; a device that is down shows nothing.
    pub carrier: bool,
}

impl Device {
    fn read(link: &Value) -> Option<Self> {
        let name = link["ifname"].as_str()?.to_owned();
        let data = &link["linkinfo"]["info_data"];
        let flag = |name: &str| {
            link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == name))
        };
        // ip prints a user by name where it knows one.
        let owner = match &data["user"] {
            Value::String(user) => user.parse().ok().or_else(|| lookup(user)),
            Value::Number(uid) => uid.as_u64().and_then(|uid| u32::try_from(uid).ok()),
            _ => None,
        };
        Some(Self {
            name,
            tun: data["type"] == "tun",
            multi_queue: data["multi_queue"] == true,
            packet_info: data["pi"] == true,
            persistent: data["persist"] == true,
            owner,
            up: flag("UP"),
            carrier: flag("LOWER_UP"),
        })
    }

    /// What keeps the device from being what the station needs; empty when it fits.
    pub fn faults(&self, owner: Option<u32>) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.tun {
            faults.push("it is a tap device".to_owned());
        }
        if self.multi_queue {
            faults.push("it has several queues".to_owned());
        }
        if self.packet_info {
            faults.push("it prefixes packets with information".to_owned());
        }
        if !self.persistent {
            faults.push("it goes with the process that holds it".to_owned());
        }
        if self.owner != owner {
            let who =
                |uid: Option<u32>| uid.map_or("nobody".to_owned(), |uid| format!("uid {uid}"));
            faults.push(format!("it belongs to {}, not to {}", who(self.owner), who(owner)));
        }
        faults
    }
}

/// A process that holds a tun device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.command, self.pid)
    }
}

/// The tun and tap devices of this network namespace by name.
///
/// # Errors
/// When `ip` fails.
pub fn devices() -> Result<BTreeMap<String, Device>, RouteError> {
    let links = ip(&["-d", "link", "show", "type", "tun"])?;
    let devices = links.iter().filter_map(Device::read);
    Ok(devices.map(|device| (device.name.clone(), device)).collect())
}

/// Processes that hold the device `name` in the network namespace of this thread, as far as this user
/// may look into them.
pub fn holders(root: &Root, name: &str) -> Vec<Holder> {
    let namespace = |of: &str| std::fs::read_link(root.path(format!("/proc/{of}/ns/net"))).ok();
    let own = namespace("thread-self");
    let wanted = format!("iff:\t{name}");
    let pids = root.list("/proc").into_iter().filter_map(|pid| pid.parse::<u32>().ok());
    pids.filter(|pid| namespace(&pid.to_string()) == own)
        .filter(|pid| {
            let folder = format!("/proc/{pid}/fdinfo");
            root.list(&folder).iter().any(|fd| {
                let text = root.read(format!("{folder}/{fd}")).unwrap_or_default();
                text.lines().any(|line| line == wanted)
            })
        })
        .map(|pid| {
            let command = root.read(format!("/proc/{pid}/comm")).unwrap_or_default();
            Holder { pid, command: command.trim().to_owned() }
        })
        .collect()
}

/// The commands that make a device as the station needs it.
pub(crate) fn create(name: &str, owner: Option<u32>) -> Step {
    let user = owner.map(|uid| format!(" user {uid}")).unwrap_or_default();
    let reason = format!("{name}: phantom traffic of one worker enters the host here");
    Step::run(reason, &format!("ip tuntap add dev {name} mode tun{user}"))
}

pub(crate) fn delete(reason: String, device: &Device) -> Step {
    let mode = if device.tun { "tun" } else { "tap" };
    let queues = if device.multi_queue { " multi_queue" } else { "" };
    Step::run(reason, &format!("ip tuntap del dev {} mode {mode}{queues}", device.name))
}
