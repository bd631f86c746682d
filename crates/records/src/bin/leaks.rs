//! Searches the records of the suite for clients and secrets: `leaks FOLDER [PART…]`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use records::search::{Part, SearchError};

const HELP: &str = "\
usage: leaks FOLDER [PART…]

Searches the records that the suite's runs left in FOLDER (CONJURE_RECORDS) for the clients and secrets that
they planted. Each PART (run, test, …) must be there; without a name, what is there is searched.

exit status: 0 nothing found; 1 something found; 64 wrong usage; 66 there is nothing to search";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next().filter(|argument| !argument.starts_with('-')) else {
        let asked = std::env::args().any(|argument| argument == "--help");
        if asked {
            println!("{HELP}");
        } else {
            eprintln!("{HELP}");
        }
        return ExitCode::from(if asked { 0 } else { 64 });
    };
    match all(Path::new(&folder), &arguments.collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("leaks: {error}");
            ExitCode::from(66)
        }
    }
}

fn all(folder: &Path, wanted: &[String]) -> Result<u8, SearchError> {
    let mut parts = Vec::new();
    for path in folders(folder, wanted)? {
        let part = Part::search(&path)?;
        println!("leaks: {part}");
        parts.push(part);
    }
    let faults: Vec<String> = parts.iter().flat_map(Part::faults).collect();
    for fault in &faults {
        eprintln!("leaks: {fault}");
    }
    let sum = |count: fn(&Part) -> usize| parts.iter().map(count).sum::<usize>();
    let (addresses, secrets) = (sum(|part| part.found()[0]), sum(|part| part.found()[1]));
    println!(
        "leaks: {} files, {} lines: {addresses} client addresses, {secrets} secrets found",
        sum(|part| part.searched[0]),
        sum(|part| part.searched[1]),
    );
    if parts.is_empty() {
        eprintln!(
            "leaks: {} holds no records; let runs of the suite leave some: make run, make test, …",
            folder.display()
        );
    }
    Ok(match (addresses + secrets, faults.len() + usize::from(parts.is_empty())) {
        (1.., _) => 1,
        (0, 1..) => 66,
        (0, 0) => 0,
    })
}

/// The parts that were named, or those that are there.
fn folders(folder: &Path, wanted: &[String]) -> Result<Vec<PathBuf>, SearchError> {
    if !wanted.is_empty() {
        return Ok(wanted.iter().map(|name| folder.join(name)).collect());
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut all: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    all.sort();
    Ok(all)
}
