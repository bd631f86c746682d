//! The web page: on loopback or on a Unix socket, never for the world.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::feed::Feed;
use crate::figures::totals;
use crate::history::STEP;
use crate::serve::Site;

/// Where the page is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A port on loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A place that the page is not served on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found `{0}`, expected a loopback address and port such as 127.0.0.1:8088, or unix:PATH: the page has \
     no password (reach it from elsewhere with ssh -L 8088:127.0.0.1:8088 STATION)"
)]
pub struct BadListen(String);

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() => Ok(Self::Tcp(address)),
            _ => Err(BadListen(text.to_owned())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Serves the page until the process ends. Figures come from the daemons whose sockets are in `dir`;
/// rows that stand for fewer than `floor` clients are one. `ready` is told where the page is.
///
/// # Errors
/// When the socket cannot be had.
pub fn serve(
    listen: &Listen,
    dir: &Path,
    offset: u32,
    floor: u32,
    ready: impl FnOnce(&Listen),
) -> io::Result<()> {
    let feed = Arc::new(Feed::start(dir, offset, STEP)?);
    let source = Arc::clone(&feed);
    let site = Arc::new(Site::new(Box::new(move || source.seats()), floor.into()));
    feed.runtime().block_on(async {
        let keeper = Arc::clone(&site);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STEP);
            loop {
                ticks.tick().await;
                let now = totals(&(keeper.seats)());
                keeper.history.lock().push(now);
            }
        });
        match listen {
            Listen::Tcp(address) => {
                let listener = tokio::net::TcpListener::bind(address).await?;
                ready(&Listen::Tcp(listener.local_addr()?));
                loop {
                    let (stream, _) = listener.accept().await?;
                    site.answer(stream);
                }
            }
            Listen::Unix(path) => {
                let listener = telemetry::admin::bind_by_rename(path, 0o600)?;
                ready(listen);
                loop {
                    let (stream, _) = listener.accept().await?;
                    site.answer(stream);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_not_listened_to() {
        assert_eq!("127.0.0.1:80".parse(), Ok(Listen::Tcp(([127, 0, 0, 1], 80).into())));
        assert!("[::1]:0".parse::<Listen>().is_ok());
        assert_eq!("unix:/a/b".parse(), Ok(Listen::Unix("/a/b".into())));
        for text in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "80", "unix:", "localhost:80"] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("127.0.0.1:8088"), "{error}");
        }
    }
}
