//! The HTTP API and the endpoints of AMP caches over sockets, on one listener (`spec/registrar.md` 7
//! and 8).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use conf::RegistrarLogLevel as Level;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use registration::amp;
use registration::channel::Channel;
use registration::http::{self, Refusal};
use registration::message::Wrapper;
use tokio::net::{TcpListener, TcpStream};

use crate::connection::{BODY, PacedStream};
use crate::delivery::accepts_gzip;
use crate::gate::Gate;
use crate::log;
use crate::metrics::Counter;
use crate::processor::{Processor, Published};
use crate::seats::{Entry, Seat, Seats};
use crate::setup::Services;
use crate::snapshot::Snapshot;
use crate::stop::Stopped;

/// What answers requests.
#[derive(Debug)]
pub struct Api {
    processor: Arc<Processor>,
    services: Services,
    gate: Arc<Gate>,
    seats: Arc<Seats>,
}

impl Api {
    /// Answers for `services`.
    pub fn new(
        processor: Arc<Processor>,
        registrar: &conf::Registrar,
        services: Services,
        gate: Arc<Gate>,
    ) -> Self {
        let seats = Seats::new(registrar.api_max_connections);
        Self { processor, services, gate, seats }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.seats.taken()
    }

    /// Changes how many connections there may be.
    pub fn limit_connections(&self, limit: usize) {
        self.seats.resize(limit);
    }
}

/// Listens on `address`, or on all addresses of both families.
///
/// # Errors
/// When the socket cannot be opened.
pub fn listen(address: Option<IpAddr>, port: u16) -> io::Result<std::net::TcpListener> {
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
        Ok(socket.into())
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

/// Serves connections of `listener` until it is told to stop; those that are open finish what they
/// began.
pub async fn serve(api: Arc<Api>, listener: TcpListener, mut stopped: Stopped) {
    let ending = stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped.wait() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let metrics = &api.processor.metrics;
                let seat = match api.seats.enter() {
                    Entry::Free(seat) => seat,
                    Entry::Evicting(seat) => {
                        metrics.add(Counter::ConnectionsEvicted);
                        seat
                    }
                    Entry::Full => {
                        metrics.add(Counter::ConnectionsRefused);
                        continue;
                    }
                };
                let api = Arc::clone(&api);
                let ending = ending.clone();
                tokio::spawn(async move { connection(&api, stream, peer, &seat, ending).await });
            }
            // Out of descriptors, or the peer left while it waited: the next one may do better.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn connection(
    api: &Arc<Api>,
    stream: TcpStream,
    peer: SocketAddr,
    seat: &Seat,
    mut ending: Stopped,
) {
    // Replies are small and whole; waiting for more bytes would only delay them.
    let _ = stream.set_nodelay(true);
    let pace = &seat.pace;
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
    tokio::pin!(serving);
    tokio::select! {
        // An error is the peer's: it broke off, or does not speak HTTP.
        _ = &mut serving => {}
        () = ending.wait() => {
            serving.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(BODY, serving).await;
        }
        () = seat.evicted() => {}
        () = pace.expired() => api.processor.metrics.add(Counter::ConnectionsTimedOut),
    }
}

