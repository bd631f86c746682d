//! The way to a DNS registrar: a resolver over UDP, TLS (RFC 7858) or HTTPS (RFC 8484).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use registration::dns::{Answer, Asked, Name, read_reply, retry};
use rustls::pki_types::ServerName;
use signalling::DnsResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::decoy::RootsError;
use crate::dns::last_word;
use crate::https::{Endpoint, HttpError, Request};

/// Time after which an unanswered query is sent again over UDP; it doubles.
const RESEND: Duration = Duration::from_secs(1);
/// Longest reply of a DoH server that is read.
const MAX_DOH_REPLY: usize = 64_000;
/// Type of queries and replies over HTTPS.
const DNS_MESSAGE: &str = "application/dns-message";
/// Time that a DoH server is left alone when it refuses without saying how long.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolver {
    /// `udp://HOST:PORT`.
    Udp(String),
    /// `tls://HOST:PORT`: host and port.
    Tls(String, u16),
    /// `https://…`, or `http://…` behind something that adds TLS.
    Https(String),
}

/// Why a resolver could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The text names none.
    #[error("resolver {0}: expected udp://HOST:PORT, tls://HOST:PORT or https://HOST/PATH")]
    Text(String),
    /// The trust anchors cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// It cannot be reached.
    #[error("resolver {resolver}: {cause}")]
    Unreachable {
        /// The resolver.
        resolver: String,
        /// Why.
        cause: String,
    },
    /// It was reached, and brings nothing of the registrar's.
    #[error("resolver {0}: no usable answer")]
    Useless(String),
    /// It wants to be left alone.
    #[error("resolver {url}: asks to wait {} s", .wait.as_secs())]
    Busy {
        /// Its URL.
        url: String,
        /// How long.
        wait: Duration,
    },
}

impl ResolverError {
    /// True when another attempt may do better.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Useless(_))
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tls(host, port) if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls(host, port) => write!(f, "tls://{host}:{port}"),
            Self::Https(url) => f.write_str(url),
        }
    }
}

impl Resolver {
    /// Reads `udp://HOST[:53]`, `tls://HOST[:853]` or an HTTP(S) URL.
    ///
    /// # Errors
    /// [`ResolverError::Text`].
    pub fn parse(text: &str) -> Result<Self, ResolverError> {
        let bad = || ResolverError::Text(text.to_owned());
        let uri: hyper::Uri = text.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        match uri.scheme_str() {
            Some("udp") => Ok(Self::Udp(format!("{host}:{}", uri.port_u16().unwrap_or(53)))),
            Some("tls") => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                Ok(Self::Tls(bare.to_owned(), uri.port_u16().unwrap_or(853)))
            }
            Some("https" | "http") => Ok(Self::Https(text.to_owned())),
            _ => Err(bad()),
        }
    }

    fn unreachable(&self, cause: impl ToString) -> ResolverError {
        ResolverError::Unreachable { resolver: self.to_string(), cause: cause.to_string() }
    }

    fn useless(&self) -> ResolverError {
        ResolverError::Useless(self.to_string())
    }

    /// Sends all queries and returns the first reply that is not about missing parts.
    pub(crate) async fn first_answer(
        &self,
        asked: &[Asked],
        zone: &Name,
        roots: &Path,
    ) -> Result<DnsResponse, ResolverError> {
        match self {
            Self::Udp(address) => self.over_udp(address, asked, zone).await,
            Self::Tls(host, port) => self.over_tls(host, *port, asked, zone, roots).await,
            Self::Https(url) => self.over_https(url, asked, zone, roots).await,
        }
    }

    /// Each query over a socket of its own, sent again until something comes back.
    async fn over_udp(
        &self,
        address: &str,
        asked: &[Asked],
        zone: &Name,
    ) -> Result<DnsResponse, ResolverError> {
        let found = tokio::net::lookup_host(address).await.map_err(|e| self.unreachable(e))?.next();
        let found = found.ok_or_else(|| self.unreachable("no address"))?;
        let mut running: FuturesUnordered<_> =
            asked.iter().map(|asked| ask_udp(found, asked, zone)).collect();
        while let Some(answer) = running.next().await {
            if let Answer::Done(reply) = answer.map_err(|e| self.unreachable(e))? {
                return Ok(reply);
            }
        }
        Err(self.useless())
    }

    /// All queries over one connection; replies may come in any order (RFC 7766 6.2.1.1).
    async fn over_tls(
        &self,
        host: &str,
        port: u16,
        asked: &[Asked],
        zone: &Name,
        roots: &Path,
    ) -> Result<DnsResponse, ResolverError> {
        let config = crate::decoy::tls_config(roots, rustls::ALL_VERSIONS)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ResolverError::Text(self.to_string()))?;
        let failed = |e: io::Error| self.unreachable(e);
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.map_err(failed)?;
        let mut queries = Vec::new();
        for asked in asked {
            // A query is shorter than 300 bytes.
            queries.extend_from_slice(&(asked.query.len() as u16).to_be_bytes());
            queries.extend_from_slice(&asked.query);
        }
        stream.write_all(&queries).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        for _ in asked {
            let length = stream.read_u16().await.map_err(failed)?;
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await.map_err(failed)?;
            let Some(text) = read_reply(&reply, zone) else { continue };
            if let Some(reply) = asked.iter().find_map(|asked| last_word(asked, &text)) {
                return Ok(reply);
            }
        }
        Err(self.useless())
    }

    /// All queries over one connection, at once where it speaks HTTP/2.
    async fn over_https(
        &self,
        url: &str,
        asked: &[Asked],
        zone: &Name,
        roots: &Path,
    ) -> Result<DnsResponse, ResolverError> {
        let endpoint = Endpoint::parse(url).ok_or_else(|| ResolverError::Text(url.to_owned()))?;
        let connected = endpoint.connect(roots).await;
        let connection = connected.map_err(|e| match e {
            HttpError::Roots(e) => e.into(),
            other => self.unreachable(other),
        })?;
        let mut running = JoinSet::new();
        for (at, asked) in asked.iter().enumerate() {
            let request = Request::post(asked.query.clone(), DNS_MESSAGE, MAX_DOH_REPLY);
            let mut connection = connection.clone();
            running.spawn(async move { (at, connection.send(request).await) });
        }
        let mut result = Err(self.useless());
        while let Some(done) = running.join_next().await {
            let Ok((at, reply)) = done else { continue };
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    result = Err(self.unreachable(error));
                    continue;
                }
            };
            if reply.status != 200 {
                let wait = wait(reply.header("retry-after"));
                return Err(ResolverError::Busy { url: url.to_owned(), wait });
            }
            if reply.header("content-type") != Some(DNS_MESSAGE) {
                continue;
            }
            let text = read_reply(&reply.body, zone);
            if let Some(reply) = text.and_then(|text| last_word(&asked[at], &text)) {
                return Ok(reply);
            }
        }
        result
    }
}

