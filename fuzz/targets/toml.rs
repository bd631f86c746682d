//! The three TOML files.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("fuzz.toml");
    let results = [
        conf::Application::parse(text, path).err(),
        conf::Detector::parse(text, path).err(),
        conf::Registrar::parse(text, path).err(),
    ];
    for problems in results.into_iter().flatten() {
        assert!(problems.to_string().contains("fuzz.toml"), "{problems}");
    }
});
