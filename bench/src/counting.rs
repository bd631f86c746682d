//! Instructions that the pure kernels execute, counted by callgrind against committed figures. Where a row measures
//! the time of a kernel, the same round is counted here.
//!
//! Time differs from one machine to the next and with what else runs there; the number of instructions
//! hardly does. Every kernel runs twice under callgrind, in a process of its own and for different numbers of
//! rounds. The difference, per item, is free of what starting up costs, and is compared with
//! `bench/counts.toml`.
mod callgrind;
mod figures;
mod queue;

use crate::{detector, hash, tag};
use figures::{Figures, Verdict};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: bench-counts [--renew] [--only NAME,…] [--figures FILE] [--list]

Counts the instructions of each kernel with valgrind's callgrind and compares them with the committed figures
(bench/counts.toml). --renew writes what was counted there.
";

/// Where the figures lie, from the top of the tree.
const FIGURES: &str = "bench/counts.toml";
/// Word that makes this program run one kernel, under callgrind.
const KERNEL: &str = "--kernel";

/// A kernel, ready to run: every call is one round.
type Round = Box<dyn FnMut()>;

/// A kernel that is counted.
struct Kernel {
    name: &'static str,
    /// Items of one round; the figure is for one of them.
    items: u64,
    /// Makes it, or says what this host lacks.
    make: fn() -> Result<Round, String>,
}

const KERNELS: &[Kernel] = &[
    Kernel {
        name: "triage",
        items: detector::FRAMES as u64,
        make: || Ok(Box::new(detector::uninteresting_round())),
    },
    Kernel {
        name: "untracked-443",
        items: detector::FRAMES as u64,
        make: || Ok(Box::new(detector::untracked_round())),
    },
    Kernel {
        name: "session-lookup",
        items: detector::LOOKUPS,
        make: || Ok(Box::new(detector::lookups())),
    },
    Kernel { name: "hash-ip", items: hash::FRAMES as u64, make: || Ok(Box::new(hash::ip_round())) },
    Kernel {
        name: "hash-auto",
        items: hash::FRAMES as u64,
        make: || Ok(Box::new(hash::auto_round())),
    },
    Kernel {
        name: "tag-miss-portable",
        items: tag::BATCH as u64,
        make: || Ok(Box::new(tag::checks(1, None))),
    },
    Kernel { name: "tag-miss-avx2", items: tag::BATCH as u64, make: || with_avx2(1) },
    Kernel { name: "tag-two-keys-avx2", items: tag::BATCH as u64, make: || with_avx2(2) },
    Kernel { name: "ring", items: queue::PACKETS, make: queue::hand_over },
];

