//! The admin service of every daemon (`spec/channels.md` 2), server and client.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signalling::station::{
    DrainReply, DrainRequest, FileResult, Identity, ReloadReply, ReloadRequest, SetLogFilterReply,
    SetLogFilterRequest, StatusReply, StatusRequest, WatchStatusRequest, status_reply::Detail,
};
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::{log, metrics, usage};

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/conjure.station.v1.rs"));
}

pub use service::admin_client::AdminClient;
use service::admin_server::{Admin, AdminServer};

/// Folder of the station's Unix sockets when `CJ_IPC_DIR` is not set.
pub const DEFAULT_IPC_DIR: &str = "/run/conjure";

/// Folder of the station's Unix sockets: `CJ_IPC_DIR` or [`DEFAULT_IPC_DIR`].
pub fn ipc_dir() -> PathBuf {
    match std::env::var_os("CJ_IPC_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => DEFAULT_IPC_DIR.into(),
    }
}

/// Path of the admin socket of `daemon` in `dir`; `offset` 0 has no suffix.
pub fn socket_path(dir: &Path, daemon: &str, offset: u32) -> PathBuf {
    if offset == 0 {
        dir.join(format!("{daemon}.admin.sock"))
    } else {
        dir.join(format!("{daemon}-{offset}.admin.sock"))
    }
}

/// State of a daemon as an operator sees it.
#[derive(Debug, Clone, Default)]
pub struct DaemonStatus {
    /// `ready`, `starting`, `degraded` or `draining`.
    pub state: String,
    /// One line per channel or input that is worth knowing.
    pub notes: Vec<String>,
    /// Counters of the daemon.
    pub detail: Option<Detail>,
}

/// What a daemon does for the admin service.
pub trait Daemon: Send + Sync + 'static {
    /// Present state and counters.
    fn status(&self) -> DaemonStatus;

    /// Reads the configuration again; one result per file.
    fn reload(&self) -> impl Future<Output = Vec<FileResult>> + Send;

    /// Stops taking new work and leaves within `deadline`.
    fn drain(&self, deadline: Duration);
}

/// Who answers: part of every reply.
#[derive(Debug, Clone)]
pub struct Identification {
    daemon: String,
    version: String,
    started_unix_ms: u64,
    configuration_hash: String,
}

impl Identification {
    /// Describes this process; `configuration` is the text of the loaded files.
    pub fn new(daemon: &str, version: &str, configuration: &[u8]) -> Self {
        use sha2::Digest;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            daemon: daemon.to_owned(),
            version: version.to_owned(),
            started_unix_ms: now.as_millis() as u64,
            configuration_hash: hex::encode(sha2::Sha256::digest(configuration)),
        }
    }

    /// The reply of this process with the status of its daemon.
    pub(crate) fn reply(&self, status: DaemonStatus) -> StatusReply {
        StatusReply {
            identity: Some(self.message()),
            state: status.state,
            notes: status.notes,
            process: Some(usage::usage()),
            detail: status.detail,
        }
    }

    fn message(&self) -> Identity {
        Identity {
            daemon: self.daemon.clone(),
            version: self.version.clone(),
            pid: std::process::id(),
            started_unix_ms: self.started_unix_ms,
            configuration_hash: self.configuration_hash.clone(),
        }
    }
}

struct Service<D> {
    daemon: Arc<D>,
    who: Identification,
}

