//! How the detector comes to the table of its balancer, and gives it up.

use super::Tables;
use crate::log;
use shm::fast_path::FastPath;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use telemetry::output::Priority;

/// Longest wait at one time, which bounds how long the end takes.
const WAIT: Duration = Duration::from_millis(100);
/// Pause before a balancer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps the table of the balancer of `cluster` in `tables`, as long as there is one, until `stop`.
pub(crate) fn follow(dir: &Path, cluster: u32, tables: &Tables, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        // Without a balancer the workers say so.
        if let Ok(balancer) = FastPath::ask(dir, cluster) {
            if let Some(table) = balancer.table() {
                if balancer.is_here() {
                    log::plain("packets of sessions may pass in the kernel");
                    tables.store(Some(table.clone()));
                } else {
                    log::problem(
                        Priority::Warning,
                        "detector: no fast path: zbalance is in another network namespace, whose host would not bring \
                         packets of sessions to the application; run both in one",
                    );
                }
            }
            while !stop.load(Relaxed) && !balancer.has_ended(WAIT) {}
            tables.store(None);
        }
        let until = Instant::now() + PAUSE;
        while !stop.load(Relaxed) && Instant::now() < until {
            std::thread::sleep(WAIT);
        }
    }
}
