//! The committed figures.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// By how much a count may exceed its figure, as a share of it. The count of one program hardly varies, but the
/// compiler arranges the same source in other ways where it builds incrementally: up to 7 % were seen.
const TOLERANCE: f64 = 0.10;
/// The same when another compiler made the program: it arranges code in another way.
const TOLERANCE_OTHER_COMPILER: f64 = 0.20;

const HEAD: &str = "\
# Instructions per item of each kernel, as callgrind counts them on x86-64: make counts.
# Written by make counts RENEW=1.
";

/// Instructions per item, by the name of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// What `rustc --version` said when they were counted.
    pub(crate) compiler: String,
    instructions: BTreeMap<String, f64>,
}

/// What a count is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// As committed, or close to it.
    Same { committed: f64 },
    /// Fewer: the figure should follow, so that this stays.
    Better { committed: f64 },
    /// More.
    Worse { committed: f64, tolerance: f64 },
    /// No figure is committed.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same { committed } => write!(f, "committed={committed:.1}"),
            Self::Better { committed } => {
                write!(f, "committed={committed:.1} better: make counts RENEW=1 keeps it")
            }
            Self::Worse { committed, tolerance } => {
                let percent = 100.0 * tolerance;
                write!(f, "committed={committed:.1} failed: more than {percent:.0} % above")
            }
            Self::Unknown => f.write_str("failed: no figure is committed"),
        }
    }
}

impl Figures {
    /// Reads `file`.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let named = |reason: &dyn fmt::Display| format!("{}: {reason}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| named(&e))?;
        toml::from_str(&text).map_err(|e| named(&e))
    }

    /// Writes `file`.
    pub(crate) fn write(&self, file: &Path) -> Result<(), String> {
        let named = |reason: &dyn fmt::Display| format!("{}: {reason}", file.display());
        let text = toml::to_string(self).map_err(|e| named(&e))?;
        std::fs::write(file, format!("{HEAD}{text}")).map_err(|e| named(&e))
    }

    /// Sets the figure of a kernel, to a tenth of an instruction.
    pub(crate) fn set(&mut self, name: &str, instructions: f64) {
        self.instructions.insert(name.to_owned(), (instructions * 10.0).round() / 10.0);
    }

    /// Judges what was counted for a kernel in a program made by `compiler`.
    pub(crate) fn judge(&self, name: &str, counted: f64, compiler: &str) -> Verdict {
        let Some(&committed) = self.instructions.get(name) else { return Verdict::Unknown };
        let tolerance =
            if compiler == self.compiler { TOLERANCE } else { TOLERANCE_OTHER_COMPILER };
        if counted > committed * (1.0 + tolerance) {
            Verdict::Worse { committed, tolerance }
        } else if counted < committed * (1.0 - tolerance) {
            Verdict::Better { committed }
        } else {
            Verdict::Same { committed }
        }
    }
}

/// What the compiler of this host calls itself; empty when there is none.
pub(crate) fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_instructions_than_committed_fail() {
        let mut figures = Figures { compiler: "a".to_owned(), ..Figures::default() };
        figures.set("ring", 100.04);
        let committed = 100.0;
        let judge = |counted| figures.judge("ring", counted, "a");
        assert_eq!(judge(109.9), Verdict::Same { committed });
        assert_eq!(judge(110.1), Verdict::Worse { committed, tolerance: TOLERANCE });
        assert_eq!(judge(89.9), Verdict::Better { committed });
        assert_eq!(figures.judge("ring", 119.0, "b"), Verdict::Same { committed });
        let worse = Verdict::Worse { committed, tolerance: TOLERANCE_OTHER_COMPILER };
        assert_eq!(figures.judge("ring", 121.0, "b"), worse);
        assert!(worse.to_string().contains("failed: more than 20 %"));
        assert_eq!(figures.judge("hash-ip", 1.0, "a"), Verdict::Unknown);
    }

    #[test]
    fn figures_survive_their_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut figures = Figures { compiler: "rustc".to_owned(), ..Figures::default() };
        figures.set("hash-ip", 41.26);
        figures.write(file.path()).unwrap();
        assert_eq!(Figures::read(file.path()), Ok(figures));
        std::fs::write(file.path(), "compiler = 3").unwrap();
        let reason = Figures::read(file.path()).unwrap_err();
        assert!(reason.starts_with(&file.path().display().to_string()), "{reason}");
    }
}
