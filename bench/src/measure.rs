//! Interleaved measurement of two sides.

use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Repetitions of each side; odd, so that the median is one of them.
const REPETITIONS: usize = 15;

/// One side of a comparison: runs once and returns its cost per item.
pub type Side = Box<dyn FnMut() -> f64>;

/// A comparison.
pub struct Row {
    /// Unit of both costs, per item.
    pub unit: &'static str,
    /// What ours is compared with.
    pub baseline_name: &'static str,
    /// Our side.
    pub ours: Side,
    /// The other side, or what is missing to have it.
    pub baseline: Result<Side, String>,
    /// Range in which the baseline must land, or the row is void.
    pub plausible: Option<(f64, f64)>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("baseline_name", &self.baseline_name).finish_non_exhaustive()
    }
}

/// A side that runs `work`, which handles `items` items, and reports nanoseconds per item.
pub(crate) fn nanoseconds(items: usize, mut work: impl FnMut() + 'static) -> Side {
    Box::new(move || {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64 / items as f64
    })
}

/// Processor time that the calling thread has spent.
pub(crate) fn thread_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    // Neither part of this clock is ever negative.
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Moves the calling thread, and the processes that it starts, to the first CPU: both sides of a
/// row run on the last, and what serves them must not take their time.
pub(crate) fn run_on_first_cpu() {
    let mut first = CpuSet::new();
    first.set(0);
    // Where that is refused the scheduler separates the two.
    let _ = rustix::thread::sched_setaffinity(None, &first);
}

/// Cost of one side over all repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) median: f64,
    /// A quarter of the repetitions cost less than the first, a quarter more than the second.
    pub(crate) quartiles: (f64, f64),
}

impl Cost {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |share: usize| values.get(values.len() * share / 4).copied();
        Some(Self { median: at(2)?, quartiles: (at(1)?, at(3)?) })
    }

    /// Distance of the quartiles from each other, in percent of the median.
    pub(crate) fn spread(&self) -> f64 {
        100.0 * (self.quartiles.1 - self.quartiles.0) / self.median
    }
}

/// Costs of the sides of a row, those that are there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Costs {
    pub(crate) ours: Cost,
    pub(crate) baseline: Option<Cost>,
    /// Our side in another build.
    pub(crate) other: Option<Cost>,
}

/// Measures the sides of a row and of `other`, in turn after one round to warm up.
pub(crate) fn measure(row: &mut Row, other: &mut Result<Side, String>) -> Option<Costs> {
    let (mut ours, mut baseline, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for repetition in 0..=REPETITIONS {
        let own = (row.ours)();
        let costs = [&mut row.baseline, &mut *other].map(|side| side.as_mut().ok().map(|s| s()));
        if repetition > 0 {
            ours.push(own);
            baseline.extend(costs[0]);
            others.extend(costs[1]);
        }
    }
    let (baseline, other) = (Cost::of(baseline), Cost::of(others));
    Some(Costs { ours: Cost::of(ours)?, baseline, other })
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_does_not_move_the_median() {
        let mut first = true;
        let mut row = Row {
            unit: "ns",
            baseline_name: "constant",
            ours: Box::new(move || if std::mem::take(&mut first) { 1e9 } else { 2.0 }),
            baseline: Ok(Box::new(|| 4.0)),
            plausible: None,
        };
        let exactly = |median| Cost { median, quartiles: (median, median) };
        let mut other: Result<Side, String> = Ok(Box::new(|| 3.0));
        let costs = measure(&mut row, &mut other).unwrap();
        assert_eq!((costs.ours, costs.baseline), (exactly(2.0), Some(exactly(4.0))));
        assert_eq!(costs.other, Some(exactly(3.0)));
        row.baseline = Err("go".to_owned());
        other = Err("no other build".to_owned());
        let costs = measure(&mut row, &mut other).unwrap();
        assert_eq!((costs.ours, costs.baseline, costs.other), (exactly(2.0), None, None));
    }

    #[test]
    fn the_spread_leaves_out_a_quarter_at_each_end() {
        let cost = Cost::of((0..16).map(f64::from).rev().collect()).unwrap();
        assert_eq!((cost.median, cost.quartiles), (8.0, (4.0, 12.0)));
        assert!((cost.spread() - 100.0).abs() < 1e-9);
        assert_eq!(Cost::of(Vec::new()), None);
    }
}
