//! Registration over gRPC with the real registrar and a real subscriber, plain and over TLS; what the
//! registrar refuses, and how.

mod stage;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use client::{Channel, Client, Options, Transport};
use signalling::registration::AnnounceReply;
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationResponse, RegistrationSource};
use stage::{LONG, PHANTOMS, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

impl Stage {
    async fn new(extra: impl Fn(&Path) -> String) -> Self {
        let settings = |dir: &Path| format!("grpc_listen_addr = \"127.0.0.1:0\"\n{}", extra(dir));
        Self::with(settings, |_| {}).await
    }

    fn address(&self) -> SocketAddr {
        self.registrar.open().grpc.unwrap()
    }

    async fn register(&mut self, url: String) {
        let covert = "203.0.113.5:443".to_owned();
        let mut options = Options::new(Channel::Grpc(url), Transport::Min, covert);
        options.families.v6 = false;
        options.roots = self.path("cert.pem");
        let session = Client { conf: self.older_conf(), options }.register().await.unwrap();
        let heard = self.published().await;
        assert_eq!(heard.registration_source(), RegistrationSource::BidirectionalApi);
        assert_eq!(heard.registration_address()[12..], [127, 0, 0, 1]);
        let response = heard.registration_response.unwrap();
        assert_eq!(IpAddr::V4(response.ipv4addr().into()), session.v4.unwrap().ip());
        assert_eq!(session.newer.unwrap().generation(), 7);
    }

    async fn call<R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Request<C2sWrapper>,
    ) -> Result<R, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address())).unwrap();
        let mut grpc = Grpc::new(endpoint.connect().await.unwrap());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<C2sWrapper, R>::default();
        grpc.unary(request, PathAndQuery::from_static(path), codec).await.map(|r| r.into_inner())
    }
}

const REGISTER: &str = "/conjure.registration.v1.Registration/Register";
const ANNOUNCE: &str = "/conjure.registration.v1.Registration/Announce";

