//! The admin service of every daemon (`spec/channels.md` 2), server and client.

use std::future::Future;
use std::io;
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

use crate::log;

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

impl<D: Daemon> Service<D> {
    fn reply(daemon: &D, who: &Identification) -> StatusReply {
        let status = daemon.status();
        StatusReply {
            identity: Some(who.message()),
            state: status.state,
            notes: status.notes,
            detail: status.detail,
        }
    }
}

#[tonic::async_trait]
impl<D: Daemon> Admin for Service<D> {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(Self::reply(&self.daemon, &self.who)))
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
            move |_| Ok(Self::reply(&daemon, &who)),
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
#[error("admin socket {path}: {cause} (set CJ_IPC_DIR to a folder that this user may write)")]
pub struct ServeError {
    path: PathBuf,
    cause: io::Error,
}

/// Binds the admin socket at `path` (mode 0600; a stale file is replaced by rename) and serves
/// `daemon` until the runtime ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve<D: Daemon>(
    path: &Path,
    daemon: Arc<D>,
    who: Identification,
) -> Result<tokio::task::JoinHandle<()>, ServeError> {
    let listener =
        bind_by_rename(path, 0o600).map_err(|cause| ServeError { path: path.to_owned(), cause })?;
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(16)
        .add_service(AdminServer::new(Service { daemon, who }));
    Ok(tokio::spawn(async move {
        // Ends only with the runtime: accept errors are the stream's own.
        let _ = server.serve_with_incoming(UnixListenerStream::new(listener)).await;
    }))
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
        let reload = client.reload(ReloadRequest {}).await.unwrap().into_inner();
        assert!(reload.files[0].applied);
        let refused = client
            .set_log_filter(SetLogFilterRequest { filter: "loud".into(), duration_ms: 0 })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
