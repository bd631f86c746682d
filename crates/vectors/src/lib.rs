//! Loads the conformance vectors for tests and counts the cases that ran.
//!
//! A vector file is read from the folder named by `CONJURE_VECTORS` when it is set, otherwise from
//! `testdata/vectors/` of this repository. A [`Tally`] prints `vectors FILE: N cases` when it is
//! finished and fails the test when no case ran, so an empty or renamed file cannot pass.
#![forbid(unsafe_code)]

use std::path::PathBuf;

pub use serde_json::{Value, json};

/// Path of the vector file `name` (for example `core-keys.json`).
pub fn path(name: &str) -> PathBuf {
    let dir = std::env::var_os("CONJURE_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors")),
        PathBuf::from,
    );
    dir.join(name)
}

/// Reads and parses the vector file `name`.
///
/// # Panics
/// When the file is missing or is not JSON: a test without its vectors has failed.
pub fn load(name: &str) -> Value {
    let path = path(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("vector file {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("vector file {}: {e}", path.display()))
}

/// Reads the vector file `name` into a type.
///
/// # Panics
/// As [`load`], and when the content does not have the shape of `T`.
pub fn load_as<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(load(name)).unwrap_or_else(|e| panic!("vector file {name}: {e}"))
}

/// Decodes a hexadecimal string value.
///
/// # Panics
/// When the value is not a string of hexadecimal digits.
pub fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("not a hex string: {value}"));
    hex::decode(text).unwrap_or_else(|e| panic!("not hex: {text}: {e}"))
}

/// Counts the cases of one vector file that ran.
#[derive(Debug)]
pub struct Tally {
    file: &'static str,
    cases: usize,
}

impl Tally {
    /// Starts counting the cases of `file`.
    pub const fn new(file: &'static str) -> Self {
        Self { file, cases: 0 }
    }

    /// Counts one case that ran and passed.
    pub const fn pass(&mut self) {
        self.cases += 1;
    }

    /// Prints the count.
    ///
    /// # Panics
    /// When no case ran.
    pub fn finish(self) {
        assert!(self.cases > 0, "vectors {}: no case ran", self.file);
        println!("vectors {}: {} cases", self.file, self.cases);
    }
}