fn wrapper() -> C2sWrapper {
    C2sWrapper {
        shared_secret: Some(vec![7; 32]),
        registration_payload: Some(ClientToStation {
            client_lib_version: Some(4),
            decoy_list_generation: Some(7),
            v4_support: Some(true),
            transport: Some(1),
            covert_address: Some("203.0.113.5:443".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn over_plain_http_2() {
    let mut stage = Stage::new(|_| String::new()).await;
    let url = format!("http://{}", stage.address());
    stage.register(url).await;
}

#[tokio::test]
async fn over_tls() {
    let mut stage = Stage::new(|dir| {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(dir.join("cert.pem"), own.cert.pem()).unwrap();
        fs::write(dir.join("key.pem"), own.signing_key.serialize_pem()).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        format!(
            "grpc_tls_cert = \"{}\"\ngrpc_tls_key = \"{}\"\n",
            path("cert.pem"),
            path("key.pem")
        )
    })
    .await;
    // A peer that never finishes its handshake holds nobody up.
    let mut mute = TcpStream::connect(stage.address()).await.unwrap();
    mute.write_all(&[22, 3, 1]).await.unwrap();
    let url = format!("https://localhost:{}", stage.address().port());
    stage.register(url).await;
}

/// The client's own bytes are published, also of fields that the registrar does not know; its address is
/// taken by the rule of the HTTP API.
#[tokio::test]
async fn announcements_keep_the_clients_bytes() {
    let mut stage = Stage::new(|_| String::new()).await;
    let mut request = Request::new(wrapper());
    let forwarded = "192.0.2.1, 198.51.100.9, 203.0.113.1".parse().unwrap();
    request.metadata_mut().insert("x-forwarded-for", forwarded);
    let reply: AnnounceReply = stage.call(ANNOUNCE, request).await.unwrap();
    assert_eq!(reply, AnnounceReply {});
    let heard = stage.published().await;
    assert_eq!(heard.registration_source(), RegistrationSource::Api);
    // From this host the last element is that of a CDN.
    assert_eq!(heard.registration_address()[12..], [198, 51, 100, 9]);
    assert_eq!(heard.registration_payload, wrapper().registration_payload);
    assert_eq!(heard.registration_response, None);
}

#[tokio::test]
async fn refusals_have_a_code_and_no_detail() {
    let stage = Stage::new(|dir| {
        let v4_only = PHANTOMS.replace(", \"2001:db8::/64\"", "");
        fs::write(dir.join("phantoms.toml"), v4_only).unwrap();
        "client_rate = 1\nclient_burst = 2\n".to_owned()
    })
    .await;
    let without = |change: fn(&mut C2sWrapper)| {
        let mut wrapper = wrapper();
        change(&mut wrapper);
        wrapper
    };
    for (wrapper, code, text) in [
        (without(|w| w.registration_payload = None), Code::InvalidArgument, "invalid registration"),
        (
            without(|w| w.shared_secret = Some(vec![7; 7])),
            Code::InvalidArgument,
            "invalid registration",
        ),
        (
            without(|w| w.registration_payload.as_mut().unwrap().v6_support = Some(true)),
            Code::FailedPrecondition,
            "no phantom",
        ),
        (
            without(|w| w.registration_payload.as_mut().unwrap().transport = Some(99)),
            Code::Internal,
            "internal",
        ),
    ] {
        let status =
            stage.call::<RegistrationResponse>(REGISTER, Request::new(wrapper)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    let path = "/conjure.registration.v1.Registration/Other";
    let status = stage.call::<RegistrationResponse>(path, Request::new(wrapper())).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);

    let mut long = wrapper();
    long.registration_payload.as_mut().unwrap().padding = Some(vec![0; 70_000]);
    let status = stage.call::<RegistrationResponse>(REGISTER, Request::new(long)).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange);

    let mut codes = Vec::new();
    for _ in 0..6 {
        let mut request = Request::new(wrapper());
        request.metadata_mut().insert("x-forwarded-for", "192.0.2.77".parse().unwrap());
        let result = stage.call::<RegistrationResponse>(REGISTER, request).await;
        codes.push(result.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes[..2], [Code::Ok, Code::Ok]);
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
}

/// What the client sends in one registration, recorded on the way.
async fn recorded(stage: &mut Stage) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = stage.address();
    let recording = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(upstream).await.unwrap();
        let (mut from, mut back) = client.into_split();
        let (mut replies, mut to) = server.into_split();
        tokio::spawn(async move { drop(tokio::io::copy(&mut replies, &mut back).await) });
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..length]);
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        all
    });
    stage.register(url).await;
    tokio::time::timeout(LONG, recording).await.unwrap().unwrap()
}

/// `CONJURE_MUTATIONS` connections (300 by default) with mutated HTTP/2.
#[tokio::test]
async fn mutated_http_2_is_cut_and_others_are_served() {
    let mut stage = Stage::new(|_| String::new()).await;
    let original = recorded(&mut stage).await;
    assert!(original.starts_with(b"PRI * HTTP/2.0"));
    let rounds = std::env::var("CONJURE_MUTATIONS").map_or(300, |n| n.parse().unwrap());
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for _ in 0..rounds {
        let mut bytes = original.clone();
        for _ in 0..=random() % 6 {
            // Most frames stand behind the preface of 24 bytes.
            let at = 24 + random() % (bytes.len() - 24);
            bytes[at] = random() as u8;
        }
        bytes.truncate(24 + random() % (bytes.len() - 23));
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        // It may be cut while it still writes.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
        // No port waits for stragglers.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let reply: AnnounceReply = stage.call(ANNOUNCE, Request::new(wrapper())).await.unwrap();
    assert_eq!(reply, AnnounceReply {});
}

/// Garbage in the place of HTTP/2 ends its own connection and nothing else.
#[tokio::test]
async fn garbage_is_cut_and_others_are_served() {
    let mut stage = Stage::new(|_| String::new()).await;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..60 {
        let mut bytes = if round % 2 == 0 {
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()
        } else {
            Vec::new()
        };
        for _ in 0..round * 7 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(state as u8);
        }
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        // It may be cut while it still writes.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
    }
    let url = format!("http://{}", stage.address());
    stage.register(url).await;
}
