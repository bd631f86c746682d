//! Registrations from the bus: the raw reader of fields and the intake of the application.
#![no_main]

use std::sync::LazyLock;

use application::intake::{self, Served};
use application::policy::Policy;
use libfuzzer_sys::fuzz_target;
use signalling::raw;
use transports::Transport;

/// One generation of phantoms of both families.
const PHANTOMS: &str = "[Networks]\n[Networks.1]\nGeneration = 1\n[[Networks.1.WeightedSubnets]]\n\
                        Weight = 1\nSubnets = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]\n";

static STATION: LazyLock<(Served, Policy)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let phantoms = dir.path().join("phantoms.toml");
    std::fs::write(&phantoms, PHANTOMS).expect("a file in it");
    let settings = conf::Application::parse("socket_name = \"zmq\"\n", "fuzz".as_ref())
        .expect("defaults")
        .value;
    let policy = Policy::build(&settings, &phantoms).expect("a policy").0;
    let served = Served { v4: true, v6: true, transports: Transport::ALL.to_vec() };
    (served, policy)
});

fuzz_target!(|frame: &[u8]| {
    let _ = raw::embedded(frame, raw::REGISTRATION_PAYLOAD);
    if let Ok(changed) = raw::with_varint(frame, raw::DECOY_LIST_GENERATION, 7) {
        assert!(raw::with_varint(&changed, raw::DECOY_LIST_GENERATION, 7).is_ok());
    }
    let (served, policy) = &*STATION;
    if let Ok(intake) = intake::read(frame, served, policy) {
        assert!(intake.registrations.len() + intake.errors.len() <= 2);
    }
});
