//! The capabilities that remain: an exact list, in every set of the process.

use std::fmt;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// A capability that a daemon of the station may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Packet sockets.
    NetRaw,
    /// Interfaces, and with [`Capability::Bpf`] XDP programs.
    NetAdmin,
    /// Loading programs into the kernel.
    Bpf,
    /// Ports below 1024.
    NetBindService,
    /// Locking more memory than the limit.
    IpcLock,
    /// Physical addresses, which drivers in user space need.
    SysAdmin,
    /// Files of other users, for a root that has no other capability.
    DacOverride,
}

impl Capability {
    const ALL: [Self; 7] = [
        Self::NetRaw,
        Self::NetAdmin,
        Self::Bpf,
        Self::NetBindService,
        Self::IpcLock,
        Self::SysAdmin,
        Self::DacOverride,
    ];

    const fn bit(self) -> CapabilitySet {
        match self {
            Self::NetRaw => CapabilitySet::NET_RAW,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::Bpf => CapabilitySet::BPF,
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
            Self::IpcLock => CapabilitySet::IPC_LOCK,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::DacOverride => CapabilitySet::DAC_OVERRIDE,
        }
    }

    /// Puts it into effect when the process has it without using it, as a program with permitted file
    /// capabilities does. What is not there is missed where it is needed, with the remedy.
    pub fn raise(self) {
        if let Ok(mut sets) = capabilities(None)
            && sets.permitted.contains(self.bit())
        {
            sets.effective |= self.bit();
            // The kernel grants what is permitted.
            let _ = set_capabilities(None, sets);
        }
    }

    /// Whether the calling thread has it in effect.
    pub fn is_held(self) -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(self.bit()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetRaw => "CAP_NET_RAW",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Bpf => "CAP_BPF",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
        })
    }
}

/// Gives up everything but `keep` and returns what of it the process has.
pub(crate) fn keep_only(keep: &[Capability]) -> Result<Vec<Capability>, Errno> {
    let wanted = keep.iter().fold(CapabilitySet::empty(), |sum, one| sum | one.bit());
    let held = capabilities(None)?;
    // A process that may not shrink its bounding set cannot gain anything from it either: it has
    // no new privileges any more.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            match capability_is_in_bounding_set(one) {
                Ok(true) if !wanted.contains(one) => remove_capability_from_bounding_set(one)?,
                Ok(_) => {}
                // Beyond the last one that the kernel knows.
                Err(_) => break,
            }
        }
    }
    clear_ambient_capability_set()?;
    let left = wanted & held.permitted;
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(Capability::ALL.into_iter().filter(|one| left.contains(one.bit())).collect())
}
