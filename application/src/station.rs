//! What serves connections to phantoms, made from its settings.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use conf::{Application, RelayMode};
use keys::StationKey;
use telemetry::log::Logger;
use transports::Transport;

use crate::announce::Announcer;
use crate::bound::Bound;
use crate::connection;
use crate::covert::SystemResolver;
use crate::decisions::Decisions;
use crate::ingest;
use crate::intake::Served;
use crate::liveness::{LivenessSettings, LivenessTester, TcpDialer};
use crate::obfs4::Replays;
use crate::pipeline::Pipeline;
use crate::policy::Policy;
use crate::share::{Limits, Sharer};
use crate::stats::Stats;
use crate::store::Store;

/// Redis as reference peers expect it.
const DEFAULT_REDIS: &str = "redis://127.0.0.1:6379/";
/// Registrations kept when the configuration sets no bound.
const DEFAULT_REGISTRATIONS: usize = 1_000_000;
/// Probes at one time when the configuration sets no bound.
const DEFAULT_PROBES: usize = 4096;
/// The liveness window (`spec/channels.md` 1).
const DEFAULT_WINDOW: Duration = Duration::from_millis(700);
/// Limits for coverts when the configuration sets none.
const DEFAULT_DIAL: Duration = Duration::from_secs(30);
const DEFAULT_RESOLVE: Duration = Duration::from_secs(3);

/// What a phantom connection needs.
#[derive(Debug)]
pub struct Station {
    /// Registrations and what belongs to them.
    pub pipeline: Arc<Pipeline>,
    /// Station keys, in the order in which tags are tried.
    pub keys: Vec<StationKey>,
    /// When a silent tunnel is closed.
    pub stall: relay::StallLimits,
    /// How tunnels are opened; a reload replaces it.
    pub tunnels: ArcSwap<Tunnels>,
    /// Range of the deadline of connections that are not identified, in milliseconds, end excluded.
    pub deadline_ms: Range<u64>,
    /// Obfs4 handshakes that were accepted.
    pub replays: Replays,
    /// Connections at one time.
    pub sessions: Bound,
    /// Registrations that wait for a name or a probe at one time.
    pub workers: Arc<Bound>,
}

impl Station {
    /// A station without registrations. Must be called within a tokio runtime.
    pub fn new(settings: &Application, policy: Policy, keys: Vec<StationKey>) -> Self {
        let store =
            Arc::new(Store::new(settings.max_registrations.unwrap_or(DEFAULT_REGISTRATIONS)));
        let redis_url = settings.redis_url.as_deref().unwrap_or(DEFAULT_REDIS);
        let queue = session::hub::DEFAULT_QUEUE;
        let announcer = Announcer::new(Arc::clone(&store), rand::random(), queue, redis_url);
        Self {
            pipeline: Arc::new(Pipeline {
                served: ArcSwap::from_pointee(served(settings)),
                policy: ArcSwap::from_pointee(policy),
                store,
                announcer,
                liveness: LivenessTester::new(&liveness(settings), TcpDialer),
                resolver: SystemResolver::new(resolve_limit(settings)),
                probes: Bound::new(settings.liveness_max_inflight.unwrap_or(DEFAULT_PROBES)),
                stats: Arc::new(Stats::default()),
                log: Logger::new("[REG] "),
                sharer: sharer(settings),
                dtls: OnceLock::new(),
                decisions: Decisions::default(),
            }),
            keys,
            stall: relay::StallLimits::default(),
            tunnels: ArcSwap::from_pointee(Tunnels::of(settings)),
            sessions: Bound::new(settings.max_sessions.unwrap_or(usize::MAX)),
            workers: Arc::new(ingest::places(settings.ingest_worker_count)),
            deadline_ms: connection::DEADLINE_MS,
            replays: Replays::default(),
        }
    }

    /// Takes registrations for DTLS from now on. The station is shared afterwards, so this comes
    /// first; a station that is shared already stays as it is.
    pub fn take_dtls(&mut self) {
        if let Some(pipeline) = Arc::get_mut(&mut self.pipeline) {
            let mut served = Served::clone(&pipeline.served.load());
            served.transports.push(Transport::Dtls);
            pipeline.served.store(Arc::new(served));
        }
    }

    /// Takes every limit of `settings` over, and `policy`. What is open stays open.
    pub fn adopt(&self, settings: &Application, policy: Policy) {
        let pipeline = &self.pipeline;
        pipeline.policy.store(Arc::new(policy));
        let transports = pipeline.served.load().transports.clone();
        pipeline.served.store(Arc::new(Served { transports, ..served(settings) }));
        pipeline.liveness.set(&liveness(settings));
        pipeline.resolver.set_limit(resolve_limit(settings));
        pipeline.probes.resize(settings.liveness_max_inflight.unwrap_or(DEFAULT_PROBES));
        let capacity = settings.max_registrations.unwrap_or(DEFAULT_REGISTRATIONS);
        pipeline.store.set_capacity(capacity);
        self.tunnels.store(Arc::new(Tunnels::of(settings)));
        self.sessions.resize(settings.max_sessions.unwrap_or(usize::MAX));
        let workers = settings.ingest_worker_count;
        self.workers.resize(workers + workers / 10);
    }
}

/// How tunnels are opened.
#[derive(Debug, Clone, Copy)]
pub struct Tunnels {
    /// How they are relayed.
    pub relay_mode: relay::Mode,
    /// Longest time that a covert may take to accept.
    pub dial_timeout: Duration,
}

impl Tunnels {
    fn of(settings: &Application) -> Self {
        Self {
            relay_mode: match settings.relay_mode {
                RelayMode::Copy => relay::Mode::Copy,
                RelayMode::Auto | RelayMode::Splice => relay::Mode::Auto,
            },
            dial_timeout: settings.covert_dial_timeout.unwrap_or(DEFAULT_DIAL),
        }
    }
}

fn resolve_limit(settings: &Application) -> Duration {
    settings.covert_resolve_timeout.unwrap_or(DEFAULT_RESOLVE)
}

/// Sharing, where the configuration asks for it. Registrations matter more than sharing them, so a
/// station that cannot share says so and goes on.
fn sharer(settings: &Application) -> Option<Sharer> {
    let url = settings.preshare_endpoint.as_ref().filter(|_| settings.enable_share_over_api)?;
    let log = Logger::new("[REG] ");
    match Sharer::start(url, Limits::default(), log.clone()) {
        Ok(sharer) => Some(sharer),
        Err(error) => {
            log.error(format_args!("registrations are not shared: {error}"));
            None
        }
    }
}

fn served(settings: &Application) -> Served {
    Served {
        v4: settings.enable_v4,
        v6: settings.enable_v6,
        transports: vec![Transport::Min, Transport::Prefix, Transport::Obfs4],
    }
}

fn liveness(settings: &Application) -> LivenessSettings {
    let (live, nonlive) = (settings.live_cache, settings.nonlive_cache);
    LivenessSettings {
        window: settings.liveness_window.unwrap_or(DEFAULT_WINDOW),
        live_expiry: live.map(|c| c.expiration),
        nonlive_expiry: nonlive.map(|c| c.expiration),
        live_capacity: live.map_or(0, |c| c.capacity),
        nonlive_capacity: nonlive.map_or(0, |c| c.capacity),
    }
}
