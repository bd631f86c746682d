//! What on a host keeps packets of live sessions from the way that a fast path gives them.

use std::fmt;

use crate::OpenError;
use crate::standby::Standby;

/// Why the packets that the kernel gives to the host would not reach the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgainstFastPath {
    /// The host drops what it would answer elsewhere.
    ReversePath {
        /// The setting.
        setting: String,
        /// Its value.
        value: String,
    },
    /// The card takes VLAN tags off, so that a frame of a VLAN looks like one without.
    VlansStripped {
        /// The interface.
        interface: String,
    },
}

impl fmt::Display for AgainstFastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReversePath { setting, value } => write!(
                f,
                "{setting} is {value}, so that the host drops packets of clients there: sysctl -w {setting}=0"
            ),
            Self::VlansStripped { interface } => write!(
                f,
                "its card takes VLAN tags off, with which the host drops packets: ethtool -K {interface} rxvlan off"
            ),
        }
    }
}

/// What keeps packets over IPv6 from the host; they come by the detector then.
pub(super) fn against_ipv6(interface: &str) -> Option<String> {
    let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim() == "0" => None,
        Ok(text) => {
            let interface = interface.replace('.', "/");
            Some(format!("net.ipv6.conf.{interface}.disable_ipv6 is {}", text.trim()))
        }
        Err(_) => Some("this host has no IPv6".to_owned()),
    }
}

/// What speaks against a fast path on `interface`; `None` when nothing does. Nothing is changed.
///
/// # Errors
/// When the interface does not exist or the process may not capture.
pub fn against_fast_path(interface: &str) -> Result<Option<AgainstFastPath>, OpenError> {
    let (standby, _) = Standby::join(interface)?;
    if standby.strips_vlans() {
        let interface = interface.to_owned();
        return Ok(Some(AgainstFastPath::VlansStripped { interface }));
    }
    // The larger of the two holds. A host without IPv4 has neither.
    let filters = ["all", interface].into_iter().find_map(|scope| {
        let file = format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter");
        let value = std::fs::read_to_string(file).ok()?.trim().to_owned();
        let setting = format!("net.ipv4.conf.{}.rp_filter", scope.replace('.', "/"));
        (value != "0").then_some(AgainstFastPath::ReversePath { setting, value })
    });
    Ok(filters)
}
