//! Registration through an AMP cache (`spec/registrar.md` 11.4).

use std::path::Path;
use std::time::Duration;

use rand::Rng;
use registration::amp::{self, CacheUrlError, armor};
use signalling::{Message, RegistrationResponse};
use tokio::time::timeout;

use crate::decoy::RootsError;
use crate::https::{Endpoint, HttpError, Reply, Request};

/// Attempts of one registration.
const ATTEMPTS: usize = 4;
/// Limit of one attempt.
const LIMIT: Duration = Duration::from_secs(15);
/// Documents, in the path of a cache.
const DOCUMENT: &str = "c";

/// A registration through a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmpChannel {
    /// The registrar chooses the phantom and answers.
    pub bidirectional: bool,
    /// URL of the registrar's `/amp/register` or `/amp/register-bidirectional`.
    pub url: String,
    /// URL of the cache; `None` to ask the registrar itself.
    pub cache: Option<String>,
    /// `HOST[:PORT]` to connect to in the place of the cache.
    pub front: Option<String>,
}

/// Why a registration through a cache failed.
#[derive(Debug, thiserror::Error)]
pub enum AmpError {
    /// No cache can be asked for the registrar.
    #[error("AMP cache: {0}")]
    CacheUrl(#[from] CacheUrlError),
    /// A URL or the front makes no sense.
    #[error("{0}: expected http[s]://HOST/PATH for the registrar, HOST[:PORT] for a front")]
    Url(String),
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The cache cannot be reached.
    #[error("AMP cache for {url}: {cause}")]
    Unreachable {
        /// The registrar's URL.
        url: String,
        /// Why.
        cause: String,
    },
    /// Cache or registrar refused.
    #[error("AMP cache for {url}: answered {status}")]
    Refused {
        /// The registrar's URL.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The reply makes no sense.
    #[error("AMP cache for {url}: the reply is no armored RegistrationResponse: {cause}")]
    Reply {
        /// The registrar's URL.
        url: String,
        /// Why.
        cause: String,
    },
}

impl AmpChannel {
    /// Registers; the response of a bidirectional registration.
    pub(crate) async fn register(
        &self,
        wrapper: &[u8],
        roots: &Path,
    ) -> Result<Option<RegistrationResponse>, AmpError> {
        let mut result = Err(self.unreachable("no answer in time"));
        for _ in 0..ATTEMPTS {
            // Each attempt has a path of its own, which no cache has seen.
            let endpoint = self.endpoint(wrapper)?;
            result = match timeout(LIMIT, self.attempt(&endpoint, roots)).await {
                Ok(result) => result,
                Err(_) => Err(self.unreachable("no answer in time")),
            };
            if !matches!(result, Err(AmpError::Unreachable { .. } | AmpError::Refused { .. })) {
                break;
            }
        }
        let reply = result?;
        if !self.bidirectional {
            return Ok(None);
        }
        let failed = |cause: String| AmpError::Reply { url: self.url.clone(), cause };
        let message = armor::decode(&reply.body).map_err(|e| failed(e.to_string()))?;
        let response = RegistrationResponse::decode(&message[..]);
        response.map(Some).map_err(|e| failed(e.to_string()))
    }

    fn unreachable(&self, cause: impl ToString) -> AmpError {
        AmpError::Unreachable { url: self.url.clone(), cause: cause.to_string() }
    }

    /// Where `wrapper` is asked for.
    fn endpoint(&self, wrapper: &[u8]) -> Result<Endpoint, AmpError> {
        let mut breaker = [0; amp::BREAKER];
        rand::rng().fill_bytes(&mut breaker);
        let base = self.url.trim_end_matches('/');
        let publisher = format!("{base}/{}", amp::encode_path(wrapper, &breaker));
        let url = match &self.cache {
            Some(cache) => amp::cache_url(&publisher, cache, DOCUMENT)?,
            None => publisher,
        };
        let bad = || AmpError::Url(self.url.clone());
        let endpoint = Endpoint::parse(&url).ok_or_else(bad)?;
        match &self.front {
            Some(front) => endpoint.through(front).ok_or_else(|| AmpError::Url(front.clone())),
            None => Ok(endpoint),
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, roots: &Path) -> Result<Reply, AmpError> {
        let failed = |error: HttpError| match error {
            HttpError::Roots(error) => error.into(),
            other => self.unreachable(other),
        };
        let mut connection = endpoint.connect(roots).await.map_err(failed)?;
        let reply = connection.send(Request::get(armor::MAX_DOCUMENT)).await.map_err(failed)?;
        // A cache that redirects has not asked the registrar.
        if !(200..300).contains(&reply.status) || reply.header("location").is_some() {
            return Err(AmpError::Refused { url: self.url.clone(), status: reply.status });
        }
        Ok(reply)
    }
}
