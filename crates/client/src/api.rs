//! Registration over HTTP (`spec/registrar.md` 11.3).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use signalling::{Message, RegistrationResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Attempts of one registration.
const ATTEMPTS: usize = 4;
/// Limit of one attempt.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest reply; a ClientConf may be part of it.
const MAX_REPLY: usize = 4 << 20;

/// Why the registrar could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The URL cannot be used.
    #[error("registrar {0}: expected http://HOST[:PORT]/PATH or https://…")]
    Url(String),
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] crate::decoy::RootsError),
    /// The registrar cannot be reached.
    #[error("registrar {url}: {cause}")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        cause: String,
    },
    /// The registrar refused.
    #[error("registrar {url}: answered {status}")]
    Refused {
        /// Its URL.
        url: String,
        /// HTTP status.
        status: hyper::StatusCode,
    },
    /// The reply makes no sense.
    #[error("registrar {url}: the reply is no RegistrationResponse: {cause}")]
    Reply {
        /// Its URL.
        url: String,
        /// Why.
        cause: signalling::DecodeError,
    },
}

/// Registers without waiting for parameters.
pub(crate) async fn register(url: &str, body: Vec<u8>, roots: &Path) -> Result<(), ApiError> {
    post(url, body, roots).await.map(drop)
}

/// Registers and takes the parameters that the registrar promises.
pub(crate) async fn register_bidirectional(
    url: &str,
    body: Vec<u8>,
    roots: &Path,
) -> Result<RegistrationResponse, ApiError> {
    let reply = post(url, body, roots).await?;
    RegistrationResponse::decode(reply)
        .map_err(|cause| ApiError::Reply { url: url.to_owned(), cause })
}

async fn post(url: &str, body: Vec<u8>, roots: &Path) -> Result<Bytes, ApiError> {
    let target = Target::parse(url)?;
    let body = Bytes::from(body);
    let mut result = Err(ApiError::Url(url.to_owned()));
    for _ in 0..ATTEMPTS {
        result = match tokio::time::timeout(LIMIT, target.attempt(body.clone(), roots)).await {
            Ok(result) => result,
            Err(_) => Err(target.unreachable("no answer in time")),
        };
        if !matches!(result, Err(ApiError::Unreachable { .. } | ApiError::Refused { .. })) {
            break;
        }
    }
    result
}

/// Where a URL leads.
struct Target {
    url: String,
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: bool,
}

impl Target {
    fn parse(url: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            url: url.to_owned(),
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            tls,
        })
    }

    fn unreachable(&self, cause: impl ToString) -> ApiError {
        ApiError::Unreachable { url: self.url.clone(), cause: cause.to_string() }
    }

    async fn attempt(&self, body: Bytes, roots: &Path) -> Result<Bytes, ApiError> {
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = connected.map_err(|e| self.unreachable(e))?;
        if !self.tls {
            return self.exchange(stream, body).await;
        }
        let config = crate::decoy::tls_config(roots, rustls::ALL_VERSIONS)?;
        let name = rustls::pki_types::ServerName::try_from(self.host.clone())
            .map_err(|_| ApiError::Url(self.url.clone()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|e| self.unreachable(e))?;
        self.exchange(stream, body).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Bytes,
    ) -> Result<Bytes, ApiError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(e))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(hyper::header::HOST, &self.authority)
            .body(Full::new(body))
            .map_err(|_| ApiError::Url(self.url.clone()))?;
        let reply = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
        let status = reply.status();
        let content = Limited::new(reply.into_body(), MAX_REPLY).collect().await;
        driver.abort();
        if !status.is_success() {
            return Err(ApiError::Refused { url: self.url.clone(), status });
        }
        content.map(http_body_util::Collected::to_bytes).map_err(|e| self.unreachable(e))
    }
}
