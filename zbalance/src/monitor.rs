//! Tools that look at the packets of a running balancer: [`count`] and [`dump`].
//!
//! By default they look through a mirror ([`view`]): no consumer loses a packet to them, and what they are too
//! slow for is theirs to lose.

pub mod count;
pub mod dump;
mod view;

pub use view::{View, ViewError};
