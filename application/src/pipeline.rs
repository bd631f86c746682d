//! The way of a registration from its message to the detectors (`spec/application.md` 6.6 to 6.10).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use signalling::RegistrationSource;
use telemetry::log::{Level, Logger, enabled};
use telemetry::privacy::ClientAddr;
use tokio::sync::Semaphore;

use crate::announce::Announcer;
use crate::covert::{Resolver, SystemResolver};
use crate::intake::{self, IntakeError, Served};
use crate::liveness::{Dialer, Liveness, LivenessTester, TcpDialer};
use crate::policy::Policy;
use crate::registration::Registration;
use crate::stats::Stats;
use crate::store::{Store, Tracked};

/// A pending packet is kept a little longer than the probe takes.
const PENDING_MARGIN: Duration = Duration::from_millis(150);
/// Longest time that a detector keeps a pending packet (`spec/channels.md` 1).
const PENDING_LIMIT: Duration = Duration::from_secs(1);

/// Everything a registration needs on its way.
#[derive(Debug)]
pub struct Pipeline<D = TcpDialer, R = SystemResolver> {
    /// What this station serves, fixed at start.
    pub served: Served,
    /// What a reload replaces.
    pub policy: ArcSwap<Policy>,
    /// All registrations.
    pub store: Arc<Store>,
    /// Detectors.
    pub announcer: Arc<Announcer>,
    /// Probes of phantoms.
    pub liveness: LivenessTester<D>,
    /// Names of coverts.
    pub resolver: R,
    /// Probes that may run at one time.
    pub probes: Semaphore,
    /// Counters.
    pub stats: Arc<Stats>,
    /// The registration log.
    pub log: Logger,
}

impl<D: Dialer, R: Resolver> Pipeline<D, R> {
    /// Takes one message of the bus to its end.
    pub async fn handle(&self, frame: &[u8]) {
        let policy = self.policy.load_full();
        let mut fresh = self.track(frame, &policy).into_iter();
        // At most one per family, and the two do not wait for each other.
        match (fresh.next(), fresh.next()) {
            (Some(v4), Some(v6)) => {
                tokio::join!(self.admit(v4, &policy), self.admit(v6, &policy));
            }
            (Some(one), None) => self.admit(one, &policy).await,
            _ => {}
        }
    }

    /// Reads a message and stores what is new in it.
    fn track(&self, frame: &[u8], policy: &Policy) -> Vec<Arc<Registration>> {
        let intake = match intake::read(frame, &self.served, policy) {
            Ok(intake) => intake,
            Err(error) => {
                self.stats.registrations.errors.count();
                self.log.error(format_args!("Encountered err when creating Reg: {error}"));
                return Vec::new();
            }
        };
        for (v6, error) in &intake.errors {
            self.stats.registrations.errors.count();
            self.log_failed_family(*v6, error);
        }
        let new = |registration| self.track_one(registration, policy);
        intake.registrations.into_iter().filter_map(new).collect()
    }

    fn log_failed_family(&self, v6: bool, error: &IntakeError) {
        let family = if v6 { "v6" } else { "v4" };
        self.log.error(format_args!("Failed to create registration from {family} C2S: {error}"));
    }

    fn track_one(&self, registration: Registration, policy: &Policy) -> Option<Arc<Registration>> {
        let source = signalling::names::source(registration.source);
        if enabled(Level::Debug) {
            let (client, id) = (ClientAddr(registration.client), registration.log_id());
            self.log.debug(format_args!("received registration: '{client}' {id} {source}"));
        }
        let from_detector = registration.source == RegistrationSource::Detector as i32;
        if !from_detector && policy.is_blocked_phantom(registration.phantom) {
            self.stats.registrations.blocked.count();
            return None;
        }
        match self.store.track(registration) {
            Tracked::New(registration) => {
                if enabled(Level::Debug) {
                    let (id, phantom) = (registration.log_id(), registration.phantom_endpoint());
                    self.log.debug(format_args!(
                        "New registration: {id} {{\"Phantom\":\"{phantom}\",\"Transport\":{},\
                         \"DecoyListVersion\":{},\"Source\":{}}}",
                        registration.transport.number(),
                        registration.generation,
                        registration.source
                    ));
                }
                Some(registration)
            }
            Tracked::Duplicate(known) => {
                self.stats.registrations.duplicates.count();
                let id = known.log_id();
                self.log.debug(format_args!("Duplicate registration: {id} {source}"));
                None
            }
            Tracked::Full => {
                self.stats.registrations.full.count();
                self.log.warn("registration dropped: the store is full (max_registrations)");
                None
            }
        }
    }

