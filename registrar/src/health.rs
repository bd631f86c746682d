//! Health and metrics over HTTP, on a listener apart from the public ones (`spec/registrar.md` 15.4):
//! `/healthz` says `ok`, `/metrics` has the metrics of `docs/metrics.md`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use telemetry::metrics::{Exposition, Format};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at one time; a scraper uses one.
const MAX_CONNECTIONS: usize = 64;
/// Time of one connection.
const LIMIT: Duration = Duration::from_secs(10);

/// What is shown.
#[derive(Debug)]
pub struct Health {
    /// The metrics.
    pub exposition: Exposition,
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
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::of_accept(accept.unwrap_or_default());
        let (status, kind, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            (&Method::GET, "/metrics") => {
                (StatusCode::OK, format.content_type(), self.exposition.text(format))
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".to_owned()),
        };
        let mut response = Response::new(Full::new(text.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}
