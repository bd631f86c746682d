//! `station doctor`: finds what keeps a station from working, and says how to mend it
//! (`spec/operations.md` 12).

mod catalogue;
pub(crate) mod circuit;
mod configuration;
mod deployment;
mod files;
mod filter;
mod finding;
mod interfaces;
mod kernel;
mod live_frames;
mod memory;
mod numbering;
mod passing;
mod pf_ring;
mod probe;
mod readers;
mod redis;
mod report;
mod running;
mod sample;
mod selection;
mod services;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use conf::Sources;
use host::{Change, Plan, Records, Root, Rules};
use telemetry::process::Exit;

use crate::arguments::Configuration;
use catalogue::CHECKS;
use finding::{Fix, Outcome, Part, Severity};
use probe::Probe;
use report::Results;

/// Arguments of `station doctor`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show the checks without a fault one by one too.
    #[arg(long)]
    every: bool,
    /// Make the repairs that cannot do harm, say which, and look again. Drivers are never reloaded.
    #[arg(long)]
    fix: bool,
    /// Only what matters to these parts of the station.
    #[arg(long = "for", value_name = "PART,…", value_delimiter = ',', value_enum)]
    parts: Vec<Part>,
    /// Only these checks, e.g. C01,K02.
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Also send a SYN through the host's rules, in a namespace made for it (K08).
    #[arg(long = "loop")]
    packets: bool,
    /// Read the files of the host in this folder instead of /, e.g. of a mounted image.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print the table of all checks and end.
    #[arg(long)]
    list: bool,
}

/// Looks, repairs if asked to, and reports; exit code 0 all good, 1 warnings, 2 errors.
pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        print!("{}", catalogue::table());
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.only.iter().find(|id| !CHECKS.iter().any(|c| c.id == **id)) {
        eprintln!("station doctor: --only: there is no check {unknown}; --list shows all");
        return Exit::Usage.into();
    }
    match run(arguments) {
        Ok(worst) => ExitCode::from(match worst {
            None => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Error) => 2,
        }),
        Err(error) => {
            eprintln!("station doctor: {error}");
            Exit::OsErr.into()
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<Option<Severity>> {
    let mut probe = probe(arguments)?;
    let mut results = examine(&probe, arguments);
    let mut done = Vec::new();
    if arguments.fix {
        done = repair(&probe, &results);
        for line in done.iter().filter(|_| !arguments.json) {
            println!("{line}");
        }
        probe = self::probe(arguments)?;
        results = examine(&probe, arguments);
    }
    if arguments.json {
        println!("{:#}", report::to_json(&probe, &results, &done));
    } else {
        report::print_table(&results, arguments.every);
    }
    Ok(report::worst(&results))
}

fn probe(arguments: &Arguments) -> std::io::Result<Probe> {
    let root = arguments.root.clone().map_or_else(Root::default, Root::at);
    let mut sources: Sources = arguments.configuration.sources();
    if arguments.configuration.is_default() {
        let below = |path: PathBuf| root.path(path);
        sources.default_file = sources.default_file.map(below);
        sources.local_file = sources.local_file.map(below);
    }
    let parts =
        if arguments.parts.is_empty() { Part::ALL.to_vec() } else { arguments.parts.clone() };
    Probe::new(root, sources, parts, arguments.packets)
}

fn examine(probe: &Probe, arguments: &Arguments) -> Results {
    CHECKS
        .iter()
        .filter(|check| check.parts.iter().any(|part| probe.wants(*part)))
        .filter(|check| arguments.only.is_empty() || arguments.only.iter().any(|id| id == check.id))
        .map(|check| (check, (check.run)(probe).unwrap_or_else(|ended| ended)))
        .collect()
}

/// Makes each repair once; what was done, in words.
fn repair(probe: &Probe, results: &Results) -> Vec<String> {
    let mut done = Vec::new();
    let mut set_up = false;
    for (check, outcome) in results {
        let Outcome::Found(findings) = outcome else { continue };
        for fix in findings.iter().filter_map(|finding| finding.fix.as_ref()) {
            match fix {
                Fix::Setup if set_up => {}
                Fix::Setup => {
                    set_up = true;
                    done.extend(set_up_host(probe).unwrap_or_else(|error| {
                        vec![format!("not fixed: {}: station setup: {error}", check.id)]
                    }));
                }
                Fix::Steps(steps) => done.extend(steps.iter().map(|step| match step.perform() {
                    Ok(()) => format!("fixed: {}: {}", check.id, step.reason),
                    Err(error) => format!("not fixed: {}: {error}", check.id),
                })),
            }
        }
    }
    done
}

fn set_up_host(probe: &Probe) -> Result<Vec<String>, String> {
    let station = match &probe.station {
        Ok(loaded) => &loaded.value,
        Err(problems) => return Err(problems.to_string()),
    };
    let records = Records::of(&probe.root);
    let plan = Plan::of_station(&probe.root, station, Rules::Nftables, false)
        .map_err(|e| e.to_string())?;
    let known = records.load().map_err(|error| error.to_string())?;
    let change = Change::compute(&probe.root, &plan, &known).map_err(|error| error.to_string())?;
    let mut done = Vec::new();
    let made =
        change.apply(&records, |step| done.push(format!("fixed: station setup: {}", step.reason)));
    made.map_err(|error| error.to_string())?;
    Ok(done)
}
