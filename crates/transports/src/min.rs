//! Min: the identifier of the registration, then raw bytes (`spec/transports.md` 5).

use keys::SharedSecret;

/// Length of the tag.
pub const TAG_LEN: usize = 32;

/// What a client sends before its own bytes, in a write of its own.
pub fn opening(secret: &SharedSecret) -> [u8; TAG_LEN] {
    secret.min_identifier()
}

/// The tag at the front of `received`; `None` while too little has arrived.
pub fn tag(received: &[u8]) -> Option<&[u8; TAG_LEN]> {
    received.first_chunk()
}
