//! Typed configuration of the station: conjure.conf and the TOML files.
