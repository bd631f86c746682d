//! From the present state of a host to the wanted one.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Root;
use crate::chains::{self, Tools};
use crate::conntrack::last_ack_seconds;
use crate::firewall::{Route, TABLE, nft_listing, nft_ruleset};
use crate::hugepages::{self, mount_points};
use crate::plan::{PfRing, Plan, Rules};
use crate::privilege::{Capability, has_capability};
use crate::record::{Record, RecordError, Records};
use crate::route::{RouteError, ip};
use crate::step::{Action, Step, StepError};
use crate::tool::{self, CommandError};
use crate::tun::{self, Device, Holder};
use crate::user::group_of;

const LAST_ACK: &str = "net/netfilter/nf_conntrack_tcp_timeout_last_ack";
const ALL_RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";
/// Where the reference's compose file expects huge pages.
const HUGE_FOLDER: &str = "/dev/hugepages";
/// The routing table that the reference's set-up fills.
const REFERENCE_TABLE: [&str; 2] = ["200", "custom"];

/// Why the host cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A device is held and is not what the station needs.
    #[error("{device} is in use by {} and does not fit: {}; stop it first, then run this again",
        list(.holders), .faults.join(", "))]
    InUse {
        /// The device.
        device: String,
        /// Who holds it, as far as could be seen.
        holders: Vec<Holder>,
        /// What is wrong with it.
        faults: Vec<String>,
    },
    /// An interface of that name is something else.
    #[error(
        "there is an interface {0} that is no tun device; rename it, or set OFFSET to another number"
    )]
    OtherKind(String),
    /// Two stations of this host want the same device.
    #[error(
        "{device} belongs to the station with OFFSET={other} on this host; a station takes \
         CJ_CORECOUNT + 1 devices: choose another OFFSET and CJ_QUEUE_OFFSET, or move the \
         application's device with CJ_DNAT_TUN"
    )]
    Overlap {
        /// The device.
        device: String,
        /// The other station.
        other: u32,
    },
    /// The huge pages could not all be had.
    #[error(
        "{found} of {wanted} huge pages could be reserved on {place}: memory is too fragmented; run \
         this early after boot, or put hugepages={wanted} on the kernel's command line"
    )]
    Pages {
        /// How many there are.
        found: u64,
        /// How many are needed.
        wanted: u64,
        /// The pool's file.
        place: String,
    },
    /// The present state cannot be read.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The record cannot be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "a process that this user may not see".to_owned();
    }
    holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ")
}

/// The steps from the present state to the wanted one.
#[derive(Debug, Clone)]
pub struct Change {
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What an operator should know.
    pub remarks: Vec<String>,
    record: Record,
    ruleset: Option<String>,
    pages: Option<(hugepages::Pool, u64)>,
}

impl Change {
    /// Compares the host with `plan`. `records` tell what earlier set-ups made.
    ///
    /// # Errors
    /// When the present state cannot be read, or stands in the way.
    pub fn compute(root: &Root, plan: &Plan, records: &[Record]) -> Result<Self, SetupError> {
        let (own, others): (Vec<&Record>, Vec<&Record>) =
            records.iter().partition(|record| record.offset == plan.offset);
        for other in &others {
            if let Some(device) = plan.route.tuns.iter().find(|t| other.route.tuns.contains(t)) {
                return Err(SetupError::Overlap { device: device.clone(), other: other.offset });
            }
        }
        let old = own.first().map(|r| (*r).clone()).unwrap_or_default();
        let mut change = Self {
            steps: Vec::new(),
            remarks: plan.remarks.clone(),
            record: Record { offset: plan.offset, route: plan.route.clone(), ..old.clone() },
            ruleset: None,
            pages: None,
        };
        change.tuns(root, plan, &old)?;
        change.setting(
            root,
            ALL_RP_FILTER,
            "0",
            "the kernel takes the larger of all and the device",
        );
        let routes: Vec<Route> =
            others.iter().map(|record| record.route.clone()).chain([plan.route.clone()]).collect();
        change.filter(root, plan, &routes, &old)?;
        change.last_ack(root);
        change.policy_rules(&plan.route.tuns)?;
        if let Some(folder) = &plan.sockets {
            change.sockets(root, folder, plan.owner);
        }
        if let Some(pf_ring) = &plan.pf_ring {
            change.pf_ring(root, pf_ring);
        }
        Ok(change)
    }

