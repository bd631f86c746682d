//! Copying and splicing relays with accounting.
