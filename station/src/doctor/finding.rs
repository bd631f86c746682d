//! What a check says.

use host::Step;

/// A part of the station that a check matters to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// zbalance.
    Ingest,
    /// The detector.
    Detector,
    /// The application.
    Application,
    /// The registrar.
    Registrar,
}

impl Part {
    pub(crate) const ALL: [Self; 4] =
        [Self::Ingest, Self::Detector, Self::Application, Self::Registrar];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Detector => "detector",
            Self::Application => "application",
            Self::Registrar => "registrar",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The station works, but not as it should.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A repair that cannot do harm.
#[derive(Debug, Clone)]
pub(crate) enum Fix {
    /// Single steps.
    Steps(Vec<Step>),
    /// `station setup`.
    Setup,
}

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What is wrong and what follows from it.
    pub(crate) cause: String,
    /// What was seen, and where.
    pub(crate) evidence: String,
    /// The command or change that mends it.
    pub(crate) remedy: String,
    pub(crate) fix: Option<Fix>,
}

impl Finding {
    fn new(
        severity: Severity,
        cause: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            cause: cause.into(),
            evidence: evidence.into(),
            remedy: remedy.into(),
            fix: None,
        }
    }

    /// An error with its cause, evidence and remedy.
    pub(crate) fn error(
        cause: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Error, cause, evidence, remedy)
    }

    /// A warning with its cause, evidence and remedy.
    pub(crate) fn warning(
        cause: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, cause, evidence, remedy)
    }

    pub(crate) fn with_fix(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }
}

/// Result of one check.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Nothing to complain about; what was seen.
    Good(String),
    /// At least one fault.
    Found(Vec<Finding>),
    /// The check does not apply here, and why.
    Skipped(String),
    /// This user may not look, and at what.
    NeedsRoot(String),
}

impl Outcome {
    /// Good with `evidence` when nothing was found.
    pub(crate) fn of(findings: Vec<Finding>, evidence: impl Into<String>) -> Self {
        if findings.is_empty() { Self::Good(evidence.into()) } else { Self::Found(findings) }
    }
}

/// A check's result; the error is one as well, so that a check can end early with `?`.
pub(crate) type Checked = Result<Outcome, Outcome>;
