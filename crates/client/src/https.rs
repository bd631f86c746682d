//! Requests to HTTP servers: over TLS with HTTP/2 where the server speaks it, HTTP/1.1 otherwise, and
//! plain HTTP/1.1.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::decoy::RootsError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The host's name is none.
    #[error("{0} is no host name")]
    Name(String),
    /// The connection cannot be made.
    #[error(transparent)]
    Connect(#[from] std::io::Error),
    /// The exchange broke.
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
    /// The request cannot be written.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// The reply is too long, or broke off.
    #[error("the reply cannot be read: {0}")]
    Body(String),
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    tls: bool,
    /// Host to connect to, and its name in TLS.
    host: String,
    port: u16,
    /// Host that the request asks for.
    authority: String,
    path: String,
}

impl Endpoint {
    /// The endpoint of an `http` or `https` URL.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        Some(Self {
            tls,
            host: bare(authority.host()).to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    /// The same request sent to another host, `HOST[:PORT]`, which passes it on (domain fronting).
    pub(crate) fn through(mut self, front: &str) -> Option<Self> {
        let front: hyper::http::uri::Authority = front.parse().ok()?;
        self.host = bare(front.host()).to_owned();
        self.port = front.port_u16().unwrap_or(if self.tls { 443 } else { 80 });
        Some(self)
    }

    /// Connects.
    pub(crate) async fn connect(&self, roots: &Path) -> Result<Connection, HttpError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let endpoint = self.clone();
        if !self.tls {
            return Ok(Connection { sender: first(TokioIo::new(stream)).await?, endpoint });
        }
        let mut config = crate::decoy::tls_config(roots, rustls::ALL_VERSIONS)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| HttpError::Name(self.host.clone()))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let sender = if second {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
            // Its errors reach whoever waits for a reply.
            tokio::spawn(async move { drop(driver.await) });
            Sender::Second(sender)
        } else {
            first(io).await?
        };
        Ok(Connection { sender, endpoint })
    }
}

async fn first<T>(io: TokioIo<T>) -> Result<Sender, HttpError>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, driver) = http1::handshake(io).await?;
    // As above.
    tokio::spawn(async move { drop(driver.await) });
    Ok(Sender::First(Arc::new(Mutex::new(sender))))
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    method: Method,
    body: Bytes,
    /// Type of the body and of the reply.
    kind: Option<&'static str>,
    /// Longest reply that is read, in bytes.
    limit: usize,
}

impl Request {
    /// A POST of `body`; body and reply are of type `kind`.
    pub(crate) fn post(body: Vec<u8>, kind: &'static str, limit: usize) -> Self {
        Self { method: Method::POST, body: body.into(), kind: Some(kind), limit }
    }

    /// A GET.
    pub(crate) fn get(limit: usize) -> Self {
        Self { method: Method::GET, body: Bytes::new(), kind: None, limit }
    }
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A header of the reply, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A connection that takes requests.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: Sender,
    endpoint: Endpoint,
}

#[derive(Debug, Clone)]
enum Sender {
    /// HTTP/1.1: one request after another.
    First(Arc<Mutex<http1::SendRequest<Full<Bytes>>>>),
    /// HTTP/2: any number at once.
    Second(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Sends `request` and reads the whole reply.
    pub(crate) async fn send(&mut self, request: Request) -> Result<Reply, HttpError> {
        let limit = request.limit;
        let mut wire = hyper::Request::builder().method(request.method);
        if let Some(kind) = request.kind {
            let kind = HeaderValue::from_static(kind);
            wire = wire.header(header::ACCEPT, kind.clone()).header(header::CONTENT_TYPE, kind);
        }
        let Endpoint { tls, authority, path, .. } = &self.endpoint;
        match &mut self.sender {
            Sender::First(sender) => {
                let wire = wire.uri(path).header(header::HOST, authority);
                let mut sender = sender.lock().await;
                sender.ready().await?;
                read(sender.send_request(wire.body(Full::new(request.body))?).await?, limit).await
            }
            Sender::Second(sender) => {
                let scheme = if *tls { "https" } else { "http" };
                let wire = wire.uri(format!("{scheme}://{authority}{path}"));
                sender.ready().await?;
                read(sender.send_request(wire.body(Full::new(request.body))?).await?, limit).await
            }
        }
    }
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Reply, HttpError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, limit).collect().await;
    let body = body.map_err(|e| HttpError::Body(e.to_string()))?.to_bytes();
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_changes_where_and_not_what() {
        let plain = Endpoint::parse("https://reg.example/a?b=c").unwrap();
        let fronted = plain.clone().through("front.example:8443").unwrap();
        assert_eq!((fronted.host.as_str(), fronted.port), ("front.example", 8443));
        assert_eq!((&fronted.authority, &fronted.path), (&plain.authority, &plain.path));
        assert_eq!(plain.path, "/a?b=c");
        assert_eq!(Endpoint::parse("http://[::1]:8080").unwrap().host, "::1");
        for wrong in ["ftp://a/", "a.example", ""] {
            assert_eq!(Endpoint::parse(wrong), None, "{wrong}");
        }
    }
}
