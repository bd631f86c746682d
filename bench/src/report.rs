//! Running rows and writing them down.

use crate::measure::{Cost, Costs, measure};
use crate::{ROWS, Row, accepting, daemons, foreign, forwarding, http, receiving, relaying, ring};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: bench [--only NAME,…] [--base DIR] [--list]

Prints `bench NAME ours=… baseline=… ratio=…` for every hot path and writes target/bench.json.
With --base, also our side of the same row by the program bench in DIR, another build of it; where DIR has
none, the rows station-… by the daemons in it, which may be another implementation's.
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

/// What was measured, as in `target/bench.json`.
#[derive(Serialize)]
struct Report {
    host: Host,
    rows: Vec<Line>,
}

/// Where it was measured.
#[derive(Serialize)]
struct Host {
    processor: String,
    processors: usize,
    kernel: String,
}

impl Host {
    fn of_this() -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, kernel } = self;
        write!(f, "{processor}, {processors} processors, Linux {kernel}")
    }
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    unit: &'static str,
    ours: Cost,
    baseline: Option<Cost>,
    baseline_name: &'static str,
    ratio: Option<f64>,
    /// The same row of the other build, and ours against it.
    base: Option<Cost>,
    base_ratio: Option<f64>,
}

impl Line {
    /// Measures `row`; also whether its baseline is implausible.
    fn measure(name: &'static str, mut row: Row, base: Option<&Path>) -> Option<(Self, bool)> {
        let other = |dir| foreign::other(dir, name);
        let mut other = base.map_or_else(|| Err(String::new()), other);
        let costs = measure(&mut row, &mut other)?;
        let Costs { ours, baseline, other: base_cost } = costs;
        let ratio = |against: Option<Cost>| Some(ours.median / against?.median);
        let void = row
            .plausible
            .zip(baseline)
            .is_some_and(|((low, high), baseline)| !(low..=high).contains(&baseline.median));
        let (unit, baseline_name) = (row.unit, row.baseline_name);
        let with = |cost: &Cost| format!("{:.1}{unit}", cost.median);
        let mut text = format!("bench {name} ours={}", with(&ours));
        match (&baseline, &row.baseline) {
            (Some(baseline), _) => {
                let ratio = ours.median / baseline.median;
                text += &format!(" baseline={} ratio={ratio:.3}", with(baseline));
                text += &format!(" spread={:.0}%/{:.0}%", ours.spread(), baseline.spread());
            }
            (None, missing) => {
                let what = missing.as_ref().err().map_or("baseline", |what| what);
                text += &format!(" baseline=missing ({what}) spread={:.0}%", ours.spread());
            }
        }
        match (&base_cost, &other) {
            (Some(cost), _) => {
                text +=
                    &format!(" base={} base-ratio={:.3}", with(cost), ours.median / cost.median);
            }
            (None, Err(what)) if !what.is_empty() => text += &format!(" base=missing ({what})"),
            (None, _) => {}
        }
        let remark = if void { " void: the baseline is implausible" } else { "" };
        println!("{text} ({baseline_name}){remark}");
        let (ratio, base_ratio) = (ratio(baseline), ratio(base_cost));
        let line =
            Self { name, unit, ours, baseline, baseline_name, ratio, base: base_cost, base_ratio };
        Some((line, void))
    }
}

/// Measures what the `words` of the command line ask for.
pub fn run(words: impl Iterator<Item = String>) -> Outcome {
    let wanted = match parse(words) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Outcome::Done,
        Err(text) => {
            eprintln!("bench: {text}\n{USAGE}");
            return Outcome::Usage;
        }
    };
    // Before only one of its processors is used.
    let host = Host::of_this();
    pin();
    println!("bench on {host}");
    let mut rows = Vec::new();
    let mut outcome = Outcome::Done;
    for (name, make) in ROWS {
        if !wanted.only.is_empty() && !wanted.only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let row = match make() {
            Ok(row) => row,
            Err(reason) => {
                eprintln!("bench {name}: {reason}");
                outcome = Outcome::Unavailable;
                continue;
            }
        };
        let Some((line, void)) = Line::measure(name, row, wanted.base.as_deref()) else { continue };
        if void && outcome == Outcome::Done {
            outcome = Outcome::Void;
        }
        rows.push(line);
    }
    match write(&Report { host, rows }) {
        Ok(()) => outcome,
        Err(error) => {
            eprintln!("bench: target/bench.json: {error}");
            Outcome::Output
        }
    }
}

/// What a command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Names of rows, none for all.
    only: Vec<String>,
    /// Folder with the programs of another build.
    base: Option<PathBuf>,
}

/// What is wanted; `None` when that was done already.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Wanted>, String> {
    let mut wanted = Wanted::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => {
                let names = words.next().ok_or("--only needs names")?;
                wanted.only.extend(names.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            }
            "--base" => {
                let dir = PathBuf::from(words.next().ok_or("--base needs a folder")?);
                if !["bench", daemons::APPLICATION].iter().any(|name| dir.join(name).is_file()) {
                    let dir = dir.display();
                    return Err(format!(
                        "--base {dir}: there is neither our bench nor an application in it; build one there"
                    ));
                }
                wanted.base = Some(dir);
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
            foreign::SIDE => {
                foreign::serve_side(&words.next().ok_or("no row given")?)?;
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
            accepting::HOST => {
                accepting::host()?;
                return Ok(None);
            }
            accepting::CLIENTS => {
                accepting::clients()?;
                return Ok(None);
            }
            daemons::HOST => {
                daemons::host(words.next().ok_or("no daemon given")?.as_ref())?;
                return Ok(None);
            }
            relaying::HOST => {
                relaying::host()?;
                return Ok(None);
            }
            receiving::GENERATOR => {
                receiving::generate(&words.next().ok_or("no interface given")?)?;
                return Ok(None);
            }
            receiving::HOST => {
                receiving::host(&words.next().ok_or("no kind of rings given")?)?;
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    match wanted.only.iter().find(|wanted| !ROWS.iter().any(|(name, _)| name == wanted)) {
        Some(unknown) => Err(format!("no row {unknown}; --list names them")),
        None => Ok(Some(wanted)),
    }
}

fn write(report: &Report) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
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

    fn parsed(line: &str) -> Result<Option<Wanted>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn command_line() {
        assert_eq!(parsed(""), Ok(Some(Wanted::default())));
        let both = parsed("--only tag-miss,detector-floor").unwrap().unwrap();
        assert_eq!(both.only, ["tag-miss", "detector-floor"]);
        assert!(parsed("--base /nonexistent").unwrap_err().contains("/nonexistent"));
        assert!(parsed("--only nonsense").unwrap_err().contains("nonsense"));
        assert!(parsed("--only").is_err());
        assert!(parsed("fast").is_err());
    }
}