    /// Decides over a tracked registration and makes it valid when nothing speaks against it.
    async fn admit(&self, registration: Arc<Registration>, policy: &Policy) {
        let regs = &self.stats.registrations;
        let covert = match policy.covert.resolve(&registration.covert_text, &self.resolver).await {
            Ok(covert) => covert,
            Err(reason) => {
                regs.errors.count();
                // Names the client by design: this line is for abuse reports.
                self.log.info(format_args!(
                    "Dropping reg, malformed or blocklisted covert: {}, {} -> {} ({reason})",
                    registration.log_id(),
                    registration.client,
                    registration.covert_text,
                ));
                return;
            }
        };
        if !self.is_quiet(&registration).await {
            return;
        }
        if policy.is_blocked_phantom(registration.phantom) {
            regs.blocked.count();
            self.log.warn(format_args!(
                "ignoring registration with blocklisted phantom: {} {}",
                registration.log_id(),
                registration.phantom
            ));
            return;
        }
        if registration.activate(covert) {
            self.announcer.valid(&registration);
            regs.accepted(&registration);
            self.log.debug(format_args!("Adding registration {}", registration.log_id()));
        }
    }

    /// Whether nobody else answers at the phantom. Probed for IPv4 only.
    async fn is_quiet(&self, registration: &Registration) -> bool {
        if registration.prescanned || registration.phantom.is_ipv6() {
            return true;
        }
        let probe = async {
            // Closed never: the semaphore lives as long as the pipeline.
            let _permit = self.probes.acquire().await;
            let announce = |window: Duration| {
                let deadline = (window + PENDING_MARGIN).min(PENDING_LIMIT);
                self.announcer.pending(registration, deadline);
            };
            self.liveness.test(registration.phantom, registration.dst_port, announce).await
        };
        let answer = probe.await;
        let reason = match answer.liveness {
            Liveness::Quiet => return true,
            Liveness::Live(reason) => reason,
            Liveness::Unknown(reason) => {
                self.stats.registrations.errors.count();
                self.log.error(format_args!(
                    "Dropping registration {}: its phantom cannot be probed: {reason} (does this \
                     host have a route to the phantom subnets?)",
                    registration.log_id()
                ));
                return false;
            }
        };
        self.stats.registrations.live.count();
        let reason = if answer.cached { "cached live host" } else { &*reason };
        self.log.warn(format_args!(
            "Dropping registration {} -- live phantom: {reason}",
            registration.log_id()
        ));
        false
    }

    /// Ends the registrations whose time is over.
    pub fn expire(&self) {
        for registration in self.store.expire(tokio::time::Instant::now()) {
            if registration.is_valid() {
                self.stats.registrations.active.down();
                self.announcer.ended(&registration);
            }
            if enabled(Level::Debug) {
                self.log.debug(format_args!(
                    "expired reg {{\"Valid\":{},\"PhantomAddr\":\"{}\",\"PhantomDstPort\":{},\
                     \"Reg2expire\":{},\"RegCount\":{},\"V6\":{},\"Transport\":\"{}\",\
                     \"Registrar\":\"{}\",\"TunnelCount\":{}}}",
                    registration.is_valid(),
                    registration.phantom,
                    registration.dst_port,
                    registration.received.elapsed().as_millis(),
                    registration.copies(),
                    registration.phantom.is_ipv6(),
                    registration.transport,
                    signalling::names::source(registration.source),
                    registration.tunnels(),
                ));
            }
        }
    }
}
