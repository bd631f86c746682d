//! Test networks: a client, an ISP with a tap, and the rest of the internet, in namespaces.
//!
//! ```text
//!  client ──── isp ════ tap ════ inet ──── decoy
//!                       │          └────── station eth0
//!                       └ p2 ───────────── station tap0
//! ```
//!
//! [`isolate::enter`] moves the process into namespaces of its own, rootless where the host allows
//! it; [`Lab::build`] then makes the network of `spec/lab.md` 2. Everything lives in those
//! namespaces, so nothing is left behind when the process ends, however it ends.
#![forbid(unsafe_code)]

pub mod isolate;
mod node;
mod topology;

pub use host::tool::CommandError;
pub use node::Node;
pub use topology::{Lab, LabError, address};