    fn tuns(&mut self, root: &Root, plan: &Plan, old: &Record) -> Result<(), SetupError> {
        let present = tun::devices()?;
        let links = ip(&["link", "show"])?;
        for name in &plan.route.tuns {
            let device = present.get(name);
            if device.is_none() && links.iter().any(|l| l["ifname"] == name.as_str()) {
                return Err(SetupError::OtherKind(name.clone()));
            }
            let made = self.device(root, name, device, plan)?;
            if made || device.is_some_and(|device| !device.up) {
                let reason = format!("{name}: up");
                self.steps.push(Step::run(reason, &format!("ip link set dev {name} up")));
                if !made && !self.record.made.contains(name) {
                    note(&mut self.record.raised, name);
                }
            }
            let setting = format!("net/ipv4/conf/{name}/rp_filter");
            let reason = "phantoms' sources have no route back by this device";
            if made {
                self.write(root, &setting, "0", reason);
            } else {
                self.setting(root, &setting, "0", reason);
            }
        }
        // A station that became smaller gives its devices back.
        for name in old.made.iter().filter(|name| !plan.route.tuns.contains(name)) {
            self.record.made.retain(|made| made != name);
            if let Some(device) = present.get(name) {
                free(root, device, vec!["it is not configured any more".to_owned()])?;
                self.steps.push(tun::delete(format!("{name}: not configured any more"), device));
            }
        }
        Ok(())
    }

    /// Makes the device when it is not there or does not fit; true when it is made.
    fn device(
        &mut self,
        root: &Root,
        name: &str,
        device: Option<&Device>,
        plan: &Plan,
    ) -> Result<bool, SetupError> {
        if let Some(device) = device {
            let faults = device.faults(plan.owner);
            if faults.is_empty() {
                return Ok(false);
            }
            let reason = format!("{name} does not fit: {}", faults.join(", "));
            free(root, device, faults)?;
            self.steps.push(tun::delete(reason, device));
        }
        self.steps.push(tun::create(name, plan.owner));
        self.record.raised.retain(|raised| raised != name);
        note(&mut self.record.made, name);
        Ok(true)
    }

    fn write(&mut self, root: &Root, setting: &str, value: &str, reason: &str) {
        let path = root.path(format!("/proc/sys/{setting}"));
        self.steps.push(Step::write(
            format!("{}: {reason}", setting.replace('/', ".")),
            path,
            value,
        ));
    }

    /// Sets a kernel setting and notes what it was, unless it is that already.
    fn setting(&mut self, root: &Root, setting: &str, value: &str, reason: &str) {
        let present = root.sysctl(setting);
        if present.as_deref() == Some(value) {
            return;
        }
        if let Some(present) = present {
            self.record.settings.entry(setting.to_owned()).or_insert(present);
        }
        self.write(root, setting, value, reason);
    }

    fn last_ack(&mut self, root: &Root) {
        let number = |name: &str, default| {
            root.number(format!("/proc/sys/net/ipv4/{name}")).unwrap_or(default)
        };
        let needed = last_ack_seconds(number("tcp_retries2", 15), number("tcp_orphan_retries", 0));
        // The setting appears with the module, which the rules bring.
        let present = root.sysctl(LAST_ACK).and_then(|text| text.parse::<u64>().ok());
        if present.is_none_or(|present| present < needed) {
            let reason = "a connection is remembered longer than its last FIN is sent again";
            self.setting(root, LAST_ACK, &needed.to_string(), reason);
        }
    }

