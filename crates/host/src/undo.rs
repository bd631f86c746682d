//! Removing what set-up made, and nothing else.

use crate::chains;
use crate::change::{free, shared};
use crate::failure::SetupError;
use crate::firewall::{Route, TABLE, nft_listing, nft_ruleset};
use crate::plan::Plan;
use crate::record::{Record, Records};
use crate::step::Step;
use crate::tool::CommandError;
use crate::{Root, tun};

/// The steps that take a station's set-up back.
#[derive(Debug, Clone)]
pub struct Undo {
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What an operator should know.
    pub remarks: Vec<String>,
    offset: u32,
    /// The record of a station that stays, with what it takes over.
    heir: Option<(Record, Option<String>)>,
}

/// Plans the removal of what set-up made for the station of `plan`, with the chains of
/// the reference if they are found.
///
/// # Errors
/// When the present state cannot be read, or a device is in use.
pub fn plan(root: &Root, plan: &Plan, records: &[Record]) -> Result<Undo, SetupError> {
    let own = records.iter().find(|record| record.offset == plan.offset).cloned();
    let others: Vec<&Record> = records.iter().filter(|r| r.offset != plan.offset).collect();
    let mut undo = Undo { steps: Vec::new(), remarks: Vec::new(), offset: plan.offset, heir: None };
    let present = tun::devices()?;
    let record = own.unwrap_or_else(|| {
        let left: Vec<&str> =
            plan.route.tuns.iter().filter(|t| present.contains_key(*t)).map(String::as_str).collect();
        if !left.is_empty() {
            undo.remarks.push(format!(
                "no record says that set-up made {}: left alone; remove with `ip tuntap del dev TUN mode tun`",
                left.join(", ")
            ));
        }
        Record::default()
    });
    undo.filter(root, &others, &record)?;
    for name in &record.made {
        if let Some(device) = present.get(name) {
            free(root, device, vec!["it is to be removed".to_owned()])?;
            undo.steps.push(tun::delete(format!("{name}: made by set-up"), device));
        }
    }
    for name in record.raised.iter().filter(|name| present.contains_key(*name)) {
        undo.steps
            .push(Step::run(format!("{name}: was down"), &format!("ip link set dev {name} down")));
    }
    let kept: Vec<&String> = shared(&record.settings).map(|(name, _)| name).collect();
    for (name, value) in &record.settings {
        let path = root.sysctl_path(name);
        if (others.is_empty() || !kept.contains(&name)) && path.exists() {
            undo.steps.push(Step::write(
                format!("{}: as it was", name.replace('/', ".")),
                path,
                value,
            ));
        }
    }
    if let Some(folder) =
        record.sockets.as_ref().filter(|folder| folder.exists() && others.is_empty())
    {
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            undo.remarks.push(format!("{} is not empty and stays", folder.display()));
        } else {
            let command = format!("rmdir {}", folder.display());
            undo.steps.push(Step::run("made by set-up", &command));
        }
    }
    if let Some(folder) = &record.mounted {
        let command = format!("umount {}", folder.display());
        undo.steps.push(Step::run("mounted by set-up", &command));
    }
    for (file, pages) in &record.pages {
        undo.steps.push(Step::write(
            "huge pages: as many as before",
            file.clone(),
            pages.to_string(),
        ));
    }
    if let Some(heir) = others.first() {
        let mut heir = (*heir).clone();
        for (name, value) in shared(&record.settings) {
            heir.settings.insert(name.clone(), value.clone());
        }
        heir.sockets = heir.sockets.or_else(|| record.sockets.clone());
        let routes: Vec<Route> = others.iter().map(|record| record.route.clone()).collect();
        let asked = heir.ruleset.is_some().then(|| nft_ruleset(&routes));
        undo.heir = Some((heir, asked));
    }
    Ok(undo)
}

impl Undo {
    fn filter(
        &mut self,
        root: &Root,
        others: &[&Record],
        record: &Record,
    ) -> Result<(), SetupError> {
        let listing = match nft_listing() {
            Err(CommandError::Missing { .. }) => None,
            listing => listing?,
        };
        let routes: Vec<Route> = others.iter().map(|record| record.route.clone()).collect();
        if listing.is_some() && routes.is_empty() {
            let command = format!("nft delete table {TABLE}");
            self.steps.push(Step::run("the rules of the station", &command));
        } else if listing.is_some() {
            let reason = "the rules of the other stations stay";
            self.steps.push(Step::feed(reason, "nft -f -", nft_ruleset(&routes)));
        }
        for tools in chains::tools(root) {
            let chains = chains::found(tools)?;
            if routes.is_empty() {
                self.steps.extend(chains::remove(&chains, &record.tables));
            } else if !chains.is_empty() {
                self.steps.extend(chains::make(tools, &chains, &routes));
            }
        }
        Ok(())
    }

    /// Makes the change, telling of each step before it.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn apply(&self, records: &Records, mut tell: impl FnMut(&Step)) -> Result<(), SetupError> {
        for step in &self.steps {
            tell(step);
            step.perform()?;
        }
        if let Some((heir, asked)) = &self.heir {
            let mut heir = heir.clone();
            if let Some(asked) = asked {
                heir.ruleset = nft_listing()?.map(|printed| (asked.clone(), printed));
            }
            records.save(&heir)?;
        }
        records.remove(self.offset)?;
        Ok(())
    }
}
