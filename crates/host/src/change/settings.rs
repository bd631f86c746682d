//! Kernel settings of the network, and what they were.

use std::collections::BTreeMap;

use super::Change;
use crate::Root;
use crate::conntrack::last_ack_seconds;
use crate::step::Step;

const LAST_ACK: &str = "net/netfilter/nf_conntrack_tcp_timeout_last_ack";
const ALL_RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";

impl Change {
    pub(super) fn write(&mut self, root: &Root, setting: &str, value: &str, reason: &str) {
        let path = root.sysctl_path(setting);
        self.steps.push(Step::write(
            format!("{}: {reason}", setting.replace('/', ".")),
            path,
            value,
        ));
    }

    /// Sets a kernel setting and notes what it was, unless it is that already.
    pub(super) fn setting(&mut self, root: &Root, setting: &str, value: &str, reason: &str) {
        let present = root.sysctl(setting);
        if present.as_deref() == Some(value) {
            return;
        }
        if let Some(present) = present {
            self.record.settings.entry(setting.to_owned()).or_insert(present);
        }
        self.write(root, setting, value, reason);
    }

    pub(super) fn reverse_path(&mut self, root: &Root) {
        self.setting(root, ALL_RP_FILTER, "0", "the kernel takes the larger of all and the device");
    }

    /// Clients have no route back by a tap.
    pub(super) fn taps(&mut self, root: &Root, taps: &[String]) {
        for name in taps {
            let setting = format!("net/ipv4/conf/{name}/rp_filter");
            self.setting(root, &setting, "0", "CJ_FAST_PATH: packets of sessions come by this tap");
        }
    }

    pub(super) fn last_ack(&mut self, root: &Root) {
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
}

/// Settings of a record that concern the whole host, not one of its own devices.
pub(crate) fn shared(
    settings: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&String, &String)> {
    settings.iter().filter(|(name, _)| [LAST_ACK, ALL_RP_FILTER].contains(&name.as_str()))
}
