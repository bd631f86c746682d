//! `conjure.conf` and its override file, and the command lines that are built from them.
//!
//! What the reader does not understand it asks bash about. Random text must never get there, so
//! the search path leads nowhere.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use conf::{Precedence, Sources, Station, command_lines};
use libfuzzer_sys::fuzz_target;

static DIR: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|bytes: &[u8]| {
    let nowhere = DIR.path().join("nowhere");
    let path = ("PATH".to_owned(), nowhere.display().to_string());
    let (default, local) = bytes.split_at(bytes.len() * 2 / 3);
    let file = |name: &str, content: &[u8]| {
        let path = DIR.path().join(name);
        std::fs::write(&path, content).expect("a file in the temporary folder");
        Some(path)
    };
    let sources = Sources {
        default_file: file("conjure.conf", default),
        local_file: file("local.conf", local),
        environment: BTreeMap::from([path]),
        precedence: Precedence::Environment,
    };
    match Station::load(&sources) {
        Ok(station) => {
            let _ = command_lines::zbalance(&station.value);
            let _ = command_lines::detector(&station.value);
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
