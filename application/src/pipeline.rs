//! The way of a registration from its message to the detectors (`spec/application.md` 6.6 to 6.10).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use chrono::SecondsFormat;
use signalling::RegistrationSource;
use telemetry::log::{Level, Logger, enabled};
use telemetry::output;

use crate::announce::Announcer;
use crate::bound::Bound;
use crate::covert::{Refused, Resolver, SystemResolver, Target};
use crate::decisions::Decisions;
use crate::dtls;
use crate::intake::{self, IntakeError, Served};
use crate::lines;
use crate::liveness::{Dialer, Liveness, LivenessTester, TcpDialer};
use crate::policy::Policy;
use crate::registration::Registration;
use crate::share::{self, Sharer};
use crate::stats::Stats;
use crate::store::{Store, Tracked};

/// A pending packet is kept a little longer than the probe takes.
const PENDING_MARGIN: Duration = Duration::from_millis(150);
/// Longest time that a detector keeps a pending packet (`spec/channels.md` 1).
const PENDING_LIMIT: Duration = Duration::from_secs(1);

/// New registrations of one message that wait for a name or a probe.
#[derive(Debug)]
pub struct Waiting {
    registrations: Vec<Fresh>,
    /// The policy under which they began.
    policy: Arc<Policy>,
}

/// A tracked registration that is to be decided over.
#[derive(Debug)]
struct Fresh {
    registration: Arc<Registration>,
    /// What other stations get of it once its phantom is known to be quiet.
    share: Option<Bytes>,
}

/// Whether the phantom has to be probed: IPv4 only, and not when the registrar has done so.
const fn needs_probe(registration: &Registration) -> bool {
    !registration.prescanned && registration.phantom.is_ipv4()
}

/// Everything a registration needs on its way.
#[derive(Debug)]
pub struct Pipeline<D = TcpDialer, R = SystemResolver> {
    /// What this station serves; families change with a reload.
    pub served: ArcSwap<Served>,
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
    pub probes: Bound,
    /// Counters.
    pub stats: Arc<Stats>,
    /// The registration log.
    pub log: Logger,
    /// Gives registrations of the detector to other stations, where that is on.
    pub sharer: Option<Sharer>,
    /// DTLS sessions, when the station serves them.
    pub dtls: OnceLock<Arc<dtls::Service>>,
    /// Whether this process or a successor decides.
    pub decisions: Decisions,
}

impl<D: Dialer, R: Resolver> Pipeline<D, R> {
    /// Takes one message of the bus to its end.
    pub async fn handle(&self, frame: &[u8]) {
        if let Some(waiting) = self.begin(frame) {
            self.finish(waiting).await;
        }
    }

    /// Takes one message as far as it goes without waiting: to its end, for a prescanned
    /// registration with a literal covert; otherwise the rest is for [`Pipeline::finish`].
    pub fn begin(&self, frame: &[u8]) -> Option<Waiting> {
        let policy = self.policy.load();
        let mut registrations = self.track(frame, &policy);
        registrations.retain(|fresh| !self.decide_at_once(fresh, &policy));
        if registrations.is_empty() {
            return None;
        }
        Some(Waiting { registrations, policy: Guard::into_inner(policy) })
    }

