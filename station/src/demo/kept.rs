//! What a run of the demo leaves in the folder of records, when somebody wants records: the daemons' logs,
//! what they serve, and the clients and secrets that must be in none of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use keys::{ClientVersion, SharedSecret};
use lab::{Node, address};
use records::Clients;

use super::files::Files;
use super::own;
use crate::daemons::Daemon;

/// Longest wait for the metrics of a daemon.
const PATIENCE: Duration = Duration::from_secs(10);

/// Names the lab's client and the station's key.
pub(super) fn plant(files: &Files) {
    if records::folder().is_none() {
        return;
    }
    records::client(address::CLIENT_V4);
    records::client(address::CLIENT_V6);
    if let Ok(key) = std::fs::read(files.path("privkey")) {
        // Behind the private key stands the public one.
        records::secret("station key", &key[..key.len().min(32)]);
    }
}

/// Names what a client of `version` derives from its secret.
pub(super) fn plant_session(secret: &SharedSecret, version: u32) {
    if records::folder().is_none() {
        return;
    }
    records::shared_secret(secret.expose());
    let (decoy, session) = (secret.decoy_keys(), secret.session_keys(ClientVersion(version)));
    records::secret("key of a tag", &decoy.fixed.key);
    records::secret("key of a tag", &decoy.variable().key);
    records::secret("seed of a registration", session.seed.expose());
    records::secret("obfs4 key", &session.obfs4().private);
    records::secret("identifier of Min", &secret.min_identifier());
    records::secret("identifier of Prefix", &secret.prefix_identifier());
}

/// Keeps what the daemons serve at this moment.
pub(super) fn served(files: &Files) {
    if records::folder().is_none() {
        return;
    }
    for daemon in Daemon::ALL {
        // One that does not answer serves nothing.
        if let Ok(metrics) = metrics(&files.ipc_dir(), daemon) {
            records::text(&format!("metrics-{}", daemon.name()), Clients::Hidden, metrics);
        }
    }
    for form in ["--json", "--once"] {
        let output =
            own(Node::Station).args(["status", form, "--ipc-dir"]).arg(files.ipc_dir()).output();
        if let Ok(output) = output {
            records::text("status", Clients::Hidden, [output.stdout, output.stderr].concat());
        }
    }
}

/// Keeps what the daemons wrote.
pub(super) fn written(files: &Files) {
    if records::folder().is_none() {
        return;
    }
    let conf = std::fs::read_to_string(files.path("conjure.conf")).unwrap_or_default();
    let told = conf.lines().rev().find_map(|line| line.strip_prefix("LOG_CLIENT_IP="));
    let clients = if told == Some("true") { Clients::Shown } else { Clients::Hidden };
    for (name, clients) in [
        ("daemons.out", clients),
        ("daemons.log", clients),
        ("everything.log", clients),
        ("ipc/stats/98", Clients::Hidden),
    ] {
        if let Ok(text) = std::fs::read(files.path(name)) {
            records::text(&name.replace('/', "-"), clients, text);
        }
    }
}

fn metrics(ipc_dir: &Path, daemon: Daemon) -> std::io::Result<Vec<u8>> {
    let path = ipc_dir.join(format!("{}.metrics.sock", daemon.name()));
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(text)
}
