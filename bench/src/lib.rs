//! Ratios of the station's hot paths against stated baselines.
//!
//! Both sides of a row are measured in one run on one core, in turn, and the medians are compared.
//! A ratio below 1 means that ours costs less.
#![forbid(unsafe_code)]

mod detector;
mod measure;
mod report;
mod ring;
mod tag;

pub use measure::{Row, Side};
pub use report::{Outcome, run};

/// Makes a row; building it may take memory and time, so rows are made one after the other.
pub type MakeRow = fn() -> Row;

/// All rows by name.
pub const ROWS: &[(&str, MakeRow)] = &[
    ("detector-uninteresting", detector::uninteresting),
    ("detector-floor", detector::floor),
    ("ring-handover", ring::handover),
    ("tag-miss", tag::miss),
];
