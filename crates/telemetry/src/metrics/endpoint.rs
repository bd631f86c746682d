//! The sockets on which metrics are read: one Unix socket always, one TCP port on loopback on request.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::{Exposition, Format};
use crate::admin::bind_by_rename;

/// Connections at one time; a scraper uses one.
const MAX_CONNECTIONS: usize = 64;
/// Time of one connection.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Path of the metrics socket beside the admin socket `admin`.
pub fn socket_path(admin: &Path) -> PathBuf {
    let name = admin.file_name().unwrap_or_default().to_string_lossy();
    admin.with_file_name(name.replace(".admin.sock", ".metrics.sock"))
}

/// Serves `exposition` on a Unix socket (mode 0660: a scraper may be in the group of the service) until the runtime ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve_unix(path: &Path, exposition: Arc<Exposition>) -> io::Result<()> {
    let listener = bind_by_rename(path, 0o660)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => answer(stream, &exposition, &places),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    Ok(())
}

/// Serves `exposition` on a TCP port until the runtime ends; the address that was bound.
///
/// # Errors
/// When the port is taken, or the address not one of this host.
pub fn serve_tcp(address: SocketAddr, exposition: Arc<Exposition>) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => answer(stream, &exposition, &places),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    Ok(bound)
}

fn answer<S>(stream: S, exposition: &Arc<Exposition>, places: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    let exposition = Arc::clone(exposition);
    tokio::spawn(async move {
        let service = service_fn(|request| {
            let response = respond(&exposition, &request);
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

fn respond(exposition: &Exposition, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::of_accept(accept.unwrap_or_default());
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, format.content_type(), exposition.text(format))
        }
        (_, "/metrics") => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 only GET is answered\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "404 the metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
