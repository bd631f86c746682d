//! Lines of the balancer in the journal carry their level and the cluster.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

#[test]
fn an_error_names_its_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let stream = File::create(dir.path().join("stream")).unwrap();
    let meta = stream.metadata().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_zbalance"))
        .args(["-i", "pcap:/nonexistent.pcap", "-c", "4711", "-n", "1"])
        .env("CJ_IPC_DIR", dir.path())
        .env("CJ_JOURNAL_SOCKET", &socket)
        .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
        .stdout(OwnedFd::from(stream.try_clone().unwrap()))
        .stderr(OwnedFd::from(stream))
        .status()
        .unwrap();
    assert!(!status.success());
    journal.set_nonblocking(true).unwrap();
    let mut entries = Vec::new();
    let mut entry = [0; 4096];
    while let Ok(n) = journal.recv(&mut entry) {
        entries.push(String::from_utf8(entry[..n].to_vec()).unwrap());
    }
    let error = entries.iter().find(|entry| entry.contains("PRIORITY=3\n"));
    let error = error.unwrap_or_else(|| panic!("no error among {entries:?}"));
    assert!(error.contains("/nonexistent.pcap"), "{error}");
    for field in ["CONJURE_CLUSTER=4711", "CONJURE_DAEMON=zbalance", "SYSLOG_IDENTIFIER=zbalance"] {
        assert!(error.lines().any(|line| line == field), "{error}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("stream")).unwrap(), "");
}