/// The tag check with AVX2, whatever else there is.
fn with_avx2(keys: usize) -> Result<Round, String> {
    let kernel = tag::avx2().map_err(|what| format!("needs {what}"))?;
    Ok(Box::new(tag::checks(keys, Some(kernel))))
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every kernel executes what its figure says, or less.
    Done,
    /// A kernel executes more, or has no figure.
    Worse,
    /// A kernel could not be counted.
    Unavailable,
    /// Wrong command line.
    Usage,
    /// The figures could not be read or written.
    Figures,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Worse => 1,
            Outcome::Unavailable => 69,
            Outcome::Usage => 64,
            Outcome::Figures => 74,
        })
    }
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Count {
        renew: bool,
        /// Names of kernels, none for all.
        only: Vec<String>,
        figures: PathBuf,
    },
    /// One kernel for so many rounds, in this process.
    Run(String, u64),
    Names,
    Help,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let (mut renew, mut only, mut figures) = (false, Vec::new(), PathBuf::from(FIGURES));
    while let Some(word) = words.next() {
        match word.as_str() {
            "--renew" => renew = true,
            "--only" => {
                let names = words.next().ok_or("--only needs names")?;
                only.extend(names.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            }
            "--figures" => figures = words.next().ok_or("--figures needs a file")?.into(),
            KERNEL => {
                let name = words.next().ok_or("--kernel needs a name")?;
                let rounds = words.next().and_then(|rounds| rounds.parse().ok());
                return Ok(Wanted::Run(name, rounds.ok_or("--kernel needs a number of rounds")?));
            }
            "--list" => return Ok(Wanted::Names),
            "--help" | "-h" => return Ok(Wanted::Help),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    match only.iter().find(|wanted| !KERNELS.iter().any(|kernel| kernel.name == *wanted)) {
        Some(unknown) => Err(format!("no kernel {unknown}; --list names them")),
        None => Ok(Wanted::Count { renew, only, figures }),
    }
}

/// Does what the `words` of the command line ask for.
pub fn run(words: impl Iterator<Item = String>) -> Outcome {
    match parse(words) {
        Ok(Wanted::Count { renew, only, figures }) => count(renew, &only, &figures),
        Ok(Wanted::Run(name, rounds)) => match run_kernel(&name, rounds) {
            Ok(()) => Outcome::Done,
            Err(reason) => {
                eprintln!("bench-counts: {reason}");
                Outcome::Unavailable
            }
        },
        Ok(Wanted::Names) => {
            KERNELS.iter().for_each(|kernel| println!("{}", kernel.name));
            Outcome::Done
        }
        Ok(Wanted::Help) => {
            print!("{USAGE}");
            Outcome::Done
        }
        Err(text) => {
            eprintln!("bench-counts: {text}\n{USAGE}");
            Outcome::Usage
        }
    }
}

fn run_kernel(name: &str, rounds: u64) -> Result<(), String> {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == name);
    let mut round = (kernel.ok_or_else(|| format!("no kernel {name}"))?.make)()?;
    (0..rounds).for_each(|_| round());
    Ok(())
}

/// Counts the kernels named `only` and compares them with the figures in `file`, or renews those.
fn count(renew: bool, only: &[String], file: &Path) -> Outcome {
    let compiler = figures::compiler();
    let mut figures = match Figures::read(file) {
        Ok(figures) => figures,
        Err(_) if renew => Figures::default(),
        Err(reason) => {
            eprintln!("bench-counts: {reason}; make counts RENEW=1 writes it");
            return Outcome::Figures;
        }
    };
    let mut outcome = Outcome::Done;
    for kernel in KERNELS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == kernel.name) {
            continue;
        }
        let counted = match callgrind::per_item(kernel) {
            Ok(counted) => counted,
            Err(reason) => {
                eprintln!("counts {}: {reason}", kernel.name);
                outcome = Outcome::Unavailable;
                continue;
            }
        };
        if renew {
            println!("counts {} counted={counted:.1}", kernel.name);
            figures.set(kernel.name, counted);
            continue;
        }
        let verdict = figures.judge(kernel.name, counted, &compiler);
        println!("counts {} counted={counted:.1} {verdict}", kernel.name);
        if matches!(verdict, Verdict::Worse { .. } | Verdict::Unknown) && outcome == Outcome::Done {
            outcome = Outcome::Worse;
        }
    }
    if renew {
        figures.compiler = compiler;
        if let Err(reason) = figures.write(file) {
            eprintln!("bench-counts: {reason}");
            return Outcome::Figures;
        }
    }
    if outcome == Outcome::Worse {
        eprintln!(
            "bench-counts: if the kernel is worth more instructions, or the compiler is another, make counts RENEW=1 \
             writes new figures to {}: commit them with the reason",
            file.display()
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Wanted, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn command_line() {
        let all = Wanted::Count { renew: false, only: vec![], figures: FIGURES.into() };
        assert_eq!(parsed(""), Ok(all));
        let some = Wanted::Count {
            renew: true,
            only: vec!["ring".into(), "triage".into()],
            figures: "x".into(),
        };
        assert_eq!(parsed("--renew --only ring,triage --figures x"), Ok(some));
        assert_eq!(parsed("--kernel ring 3"), Ok(Wanted::Run("ring".into(), 3)));
        assert!(parsed("--kernel ring many").is_err());
        assert!(parsed("--only nonsense").unwrap_err().contains("nonsense"));
        assert!(parsed("fast").is_err());
    }

    #[test]
    fn every_kernel_has_a_committed_figure() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.toml");
        let figures = Figures::read(&file).unwrap();
        for kernel in KERNELS {
            let verdict = figures.judge(kernel.name, 0.0, &figures.compiler);
            assert!(!matches!(verdict, Verdict::Unknown), "{} has none", kernel.name);
        }
    }

    #[test]
    fn every_kernel_runs() {
        for kernel in KERNELS {
            match (kernel.make)() {
                Ok(mut round) => round(),
                Err(reason) => assert!(kernel.name.ends_with("avx2"), "{}: {reason}", kernel.name),
            }
        }
    }
}
