//! Registration over DNS (`spec/registrar.md` 11.6).

use std::path::Path;
use std::time::Duration;

use rand::Rng;
use registration::dns::{Answer, Asked, Name, NameError, PlanError, split};
use signalling::{DnsRegMethod, DnsResponse, RegistrationResponse};
use tokio::time::timeout;

use crate::dns_resolver::{Resolver, ResolverError};

/// Attempts of one registration, each with an id of its own.
const ATTEMPTS: usize = 4;
/// Limit of one attempt.
const LIMIT: Duration = Duration::from_secs(15);
/// Longest time that a DoH server may ask to be left alone; above it the registration fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registration over DNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsChannel {
    /// The registrar chooses the phantom and answers.
    pub bidirectional: bool,
    /// Who is asked; `None` for the ClientConf's.
    pub resolver: Option<Resolver>,
    /// Zone of the registrar; `None` for the ClientConf's.
    pub domain: Option<String>,
}

/// What a ClientConf says about registration over DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsConf {
    method: Option<DnsRegMethod>,
    target: String,
    domain: String,
    /// `None` for the station's.
    key: Option<[u8; 32]>,
    pub(crate) stun_server: Option<String>,
    mtu: usize,
}

impl DnsConf {
    /// Takes the settings of a ClientConf.
    pub(crate) fn new(message: &signalling::DnsRegConf) -> Self {
        Self {
            method: DnsRegMethod::try_from(message.dns_reg_method).ok(),
            target: message.target().to_owned(),
            domain: message.domain.clone(),
            key: message.pubkey.as_deref().and_then(|key| key.try_into().ok()),
            stun_server: message.stun_server.clone().filter(|server| !server.is_empty()),
            mtu: message.mtu() as usize,
        }
    }

    fn resolver(&self) -> Option<Result<Resolver, ResolverError>> {
        if self.target.is_empty() {
            return None;
        }
        let text = match self.method? {
            DnsRegMethod::Udp => format!("udp://{}", self.target),
            DnsRegMethod::Dot => format!("tls://{}", self.target),
            DnsRegMethod::Doh => self.target.clone(),
        };
        Some(Resolver::parse(&text))
    }
}

/// Why a registration over DNS failed.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Nobody says what to ask for, or whom.
    #[error("no {0} for DNS registration: it is neither given nor in the ClientConf ({1})")]
    Missing(&'static str, &'static str),
    /// The zone is no name.
    #[error("DNS registration zone {zone}: {cause}")]
    Zone {
        /// The zone.
        zone: String,
        /// Why.
        cause: NameError,
    },
    /// The registration does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The registrar's key is of low order.
    #[error("the DNS registrar's key is of low order; ask for a newer ClientConf")]
    Key,
    /// The resolver cannot be used.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// Every reply was lost or says that parts are missing.
    #[error("{0} brings no answer of the DNS registrar below {1}")]
    Silent(String, String),
    /// The registrar refused.
    #[error("the DNS registrar below {0} refuses the registration")]
    Refused(String),
}

/// A resolver and the registrar behind it.
#[derive(Debug)]
pub(crate) struct DnsRegistrar {
    resolver: Resolver,
    zone: Name,
    key: [u8; 32],
    mtu: usize,
}

impl DnsRegistrar {
    /// The registrar of `channel`, with the settings of the ClientConf where it leaves them open.
    pub(crate) fn new(
        channel: &DnsChannel,
        conf: Option<&DnsConf>,
        station_key: &[u8; 32],
    ) -> Result<Self, DnsError> {
        let zone = channel.domain.as_deref().or_else(|| conf.map(|conf| conf.domain.as_str()));
        let zone = zone.filter(|zone| !zone.is_empty());
        let zone = zone.ok_or(DnsError::Missing("zone", "--dns-domain"))?;
        let resolver = match (&channel.resolver, conf.and_then(DnsConf::resolver)) {
            (Some(resolver), _) => resolver.clone(),
            (None, Some(resolver)) => resolver?,
            (None, None) => return Err(DnsError::Missing("resolver", "--resolver")),
        };
        Ok(Self {
            resolver,
            zone: Name::parse(zone)
                .map_err(|cause| DnsError::Zone { zone: zone.to_owned(), cause })?,
            key: conf.and_then(|conf| conf.key).unwrap_or(*station_key),
            mtu: conf.map_or(0, |conf| conf.mtu),
        })
    }

    /// Registers without looking at what the registrar says, as released clients do.
    pub(crate) async fn register(&self, wrapper: &[u8], roots: &Path) -> Result<(), DnsError> {
        self.attempts(wrapper, roots, |_| Some(())).await
    }

    /// Registers and takes the parameters that the registrar promises.
    pub(crate) async fn register_bidirectional(
        &self,
        wrapper: &[u8],
        roots: &Path,
    ) -> Result<RegistrationResponse, DnsError> {
        let response = |reply: DnsResponse| {
            reply.bidirectional_response.filter(|_| reply.success == Some(true))
        };
        self.attempts(wrapper, roots, response).await
    }

    async fn attempts<T>(
        &self,
        wrapper: &[u8],
        roots: &Path,
        usable: impl Fn(DnsResponse) -> Option<T>,
    ) -> Result<T, DnsError> {
        let silent = || DnsError::Silent(self.resolver.to_string(), self.zone.to_string());
        let mut result = Err(silent());
        for _ in 0..ATTEMPTS {
            let asked = self.ask(wrapper)?;
            match timeout(LIMIT, self.resolver.first_answer(&asked, &self.zone, roots)).await {
                Ok(Ok(reply)) => match usable(reply) {
                    Some(usable) => return Ok(usable),
                    None => result = Err(DnsError::Refused(self.zone.to_string())),
                },
                Ok(Err(ResolverError::Busy { wait, url })) if wait <= PATIENCE => {
                    tokio::time::sleep(wait).await;
                    result = Err(ResolverError::Busy { wait, url }.into());
                }
                Ok(Err(error)) if error.may_pass() => result = Err(error.into()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => result = Err(silent()),
            }
        }
        result
    }

    /// New queries for all parts.
    fn ask(&self, wrapper: &[u8]) -> Result<Vec<Asked>, DnsError> {
        let rng = &mut rand::rng();
        let mut id = [0; 8];
        rng.fill_bytes(&mut id);
        let split = split(wrapper, self.mtu, &self.zone, &id)?;
        let seal = |part: &Vec<u8>| {
            let mut ephemeral = [0; 32];
            rng.fill_bytes(&mut ephemeral);
            let id = (rng.next_u32() & 0xffff) as u16;
            Asked::seal(&self.zone, &self.key, &ephemeral, id, part).ok_or(DnsError::Key)
        };
        split.parts.iter().map(seal).collect()
    }
}

/// The registrar's answer, if `text` is the one that ends the registration.
pub(crate) fn last_word(asked: &Asked, text: &[u8]) -> Option<DnsResponse> {
    match asked.answer(text)? {
        Answer::Waiting => None,
        Answer::Done(reply) => Some(reply),
    }
}
