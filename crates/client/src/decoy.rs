//! Registration by decoy: a tag in the first record of a genuine TLS 1.2 connection
//! (`spec/detector.md` 9, `spec/interop.md` 4).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use keys::SharedSecret;
use rustls::client::ClientConnection;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ConnectionTrafficSecrets, RootCertStore};
use signalling::{ClientToStation, Message};
use tag::{NewTag, NewTagError};

use crate::options::{ClientConf, Decoy, Options};

/// Limit of connecting and of every step of the handshake.
const STEP: Duration = Duration::from_secs(4);
/// Time that a decoy has to answer the request; its answer is what makes the flow look finished.
const ANSWER: Duration = Duration::from_secs(15);
/// Plaintext that fits the first record of released clients.
const MAX_PLAINTEXT: usize = 1179;

/// Trust anchors that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("trust anchors {path}: {cause} (name a PEM file with --roots)", path = path.display())]
pub struct RootsError {
    path: PathBuf,
    cause: String,
}

/// Why a registration by decoy failed.
#[derive(Debug, thiserror::Error)]
pub enum DecoyError {
    /// The ClientConf lists no decoy.
    #[error("the ClientConf lists no decoys; use another channel or a newer file")]
    NoDecoys,
    /// The registration cannot be hidden.
    #[error(transparent)]
    Tag(#[from] NewTagError),
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The registration is too long for one record.
    #[error(
        "the registration needs {0} bytes, one record holds {MAX_PLAINTEXT}: shorten the covert"
    )]
    TooLong(usize),
    /// No decoy could be used; what the last one said.
    #[error("no decoy could be used, the last one ({host}): {cause}")]
    Unusable {
        /// Its name.
        host: String,
        /// Why.
        cause: String,
    },
}

/// Registers through the decoys that the secret selects; one that works is enough.
pub(crate) async fn register(
    conf: &ClientConf,
    options: &Options,
    payload: &ClientToStation,
) -> Result<SharedSecret, DecoyError> {
    let tag = NewTag::new(&conf.station_key, &payload.encode_to_vec(), &mut rand::rng())?;
    let secret = tag.shared_secret().clone();
    let index = |i| secret.decoy_index(i, conf.decoys.len());
    let chosen: BTreeSet<usize> = (0..options.decoy_width).filter_map(index).collect();
    if chosen.is_empty() {
        return Err(DecoyError::NoDecoys);
    }
    let config = Arc::new(tls_config(&options.roots, &[&rustls::version::TLS12])?);
    let tag = Arc::new(tag);
    let (sent, mut results) = tokio::sync::mpsc::channel(chosen.len());
    for index in chosen {
        let (tag, config) = (Arc::clone(&tag), Arc::clone(&config));
        let (decoy, sent) = (conf.decoys[index].clone(), sent.clone());
        let port = options.decoy_port;
        tokio::task::spawn_blocking(move || match flow(&decoy, port, &tag, config) {
            Ok(stream) => {
                // The caller may have all it needs already.
                let _ = sent.blocking_send(Ok(()));
                linger(stream);
            }
            Err(error) => {
                let _ = sent.blocking_send(Err(error));
            }
        });
    }
    drop(sent);
    let mut last = Err(DecoyError::NoDecoys);
    while let Some(result) = results.recv().await {
        last = result;
        if last.is_ok() {
            break;
        }
    }
    last.map(|()| secret)
}

