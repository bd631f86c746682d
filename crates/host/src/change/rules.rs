//! Rules of the packet filter: our table, or the reference's chains.

use super::{Change, note};
use crate::Root;
use crate::chains::{self, Tools};
use crate::failure::SetupError;
use crate::firewall::{Route, TABLE, nft_listing, nft_ruleset};
use crate::plan::{Plan, Rules};
use crate::privilege::{Capability, has_capability};
use crate::record::Record;
use crate::step::Step;
use crate::tool::{self, CommandError};

impl Change {
    pub(super) fn filter(
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
}
