//! The two calls of `conjure.registration.v1.Registration`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use registration::channel::Channel;
use registration::http::{self as api, Refusal};
use registration::message::{MIN_SECRET, Wrapper};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use super::codec::RawCodec;
use super::stream::Peer;
use crate::gate::Gate;
use crate::metrics::Counter;
use crate::processor::Processor;

/// Longest message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
const REGISTER: &str = "/conjure.registration.v1.Registration/Register";
const ANNOUNCE: &str = "/conjure.registration.v1.Registration/Announce";

/// Answers calls.
#[derive(Debug, Clone)]
pub(super) struct RegistrationService(pub(super) Arc<Calls>);

/// What calls are answered from.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) processor: Arc<Processor>,
    pub(super) gate: Arc<Gate>,
}

impl NamedService for RegistrationService {
    const NAME: &'static str = "conjure.registration.v1.Registration";
}

impl<B> Service<http::Request<B>> for RegistrationService
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let channel = match request.uri().path() {
            REGISTER => Channel::BidirectionalApi,
            ANNOUNCE => Channel::Api,
            _ => {
                let status = Status::unimplemented("");
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        let calls = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = service_fn(move |request: Request<Bytes>| {
                let calls = Arc::clone(&calls);
                async move { calls.answer(channel, &request).map(Response::new) }
            });
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(answer, request).await)
        })
    }
}

impl Calls {
    /// The serialized reply to one call.
    fn answer(&self, channel: Channel, request: &Request<Bytes>) -> Result<Bytes, Status> {
        self.processor.metrics.add(match channel {
            Channel::Api => Counter::GrpcRequests,
            _ => Counter::BidirectionalGrpcRequests,
        });
        self.register(channel, request).map_err(status)
    }

    fn register(&self, channel: Channel, request: &Request<Bytes>) -> Result<Bytes, Refusal> {
        let refused = |refusal: Refusal| {
            self.processor.refused(refusal, channel);
            refusal
        };
        let client = self.client(request).ok_or_else(|| refused(Refusal::NoAddress))?;
        let rules = self.gate.rules();
        let counted = rules.clients.as_ref().filter(|_| !client.is_loopback());
        if counted.is_some_and(|clients| !clients.take(client)) {
            self.processor.metrics.add(Counter::RateLimited);
            return Err(refused(Refusal::Rate));
        }
        let message = request.get_ref();
        let wrapper = Wrapper::decode(message).map_err(|_| refused(Refusal::Decode))?;
        if wrapper.secret().len() < MIN_SECRET {
            return Err(refused(Refusal::TooSmall));
        }
        if wrapper.payload().is_none() {
            return Err(refused(Refusal::NoPayload));
        }
        let address = api::registration_address(client);
        let published = self.processor.register(wrapper, channel, Some(&address))?;
        let response = published.response.unwrap_or_default();
        Ok(match published.newer {
            Some(snapshot) => snapshot.delivery.append(response),
            None => response,
        }
        .into())
    }

    /// The client's address, by the rule of the HTTP API.
    fn client(&self, request: &Request<Bytes>) -> Option<IpAddr> {
        let Peer(peer) = request.extensions().get::<Peer>()?;
        if matches!(peer, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            // A link-local peer has no address that means anything elsewhere.
            return None;
        }
        let forwarded = request.metadata().get_all("x-forwarded-for").iter().next_back();
        let forwarded = forwarded.map(|value| value.as_encoded_bytes());
        let rules = self.gate.rules();
        let trusted = rules.trusted_proxies.as_deref();
        Some(api::client_address(peer.ip().to_canonical(), forwarded, trusted))
    }
}

/// The status of a refusal. Texts are fixed: a probe learns nothing that the code does not say.
fn status(refusal: Refusal) -> Status {
    let (code, text) = match refusal {
        Refusal::NoAddress
        | Refusal::Unaddressed
        | Refusal::Method
        | Refusal::TooSmall
        | Refusal::TooLarge
        | Refusal::Body
        | Refusal::Decode
        | Refusal::NoPayload
        | Refusal::NotFound => (Code::InvalidArgument, "invalid registration"),
        Refusal::Rate => (Code::ResourceExhausted, "too many registrations"),
        Refusal::BadSeed | Refusal::NoPhantom => (Code::FailedPrecondition, "no phantom"),
        Refusal::Failed => (Code::Internal, "internal"),
    };
    Status::new(code, text)
}