#[tonic::async_trait]
impl<D: Daemon> Admin for Service<D> {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.who.reply(self.daemon.status())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<StatusReply, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let interval = match request.into_inner().interval_ms {
            0 => 1000,
            ms => ms.max(100),
        };
        let ticks = tokio::time::interval(Duration::from_millis(interval.into()));
        let (daemon, who) = (Arc::clone(&self.daemon), self.who.clone());
        let replies = tokio_stream::StreamExt::map(
            tokio_stream::wrappers::IntervalStream::new(ticks),
            move |_| Ok(who.reply(daemon.status())),
        );
        Ok(Response::new(Box::pin(replies)))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
        let files = self.daemon.reload().await;
        Ok(Response::new(ReloadReply { identity: Some(self.who.message()), files }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        self.daemon.drain(Duration::from_millis(request.into_inner().deadline_ms.into()));
        Ok(Response::new(DrainReply { identity: Some(self.who.message()) }))
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterReply>, Status> {
        let request = request.into_inner();
        let level = request
            .filter
            .parse()
            .map_err(|e: log::UnknownLevel| Status::invalid_argument(e.to_string()))?;
        match request.duration_ms {
            0 => log::set_level(level),
            ms => log::set_level_for(level, Duration::from_millis(ms.into())),
        }
        Ok(Response::new(SetLogFilterReply { identity: Some(self.who.message()) }))
    }
}

/// Why the admin socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket file cannot be made.
    #[error("socket {path}: {cause} (set CJ_IPC_DIR to a folder that this user may write)")]
    Socket {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A variable about metrics is wrong.
    #[error(transparent)]
    Setting(#[from] metrics::BadSetting),
    /// The TCP port for metrics cannot be had.
    #[error("metrics on {address}: {cause} (choose another port with CJ_METRICS_LISTEN)")]
    Port {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// Binds the admin socket at `path` (mode 0600; a stale file is replaced by rename) and the metrics
/// socket beside it, and serves `daemon` until the runtime ends. With `CJ_METRICS_LISTEN` metrics
/// are served on a TCP port too.
///
/// # Errors
/// When a socket cannot be made. Those that could be made are served all the same.
pub fn serve<D: Daemon>(
    path: &Path,
    daemon: Arc<D>,
    who: Identification,
) -> Result<tokio::task::JoinHandle<()>, ServeError> {
    usage::prepare();
    let socket = |path: &Path| {
        let path = path.to_owned();
        move |cause| ServeError::Socket { path, cause }
    };
    let listener = bind_by_rename(path, 0o600).map_err(socket(path))?;
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(16)
        .add_service(AdminServer::new(Service { daemon: Arc::clone(&daemon), who: who.clone() }));
    let task = tokio::spawn(async move {
        // Ends only with the runtime: accept errors are the stream's own.
        let _ = server.serve_with_incoming(UnixListenerStream::new(listener)).await;
    });
    let address = metrics::listen_address(&who.daemon)?;
    let exposition = Arc::new(metrics::Exposition::new(who, move || daemon.status())?);
    let beside = metrics::socket_path(path);
    metrics::serve_unix(&beside, Arc::clone(&exposition)).map_err(socket(&beside))?;
    if let Some(address) = address {
        metrics::serve_tcp(address, exposition)
            .map_err(|cause| ServeError::Port { address, cause })?;
    }
    Ok(task)
}

/// Binds a Unix socket beside `path` and renames it into place, so that a file left by a dead
/// process never stands in the way and a successor replaces its predecessor at once.
///
/// # Errors
/// When the folder or the socket cannot be made.
pub fn bind_by_rename(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Connects to the gRPC server behind the Unix socket `path`.
///
/// # Errors
/// When nobody listens there.
pub async fn channel(path: &Path) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let path = path.to_owned();
    // The authority is required by HTTP/2 and means nothing on a Unix socket.
    tonic::transport::Endpoint::from_static("http://station.local")
        .connect_timeout(Duration::from_secs(2))
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::station::RegistrarStatus;

    struct Example;

    impl Daemon for Example {
        fn status(&self) -> DaemonStatus {
            DaemonStatus {
                state: "ready".into(),
                notes: vec!["redis: absent, retrying".into()],
                detail: Some(Detail::Registrar(RegistrarStatus {
                    published: 3,
                    ..Default::default()
                })),
            }
        }

        async fn reload(&self) -> Vec<FileResult> {
            vec![FileResult { file: "a.toml".into(), applied: true, error: String::new() }]
        }

        fn drain(&self, _: Duration) {}
    }

    #[tokio::test]
    async fn metrics_stand_on_a_socket_of_their_own() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "registrar", 0);
        let who = Identification::new("registrar", "1.2.3", b"");
        let _server = serve(&path, Arc::new(Example), who).unwrap();
        let ask = async |request: &str| {
            let path = dir.path().join("registrar.metrics.sock");
            let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
            stream.write_all(format!("{request}\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = ask("GET /metrics HTTP/1.1").await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(text.contains(kind), "{text}");
        assert!(text.contains("\nconjure_registrar_published_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
        let text = ask("GET /metrics HTTP/1.1\r\nAccept: text/plain").await;
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(ask("POST /metrics HTTP/1.1").await.starts_with("HTTP/1.1 405"));
        assert!(ask("GET / HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_daemon_answers_on_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "registrar", 2);
        assert!(path.ends_with("registrar-2.admin.sock"));
        std::fs::write(&path, "left by a dead process").unwrap();
        let who = Identification::new("registrar", "1.2.3", b"configuration");
        let _server = serve(&path, Arc::new(Example), who).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut client = AdminClient::new(channel(&path).await.unwrap());
        let status = client.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.state, "ready");
        assert_eq!(status.identity.unwrap().version, "1.2.3");
        assert!(status.process.unwrap().resident_memory_bytes > 0);
        let reload = client.reload(ReloadRequest {}).await.unwrap().into_inner();
        assert!(reload.files[0].applied);
        let refused = client
            .set_log_filter(SetLogFilterRequest { filter: "loud".into(), duration_ms: 0 })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
