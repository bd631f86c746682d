//! What the application tells over its admin socket, and what it is told there.

use std::time::Duration;

use signalling::station::{ApplicationStatus, Count, FileResult, status_reply::Detail};
use telemetry::admin::{self, DaemonStatus};

use crate::daemon::Daemon;
use crate::{share, stats};

impl admin::Daemon for Daemon {
    fn status(&self) -> DaemonStatus {
        let pipeline = &self.station.pipeline;
        let (stats, announcer) = (&pipeline.stats, &pipeline.announcer);
        let mut notes: Vec<String> = self
            .all_sources()
            .iter()
            .map(|(address, state)| format!("source {address}: {}", *state.borrow()))
            .collect();
        notes.extend(self.reloads.notes());
        let count = |(name, value): (String, u64)| Count { name, value };
        let counts = |list: &[(&str, u64)]| {
            list.iter().map(|(name, value)| Count { name: (*name).into(), value: *value }).collect()
        };
        let (ingest, liveness) = (&stats.ingest, pipeline.liveness.counters());
        let screened = &stats.screened;
        let shared = pipeline.sharer.as_ref().map(|sharer| &sharer.counters);
        let shared = |of: fn(&share::Counters) -> &stats::Window| {
            shared.map_or(0, |counters| of(counters).total())
        };
        DaemonStatus {
            state: match self.draining.load(std::sync::atomic::Ordering::Relaxed) {
                true => "draining".to_owned(),
                false => "ready".to_owned(),
            },
            notes,
            detail: Some(Detail::Application(ApplicationStatus {
                registrations: stats.registrations.active.value().max(0) as u64,
                registrations_by_channel: stats
                    .registrations
                    .by_source()
                    .into_iter()
                    .map(count)
                    .collect(),
                tunnels: stats.proxy.open.value().max(0) as u64,
                tunnels_by_transport: stats.proxy.by_transport().into_iter().map(count).collect(),
                ingest: counts(&[
                    ("received", ingest.received.total()),
                    ("dropped", ingest.dropped.total()),
                    ("busy", ingest.busy.total()),
                    ("errors", stats.registrations.errors.total()),
                    ("duplicates", stats.registrations.duplicates.total()),
                    ("store_full", stats.registrations.full.total()),
                    ("responses_verified", screened.verified.total()),
                    ("responses_refused", screened.refused.total()),
                    ("responses_stripped", screened.stripped.total()),
                    ("prescans_ignored", screened.prescans.total()),
                    ("malformed", screened.malformed.total()),
                    ("shared", shared(|counters| &counters.shared)),
                    ("share_failed", shared(|counters| &counters.failed)),
                    ("share_dropped", shared(|counters| &counters.dropped)),
                ]),
                liveness: counts(&[
                    ("quiet", liveness.quiet.total()),
                    ("live", liveness.live.total()),
                    ("unknown", liveness.unknown.total()),
                    ("cached_live", liveness.cached_live.total()),
                    ("cached_quiet", liveness.cached_quiet.total()),
                ]),
                connections: {
                    let dtls = stats.connecting.totals();
                    stats.connections.totals().into_iter().chain(dtls).map(count).collect()
                },
                session_watchers: announcer.hub().watchers() as u64,
                redis: announcer.redis().state().to_string(),
                funnel: stats.funnel.channels(),
                countries: stats.funnel.countries(),
                networks: stats.funnel.networks(),
                phantom_subnets: stats.funnel.phantom_subnets(),
                tunnels_completed: stats.proxy.completed.total(),
                up_bytes: stats.proxy.traffic.up(),
                down_bytes: stats.proxy.traffic.down(),
                registrations_stored: pipeline.store.len() as u64,
                ingest_waiting: ingest.waiting.value().max(0) as u64,
                ingest_capacity: stats::BUS_QUEUE as u64,
            })),
        }
    }

    async fn reload(&self) -> Vec<FileResult> {
        Self::reload(self)
    }

    fn drain(&self, deadline: Duration) {
        *self.grace.lock() = deadline;
        self.drained.notify_one();
    }
}
