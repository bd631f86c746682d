//! Certificate and key of the gRPC service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be used.
    #[error("{key}: {}: {cause}; name a PEM file", .path.display())]
    File {
        /// Configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Certificate and key do not make a server.
    #[error("grpc_tls_cert, grpc_tls_key: {0}")]
    Pair(#[from] rustls::Error),
}

/// TLS with the chain in `cert` and the key in `key`, for HTTP/2.
///
/// # Errors
/// [`TlsError`].
pub fn tls(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |name, path: &Path, cause: String| TlsError::File {
        key: name,
        path: path.to_owned(),
        cause,
    };
    let bad_cert = |cause| failed("grpc_tls_cert", cert, cause);
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| bad_cert(e.to_string()))?;
    let chain: Result<Vec<_>, _> = chain.collect();
    let chain = chain.map_err(|e| bad_cert(e.to_string()))?;
    if chain.is_empty() {
        return Err(bad_cert("no certificate in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| failed("grpc_tls_key", key, e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
