//! The real registrar with a ClientConf and phantoms of the test's own, and a real subscriber.

// Each test uses its part.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::{Subscriber, SubscriberOptions};
use client::ClientConf;
use keys::KeyPair;
use registrar::daemon::{Registrar, Setup};
use signalling::{C2sWrapper, Message};
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const PHANTOMS: &str = "[Networks.7]\nGeneration = 7\n[[Networks.7.WeightedSubnets]]\nWeight = 1\n\
                        RandomizeDstPort = true\nSubnets = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n";

pub(crate) struct Stage {
    dir: TempDir,
    pub(crate) registrar: Registrar,
    pub(crate) subscriber: Subscriber,
    /// Key of the station.
    pub(crate) station: KeyPair,
    /// What clients know, of generation 7.
    pub(crate) message: signalling::ClientConf,
}

impl Stage {
    /// A registrar with the lines that `settings` makes for its folder; `change` edits the ClientConf.
    pub(crate) async fn with(
        settings: impl FnOnce(&Path) -> String,
        change: impl FnOnce(&mut signalling::ClientConf),
    ) -> Self {
        let station = KeyPair::generate(&mut rand::rng());
        let mut message = signalling::ClientConf {
            generation: Some(7),
            conjure_pubkey: Some(signalling::PubKey {
                key: Some(station.public_file().to_vec()),
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
        change(&mut message);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("phantoms.toml"), PHANTOMS).unwrap();
        fs::write(path("ClientConf"), message.encode_to_vec()).unwrap();
        let text = format!(
            "log_level = \"error\"\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\nzmq_port = 0\n\
             zmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\nclientconf_path = \"{}\"\n{}",
            path("ClientConf").display(),
            settings(dir.path())
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
        Self { dir, registrar, subscriber, station, message }
    }

    /// What a client knows.
    pub(crate) fn conf(&self) -> ClientConf {
        ClientConf::from_message(&self.message).unwrap()
    }

    /// The same, one generation behind: a bidirectional reply then carries the whole ClientConf.
    pub(crate) fn older_conf(&self) -> ClientConf {
        let older = signalling::ClientConf { generation: Some(6), ..self.message.clone() };
        ClientConf::from_message(&older).unwrap()
    }

    /// A file of the registrar's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The next message that the registrar publishes.
    pub(crate) async fn published(&mut self) -> C2sWrapper {
        let bytes = tokio::time::timeout(LONG, self.subscriber.recv()).await.unwrap();
        C2sWrapper::decode(bytes).unwrap()
    }
}
