//! `application --check-config` as an operator runs it before he swaps the daemon in.

use std::process::Command;

const SHIPPED: &str = include_str!("../../conf/app_config.toml");

const PHANTOMS: &str = "[Networks]\n[Networks.1]\nGeneration = 1\n\
                        [[Networks.1.WeightedSubnets]]\nWeight = 1\nSubnets = [\"192.0.2.0/24\"]\n";

/// Exit code and output for `settings`.
fn check(settings: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let output = Command::new(env!("CARGO_BIN_EXE_application"))
        .arg("--check-config")
        .env_remove("ZMQ_PRIVKEY")
        .env("CJ_STATION_CONFIG", file("app_config.toml", settings.as_bytes()))
        .env("PHANTOM_SUBNET_LOCATION", file("phantom_subnets.toml", PHANTOMS.as_bytes()))
        .env("CJ_PRIVKEY", file("privkey", &[0x42; 32]))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn says_which_sources_will_be_skipped() {
    let (code, text) = check(SHIPPED);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("CURVE"), "{text}");

    let curve = SHIPPED.replacen(
        "address = \"tcp://127.0.0.1:5591\"\ntype = \"NULL\"",
        "address = \"tcp://registrar.example:5591\"\ntype = \"CURVE\"\n\
         pubkey = \"s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@\"",
        1,
    );
    assert_ne!(curve, SHIPPED);
    let (code, text) = check(&curve);
    assert_eq!(code, Some(0), "{text}");
    let line = text.lines().find(|line| line.contains("CURVE")).unwrap_or_default();
    let skipped = "failed to set up CURVE authentication for tcp://registrar.example:5591: no key";
    assert!(line.starts_with(skipped) && line.contains("ZMQ_PRIVKEY"), "{text}");
    assert!(!text.contains("ipc://@detector:"), "only the CURVE source is skipped: {text}");

    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), [0x42; 64]).unwrap();
    let named = format!("zmq_privkey_path = \"{}\"", key.path().display());
    let (code, text) = check(&curve.replacen("zmq_privkey_path = \"\"", &named, 1));
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("failed"), "{text}");
    assert!(text.contains("CURVE key of this station, for station_pubkeys: "), "{text}");
}
