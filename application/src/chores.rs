//! What the application does every so often.

use std::sync::Arc;
use std::time::Duration;

use telemetry::log::Logger;

use crate::pipeline::Pipeline;
use crate::stats;

/// How often the time of registrations is looked at.
const EXPIRY_TICK: Duration = Duration::from_secs(1);

pub(crate) async fn expire(pipeline: Arc<Pipeline>) {
    let mut ticks = tokio::time::interval(EXPIRY_TICK);
    loop {
        ticks.tick().await;
        pipeline.expire();
    }
}

pub(crate) async fn print_stats(pipeline: Arc<Pipeline>, workers_queue: usize) {
    let log = Logger::new("[STATS] ");
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    ticks.tick().await;
    for round in 1u64.. {
        ticks.tick().await;
        let (stats, store, liveness) = (&pipeline.stats, &pipeline.store, &pipeline.liveness);
        for line in stats::every_five_seconds(stats, store, liveness, workers_queue) {
            log.info(line);
        }
        if round % 12 == 0 {
            for line in stats::every_minute(stats) {
                log.info(line);
            }
        }
    }
}
