//! Registration through an AMP cache: a cache of the test behind a front, the real registrar, a real
//! subscriber.

use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bus::{Subscriber, SubscriberOptions};
use client::{AmpChannel, Channel, Client, ClientAddress, ClientConf, Options, Transport};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use keys::KeyPair;
use registrar::daemon::{Registrar, Setup};
use signalling::{C2sWrapper, Message, RegistrationSource};
use tokio::net::{TcpListener, TcpStream};

const LONG: Duration = Duration::from_secs(60);
const PHANTOMS: &str = "[Networks.7]\nGeneration = 7\n[[Networks.7.WeightedSubnets]]\nWeight = 1\n\
                        RandomizeDstPort = true\nSubnets = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n";

async fn registrar(dir: &std::path::Path) -> (Registrar, Subscriber, ClientConf) {
    let path = |name: &str| dir.join(name);
    let message = signalling::ClientConf {
        generation: Some(7),
        conjure_pubkey: Some(signalling::PubKey {
            key: Some(KeyPair::generate(&mut rand::rng()).public_file().to_vec()),
            ..Default::default()
        }),
        phantom_subnets_list: Some(signalling::PhantomSubnetsList {
            weighted_subnets: vec![signalling::PhantomSubnets {
                weight: Some(1),
                subnets: vec!["192.0.2.0/24".to_owned(), "2001:db8::/64".to_owned()],
                randomize_dst_port: Some(true),
            }],
        }),
        ..Default::default()
    };
    fs::write(path("phantoms.toml"), PHANTOMS).unwrap();
    fs::write(path("ClientConf"), message.encode_to_vec()).unwrap();
    let text = format!(
        "log_level = \"error\"\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\nzmq_port = 0\n\
         zmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\nclientconf_path = \"{}\"\n",
        path("ClientConf").display()
    );
    fs::write(path("reg.toml"), text).unwrap();
    let setup = Setup::load(&path("reg.toml"), &path("phantoms.toml")).unwrap();
    let registrar = Registrar::start(setup, None).await.unwrap();
    let publisher = &registrar.processor().publisher;
    let at = publisher.endpoint().to_string();
    let subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    tokio::time::timeout(LONG, async {
        while !publisher.peers().iter().any(|p| p.subscribed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // One generation behind, so that the reply carries the whole ClientConf.
    let conf = signalling::ClientConf { generation: Some(6), ..message };
    (registrar, subscriber, ClientConf::from_message(&conf).unwrap())
}

/// What a cache does: checks that it is meant, fetches from the publisher in the path, adds markup of its
/// own to the document.
async fn cache(
    request: Request<Incoming>,
    upstream: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.headers()["host"], "reg-example.cdn.example");
    let path = request.uri().path().strip_prefix("/c/reg.example").unwrap().to_owned();
    let stream = TcpStream::connect(upstream).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let fetch = Request::get(path).header("host", "reg.example").body(Full::<Bytes>::default());
    let reply = sender.send_request(fetch.unwrap()).await.unwrap();
    let status = reply.status();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let text = text.replace("</head>", "<script>if (1 < 2) { '<pre>' }</script></head>");
    Ok(Response::builder().status(status).body(Full::new(text.into())).unwrap())
}

#[tokio::test]
async fn through_a_cache_and_a_front() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, mut subscriber, conf) = registrar(dir.path()).await;
    let upstream = registrar.address();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let redirects = seen.fetch_add(1, Relaxed) == 0;
            tokio::spawn(async move {
                let service = service_fn(move |request| async move {
                    if redirects {
                        // A cache that redirects has not asked; the client tries again.
                        let reply = Response::builder().header("location", "http://reg.example/");
                        return Ok(reply.body(Full::default()).unwrap());
                    }
                    cache(request, upstream).await
                });
                let server = hyper::server::conn::http1::Builder::new();
                // The client leaves when it has what it wants.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    for bidirectional in [false, true] {
        let path = if bidirectional { "register-bidirectional" } else { "register" };
        let channel = Channel::Amp(AmpChannel {
            bidirectional,
            url: format!("http://reg.example/amp/{path}"),
            cache: Some("http://cdn.example/".to_owned()),
            front: Some(front.to_string()),
        });
        let covert = "203.0.113.5:443".to_owned();
        let mut options = Options::new(channel, Transport::Min, covert);
        options.address = ClientAddress::Known(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)));
        let session = Client { conf: conf.clone(), options }.register().await.unwrap();
        let bytes = tokio::time::timeout(LONG, subscriber.recv()).await.unwrap();
        let heard = C2sWrapper::decode(bytes).unwrap();
        assert_eq!(heard.registration_address(), [198, 51, 100, 7]);
        if bidirectional {
            assert_eq!(heard.registration_source(), RegistrationSource::BidirectionalAmp);
            let response = heard.registration_response.unwrap();
            assert_eq!(IpAddr::V4(response.ipv4addr().into()), session.v4.unwrap().ip());
            assert_eq!(session.newer.unwrap().generation(), 7);
        } else {
            assert_eq!(heard.registration_source(), RegistrationSource::AmpCache);
        }
    }
    assert_eq!(count.load(Relaxed), 3);
}

#[tokio::test]
async fn what_cannot_work_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, _subscriber, conf) = registrar(dir.path()).await;
    let at = registrar.address();
    for (url, cache, front, words) in [
        (format!("http://{at}/amp/register"), Some("http://cdn.example/"), None, "names a port"),
        ("http://reg.example/amp/register".to_owned(), Some("cdn"), None, "no URL"),
        (format!("http://{at}/amp/nothing"), None, None, "answered 404"),
        ("http://reg.example/amp/register".to_owned(), None, Some("a b"), "HOST[:PORT]"),
        ("reg.example".to_owned(), None, None, "expected http"),
    ] {
        let channel = Channel::Amp(AmpChannel {
            bidirectional: true,
            url,
            cache: cache.map(str::to_owned),
            front: front.map(str::to_owned),
        });
        let mut options = Options::new(channel, Transport::Min, "203.0.113.5:443".to_owned());
        options.address = ClientAddress::Known(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let error = Client { conf: conf.clone(), options }.register().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