    fn filter(
        &mut self,
        root: &Root,
        plan: &Plan,
        routes: &[Route],
        old: &Record,
    ) -> Result<(), SetupError> {
        let listing = match nft_listing() {
            Ok(listing) => listing,
            Err(CommandError::Missing { .. }) if plan.rules == Rules::Iptables => None,
            Err(_) if !has_capability(root, Capability::NetAdmin) => {
                self.remarks.push(
                    "the packet filter cannot be read without CAP_NET_ADMIN: shown as if there were no \
                     rules"
                        .to_owned(),
                );
                None
            }
            Err(error) => return Err(error.into()),
        };
        match plan.rules {
            Rules::Nftables => {
                let wanted = nft_ruleset(routes);
                let same = old.ruleset.as_ref().is_some_and(|(asked, printed)| {
                    *asked == wanted && Some(printed) == listing.as_ref()
                });
                if !same {
                    let reason = "phantom traffic to the application; nothing else reaches its port, and \
                                  no reply leaves with the station's address";
                    self.steps.push(Step::feed(reason, "nft -f -", wanted.clone()));
                    self.ruleset = Some(wanted);
                }
                if has_capability(root, Capability::NetAdmin) {
                    for tools in chains::tools(root) {
                        let chains = chains::found(tools)?;
                        self.steps.extend(chains::remove(&chains, &self.record.tables));
                    }
                }
            }
            Rules::Iptables => {
                self.remarks.push(
                    "with --iptables the host has only the reference's chains: port 41245 is open to \
                     everybody, and nothing stops a reply whose translation is forgotten"
                        .to_owned(),
                );
                self.iptables(root, routes)?;
                if listing.is_some() {
                    let reason = "the chains of the reference are used instead";
                    self.steps.push(Step::run(reason, &format!("nft delete table {TABLE}")));
                }
                self.record.ruleset = None;
            }
        }
        Ok(())
    }

    fn iptables(&mut self, root: &Root, routes: &[Route]) -> Result<(), SetupError> {
        let tables = tool::output("nft", &["list", "tables"]).unwrap_or_default();
        for family in ["iptables", "ip6tables"] {
            let known = chains::tools(root).into_iter().find(|tools| tools.program == family);
            let Some(tools) = known else {
                return Err(CommandError::Missing {
                    tool: family.to_owned(),
                    package: tool::package(family),
                }
                .into());
            };
            let present = if has_capability(root, Capability::NetAdmin) {
                chains::found(tools)?
            } else {
                Vec::new()
            };
            self.steps.extend(chains::make(tools, &present, routes));
            self.note_tables(tools, &tables);
        }
        Ok(())
    }

    fn note_tables(&mut self, tools: Tools, present: &str) {
        for (table, _, _) in chains::REFERENCE_CHAINS {
            let name = format!("{} {table}", if tools.v6 { "ip6" } else { "ip" });
            if tools.nftables && !present.lines().any(|line| line == format!("table {name}")) {
                note(&mut self.record.tables, &name);
            }
        }
    }

    /// The reference routes what a tun device brings by a table of its own, which nobody needs.
    fn policy_rules(&mut self, tuns: &[String]) -> Result<(), SetupError> {
        for rule in ip(&["rule", "show"])? {
            let (Some(device), Some(table)) = (rule["iif"].as_str(), rule["table"].as_str()) else {
                continue;
            };
            if tuns.iter().any(|tun| tun == device) && REFERENCE_TABLE.contains(&table) {
                let reason = "the reference's routing rule is not needed";
                self.steps
                    .push(Step::run(reason, &format!("ip rule del iif {device} lookup {table}")));
            }
        }
        Ok(())
    }

