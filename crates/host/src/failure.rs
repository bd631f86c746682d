//! Why a host cannot be set up.

use crate::record::RecordError;
use crate::route::RouteError;
use crate::step::StepError;
use crate::tool::CommandError;
use crate::tun::Holder;

/// Why the host cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A device is held and is not what the station needs.
    #[error("{device} is in use by {} and does not fit: {}; stop it first, then run this again",
        list(.holders), .faults.join(", "))]
    InUse {
        /// The device.
        device: String,
        /// Who holds it, as far as could be seen.
        holders: Vec<Holder>,
        /// What is wrong with it.
        faults: Vec<String>,
    },
    /// An interface of that name is something else.
    #[error(
        "there is an interface {0} that is no tun device; rename it, or set OFFSET to another number"
    )]
    OtherKind(String),
    /// Two stations of this host want the same device.
    #[error(
        "{device} belongs to the station with OFFSET={other} on this host; a station takes \
         CJ_CORECOUNT + 1 devices: choose another OFFSET and CJ_QUEUE_OFFSET, or move the \
         application's device with CJ_DNAT_TUN"
    )]
    Overlap {
        /// The device.
        device: String,
        /// The other station.
        other: u32,
    },
    /// The huge pages could not all be had.
    #[error(
        "{found} of {wanted} huge pages could be reserved on {place}: memory is too fragmented; run \
         this early after boot, or put hugepages={wanted} on the kernel's command line"
    )]
    Pages {
        /// How many there are.
        found: u64,
        /// How many are needed.
        wanted: u64,
        /// The pool's file.
        place: String,
    },
    /// The present state cannot be read.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The record cannot be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "a process that this user may not see".to_owned();
    }
    holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ")
}
