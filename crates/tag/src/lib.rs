//! Tags of decoy registrations: a secret hidden in the ciphertext of one TLS record.
//!
//! The detector finds tags with a [`TagChecker`]; a client makes them with [`NewTag`]. Layout and
//! rules are those of `spec/detector.md` 7 to 9. No input can panic, and everything that depends
//! on a station key takes the same time for every key.
#![forbid(unsafe_code)]

mod aead;
mod check;
mod layout;
mod make;
mod message;
mod payload;
mod stego;

pub use check::{Reject, Tag, TagChecker};
pub use layout::{MIN_PAYLOAD, is_application_data};
pub use make::{NewTag, NewTagError, request_head};
pub use message::registration_message;
pub use payload::Malformed;
pub use stego::{decode as decode_stego, encode as encode_stego};
