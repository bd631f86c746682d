//! What the admin service tells and does (`spec/channels.md` 2).

use crate::arguments::Arguments;
use crate::candidates;
use crate::checker::Inlet;
use crate::crew::Post;
use crate::filter::Filter;
use crate::sessions::Sessions;
use crate::settings;
use crate::source::SourceState;
use crate::worker::Bounds;
use arc_swap::ArcSwap;
use bus::Publisher;
use session::redis_in::Subscription;
use session::watch::Watch;
use signalling::station::{DetectorStatus, FileResult, WorkerStatus, status_reply::Detail};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tag::TagChecker;
use telemetry::admin::DaemonStatus;
use telemetry::process::{Reloads, file_result, merge};
use tokio::sync::Notify;

/// The running detector, as the operator meets it.
pub struct Desk {
    /// Command line.
    pub arguments: Arguments,
    /// The TOML file.
    pub config: PathBuf,
    /// Whether the environment names that file.
    pub config_named: bool,
    /// Workers.
    pub posts: Vec<Arc<Post>>,
    /// Their candidates.
    pub inlets: Vec<Inlet>,
    /// Sessions.
    pub sessions: Arc<Sessions>,
    /// Filter list in force.
    pub filter: Arc<ArcSwap<Filter>>,
    /// Station keys in force.
    pub checker: Arc<ArcSwap<TagChecker>>,
    /// gRPC session channel.
    pub watch: Watch,
    /// Redis session channel.
    pub redis: Option<Subscription>,
    /// Publisher of registrations, unless this is a replay.
    pub publisher: Option<Arc<Publisher>>,
    /// Tells the daemon to leave.
    pub leave: Arc<Notify>,
    /// Workers end for a successor.
    pub handing: Arc<AtomicBool>,
    /// What became of reloads.
    pub reloads: Reloads,
    /// What a reload leaves alone.
    pub fixed: Fixed,
}

/// The keys of the configuration that a reload leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// `redis_url`.
    pub redis_url: Option<String>,
    /// `session_socket`.
    pub session_socket: Option<String>,
    /// `detector_max_flows` and `detector_max_straddling`.
    pub bounds: Bounds,
    /// `detector_max_candidates`.
    pub candidates: usize,
}

impl Fixed {
    /// Those of a configuration.
    pub fn of(detector: &conf::Detector) -> Self {
        let standard = Bounds::default();
        Self {
            redis_url: detector.redis_url.clone(),
            session_socket: detector.session_socket.clone(),
            bounds: Bounds {
                flows: detector.max_flows.unwrap_or(standard.flows),
                straddling: detector.max_straddling.unwrap_or(standard.straddling),
            },
            candidates: detector.max_candidates.unwrap_or(candidates::DEFAULT_BUDGET),
        }
    }

    /// Keys whose value in `fresh` waits for a restart.
    fn changed(&self, fresh: &conf::Detector) -> Vec<&'static str> {
        let fresh = Self::of(fresh);
        [
            ("redis_url", self.redis_url != fresh.redis_url),
            ("session_socket", self.session_socket != fresh.session_socket),
            ("detector_max_flows", self.bounds.flows != fresh.bounds.flows),
            ("detector_max_straddling", self.bounds.straddling != fresh.bounds.straddling),
            ("detector_max_candidates", self.candidates != fresh.candidates),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("posts", &self.posts).finish_non_exhaustive()
    }
}

impl Desk {
    /// Reads keys and filter list again: both take effect, or neither does. Flows and sessions stay.
    pub fn reload_now(&self) -> Vec<FileResult> {
        self.reloads.run("detecting", || self.reload_files())
    }

