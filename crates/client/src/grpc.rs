//! Registration over gRPC (`spec/channels.md` 3).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use signalling::{C2sWrapper, Message, RegistrationResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::decoy::RootsError;

const REGISTER: &str = "/conjure.registration.v1.Registration/Register";
/// Attempts of one registration.
const ATTEMPTS: usize = 4;
/// Limit of one attempt.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest reply; a ClientConf may be part of it.
const MAX_REPLY: usize = 4 << 20;

/// Why a registration over gRPC failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The URL cannot be used.
    #[error("registrar {0}: expected http://HOST[:PORT] or https://HOST[:PORT]")]
    Url(String),
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The registrar cannot be reached.
    #[error("registrar {url}: {cause}")]
    Unreachable {
        /// Its URL.
        url: String,
        /// Why.
        cause: String,
    },
    /// The registrar refused.
    #[error("registrar {url}: answered {code:?}: {text}")]
    Refused {
        /// Its URL.
        url: String,
        /// gRPC status.
        code: Code,
        /// What it says.
        text: String,
    },
}

/// Registers and takes the parameters that the registrar promises.
pub(crate) async fn register(
    url: &str,
    wrapper: &[u8],
    roots: &Path,
) -> Result<RegistrationResponse, GrpcError> {
    let unreachable = |cause: String| GrpcError::Unreachable { url: url.to_owned(), cause };
    // Our own message.
    let message = C2sWrapper::decode(wrapper).map_err(|e| unreachable(e.to_string()))?;
    let mut result = Err(unreachable("no answer in time".to_owned()));
    for _ in 0..ATTEMPTS {
        let attempt = attempt(url, message.clone(), roots);
        result = match tokio::time::timeout(LIMIT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(unreachable("no answer in time".to_owned())),
        };
        if !matches!(result, Err(GrpcError::Unreachable { .. })) {
            break;
        }
    }
    result
}

async fn attempt(
    url: &str,
    message: C2sWrapper,
    roots: &Path,
) -> Result<RegistrationResponse, GrpcError> {
    let unreachable = |cause: String| GrpcError::Unreachable { url: url.to_owned(), cause };
    let bad = || GrpcError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?.clone();
    let tls = match uri.scheme_str() {
        Some("http") => None,
        Some("https") => {
            let mut config = crate::decoy::tls_config(roots, rustls::ALL_VERSIONS)?;
            config.alpn_protocols = vec![b"h2".to_vec()];
            Some(TlsConnector::from(Arc::new(config)))
        }
        _ => return Err(bad()),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    // The connector below adds TLS, so the library sees plain HTTP/2.
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| bad())?;
    let endpoint = endpoint.origin(uri.clone());
    let connector = tower::service_fn(move |_: Uri| connect(host.clone(), port, tls.clone()));
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|e| unreachable(causes(&e)))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_REPLY);
    grpc.ready().await.map_err(|e| unreachable(causes(&e)))?;
    let codec = ProstCodec::<C2sWrapper, RegistrationResponse>::default();
    let path = PathAndQuery::from_static(REGISTER);
    match grpc.unary(Request::new(message), path, codec).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown) => {
            Err(unreachable(status.message().to_owned()))
        }
        Err(status) => Err(GrpcError::Refused {
            url: url.to_owned(),
            code: status.code(),
            text: status.message().to_owned(),
        }),
    }
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

async fn connect(
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
) -> std::io::Result<TokioIo<Box<dyn Bytes>>> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(match tls {
        None => Box::new(stream),
        Some(connector) => {
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Box::new(connector.connect(name, stream).await?)
        }
    }))
}

/// An error with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
