//! Registration over DNS with the real registrar and a real subscriber: over UDP with loss, and through
//! fronts for TLS and HTTPS as resolvers have them.

mod stage;

use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use client::{Channel, Client, ClientAddress, DnsChannel, Options, Resolver, Session, Transport};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keys::KeyPair;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use signalling::{DnsRegConf, DnsRegMethod, RegistrationSource};
use stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

const ZONE: &str = "r.example.com";

impl Stage {
    async fn new() -> Self {
        // The DNS registrar has a key of its own.
        let pair = KeyPair::generate(&mut rand::rng());
        let settings = |dir: &Path| {
            fs::write(dir.join("privkey"), *pair.private_file()).unwrap();
            format!(
                "dns_listen_addr = \"127.0.0.1:0\"\ndomain = \"{ZONE}\"\ndns_private_key_path = \"{}\"\n",
                dir.join("privkey").display()
            )
        };
        let dns = DnsRegConf {
            dns_reg_method: DnsRegMethod::Doh as i32,
            target: Some("https://192.0.2.99/never".to_owned()),
            domain: ZONE.to_owned(),
            pubkey: Some(pair.public_file().to_vec()),
            ..Default::default()
        };
        Self::with(settings, |conf| conf.dns_reg_conf = Some(dns)).await
    }

    /// A resolver's TLS, with a certificate that the client then trusts.
    fn acceptor(&self) -> TlsAcceptor {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(self.roots(), own.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn roots(&self) -> PathBuf {
        self.path("roots.pem")
    }

    fn dns(&self) -> SocketAddr {
        self.registrar.open().dns.unwrap()
    }

    fn client(&self, resolver: &str, bidirectional: bool) -> Client {
        let channel = Channel::Dns(DnsChannel {
            bidirectional,
            resolver: Some(Resolver::parse(resolver).unwrap()),
            domain: None,
        });
        let covert = "203.0.113.5:443".to_owned();
        let mut options = Options::new(channel, Transport::Prefix(2), covert);
        options.address = ClientAddress::Known(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)));
        options.roots = self.roots();
        Client { conf: self.conf(), options }
    }

    /// Registers both ways through `resolver`; what the stations hear must be what the client uses.
    async fn register(&mut self, resolver: &str) {
        for bidirectional in [false, true] {
            let session: Session = self.client(resolver, bidirectional).register().await.unwrap();
            let heard = self.published().await;
            let source = if bidirectional {
                RegistrationSource::BidirectionalDns
            } else {
                RegistrationSource::Dns
            };
            assert_eq!(heard.registration_source(), source, "{resolver}");
            assert_eq!(heard.registration_address(), [198, 51, 100, 7]);
            let v4 = session.v4.unwrap();
            assert!(v4.to_string().starts_with("192.0.2."), "{v4}");
            if bidirectional {
                let response = heard.registration_response.unwrap();
                assert_eq!(IpAddr::V4(response.ipv4addr().into()), v4.ip());
                assert_eq!(response.dst_port(), u32::from(v4.port()));
            }
        }
    }
}

#[tokio::test]
async fn over_udp() {
    let mut stage = Stage::new().await;
    let resolver = format!("udp://{}", stage.dns());
    stage.register(&resolver).await;
    assert_eq!(stage.registrar.processor().publisher.stats().published, 2);
}

/// A resolver on the way that loses the first copy of each query and the first reply of each: every part
/// gets through in the end, and the registration is published once.
#[tokio::test]
async fn lost_datagrams_are_sent_again_and_published_once() {
    let mut stage = Stage::new().await;
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let resolver = format!("udp://{}", front.local_addr().unwrap());
    let upstream = stage.dns();
    tokio::spawn(async move {
        let mut seen = std::collections::HashMap::<Vec<u8>, usize>::new();
        let mut buffer = [0; 4096];
        loop {
            let (length, peer) = front.recv_from(&mut buffer).await.unwrap();
            let query = buffer[..length].to_vec();
            let copy = seen.entry(query.clone()).or_default();
            *copy += 1;
            let copy = *copy;
            if copy == 1 {
                continue;
            }
            let front = Arc::clone(&front);
            tokio::spawn(async move {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.send_to(&query, upstream).await.unwrap();
                let mut reply = [0; 4096];
                let length = socket.recv(&mut reply).await.unwrap();
                if copy > 2 {
                    front.send_to(&reply[..length], peer).await.unwrap();
                }
            });
        }
    });
    let session = stage.client(&resolver, true).register().await.unwrap();
    let response = stage.published().await.registration_response.unwrap();
    assert_eq!(IpAddr::V4(response.ipv4addr().into()), session.v4.unwrap().ip());
    assert_eq!(stage.registrar.processor().publisher.stats().published, 1);
}

#[tokio::test]
async fn over_tls() {
    let mut stage = Stage::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (acceptor, upstream) = (stage.acceptor(), stage.dns());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // The first connection breaks; the client dials again.
            if count.fetch_add(1, Relaxed) == 0 {
                continue;
            }
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut upstream = TcpStream::connect(upstream).await.unwrap();
                // The end of a connection may be abrupt.
                let _ = copy_bidirectional(&mut stream, &mut upstream).await;
            });
        }
    });
    stage.register(&format!("tls://localhost:{port}")).await;
    assert_eq!(connections.load(Relaxed), 3);
}

/// Answers DoH requests from the registrar's TCP port.
async fn doh(
    request: Request<Incoming>,
    upstream: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/dns-query"));
    for name in ["accept", "content-type"] {
        assert_eq!(request.headers()[name], "application/dns-message");
    }
    assert!(!request.headers().contains_key("user-agent"));
    let query = request.into_body().collect().await.unwrap().to_bytes();
    let mut stream = TcpStream::connect(upstream).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    let response = Response::builder().header("content-type", "application/dns-message");
    Ok(response.body(Full::new(reply.into())).unwrap())
}

async fn over_https(second: bool) {
    let mut stage = Stage::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (acceptor, upstream) = (stage.acceptor(), stage.dns());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| doh(request, upstream));
                if second {
                    let io = TokioIo::new(acceptor.accept(stream).await.unwrap());
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // The client leaves when it has what it wants.
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    let scheme = if second { "https" } else { "http" };
    stage.register(&format!("{scheme}://localhost:{port}/dns-query")).await;
}

#[tokio::test]
async fn over_https_with_http_2() {
    over_https(true).await;
}

#[tokio::test]
async fn over_plain_http_1() {
    over_https(false).await;
}

#[tokio::test]
async fn what_cannot_work_is_named() {
    let stage = Stage::new().await;
    let udp = format!("udp://{}", stage.dns());
    let mut client = stage.client(&udp, true);
    client.options.covert = format!("{}.example:443", "x".repeat(900));
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("shorten the covert"), "{error}");

    let mut client = stage.client(&udp, true);
    let channel = DnsChannel { bidirectional: true, resolver: None, domain: Some("a..b".into()) };
    client.options.channel = Channel::Dns(channel);
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("zone a..b"), "{error}");

    let mut client = stage.client("tls://localhost:1", false);
    client.options.roots = "/nonexistent".into();
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("--roots"), "{error}");
}
