//! Registration over gRPC (`spec/channels.md` 3).

mod codec;
mod service;
mod stream;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use conf::RegistrarLogLevel as Level;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::transport::Server;

use crate::gate::Gate;
use crate::log;
use crate::metrics::Counter;
use crate::processor::Processor;
use crate::stop::Stopped;
use service::{Calls, RegistrationService};
use stream::{Bytes, FIRST, GrpcStream};

pub use tls::{TlsError, tls};

/// Time for one call.
const CALL: Duration = Duration::from_secs(5);
/// Calls of one connection at one time.
const STREAMS: u32 = 32;
/// Connections at one time.
const MAX_CONNECTIONS: usize = 4096;
/// Pause after which a silent client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest list of headers of a call, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// What may be on the way of one call, and of all calls of a connection, in bytes.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// What the service is made of.
#[derive(Debug)]
pub struct GrpcService {
    calls: Arc<Calls>,
    tls: Option<Arc<ServerConfig>>,
    reflection: bool,
}

impl GrpcService {
    /// A service for `processor`; `tls` is `None` behind a proxy.
    pub fn new(
        processor: Arc<Processor>,
        registrar: &conf::Registrar,
        gate: Arc<Gate>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let calls = Arc::new(Calls { processor, gate });
        Self { calls, tls, reflection: registrar.grpc_reflection }
    }

    /// Serves connections of `listener` until it is told to stop; calls that have begun are answered.
    pub async fn serve(self, listener: TcpListener, mut stopped: Stopped) {
        let (accepted, incoming) = mpsc::channel(16);
        let processor = Arc::clone(&self.calls.processor);
        tokio::spawn(accept(listener, self.tls, accepted, processor, stopped.clone()));
        let (health, health_service) = tonic_health::server::health_reporter();
        let status = tonic_health::ServingStatus::Serving;
        health.set_service_status(RegistrationService::NAME, status).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(signalling::registration::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        let reflection = self.reflection.then_some(reflection).and_then(Result::ok);
        let served = Server::builder()
            .timeout(CALL)
            .concurrency_limit_per_connection(STREAMS as usize)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_max_header_list_size(MAX_HEADERS)
            .add_service(health_service)
            .add_service(RegistrationService(self.calls))
            .add_optional_service(reflection)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
                stopped.wait().await;
            })
            .await;
        if let Err(error) = served {
            log::line(Level::Error, &format!("regServer stopped: gRPC: {error}"), &[]);
        }
    }
}

/// Accepts connections and hands them on when they speak.
async fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    accepted: mpsc::Sender<std::io::Result<GrpcStream>>,
    processor: Arc<Processor>,
    mut stopped: Stopped,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let next = tokio::select! {
            next = listener.accept() => next,
            () = stopped.wait() => return,
        };
        let Ok((stream, peer)) = next else {
            // Out of descriptors, or the peer left while it waited.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            processor.metrics.add(Counter::ConnectionsRefused);
            continue;
        };
        // Replies are small and whole; waiting for more bytes would only delay them.
        let _ = stream.set_nodelay(true);
        let (accepted, acceptor) = (accepted.clone(), acceptor.clone());
        tokio::spawn(async move {
            let Some(bytes) = handshake(stream, acceptor).await else { return };
            // The receiver ends with the runtime only.
            let _ = accepted.send(Ok(GrpcStream::new(bytes, peer, place))).await;
        });
    }
}

/// Waits for the first byte, or for the TLS handshake; `None` when neither comes in time.
async fn handshake(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Option<Bytes> {
    match acceptor {
        None => {
            let mut first = [0];
            let peeked = tokio::time::timeout(FIRST, stream.peek(&mut first)).await;
            matches!(peeked, Ok(Ok(1))).then_some(Bytes::Plain(stream))
        }
        Some(acceptor) => {
            let accepted = tokio::time::timeout(FIRST, acceptor.accept(stream)).await;
            accepted.ok()?.ok().map(|stream| Bytes::Tls(Box::new(stream)))
        }
    }
}