    fn reload_files(&self) -> Vec<FileResult> {
        let keys_file = self.arguments.keys.clone().unwrap_or_default();
        let keys = settings::load_keys(&self.arguments);
        let config = settings::load_config(&self.config, self.config_named, &mut Vec::new());
        match (keys, config) {
            (Ok((checker, _)), Ok(fresh)) => {
                self.checker.store(Arc::new(checker));
                let waiting = self.fixed.changed(&fresh);
                self.filter.store(Arc::new(Filter::new(fresh.filter, &fresh.decoys)));
                vec![merge(&keys_file, &[]), merge(&self.config, &waiting)]
            }
            (keys, config) => [
                keys.err().map(|error| file_result(&keys_file, Some(&error))),
                config.err().map(|error| file_result(&self.config, Some(&error))),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }

    fn state(&self) -> (String, Vec<String>) {
        let mut notes = Vec::new();
        let mut waiting = 0;
        for post in &self.posts {
            if let SourceState::Waiting(reason) = &*post.state.lock() {
                waiting += 1;
                notes.push(format!("worker {}: {reason}", post.queue));
            }
        }
        notes.push(format!("sessions: {}", self.watch.describe()));
        notes.push(format!("redis: {}", self.redis_state()));
        if let Some(publisher) = &self.publisher {
            let stats = publisher.stats();
            notes.push(format!(
                "registration bus: {} on {}, {} subscriber(s), {} published, {} dropped",
                if stats.subscribers == 0 { "waiting" } else { "connected" },
                publisher.endpoint(),
                stats.subscribers,
                stats.published,
                stats.dropped,
            ));
        }
        notes.extend(self.reloads.notes());
        let state = if waiting == 0 { "ready" } else { "degraded" };
        (state.to_owned(), notes)
    }

    fn redis_state(&self) -> String {
        match &self.redis {
            Some(redis) => format!(
                "{}, {} messages, {} refused",
                redis.state(),
                redis.received(),
                redis.refused()
            ),
            None => "off".to_owned(),
        }
    }

    fn worker(post: &Post, inlet: &Inlet) -> WorkerStatus {
        let counters = post.counters.snapshot();
        WorkerStatus {
            worker: u32::try_from(post.queue).unwrap_or(u32::MAX),
            packets: counters.packets,
            bytes: counters.bytes,
            dropped_source: counters.source_drops,
            dropped_candidates: counters.candidates_dropped,
            dropped_tun: counters.forward_errors,
            tracked_flows: counters.tracked,
            candidates: counters.candidates,
            tags: counters.tags,
            forwarded: counters.forwarded + counters.released,
            restarts: post.restarts.load(Relaxed),
            cpu: u32::try_from(post.cpu).unwrap_or(u32::MAX),
            v4: counters.v4,
            v6: counters.v6,
            truncated: counters.truncated,
            tls: counters.tls,
            syns: counters.syns,
            candidates_short: counters.candidates_short,
            candidates_waiting: inlet.candidates.waiting() as u64,
            checked: counters.checked,
            malformed_tags: counters.malformed_tags,
            tls13: counters.tls13,
            evicted: counters.evicted,
            forwarded_bytes: counters.forwarded_bytes,
            held: counters.held,
            released: counters.released,
            syns_elsewhere: counters.syns_elsewhere,
            candidates_displaced: inlet.candidates.displaced(),
            straddling: counters.straddling,
            joined: counters.joined,
            straddling_lost: counters.straddling_lost,
            passing: counters.passing,
            passing_entered: counters.passing_entered,
            passing_refused: counters.passing_refused,
            forwarded_together: counters.forwarded_together,
            attached: *post.state.lock() == SourceState::Attached,
        }
    }
}

impl telemetry::admin::Daemon for Desk {
    fn status(&self) -> DaemonStatus {
        let (state, notes) = self.state();
        let bus = self.publisher.as_ref().map(|publisher| publisher.stats());
        let posts = self.posts.iter().zip(&self.inlets);
        let detail = DetectorStatus {
            workers: posts.map(|(post, inlet)| Self::worker(post, inlet)).collect(),
            sessions: self.sessions.len() as u64,
            session_channel: self.watch.describe(),
            redis: self.redis_state(),
            redis_received: self.redis.as_ref().map_or(0, |redis| redis.received()),
            redis_refused: self.redis.as_ref().map_or(0, |redis| redis.refused()),
            published: bus.as_ref().map_or(0, |bus| bus.published),
            published_dropped: bus.as_ref().map_or(0, |bus| bus.dropped),
            subscribers: bus.as_ref().map_or(0, |bus| bus.subscribers as u64),
        };
        DaemonStatus { state, notes, detail: Some(Detail::Detector(detail)) }
    }

    async fn reload(&self) -> Vec<FileResult> {
        self.reload_now()
    }

    /// The detector holds nothing that has to be finished, so it leaves at once.
    fn drain(&self, _: Duration) {
        self.leave.notify_one();
    }
}
