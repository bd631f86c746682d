//! Codecs of the registration channels: what a registrar receives, answers and publishes, and what
//! a client sends (`spec/registrar.md` 4 to 7 and 11). No sockets, no clock; randomness is given.
#![forbid(unsafe_code)]

pub mod amp;
pub mod channel;
pub mod dns;
pub mod http;
pub mod message;
pub mod overrides;
pub mod request;
pub mod signing;
pub mod verifying;
