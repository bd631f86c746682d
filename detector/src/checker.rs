//! Threads that look for tags, off the packet path and at lower priority.

use crate::candidates::{Bell, Candidate, Candidates};
use crate::counters::Counters;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tag::{Reject, TagChecker};

/// Candidates that are checked together.
const BATCH: usize = 16;
/// Longest sleep before a look at the stop flag.
const SLEEP: Duration = Duration::from_millis(100);
/// Niceness of a checker: live sessions never wait for it.
const NICENESS: i32 = 10;

/// One worker's side of a checker.
#[derive(Debug, Clone)]
pub struct Inlet {
    /// Its candidates.
    pub candidates: Arc<Candidates>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// What all checkers share.
pub struct Checkers {
    /// Station keys, replaced on reload.
    pub checker: Arc<ArcSwap<TagChecker>>,
    /// Workers that are served.
    pub inlets: Vec<Inlet>,
    /// Rings when there is something to check.
    pub bell: Arc<Bell>,
    /// Takes each registration, a serialised `C2SWrapper`.
    pub publish: Box<dyn Fn(Vec<u8>) + Send + Sync>,
    /// Batches that are being checked.
    pub busy: AtomicUsize,
    /// Ends every checker.
    pub stop: AtomicBool,
}

impl std::fmt::Debug for Checkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkers").field("inlets", &self.inlets.len()).finish_non_exhaustive()
    }
}

impl Checkers {
    /// Checkers without a thread; [`check_some`](Self::check_some) does the work when called.
    pub fn new(
        checker: Arc<ArcSwap<TagChecker>>,
        inlets: Vec<Inlet>,
        bell: Arc<Bell>,
        publish: Box<dyn Fn(Vec<u8>) + Send + Sync>,
    ) -> Self {
        let (busy, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { checker, inlets, bell, publish, busy, stop }
    }

    /// Checks until it is told to stop. The thread's priority is lowered for good.
    pub fn run(&self, index: usize) {
        // A thread at ordinary priority is still a working checker.
        let _ = rustix::process::nice(NICENESS);
        let mut batch = Vec::with_capacity(BATCH);
        while !self.stop.load(Ordering::Relaxed) {
            if !self.check_some(index, &mut batch) {
                self.bell.wait(SLEEP, || self.has_work());
            }
        }
    }

    /// Takes up to 16 candidates, from each worker in turn starting with number `first`, and
    /// checks them. False when there was none. `batch` is working space.
    pub fn check_some(&self, first: usize, batch: &mut Vec<(usize, Candidate)>) -> bool {
        // Announced before anything is taken, so that `is_idle` cannot miss a batch on its way.
        let _busy = Busy::new(&self.busy);
        batch.clear();
        let mut empty = 0;
        let mut at = first;
        while batch.len() < BATCH && empty < self.inlets.len() {
            let worker = at % self.inlets.len();
            at += 1;
            match self.inlets[worker].candidates.pop() {
                Some(candidate) => {
                    batch.push((worker, candidate));
                    empty = 0;
                }
                None => empty += 1,
            }
        }
        let any = !batch.is_empty();
        if any {
            self.check(batch);
        }
        any
    }

    fn check(&self, batch: &mut Vec<(usize, Candidate)>) {
        let checker = self.checker.load();
        let empty: &[u8] = &[];
        let mut payloads = [empty; BATCH];
        for (payload, (_, candidate)) in payloads.iter_mut().zip(batch.iter()) {
            *payload = &candidate.payload;
        }
        checker.check_batch(&payloads[..batch.len()], |i, result| {
            let (worker, candidate) = &batch[i];
            let counters = &self.inlets[*worker].counters;
            counters.checked.add_shared(1);
            match result {
                Ok(tag) => {
                    counters.tags.add_shared(1);
                    let flow = candidate.flow;
                    (self.publish)(tag::registration_message(&tag, flow.client, flow.decoy));
                }
                Err(Reject::TooShort | Reject::FixedAuth) => {}
                Err(_) => counters.malformed_tags.add_shared(1),
            }
        });
        for (worker, candidate) in batch.drain(..) {
            self.inlets[worker].candidates.recycle(candidate.payload);
        }
    }

    fn has_work(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.inlets.iter().any(|inlet| !inlet.candidates.is_empty())
    }

    /// Whether everything that was queued has been checked.
    pub fn is_idle(&self) -> bool {
        self.inlets.iter().all(|inlet| inlet.candidates.is_empty())
            && self.busy.load(Ordering::SeqCst) == 0
    }
}

/// Counts a batch for as long as it lives, a panic included.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
