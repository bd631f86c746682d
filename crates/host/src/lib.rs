//! The host of a station (`spec/operations.md` 7): what must be true of it before the daemons start.
//!
//! A [`Plan`] is the wanted state as data. [`Change`] compares it with the present state and holds the
//! steps that lead from one to the other; each step prints as the command that it is. A [`Record`] keeps
//! what was there before, so that [`undo`] can put it back.
#![forbid(unsafe_code)]

mod chains;
mod change;
mod conntrack;
mod failure;
mod firewall;
mod hugepages;
mod plan;
mod privilege;
mod record;
mod root;
mod route;
mod step;
pub mod tool;
mod tun;
mod undo;
mod user;

pub use chains::{
    Chain, REFERENCE_CHAINS, Tools, found as reference_chains, tools as iptables_tools,
    wanted as reference_rules,
};
pub use change::Change;
pub use conntrack::last_ack_seconds;
pub use failure::SetupError;
pub use firewall::{APPLICATION_PORT, Route, TABLE, nft_listing, nft_ruleset};
pub use hugepages::{
    HugePages, PAGE_KIB, Pool, buffers_memory, mount_points, needed as pages_needed, node_of, pools,
};
pub use plan::{PfRing, Plan, PlanError, Rules, taps};
pub use privilege::{Capability, has_capability};
pub use record::{Record, RecordError, Records};
pub use root::Root;
pub use route::{RouteError, addresses, default_interfaces, primary_address};
pub use step::{Action, Step, StepError};
pub use tun::{Device, Holder, devices, holders};
pub use undo::{Undo, plan as undo};
pub use user::{name_of, uid_of};
