//! Interleaved measurement of two sides.

use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};
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

/// Medians of both sides, measured in turn after one round to warm up; the other side's is absent
/// when that side is.
pub(crate) fn medians(row: &mut Row) -> (f64, Option<f64>) {
    let (mut ours, mut baseline) = (Vec::new(), Vec::new());
    for repetition in 0..=REPETITIONS {
        let costs = ((row.ours)(), row.baseline.as_mut().ok().map(|baseline| baseline()));
        if repetition > 0 {
            ours.push(costs.0);
            baseline.extend(costs.1);
        }
    }
    (median(ours), (!baseline.is_empty()).then(|| median(baseline)))
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
        assert_eq!(medians(&mut row), (2.0, Some(4.0)));
        row.baseline = Err("go".to_owned());
        assert_eq!(medians(&mut row), (2.0, None));
    }
}
