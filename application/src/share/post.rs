//! One HTTP POST, over a connection that is kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest reply that is read to keep the connection; its content does not matter.
const MAX_REPLY: usize = 64 << 10;

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL is none.
    #[error("preshare_endpoint: found `{0}`, expected http://HOST[:PORT]/PATH or https://…")]
    Url(String),
    /// There are no trust anchors for `https`.
    #[error("no trust anchors in {path}: {cause} (Debian: ca-certificates; or set SSL_CERT_FILE)")]
    Roots {
        /// File that should have them.
        path: String,
        /// Why.
        cause: String,
    },
}

/// Why a registration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The registrar cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The exchange broke.
    #[error("connection broke: {0}")]
    Exchange(#[from] hyper::Error),
    /// The request cannot be written.
    #[error("bad request: {0}")]
    Request(#[from] hyper::http::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// The registrar refused.
    #[error("non-success response code {}", .0.as_u16())]
    Refused(StatusCode),
}

/// A registrar's URL.
pub struct Endpoint {
    url: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url).finish()
    }
}

/// An open connection to it.
pub(super) type Connection = http1::SendRequest<Full<Bytes>>;

impl Endpoint {
    /// The endpoint at `url`; the trust anchors of `https` stand in the PEM file `roots`.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(url: &str, roots: &Path) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
                (Some((connector(roots)?, name)), 443)
            }
            _ => return Err(bad()),
        };
        Ok(Self {
            url: url.to_owned(),
            tls,
            host,
            port: authority.port_u16().unwrap_or(port),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts `body` over `connection`, or over a new one that is left there.
    pub(super) async fn post(
        &self,
        connection: &mut Option<Connection>,
        body: Bytes,
    ) -> Result<(), PostError> {
        // Taken out, so that one whose request is given up half-way is not used again.
        let mut sender = match connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::HOST, &self.authority)
            // As the reference sends it.
            .header(header::CONTENT_TYPE, HeaderValue::from_static(""))
            .body(Full::new(body))?;
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        if Limited::new(reply.into_body(), MAX_REPLY).collect().await.is_ok() {
            *connection = Some(sender);
        }
        if status.is_success() { Ok(()) } else { Err(PostError::Refused(status)) }
    }

    async fn connect(&self) -> Result<Connection, PostError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(PostError::Connect)?;
        match &self.tls {
            None => handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                handshake(stream.map_err(PostError::Connect)?).await
            }
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Connection, PostError> {
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach whoever waits for a reply.
    tokio::spawn(async move { drop(driver.await) });
    Ok(sender)
}

fn connector(roots: &Path) -> Result<TlsConnector, EndpointError> {
    let failed = |cause: String| EndpointError::Roots { path: roots.display().to_string(), cause };
    let mut store = RootCertStore::empty();
    let anchors = CertificateDer::pem_file_iter(roots).map_err(|e| failed(e.to_string()))?;
    store.add_parsable_certificates(anchors.flatten());
    if store.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_or_https() {
        let nowhere = Path::new("/nonexistent/roots.pem");
        let plain = Endpoint::new("http://[::1]:8080/register", nowhere).unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.path.as_str()),
            ("::1", 8080, "/register")
        );
        assert_eq!(Endpoint::new("http://a.example", nowhere).unwrap().path, "/");
        for wrong in ["ftp://a/", "a.example", ""] {
            let error = Endpoint::new(wrong, nowhere).unwrap_err().to_string();
            assert!(error.contains("expected http://"), "{error}");
        }
        let error = Endpoint::new("https://a.example/", nowhere).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/roots.pem") && error.contains("SSL_CERT_FILE"));
    }
}