/// How long a refusing server wants to be left alone.
fn wait(header: Option<&str>) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs().cast_signed());
    let until = header.and_then(|header| retry::retry_after(header, now));
    until.map_or(DEFAULT_WAIT, |until| Duration::from_secs((until - now).max(0).cast_unsigned()))
}

/// Asks one query until it is answered, however long that takes.
async fn ask_udp(resolver: SocketAddr, asked: &Asked, zone: &Name) -> io::Result<Answer> {
    let local: IpAddr = if resolver.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(resolver).await?;
    let mut wait = RESEND;
    loop {
        // An error tells of an earlier datagram; a later one may arrive.
        let _ = socket.send(&asked.query).await;
        if let Ok(answer) = timeout(wait, listen_udp(&socket, asked, zone)).await {
            return Ok(answer);
        }
        wait *= 2;
    }
}

async fn listen_udp(socket: &UdpSocket, asked: &Asked, zone: &Name) -> Answer {
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let text = read_reply(&buffer[..length], zone);
                if let Some(answer) = text.and_then(|text| asked.answer(&text)) {
                    return answer;
                }
            }
            Err(_) => tokio::time::sleep(RESEND / 10).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_written_as_urls() {
        for (text, resolver) in [
            ("udp://192.0.2.1", Resolver::Udp("192.0.2.1:53".to_owned())),
            ("udp://[2001:db8::1]:5353", Resolver::Udp("[2001:db8::1]:5353".to_owned())),
            ("tls://dns.example", Resolver::Tls("dns.example".to_owned(), 853)),
            ("tls://[::1]:8853", Resolver::Tls("::1".to_owned(), 8853)),
            ("https://1.1.1.1/dns-query", Resolver::Https("https://1.1.1.1/dns-query".to_owned())),
        ] {
            assert_eq!(Resolver::parse(text).unwrap(), resolver);
        }
        for wrong in ["", "192.0.2.1:53", "udp://", "quic://a.example"] {
            let error = Resolver::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("expected udp://"), "{error}");
        }
        assert_eq!(Resolver::Tls("::1".to_owned(), 853).to_string(), "tls://[::1]:853");
    }

    #[test]
    fn a_refusal_without_a_time_means_ten_seconds() {
        assert_eq!(wait(None), DEFAULT_WAIT);
        assert_eq!(wait(Some("soon")), DEFAULT_WAIT);
        assert_eq!(wait(Some("3")), Duration::from_secs(3));
        assert_eq!(wait(Some("Fri, 31 Dec 1999 23:59:59 GMT")), Duration::ZERO);
    }
}
