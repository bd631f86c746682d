//! One step of a change, which prints as the command that does the same.

use std::fmt;
use std::path::PathBuf;

use crate::tool::{self, CommandError};

/// A change of the host that is made in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Writes a value into a file of the kernel.
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
    },
    /// Makes a folder.
    MakeFolder(PathBuf),
    /// Runs a tool.
    Run {
        /// The tool.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// What it reads; empty for nothing.
        input: String,
    },
}

/// A change and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is for, in a few words.
    pub reason: String,
    /// What is done.
    pub action: Action,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A file could not be written.
    #[error("cannot write {value} to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Step {
    pub(crate) fn write(
        reason: impl Into<String>,
        path: PathBuf,
        value: impl Into<String>,
    ) -> Self {
        Self { reason: reason.into(), action: Action::Write { path, value: value.into() } }
    }

    pub(crate) fn run(reason: impl Into<String>, command: &str) -> Self {
        Self::feed(reason, command, String::new())
    }

    /// `command` is split at blanks; none of its words may hold one.
    pub(crate) fn feed(reason: impl Into<String>, command: &str, input: String) -> Self {
        let mut words = command.split(' ').map(str::to_owned);
        let program = words.next().unwrap_or_default();
        let action = Action::Run { program, arguments: words.collect(), input };
        Self { reason: reason.into(), action }
    }

    /// Makes the change.
    ///
    /// # Errors
    /// When the system or the tool refuses.
    pub fn perform(&self) -> Result<(), StepError> {
        match &self.action {
            Action::Write { path, value } => std::fs::write(path, value).map_err(|source| {
                StepError::Write { path: path.clone(), value: value.clone(), source }
            }),
            Action::MakeFolder(path) => std::fs::create_dir_all(path).map_err(|source| {
                StepError::Write { path: path.clone(), value: "a folder".to_owned(), source }
            }),
            Action::Run { program, arguments, input } => {
                let mut command = tool::command(program);
                command.args(arguments);
                tool::run(command, input)?;
                Ok(())
            }
        }
    }
}

/// The step as a shell command, behind a comment with its reason.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.reason)?;
        match &self.action {
            Action::Write { path, value } => write!(f, "echo {value} > {}", path.display()),
            Action::MakeFolder(path) => write!(f, "mkdir -p {}", path.display()),
            Action::Run { program, arguments, input } => {
                write!(f, "{program} {}", arguments.join(" "))?;
                if !input.is_empty() {
                    write!(f, " <<'END'\n{input}END")?;
                }
                Ok(())
            }
        }
    }
}
