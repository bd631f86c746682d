//! Registration through an AMP cache: a cache of the test behind a front, the real registrar, a real
//! subscriber.

mod stage;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use client::{AmpChannel, Channel, Client, ClientAddress, Options, Transport};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use signalling::RegistrationSource;
use stage::Stage;
use tokio::net::{TcpListener, TcpStream};

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
    let mut stage = Stage::with(|_| String::new(), |_| {}).await;
    let conf = stage.older_conf();
    let upstream = stage.registrar.address();
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
        let heard = stage.published().await;
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
    let stage = Stage::with(|_| String::new(), |_| {}).await;
    let conf = stage.older_conf();
    let at = stage.registrar.address();
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
