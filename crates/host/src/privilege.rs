//! Capabilities of this process.

use crate::Root;

/// A capability that host set-up or diagnosis may need; the value is its bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Changing the network.
    NetAdmin = 12,
    /// Raw and packet sockets.
    NetRaw = 13,
    /// Locking memory beyond the limit.
    IpcLock = 14,
    /// Looking into processes of other users.
    SysPtrace = 19,
    /// Mounting, huge pages.
    SysAdmin = 21,
}

impl Capability {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }
}

/// True when this process has `capability` in its effective set.
pub fn has_capability(root: &Root, capability: Capability) -> bool {
    let status = root.read("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (capability as u8) & 1 == 1)
}