    /// Resolves and probes what `begin` left.
    pub async fn finish(&self, waiting: Waiting) {
        let Waiting { registrations, policy } = waiting;
        let mut fresh = registrations.into_iter();
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
    fn track(&self, frame: &[u8], policy: &Policy) -> Vec<Fresh> {
        let intake = match intake::read(frame, &self.served.load(), policy) {
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
        if let Some(first) = intake.registrations.first().filter(|_| enabled(Level::Debug)) {
            self.log.debug(format_args!("{}", lines::received(output::format(), first, frame)));
        }
        let mut share = self.share(frame, &intake.registrations);
        let message = Bytes::copy_from_slice(frame);
        let fresh = |registration: Registration| {
            // The first family stands for the message; the other would share it again.
            let share = share.take();
            let registration = registration.brought_by(message.clone(), Duration::ZERO);
            let registration = self.track_one(registration, policy)?;
            Some(Fresh { registration, share })
        };
        intake.registrations.into_iter().filter_map(fresh).collect()
    }

    /// What other stations get of a message of the detector.
    fn share(&self, frame: &[u8], registrations: &[Registration]) -> Option<Bytes> {
        self.sharer.as_ref()?;
        let from_detector = |r: &Registration| r.source == RegistrationSource::Detector as i32;
        registrations.first().filter(|first| from_detector(first))?;
        // What was decoded is well-formed but for what only the decoder accepts.
        share::body(frame).ok().map(Bytes::from)
    }

    fn log_failed_family(&self, v6: bool, error: &IntakeError) {
        let family = if v6 { "v6" } else { "v4" };
        self.log.error(format_args!("Failed to create registration from {family} C2S: {error}"));
    }

    fn track_one(&self, registration: Registration, policy: &Policy) -> Option<Arc<Registration>> {
        let from_detector = registration.source == RegistrationSource::Detector as i32;
        if !from_detector && policy.is_blocked_phantom(registration.phantom) {
            self.stats.registrations.blocked.count();
            return None;
        }
        match self.store.track(registration) {
            Tracked::New(registration) => {
                self.stats.funnel.registered(&registration);
                if enabled(Level::Debug) {
                    let now = chrono::Local::now().to_rfc3339_opts(SecondsFormat::AutoSi, true);
                    let (format, frame) = (output::format(), &registration.message);
                    let line = lines::new(format, &registration, frame, &now);
                    self.log.debug(format_args!("{line}"));
                }
                Some(registration)
            }
            Tracked::Duplicate(known) => {
                self.stats.registrations.duplicates.count();
                if enabled(Level::Debug) {
                    let source = signalling::names::source(known.source);
                    let id = known.log_id();
                    self.log.debug(format_args!("Duplicate registration: {id} {source}"));
                }
                None
            }
            Tracked::Full => {
                self.stats.registrations.full.count();
                self.log.warn("registration dropped: the store is full (max_registrations)");
                None
            }
        }
    }

    /// Decides over a tracked registration that neither a name nor a probe has to be waited for;
    /// false when it has to wait.
    fn decide_at_once(&self, fresh: &Fresh, policy: &Policy) -> bool {
        let registration = &fresh.registration;
        if needs_probe(registration) {
            return false;
        }
        let covert = match policy.covert.read(&registration.covert_text) {
            Ok(Target::Name(..)) => return false,
            Ok(Target::Literal(covert)) => policy.covert.admit(covert.ip()).map(|()| covert),
            Err(reason) => Err(reason),
        };
        match covert {
            Ok(covert) => self.make_valid(fresh, covert, policy),
            Err(reason) => self.refuse_covert(registration, reason),
        }
        true
    }

    /// Decides over a tracked registration and makes it valid when nothing speaks against it.
    async fn admit(&self, fresh: Fresh, policy: &Policy) {
        let registration = &fresh.registration;
        match policy.covert.resolve(&registration.covert_text, &self.resolver).await {
            Ok(covert) => {
                if self.is_quiet(registration).await {
                    self.make_valid(&fresh, covert, policy);
                }
            }
            Err(reason) => self.refuse_covert(registration, reason),
        }
    }

    fn refuse_covert(&self, registration: &Registration, reason: Refused) {
        self.stats.registrations.errors.count();
        self.log.info(lines::refused(output::format(), registration, &reason));
    }

    fn make_valid(&self, fresh: &Fresh, covert: SocketAddr, policy: &Policy) {
        let Fresh { registration, share } = fresh;
        // Before the blocklist: the station that serves the phantom may not have heard of it.
        if let Some((sharer, body)) = self.sharer.as_ref().zip(share.as_ref()) {
            sharer.offer(registration.log_id(), body.clone());
        }
        if policy.is_blocked_phantom(registration.phantom) {
            self.stats.registrations.blocked.count();
            self.log.warn(format_args!(
                "ignoring registration with blocklisted phantom: {} {}",
                registration.log_id(),
                registration.phantom
            ));
            return;
        }
        self.decisions.make(registration, || {
            let activated = self.store.activate(registration, covert);
            if activated {
                self.made_valid(registration);
            }
            activated
        });
    }

    /// Tells everybody that `registration` has become valid.
    pub(crate) fn made_valid(&self, registration: &Arc<Registration>) {
        self.announcer.valid(registration);
        self.stats.registrations.accepted(registration);
        self.stats.funnel.valid(registration);
        if let Some(dtls) = self.dtls.get() {
            dtls.valid(registration);
        }
        if enabled(Level::Debug) {
            self.log.debug(format_args!("Adding registration {}", registration.log_id()));
        }
    }

    /// Whether nobody else answers at the phantom.
    async fn is_quiet(&self, registration: &Registration) -> bool {
        if !needs_probe(registration) {
            return true;
        }
        let probe = async {
            // Closed never: the semaphore lives as long as the pipeline.
            let _permit = self.probes.enter().await;
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

    /// The registrations that `message` asks for, one per family.
    pub(crate) fn families(&self, message: &[u8], policy: &Policy) -> Option<Vec<Registration>> {
        Some(intake::read(message, &self.served.load(), policy).ok()?.registrations)
    }

    /// Ends the registrations whose time is over.
    pub fn expire(&self) {
        for registration in self.store.expire(tokio::time::Instant::now()) {
            if registration.is_valid() {
                self.stats.registrations.active.down();
                self.announcer.ended(&registration);
                if let Some(dtls) = self.dtls.get() {
                    dtls.ended(&registration);
                }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::covert::CovertPolicy;
    use crate::geoip::GeoIp;
    use crate::liveness::LivenessSettings;
    use phantoms::PhantomTable;
    use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};
    use std::net::IpAddr;
    use transports::Transport;
    use transports::prefix::PrefixTable;

    /// Knows `here.example` at once, and `never.example` never.
    pub(crate) struct Hosts;

    impl Resolver for Hosts {
        async fn resolve(&self, host: &str) -> Vec<IpAddr> {
            match host {
                "never.example" => std::future::pending().await,
                "here.example" => vec![[198, 51, 100, 7].into()],
                _ => Vec::new(),
            }
        }
    }

    pub(crate) fn pipeline<R: Resolver>(resolver: R) -> Pipeline<TcpDialer, R> {
        let store = Arc::new(Store::new(1000));
        let phantoms = "[Networks]\n[Networks.1]\nGeneration = 1\n\
            [[Networks.1.WeightedSubnets]]\nWeight = 1\nSubnets = [\"192.122.190.0/24\"]\n";
        let settings = LivenessSettings {
            window: Duration::from_millis(700),
            live_expiry: None,
            nonlive_expiry: None,
            live_capacity: 0,
            nonlive_capacity: 0,
        };
        Pipeline {
            served: ArcSwap::from_pointee(Served {
                v4: true,
                v6: false,
                transports: vec![Transport::Min],
            }),
            policy: ArcSwap::from_pointee(Policy {
                phantoms: PhantomTable::parse(phantoms).unwrap().table,
                covert: CovertPolicy { reject_special: true, ..Default::default() },
                phantom_blocklist: Vec::new(),
                prefixes: PrefixTable::default(),
                geoip: GeoIp::default(),
            }),
            announcer: Announcer::new(Arc::clone(&store), [0; 16], 1000, ""),
            store,
            liveness: LivenessTester::new(&settings, TcpDialer),
            resolver,
            probes: Bound::new(1),
            stats: Arc::new(Stats::default()),
            log: Logger::new("[REG] "),
            sharer: None,
            dtls: OnceLock::new(),
            decisions: Decisions::default(),
        }
    }

    pub(crate) fn message(seed: u8, covert: &str) -> C2sWrapper {
        C2sWrapper {
            shared_secret: Some(vec![seed; 32]),
            registration_payload: Some(ClientToStation {
                decoy_list_generation: Some(1),
                client_lib_version: Some(4),
                transport: Some(Transport::Min.number()),
                covert_address: Some(covert.to_owned()),
                v4_support: Some(true),
                flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
                ..Default::default()
            }),
            registration_source: Some(2),
            registration_address: Some(vec![203, 0, 113, 9]),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn only_names_and_probes_are_waited_for() {
        let pipeline = pipeline(Hosts);
        let begin = |message: C2sWrapper| pipeline.begin(&message.encode_to_vec());
        let regs = &pipeline.stats.registrations;
        assert!(begin(message(1, "198.51.100.2:80")).is_none());
        assert_eq!(regs.new.total(), 1);
        assert!(begin(message(1, "198.51.100.2:80")).is_none());
        assert_eq!((regs.new.total(), regs.duplicates.total()), (1, 1));
        assert!(begin(message(2, "127.0.0.1:80")).is_none());
        assert!(begin(message(3, "nonsense")).is_none());
        assert_eq!((regs.new.total(), regs.errors.total()), (1, 2));
        let named = begin(message(4, "here.example:80")).expect("waits for the name");
        pipeline.finish(named).await;
        assert_eq!(regs.new.total(), 2);
        let mut unprobed = message(5, "198.51.100.2:80");
        unprobed.registration_payload.as_mut().unwrap().flags = None;
        assert!(begin(unprobed).is_some(), "waits for the probe");
        assert_eq!(regs.new.total(), 2);
    }
}
