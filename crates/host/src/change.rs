//! From the present state of a host to the wanted one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::SetupError;
use crate::firewall::{Route, nft_listing};
use crate::plan::Plan;
use crate::record::{Record, Records};
use crate::step::Step;
use crate::user::group_of;
use crate::{Root, hugepages};

mod devices;
mod pf_ring;
mod rules;
mod settings;

pub(crate) use devices::free;
pub(crate) use settings::shared;

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
        change.reverse_path(root);
        change.taps(root, &plan.route.taps);
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
        self.pages_were_had()
    }
}

fn note(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}
