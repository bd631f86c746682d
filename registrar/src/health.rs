//! Health and metrics over HTTP, on a listener apart from the public ones (`spec/registrar.md` 15.4):
//! `/healthz` says `ok`, `/metrics` has the counters as OpenMetrics.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::dns::DnsService;
use crate::processor::Processor;

/// Type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at one time; a scraper uses one.
const MAX_CONNECTIONS: usize = 64;
/// Time of one connection.
const LIMIT: Duration = Duration::from_secs(10);

/// What is shown.
#[derive(Debug)]
pub struct Health {
    /// Counters, publisher and generation.
    pub processor: Arc<Processor>,
    /// Registrations in progress.
    pub dns: Option<Arc<DnsService>>,
}

impl Health {
    /// Serves connections of `listener` until the runtime ends.
    pub async fn serve(self, listener: TcpListener) {
        let health = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, or the peer left while it waited.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let health = Arc::clone(&health);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = health.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // An error is the peer's, and so is taking too long.
                let _ = tokio::time::timeout(LIMIT, serving).await;
                drop(place);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, kind, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            (&Method::GET, "/metrics") => (StatusCode::OK, OPEN_METRICS, self.metrics()),
            _ => (StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".to_owned()),
        };
        let mut response = Response::new(Full::new(text.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    /// The counters by the names of the metrics line, behind `registrar_`. OpenMetrics wants `_total`
    /// at the end of a counter; where the line has none it is added.
    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut counter = |name: &str, value: u64| {
            let family = name.strip_suffix("_total").unwrap_or(name);
            // Writing into a String cannot fail.
            let _ = writeln!(text, "# TYPE registrar_{family} counter");
            let _ = writeln!(text, "registrar_{family}_total {value}");
        };
        for (name, value) in self.processor.metrics.all() {
            counter(name, value);
        }
        let stats = self.processor.publisher.stats();
        counter("published", stats.published);
        counter("published_dropped", stats.dropped);
        counter("subscribers_failed", stats.failed);
        let mut gauge = |name: &str, value: u64| {
            let _ = writeln!(text, "# TYPE registrar_{name} gauge\nregistrar_{name} {value}");
        };
        gauge("subscribers", stats.subscribers as u64);
        gauge("generation", u64::from(self.processor.snapshot.load().generation));
        gauge("dns_pending", self.dns.as_ref().map_or(0, |dns| dns.pending() as u64));
        text.push_str("# EOF\n");
        text
    }
}