    /// Daemons without privilege cannot make their folder themselves.
    fn sockets(&mut self, root: &Root, folder: &Path, owner: Option<u32>) {
        let place = root.path(folder);
        let present = std::fs::metadata(&place).ok();
        let fits = |uid: u32| owner.is_none_or(|owner| owner == uid);
        if present.as_ref().is_some_and(|meta| fits(meta.uid())) {
            return;
        }
        let place = place.display();
        if present.is_none() {
            self.record.sockets = Some(root.path(folder));
            let command = format!("install -d -m 0755 {place}");
            self.steps.push(Step::run("folder of the daemons' sockets", &command));
        }
        if let Some(uid) = owner {
            let command = format!("chown {uid}:{} {place}", group_of(root, uid));
            self.steps.push(Step::run("it belongs to the user of the daemons", &command));
        }
    }

    fn pf_ring(&mut self, root: &Root, wanted: &PfRing) {
        let pool = hugepages::pools(root).into_iter().find(|pool| pool.node == wanted.pages.node);
        match pool {
            Some(pool) if pool.total < wanted.pages.pages => {
                let reason = match pool.node {
                    Some(node) => {
                        format!("huge pages for frames, on NUMA node {node} of the interface")
                    }
                    None => "huge pages for frames".to_owned(),
                };
                let value = wanted.pages.pages.to_string();
                self.steps.push(Step::write(reason, pool.file.clone(), value));
                self.record.pages.entry(pool.file.clone()).or_insert(pool.total);
                self.pages = Some((pool, wanted.pages.pages));
            }
            Some(_) => {}
            None => self
                .remarks
                .push("this kernel has no huge pages of 2 MiB; PF_RING ZC cannot work".to_owned()),
        }
        if mount_points(root).is_empty() {
            let folder = root.path(HUGE_FOLDER);
            if !folder.exists() {
                let action = Action::MakeFolder(folder.clone());
                self.steps.push(Step { reason: "a place for huge pages".to_owned(), action });
            }
            let command = format!("mount -t hugetlbfs nodev {}", folder.display());
            self.steps.push(Step::run("PF_RING takes huge pages from a file system", &command));
            self.record.mounted = Some(folder);
        }
        if let Some(driver) = &wanted.driver {
            let command = format!("pf_ringcfg --configure-driver {driver} --rss-queues 1");
            self.steps.push(Step::run("the zero-copy driver of the capture interface", &command));
        } else {
            self.remarks.push(
                "the PF_RING driver is left as it is; --driver configures and reloads the one that \
                 PF_DRIVER names, which interrupts every interface of that driver"
                    .to_owned(),
            );
        }
    }

    /// Makes the change, telling of each step before it, and keeps a record of it.
    ///
    /// # Errors
    /// At the first step that fails; what was done before stays and is on record.
    pub fn apply(&self, records: &Records, mut tell: impl FnMut(&Step)) -> Result<(), SetupError> {
        let mut record = self.record.clone();
        records.save(&record)?;
        for step in &self.steps {
            tell(step);
            step.perform()?;
        }
        if let Some(asked) = &self.ruleset {
            record.ruleset = nft_listing()?.map(|printed| (asked.clone(), printed));
            records.save(&record)?;
        }
        if let Some((pool, wanted)) = &self.pages {
            let text = std::fs::read_to_string(&pool.file).unwrap_or_default();
            let found = text.trim().parse().unwrap_or(0);
            if found < *wanted {
                let place = pool.file.display().to_string();
                return Err(SetupError::Pages { found, wanted: *wanted, place });
            }
        }
        Ok(())
    }
}

/// Refuses a device that somebody holds.
pub(crate) fn free(root: &Root, device: &Device, faults: Vec<String>) -> Result<(), SetupError> {
    let holders = tun::holders(root, &device.name);
    if holders.is_empty() && !device.carrier {
        return Ok(());
    }
    Err(SetupError::InUse { device: device.name.clone(), holders, faults })
}

fn note(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// Settings of a record that concern the whole host, not one of its own devices.
pub(crate) fn shared(
    settings: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&String, &String)> {
    settings.iter().filter(|(name, _)| [LAST_ACK, ALL_RP_FILTER].contains(&name.as_str()))
}
