//! How an interface is read, in one line.

use std::fmt;

use super::Hook;

/// How an interface is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Where the program runs.
    pub hook: Hook,
    /// The driver writes into our memory; otherwise the kernel copies once.
    pub zero_copy: bool,
    /// Packets longer than a frame are received.
    pub fragments: bool,
    /// Frames that are neither TCP nor UDP are dropped in the kernel.
    pub prefilter: bool,
    /// The program gives each packet to the socket of its queue of the detector.
    pub sorted: bool,
    /// Packets of live sessions go to the host in the kernel.
    pub fast_path: bool,
    /// Receive queues that are read.
    pub queues: u32,
    /// Entries of the rings of each.
    pub entries: u32,
    /// Better ways that were refused.
    pub refused: Vec<Refusal>,
}

/// A way to read an interface that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `native`, `zero copy` or `sorted`.
    pub way: &'static str,
    /// What the kernel says, or what is too much.
    pub cause: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::Native => "native",
            Hook::Generic => "generic",
        };
        let copy = if self.zero_copy { "zero copy" } else { "copy" };
        let Self { queues, entries, .. } = self;
        write!(f, "AF_XDP, {hook}, {copy}, {queues} queue(s), rings of {entries}")?;
        if self.prefilter {
            f.write_str(", prefilter")?;
        }
        if self.sorted {
            f.write_str(", sorted")?;
        }
        if self.fast_path {
            f.write_str(", fast path")?;
        }
        if !self.fragments {
            f.write_str(", no frames over one buffer")?;
        }
        self.refused.iter().try_for_each(|Refusal { way, cause }| write!(f, "; not {way}: {cause}"))
    }
}
