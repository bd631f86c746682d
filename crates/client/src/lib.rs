//! A complete Conjure client: registers and connects.
