//! What PF_RING needs beyond the network: huge pages, where they are mounted, and its driver.

use super::Change;
use crate::Root;
use crate::failure::SetupError;
use crate::hugepages::{self, mount_points};
use crate::plan::PfRing;
use crate::step::{Action, Step};

/// Where the reference's compose file expects huge pages.
const HUGE_FOLDER: &str = "/dev/hugepages";

impl Change {
    pub(super) fn pf_ring(&mut self, root: &Root, wanted: &PfRing) {
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

    /// Memory may be too fragmented for as many huge pages as were asked for.
    pub(super) fn pages_were_had(&self) -> Result<(), SetupError> {
        let Some((pool, wanted)) = &self.pages else { return Ok(()) };
        let text = std::fs::read_to_string(&pool.file).unwrap_or_default();
        let found = text.trim().parse().unwrap_or(0);
        if found < *wanted {
            let place = pool.file.display().to_string();
            return Err(SetupError::Pages { found, wanted: *wanted, place });
        }
        Ok(())
    }
}
