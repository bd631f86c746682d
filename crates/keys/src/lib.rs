//! Station key files, key schedule and registration identifiers.
