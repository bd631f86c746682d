//! HTTP of the page: four paths, GET alone, and a policy that lets nothing from elsewhere in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::feed::Seat;
use crate::history::History;
use crate::html;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 32;
/// Time of one connection.
const LIMIT: Duration = Duration::from_secs(30);
/// What the page may load: its own style and script, and its own figures.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is served.
pub(crate) struct Site {
    pub(crate) seats: Box<dyn Fn() -> Vec<Seat> + Send + Sync>,
    pub(crate) history: Mutex<History>,
    pub(crate) floor: u64,
    pub(crate) places: Arc<Semaphore>,
}

impl Site {
    pub(crate) fn new(seats: Box<dyn Fn() -> Vec<Seat> + Send + Sync>, floor: u64) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { seats, history: Mutex::default(), floor, places }
    }

    /// Answers one connection.
    pub(crate) fn answer<S>(self: &Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let site = Arc::clone(self);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = site.respond(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // An error is the peer's, and so is taking too long.
            let _ = tokio::time::timeout(LIMIT, serving).await;
            drop(place);
        });
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let (status, kind, text) = if !is_this_host(host.unwrap_or_default()) {
            // A page elsewhere whose name was made to point here.
            (
                StatusCode::FORBIDDEN,
                "text/plain",
                "403 call this host localhost or 127.0.0.1\n".into(),
            )
        } else if request.method() != Method::GET {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 only GET is answered\n".into())
        } else {
            self.page(request.uri().path())
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn page(&self, path: &str) -> (StatusCode, &'static str, String) {
        let html = "text/html; charset=utf-8";
        let seats = || (self.seats)();
        match path {
            "/" => {
                (StatusCode::OK, html, html::document(&seats(), &self.history.lock(), self.floor))
            }
            "/figures" => {
                (StatusCode::OK, html, html::figures(&seats(), &self.history.lock(), self.floor))
            }
            "/page.css" => (StatusCode::OK, "text/css", include_str!("page.css").to_owned()),
            "/page.js" => (StatusCode::OK, "text/javascript", include_str!("page.js").to_owned()),
            _ => (StatusCode::NOT_FOUND, "text/plain", "404 the page is at /\n".to_owned()),
        }
    }
}

/// Whether a `Host` header names this host by loopback.
fn is_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::seats;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(request: &str) -> String {
        let site = Arc::new(Site::new(Box::new(seats), 10));
        let (mut near, far) = tokio::io::duplex(1 << 20);
        site.answer(far);
        let request = format!("{request}\r\nConnection: close\r\n\r\n");
        near.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn nothing_from_elsewhere_is_loaded() {
        for path in ["/", "/figures", "/page.css", "/page.js"] {
            let text = get(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8080")).await;
            assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
            assert!(text.contains("content-security-policy: default-src 'none'; style-src 'self'"));
            assert!(text.contains("x-content-type-options: nosniff"));
        }
    }

    #[tokio::test]
    async fn names_that_were_made_to_point_here_are_refused() {
        for host in ["evil.example", "evil.example:8080", "192.0.2.1", "", "localhost.evil.example"]
        {
            let text = get(&format!("GET / HTTP/1.1\r\nHost: {host}")).await;
            assert!(text.starts_with("HTTP/1.1 403"), "{host}: {text}");
        }
        for host in ["localhost", "localhost:80", "[::1]:80", "127.0.0.1"] {
            assert!(is_this_host(host), "{host}");
        }
        assert!(get("POST / HTTP/1.1\r\nHost: localhost").await.starts_with("HTTP/1.1 405"));
        assert!(
            get("GET /etc/passwd HTTP/1.1\r\nHost: localhost").await.starts_with("HTTP/1.1 404")
        );
    }
}
