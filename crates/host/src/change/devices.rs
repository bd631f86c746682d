//! Tun devices: made, set up, given back, and never taken from whoever holds them.

use super::{Change, note};
use crate::Root;
use crate::failure::SetupError;
use crate::plan::Plan;
use crate::record::Record;
use crate::route::ip;
use crate::step::Step;
use crate::tun::{self, Device};

/// The routing table that the reference's set-up fills.
const REFERENCE_TABLE: [&str; 2] = ["200", "custom"];

impl Change {
    pub(super) fn tuns(
        &mut self,
        root: &Root,
        plan: &Plan,
        old: &Record,
    ) -> Result<(), SetupError> {
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

    /// The reference routes what a tun device brings by a table of its own, which nobody needs.
    pub(super) fn policy_rules(&mut self, tuns: &[String]) -> Result<(), SetupError> {
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
}

/// Refuses a device that somebody holds.
pub(crate) fn free(root: &Root, device: &Device, faults: Vec<String>) -> Result<(), SetupError> {
    let holders = tun::holders(root, &device.name);
    if holders.is_empty() && !device.carrier {
        return Ok(());
    }
    Err(SetupError::InUse { device: device.name.clone(), holders, faults })
}
