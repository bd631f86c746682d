//! The HTTP API over sockets (`spec/registrar.md` 7).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bus::Publisher;
use bytes::Bytes;
use conf::RegistrarLogLevel as Level;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use registration::http::{self, Endpoint, Refusal};
use registration::message::Wrapper;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::{BODY, Pace, PacedStream};
use crate::log;
use crate::metrics::Metrics;
use crate::pipeline;
use crate::snapshot::{Rules, Snapshot};

/// Connections at one time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 8192;

/// What answers requests.
#[derive(Debug)]
pub struct Api {
    /// What requests are answered from; replaced on reload.
    pub snapshot: ArcSwap<Snapshot>,
    /// Rules that hold from start to end.
    pub rules: Rules,
    /// Where accepted registrations go.
    pub publisher: Arc<Publisher>,
    /// Counters.
    pub metrics: Metrics,
    /// Proxies whose header is believed; `None` for the reference's rule.
    pub trusted_proxies: Option<Vec<ipnet::IpNet>>,
    /// Longest accepted body in bytes.
    pub max_body: usize,
}

/// Listens on `address`, or on all addresses of both families.
///
/// # Errors
/// When the socket cannot be opened.
pub fn listen(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let open = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    match address {
        Some(address) => open((address, port).into()),
        // A kernel without IPv6 has no dual-stack socket to offer.
        None => open((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Err(error);
            }
            open((Ipv4Addr::UNSPECIFIED, port).into())
        }),
    }
}

/// Serves connections of `listener` until the task is dropped.
pub async fn serve(api: Arc<Api>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let api = Arc::clone(&api);
                    tokio::spawn(async move {
                        connection(&api, stream, peer).await;
                        drop(slot);
                    });
                }
                Err(_) => api.metrics.refused_connection(),
            },
            // Out of descriptors, or the peer left while it waited: the next one may do better.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn connection(api: &Arc<Api>, stream: TcpStream, peer: SocketAddr) {
    // Replies are small and whole; waiting for more bytes would only delay them.
    let _ = stream.set_nodelay(true);
    let pace = Pace::new();
    let service = service_fn(|request| {
        let (api, pace) = (Arc::clone(api), pace.clone());
        async move {
            pace.request();
            let response = api.answer(request, peer).await;
            pace.replied();
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(PacedStream { stream, pace: pace.clone() });
    let serving = hyper::server::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .serve_connection(io, service);
    tokio::select! {
        // An error is the peer's: it broke off, or does not speak HTTP.
        _ = serving => {}
        () = pace.expired() => api.metrics.timeout(),
    }
}

impl Api {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            return refuse(Refusal::NotFound);
        };
        self.metrics.request(endpoint);
        match self.register(endpoint, request, peer).await {
            Ok(None) => reply(StatusCode::NO_CONTENT, None, Bytes::new()),
            Ok(Some(body)) => reply(StatusCode::OK, Some(http::REPLY_TYPE), body.into()),
            Err(refusal) => {
                // Strangers cause these: they are counted, and told one by one only on request.
                self.metrics.refused();
                log::line(
                    Level::Debug,
                    &format!("registration failed: {refusal}"),
                    &[("registrar", &"API"), ("registration_type", &kind(endpoint))],
                );
                refuse(refusal)
            }
        }
    }

    async fn register(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let headers = request.headers();
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let client = client(peer, forwarded, self.trusted_proxies.as_deref())?;
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        log::line(
            Level::Debug,
            "received new request",
            &[
                ("registrar", &"API"),
                ("http_method", request.method()),
                ("content_length", &declared.map_or(-1, u64::cast_signed)),
                ("registration_type", &kind(endpoint)),
                ("ip_address", &telemetry::privacy::ClientAddr(client)),
            ],
        );
        http::check(request.method().as_str(), declared, self.max_body as u64)?;
        let body = self.body(request).await?;
        let wrapper = Wrapper::decode(&body).map_err(|_| Refusal::Decode)?;
        let snapshot = self.snapshot.load();
        if endpoint == Endpoint::Bidirectional && pipeline::is_outdated(&wrapper, &snapshot) {
            self.metrics.conf_updated();
        }
        let id = secret_prefix(wrapper.secret());
        let address = http::registration_address(client);
        let rng = &mut rand::rng();
        let accepted = pipeline::process(wrapper, endpoint, &address, &snapshot, &self.rules, rng)?;
        self.metrics.processed(endpoint);
        self.publisher.publish(accepted.publication.into());
        log::line(
            Level::Debug,
            "registration successful",
            &[("registrar", &"API"), ("registration_type", &kind(endpoint)), ("reg_id", &id)],
        );
        Ok(accepted.reply)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Refusal> {
        let collected = Limited::new(request.into_body(), self.max_body).collect();
        match tokio::time::timeout(BODY, collected).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) | Err(_) => Err(Refusal::Body),
        }
    }
}

/// Enough of a secret to find its lines, too little to use it.
fn secret_prefix(secret: &[u8]) -> String {
    secret.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

const fn kind(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Unidirectional => "unidirectional",
        Endpoint::Bidirectional => "bidirectional",
    }
}

fn client(
    peer: SocketAddr,
    forwarded: Option<&HeaderValue>,
    trusted: Option<&[ipnet::IpNet]>,
) -> Result<IpAddr, Refusal> {
    if let SocketAddr::V6(v6) = peer
        && v6.scope_id() != 0
    {
        // A link-local peer has no address that means anything elsewhere.
        return Err(Refusal::NoAddress);
    }
    let forwarded = forwarded.map(HeaderValue::as_bytes);
    Ok(http::client_address(peer.ip().to_canonical(), forwarded, trusted))
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(refusal.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match refusal.body() {
        None => reply(status, None, Bytes::new()),
        Some(text) => {
            let mut response = reply(status, Some("text/plain; charset=utf-8"), text.into());
            response
                .headers_mut()
                .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
    }
}

fn reply(status: StatusCode, kind: Option<&'static str>, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