impl Api {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if let Some(channel) = http::endpoint(path).filter(|_| self.services.api) {
            self.processor.metrics.add(match channel {
                Channel::Api => Counter::ApiRequests,
                _ => Counter::BidirectionalApiRequests,
            });
            let gzip = request.headers().get(header::ACCEPT_ENCODING).cloned();
            return match self.register(channel, request, peer).await {
                Ok(Published { response: None, .. }) => {
                    reply(StatusCode::NO_CONTENT, None, Bytes::new())
                }
                Ok(Published { response: Some(response), newer }) => {
                    deliver(response, newer.as_deref(), gzip.as_ref())
                }
                Err(refusal) => refuse(refusal),
            };
        }
        match amp::endpoint(path).filter(|_| self.services.amp) {
            Some((channel, encoded)) => {
                let method = request.method().as_str();
                self.register_amp(channel, method, encoded).map_or_else(refuse, armored)
            }
            None => refuse(Refusal::NotFound),
        }
    }

    /// A registration in a path. The peer is a cache; only the message says where the client is.
    fn register_amp(
        &self,
        channel: Channel,
        method: &str,
        encoded: &str,
    ) -> Result<Published, Refusal> {
        self.processor.metrics.add(match channel {
            Channel::AmpCache => Counter::AmpRequests,
            _ => Counter::BidirectionalAmpRequests,
        });
        log::line(Level::Debug, "received new ampcache request", &[]);
        let refused = |refusal: &Refusal| self.processor.refused(*refusal, channel);
        let message = amp::read(method, encoded).inspect_err(refused)?;
        let wrapper = Wrapper::decode(&message).map_err(|_| Refusal::Decode);
        let wrapper = wrapper.inspect_err(refused)?;
        if !wrapper.address().is_some_and(|address| matches!(address.len(), 4 | 16)) {
            refused(&Refusal::Unaddressed);
            return Err(Refusal::Unaddressed);
        }
        self.processor.register(wrapper, channel, None)
    }

    async fn register(
        &self,
        channel: Channel,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Published, Refusal> {
        let received = self.receive(request, peer, channel).await;
        let (client, body) = received.inspect_err(|r| self.processor.refused(*r, channel))?;
        let wrapper = Wrapper::decode(&body).map_err(|_| Refusal::Decode);
        let wrapper = wrapper.inspect_err(|r| self.processor.refused(*r, channel))?;
        let address = http::registration_address(client);
        self.processor.register(wrapper, channel, Some(&address))
    }

    /// The client's address and the body, in the order of checks.
    async fn receive(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        channel: Channel,
    ) -> Result<(IpAddr, Bytes), Refusal> {
        let headers = request.headers();
        let rules = self.gate.rules();
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let client = client(peer, forwarded, rules.trusted_proxies.as_deref())?;
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if log::enabled(Level::Debug) {
            log::line(
                Level::Debug,
                "received new request",
                &[
                    ("registrar", &"API"),
                    ("http_method", request.method()),
                    ("content_length", &declared.map_or(-1, u64::cast_signed)),
                    ("registration_type", &kind(channel)),
                    ("ip_address", &telemetry::privacy::ClientAddr(client)),
                ],
            );
        }
        http::check(request.method().as_str(), declared, rules.max_body as u64)?;
        // This host is its own affair: a proxy, a probe, a station that shares registrations.
        let counted = rules.clients.as_ref().filter(|_| !client.is_loopback());
        if counted.is_some_and(|clients| !clients.take(client)) {
            self.processor.metrics.add(Counter::RateLimited);
            return Err(Refusal::Rate);
        }
        Ok((client, self.body(request, rules.max_body).await?))
    }

    async fn body(&self, request: Request<Incoming>, max: usize) -> Result<Bytes, Refusal> {
        let collected = Limited::new(request.into_body(), max).collect();
        match tokio::time::timeout(BODY, collected).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) | Err(_) => Err(Refusal::Body),
        }
    }
}

const fn kind(channel: Channel) -> &'static str {
    if channel.is_bidirectional() { "bidirectional" } else { "unidirectional" }
}

/// A bidirectional reply, with the ClientConf of `newer` behind it, compressed where that is offered.
fn deliver(
    response: Vec<u8>,
    newer: Option<&Snapshot>,
    accepted: Option<&HeaderValue>,
) -> Response<Full<Bytes>> {
    let Some(snapshot) = newer else {
        return reply(StatusCode::OK, Some(http::REPLY_TYPE), response.into());
    };
    let gzip = accepted.and_then(|value| value.to_str().ok()).is_some_and(accepts_gzip);
    let compressed = gzip.then(|| snapshot.delivery.append_compressed(&response)).flatten();
    let coded = compressed.is_some();
    let body = compressed.unwrap_or_else(|| snapshot.delivery.append(response));
    let mut reply = reply(StatusCode::OK, Some(http::REPLY_TYPE), body.into());
    if coded {
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    reply
}

/// A reply to a cache.
fn armored(published: Published) -> Response<Full<Bytes>> {
    let Published { response: Some(response), newer } = published else {
        return reply(StatusCode::NO_CONTENT, None, Bytes::new());
    };
    let whole = match newer {
        Some(snapshot) => snapshot.delivery.append(response),
        None => response,
    };
    let document = amp::armor::encode(&whole);
    let mut reply = reply(StatusCode::OK, Some(amp::REPLY_TYPE), document.into());
    let cached = HeaderValue::from_static(amp::CACHE_CONTROL);
    reply.headers_mut().insert(header::CACHE_CONTROL, cached);
    reply
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
