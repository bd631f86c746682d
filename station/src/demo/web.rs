//! The web server of the demo: decoy and covert, TLS 1.2 with AES-GCM.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use telemetry::process::Exit;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::files;

/// Uploads kept at one time, and the size of one.
const MAX_UPLOADS: usize = 64;
const MAX_UPLOAD: usize = 4 << 20;

/// Arguments of the web server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long, default_value = "[::]:443")]
    listen: SocketAddr,
}

/// Serves until it is ended.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(serve(arguments)));
    match served {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("web server: {error}");
            Exit::Unavailable
        }
    }
}

type Uploads = Arc<Mutex<HashMap<String, Bytes>>>;

async fn serve(arguments: &Arguments) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(arguments)?));
    let listener = TcpListener::bind(arguments.listen).await.map_err(|e| e.to_string())?;
    let uploads = Uploads::default();
    let blob = Bytes::from(files::blob());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, uploads, blob) = (acceptor.clone(), Arc::clone(&uploads), blob.clone());
        tokio::spawn(async move {
            // A client that breaks off is none of the server's business.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(|request| answer(request, uploads.clone(), blob.clone()));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn tls(arguments: &Arguments) -> Result<rustls::ServerConfig, String> {
    let certificate = CertificateDer::from_pem_file(&arguments.certificate)
        .map_err(|e| format!("{}: {e}", arguments.certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(&arguments.key)
        .map_err(|e| format!("{}: {e}", arguments.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|e| e.to_string())
}

async fn answer(
    request: Request<Incoming>,
    uploads: Uploads,
    blob: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let reply = |status, body| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Ok(response)
    };
    let path = request.uri().path().to_owned();
    let find = |path: &str| uploads.lock().ok()?.get(path).cloned();
    match *request.method() {
        Method::GET if path == "/blob" => reply(StatusCode::OK, blob),
        Method::GET => match find(&path) {
            Some(body) => reply(StatusCode::OK, body),
            None => reply(StatusCode::NOT_FOUND, Bytes::from_static(b"nothing here\n")),
        },
        Method::PUT if path.starts_with("/upload/") => {
            let Ok(body) = Limited::new(request.into_body(), MAX_UPLOAD).collect().await else {
                return reply(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new());
            };
            match uploads.lock() {
                Ok(mut uploads) if uploads.len() < MAX_UPLOADS => {
                    uploads.insert(path, body.to_bytes());
                    reply(StatusCode::CREATED, Bytes::new())
                }
                _ => reply(StatusCode::INSUFFICIENT_STORAGE, Bytes::new()),
            }
        }
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
    }
}
