//! The DNS channel (`spec/registrar.md` 9 and 11.6): names, messages, encryption, parts, what a
//! responder answers and what a client asks. Bytes and time in, bytes out.

pub mod base32;
pub mod frame;
mod message;
mod name;
pub mod noise;
mod parts;
mod query;
mod responder;
pub mod retry;
pub mod weights;

pub use message::{Rcode, TYPE_TXT};
pub use name::{MAX_NAME, Name, NameError};
pub use parts::{Drops, MAX_PARTS, Parts, PartsLimits};
pub use query::{
    Answer, Asked, DEFAULT_MTU, PlanError, SplitRegistration, capacity, read_reply, split,
};
pub use responder::{Inquiry, Over, Payload, Read, Responder, SEALED_LIMIT, Unanswered};

/// Largest UDP payload that a responder sends and that a query must allow, in bytes.
pub const MAX_UDP: usize = 1232;
