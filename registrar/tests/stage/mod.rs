//! A registrar over loopback with a real subscriber, configured as the vectors say.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::{CurveClient, CurveKeys, Subscriber, SubscriberOptions};
use registrar::daemon::{Registrar, Setup};
use registrar::snapshot::Rules;
use signalling::{C2sWrapper, Message};
use tokio::time::timeout;
use transports::Transport;
use vectors::{hex, load};

/// Far above anything these tests wait for; only a hang reaches it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The registrar and its station.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    pub(crate) registrar: Registrar,
    pub(crate) subscriber: Subscriber,
}

impl Stage {
    /// As the vectors say; `extra` are lines of configuration.
    pub(crate) async fn of_vectors(curve: bool, extra: &str) -> Self {
        let file = load("registrar-http.json");
        let context = &file["context"];
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let phantoms = context["phantom_subnets_toml"].as_str().unwrap();
        fs::write(path("phantoms.toml"), phantoms).unwrap();
        fs::write(path("ClientConf"), hex(&context["client_conf"])).unwrap();
        let privkey = hex(&context["privkey_file"]);
        fs::write(path("privkey"), &privkey).unwrap();
        let key = path("privkey");
        let station = CurveKeys::new(&[3; 32]);
        let auth = if curve {
            format!(
                "zmq_auth_type = \"CURVE\"\nsigning_mode = \"legacy\"\n\
                 zmq_privkey_path = \"{}\"\nstation_pubkeys = [\"{}\"]\n",
                key.display(),
                keys::z85(station.public())
            )
        } else {
            "zmq_auth_type = \"NULL\"\n".to_owned()
        };
        let text = format!(
            "log_level = \"error\"\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\n\
             zmq_port = 0\nzmq_bind_addr = \"127.0.0.1\"\n{auth}clientconf_path = \"{}\"\n\
             dns_private_key_path = \"{}\"\n{extra}",
            path("ClientConf").display(),
            key.display(),
        );
        fs::write(path("reg.toml"), text).unwrap();
        let setup = Setup::load(&path("reg.toml"), &path("phantoms.toml")).unwrap();
        let mut rules = Rules::new(&setup.registrar);
        rules.transports = [Transport::Min, Transport::Prefix].into();
        let registrar = Registrar::start(setup, Some(rules)).await.unwrap();
        let publisher = &registrar.processor().publisher;
        let at = publisher.endpoint().to_string();
        let curve = curve.then(|| {
            let server = CurveKeys::new(privkey.first_chunk().unwrap());
            Arc::new(CurveClient { keys: station, server: *server.public() })
        });
        let options = SubscriberOptions { curve, ..Default::default() };
        let subscriber = Subscriber::connect(&at, options).unwrap();
        timeout(LONG, async {
            while !publisher.peers().iter().any(|p| p.subscribed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        Self { dir, registrar, subscriber }
    }

    /// A file of the registrar.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Messages published so far.
    pub(crate) fn published(&self) -> u64 {
        self.registrar.processor().publisher.stats().published
    }

    /// The value of a counter.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let counts = self.registrar.processor().metrics.counts();
        counts.iter().find(|(counter, _)| *counter == name).map_or(0, |(_, value)| *value)
    }

    /// Takes the next message, which must be `expected` but for what may differ.
    pub(crate) async fn expect(&mut self, expected: &[u8], name: &str) {
        let got = timeout(LONG, self.subscriber.recv()).await.unwrap();
        if got != expected {
            assert_eq!(normal(&got), normal(expected), "{name}");
        }
    }
}

/// A published message with the one thing that may differ taken out: the type URL that the
/// reference fills in.
pub(crate) fn normal(bytes: &[u8]) -> C2sWrapper {
    let mut message = C2sWrapper::decode(bytes).unwrap();
    if let Some(params) =
        message.registration_payload.as_mut().and_then(|p| p.transport_params.as_mut())
    {
        params.type_url.clear();
    }
    message
}
