//! Running rows and writing them down.

use crate::ROWS;
use crate::measure::medians;
use crate::{forwarding, http, relaying, ring};
use serde::Serialize;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: bench [--only NAME,…] [--list]

Prints `bench NAME ours=… baseline=… ratio=…` for every hot path and writes target/bench.json.
";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every row was measured.
    Done,
    /// A baseline did not land where it should, so its row says nothing.
    Void,
    /// A row could not be measured on this host.
    Unavailable,
    /// Wrong command line.
    Usage,
    /// The result could not be written.
    Output,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Void => 65,
            Outcome::Unavailable => 69,
            Outcome::Usage => 64,
            Outcome::Output => 74,
        })
    }
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    ours: f64,
    unit: &'static str,
    baseline: Option<f64>,
    baseline_name: &'static str,
    ratio: Option<f64>,
}

/// Measures what the `words` of the command line ask for.
pub fn run(words: impl Iterator<Item = String>) -> Outcome {
    let only = match parse(words) {
        Ok(Some(only)) => only,
        Ok(None) => return Outcome::Done,
        Err(text) => {
            eprintln!("bench: {text}\n{USAGE}");
            return Outcome::Usage;
        }
    };
    pin();
    let mut lines = Vec::new();
    let mut outcome = Outcome::Done;
    for (name, make) in ROWS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut row = match make() {
            Ok(row) => row,
            Err(reason) => {
                eprintln!("bench {name}: {reason}");
                outcome = Outcome::Unavailable;
                continue;
            }
        };
        let (ours, baseline) = medians(&mut row);
        let ratio = baseline.map(|baseline| ours / baseline);
        let (unit, baseline_name) = (row.unit, row.baseline_name);
        let void = row
            .plausible
            .zip(baseline)
            .is_some_and(|((low, high), baseline)| !(low..=high).contains(&baseline));
        let remark = if void { " void: the baseline is implausible" } else { "" };
        match (baseline.zip(ratio), &row.baseline) {
            (Some((baseline, ratio)), _) => println!(
                "bench {name} ours={ours:.1}{unit} baseline={baseline:.1}{unit} ratio={ratio:.3} \
                 ({baseline_name}){remark}"
            ),
            (None, missing) => {
                let what = missing.as_ref().err().map_or("baseline", |what| what);
                println!(
                    "bench {name} ours={ours:.1}{unit} baseline=missing ({what}) \
                     ({baseline_name})"
                );
            }
        }
        if void && outcome == Outcome::Done {
            outcome = Outcome::Void;
        }
        lines.push(Line { name, ours, unit, baseline, baseline_name, ratio });
    }
    match write(&lines) {
        Ok(()) => outcome,
        Err(error) => {
            eprintln!("bench: target/bench.json: {error}");
            Outcome::Output
        }
    }
}

/// The rows that are wanted, none for all; `None` when only a list was asked for.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Vec<String>>, String> {
    let mut only = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => {
                let names = words.next().ok_or("--only needs names")?;
                only.extend(names.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            }
            "--list" => {
                ROWS.iter().for_each(|(name, _)| println!("{name}"));
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(None);
            }
            "--version" => {
                println!("bench {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            ring::CONSUMER => {
                ring::consume(words.next().ok_or("no folder given")?.into());
                return Ok(None);
            }
            http::REGISTRAR => {
                http::serve()?;
                return Ok(None);
            }
            forwarding::HOST => {
                forwarding::host()?;
                return Ok(None);
            }
            relaying::HOST => {
                relaying::host()?;
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    match only.iter().find(|wanted| !ROWS.iter().any(|(name, _)| name == wanted)) {
        Some(unknown) => Err(format!("no row {unknown}; --list names them")),
        None => Ok(Some(only)),
    }
}

fn write(lines: &[Line]) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(lines)?;
    std::fs::create_dir_all("target")?;
    std::fs::write("target/bench.json", text + "\n")
}

/// Both sides of every row run on one core. Where pinning is refused the scheduler mostly does so.
fn pin() {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus = rustix::thread::CpuSet::MAX_CPU;
    if let Some(last) = (0..cpus).rev().find(|&cpu| allowed.is_set(cpu)) {
        let mut one = rustix::thread::CpuSet::new();
        one.set(last);
        let _ = rustix::thread::sched_setaffinity(None, &one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Vec<String>>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn command_line() {
        assert_eq!(parsed(""), Ok(Some(vec![])));
        let both = parsed("--only tag-miss,detector-floor").unwrap().unwrap();
        assert_eq!(both, ["tag-miss", "detector-floor"]);
        assert!(parsed("--only nonsense").unwrap_err().contains("nonsense"));
        assert!(parsed("--only").is_err());
        assert!(parsed("fast").is_err());
    }
}