/// TLS with the trust anchors of `roots`; only AES-GCM suites, whose keystream a tag needs.
pub(crate) fn tls_config(
    roots: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ClientConfig, RootsError> {
    let failed = |cause: String| RootsError { path: roots.to_owned(), cause };
    let mut store = RootCertStore::empty();
    let anchors = CertificateDer::pem_file_iter(roots).map_err(|e| failed(e.to_string()))?;
    store.add_parsable_certificates(anchors.flatten());
    if store.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    Ok(config)
}

/// One flow: handshake, then the record with the tag in one write.
fn flow(
    decoy: &Decoy,
    port: u16,
    tag: &NewTag,
    config: Arc<ClientConfig>,
) -> Result<TcpStream, DecoyError> {
    let unusable = |cause: String| DecoyError::Unusable { host: decoy.hostname.clone(), cause };
    let name = ServerName::try_from(decoy.hostname.clone()).map_err(|e| unusable(e.to_string()))?;
    let mut tls = ClientConnection::new(config, name).map_err(|e| unusable(e.to_string()))?;
    let address = SocketAddr::new(decoy.address, port);
    let mut stream =
        TcpStream::connect_timeout(&address, STEP).map_err(|e| unusable(e.to_string()))?;
    let ready = stream
        .set_read_timeout(Some(STEP))
        .and_then(|()| stream.set_write_timeout(Some(STEP)))
        .and_then(|()| stream.set_nodelay(true));
    ready.map_err(|e| unusable(e.to_string()))?;
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut stream).map_err(|e| unusable(e.to_string()))?;
    }
    let secrets = tls.dangerous_extract_secrets().map_err(|e| unusable(e.to_string()))?;
    let (sequence, keys) = secrets.tx;
    let seal = Sealer::new(sequence, &keys).ok_or_else(|| {
        unusable("negotiated a cipher that cannot carry a tag (AES-GCM is needed)".to_owned())
    })?;
    let head = tag::request_head(&decoy.hostname, &mut rand::rng());
    let len = head.len() + tag.stego_len() + 4;
    if len > MAX_PLAINTEXT {
        return Err(DecoyError::TooLong(len));
    }
    let record = seal
        .keystream(len)
        .and_then(|keystream| tag.request(head.as_bytes(), &keystream))
        .and_then(|plaintext| seal.record(&plaintext))
        .ok_or_else(|| unusable("the record cannot be sealed".to_owned()))?;
    stream.write_all(&record).map_err(|e| unusable(e.to_string()))?;
    Ok(stream)
}

/// Waits for the decoy's answer, as a browser would, and closes.
fn linger(mut stream: TcpStream) {
    if stream.set_read_timeout(Some(ANSWER)).is_ok() {
        // What the decoy says, or whether, does not matter any more.
        let _ = stream.read(&mut [0; 1024]);
    }
}

/// Seals one TLS 1.2 AES-GCM record whose explicit nonce is its sequence number.
struct Sealer {
    cipher: Cipher,
    sequence: u64,
    nonce: [u8; 12],
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl Sealer {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (cipher, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(key.as_ref()).ok()?)), iv)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(key.as_ref()).ok()?)), iv)
            }
            _ => return None,
        };
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(iv.as_ref().get(..4)?);
        nonce[4..].copy_from_slice(&sequence.to_be_bytes());
        Some(Self { cipher, sequence, nonce })
    }

    fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let len = u16::try_from(plaintext.len()).ok()?;
        let mut aad = self.sequence.to_be_bytes().to_vec();
        aad.extend_from_slice(&[0x17, 3, 3]);
        aad.extend_from_slice(&len.to_be_bytes());
        let payload = Payload { msg: plaintext, aad: &aad };
        let nonce = (&self.nonce).into();
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(nonce, payload).ok(),
            Cipher::Aes256(cipher) => cipher.encrypt(nonce, payload).ok(),
        }
    }

    /// The cipher stream of the record: what zeros become.
    fn keystream(&self, len: usize) -> Option<Vec<u8>> {
        let mut stream = self.seal(&vec![0; len])?;
        stream.truncate(len);
        Some(stream)
    }

    /// The whole record.
    fn record(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.seal(plaintext)?;
        let len = u16::try_from(8 + sealed.len()).ok()?;
        let mut record = vec![0x17, 3, 3];
        record.extend_from_slice(&len.to_be_bytes());
        record.extend_from_slice(&self.nonce[4..]);
        record.extend_from_slice(&sealed);
        Some(record)
    }
}
