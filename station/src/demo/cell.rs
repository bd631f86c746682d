//! One transfer of the demo, run on the client's node: registers, connects through a phantom, and
//! moves data to and from the covert inside TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{
    AmpChannel, Channel, Client, ClientAddress, ClientConf, DnsChannel, Families, Options,
    Resolver, Transport,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use telemetry::process::Exit;
use tokio_rustls::TlsConnector;

use super::files::{self, HOST, TRANSFER};

/// Arguments of one cell.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    channel: String,
    #[arg(long)]
    transport: String,
    #[arg(long)]
    ipv6: bool,
    #[arg(long)]
    client_conf: PathBuf,
    #[arg(long)]
    roots: PathBuf,
    #[arg(long)]
    registrar: SocketAddr,
    #[arg(long)]
    resolver: SocketAddr,
    #[arg(long)]
    grpc: SocketAddr,
    #[arg(long)]
    stun: SocketAddr,
    #[arg(long)]
    covert: SocketAddr,
}

/// What a cell reports, as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) phantom: SocketAddr,
    /// From the start to the end of the registration.
    pub(crate) register_ms: u64,
    /// From the first SYN to the phantom until the covert's first byte.
    pub(crate) first_byte_ms: u64,
    pub(crate) transfer_ms: u64,
}

/// Runs one cell and prints its outcome.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(arguments));
            // Decoy flows may still wait for an answer that nobody needs any more.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(outcome) => {
            println!("{}", serde_json::json!(outcome));
            Exit::Ok
        }
        Err(error) => {
            eprintln!("{error}");
            Exit::Unavailable
        }
    }
}

fn options(arguments: &Arguments) -> Result<Options, String> {
    let url = |path: &str| format!("http://{}{path}", arguments.registrar);
    let channel = match arguments.channel.as_str() {
        "decoy" => Channel::Decoy,
        "api" => Channel::Api(url("/register")),
        "bdapi" => Channel::BidirectionalApi(url("/register-bidirectional")),
        "dns" | "bddns" => Channel::Dns(DnsChannel {
            bidirectional: arguments.channel == "bddns",
            resolver: Some(resolver(arguments)?),
            domain: None,
        }),
        "grpc" => Channel::Grpc(format!("https://{}", arguments.grpc)),
        "amp" => amp(false, url("/amp/register")),
        "bdamp" => amp(true, url("/amp/register-bidirectional")),
        other => return Err(format!("no channel {other}")),
    };
    let transport = match arguments.transport.as_str() {
        "min" => Transport::Min,
        "prefix" => Transport::Prefix(-1),
        "obfs4" => Transport::Obfs4,
        "dtls" => Transport::Dtls { unordered: false },
        other => return Err(format!("no transport {other}")),
    };
    let mut options = Options::new(channel, transport, arguments.covert.to_string());
    options.families = Families { v4: !arguments.ipv6, v6: arguments.ipv6 };
    options.roots.clone_from(&arguments.roots);
    options.address = ClientAddress::Stun(Some(arguments.stun.to_string()));
    options.decoy_delay = Duration::from_millis(1500);
    Ok(options)
}

/// The registrar itself is asked, as a resolver asks it.
fn resolver(arguments: &Arguments) -> Result<Resolver, String> {
    Resolver::parse(&format!("udp://{}", arguments.resolver)).map_err(|e| e.to_string())
}

/// The registrar itself is asked, as a cache asks it.
const fn amp(bidirectional: bool, url: String) -> Channel {
    Channel::Amp(AmpChannel { bidirectional, url, cache: None, front: None })
}

async fn run(arguments: &Arguments) -> Result<Outcome, String> {
    let conf = ClientConf::load(&arguments.client_conf).map_err(|e| e.to_string())?;
    let client = Client { conf, options: options(arguments)? };
    let start = Instant::now();
    let session = client.register().await.map_err(|e| format!("registration: {e}"))?;
    let registered = start.elapsed();
    super::kept::plant_session(session.secret(), client.options.version);
    tokio::time::sleep(session.delay).await;
    let dialled = Instant::now();
    let connection = session.connect().await.map_err(|e| format!("phantom: {e}"))?;
    let phantom = connection.phantom;
    let connector = TlsConnector::from(Arc::new(tls(arguments)?));
    let name = ServerName::try_from(HOST).map_err(|e| e.to_string())?;
    let stream = connector
        .connect(name, connection.stream)
        .await
        .map_err(|e| format!("TLS with the covert through {phantom}: {e}"))?;
    let first_byte = dialled.elapsed();
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(driver);
    transfer(sender).await?;
    driver.abort();
    Ok(Outcome {
        phantom,
        register_ms: registered.as_millis() as u64,
        first_byte_ms: first_byte.as_millis() as u64,
        transfer_ms: (dialled.elapsed() - first_byte).as_millis() as u64,
    })
}

fn tls(arguments: &Arguments) -> Result<rustls::ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let anchor = CertificateDer::from_pem_file(&arguments.roots).map_err(|e| e.to_string())?;
    roots.add(anchor).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Downloads and uploads 1 MiB and compares digests.
async fn transfer(mut sender: SendRequest<Full<Bytes>>) -> Result<(), String> {
    let expected = Sha256::digest(files::blob());
    let (status, body) = ask(&mut sender, Method::GET, "/blob", Bytes::new()).await?;
    compare("download", status, &body, &expected)?;
    let upload: Vec<u8> = files::blob().into_iter().rev().collect();
    let expected = Sha256::digest(&upload);
    let path = format!("/upload/{}", rand::random::<u64>());
    let (status, _) = ask(&mut sender, Method::PUT, &path, upload.into()).await?;
    if !status.is_success() {
        return Err(format!("upload: the covert answered {status}"));
    }
    let (status, body) = ask(&mut sender, Method::GET, &path, Bytes::new()).await?;
    compare("upload", status, &body, &expected)
}

fn compare(what: &str, status: StatusCode, body: &[u8], expected: &[u8]) -> Result<(), String> {
    if !status.is_success() {
        return Err(format!("{what}: the covert answered {status}"));
    }
    if body.len() != TRANSFER || Sha256::digest(body).as_slice() != expected {
        return Err(format!("{what}: {} bytes arrived and their digest is wrong", body.len()));
    }
    Ok(())
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, HOST)
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    sender.ready().await.map_err(|e| format!("{path}: {e}"))?;
    let reply = sender.send_request(request).await.map_err(|e| format!("{path}: {e}"))?;
    let status = reply.status();
    let body = reply.into_body().collect().await.map_err(|e| format!("{path}: {e}"))?;
    Ok((status, body.to_bytes()))
}
