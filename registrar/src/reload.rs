//! What SIGHUP and the operator's reload do: everything but sockets and keys, all of it or nothing.

use std::path::PathBuf;
use std::sync::Arc;

use bus::Admitted;
use conf::RegistrarLogLevel as Level;
use signalling::station::FileResult;
use telemetry::process::{file_result, merge};

use crate::daemon::Registrar;
use crate::log;
use crate::snapshot::{Files, Rules, Snapshot, SnapshotError};

/// What was read: configuration, the files it names, what requests are answered from, remarks.
type Read = (conf::Registrar, Files, Snapshot, Vec<String>);

impl Registrar {
    /// Reads the configuration, ClientConf, phantom subnets and prefixes again. All of it takes effect, or
    /// nothing does; one result per file, and what waits for a restart is named.
    pub fn reload(&self) -> Vec<FileResult> {
        self.reloads.run("taking registrations", || self.reload_files())
    }

    fn reload_files(&self) -> Vec<FileResult> {
        match self.read() {
            Ok((registrar, files, snapshot, remarks)) => {
                for remark in remarks {
                    log::line(Level::Warning, &remark, &[]);
                }
                log::line(
                    Level::Info,
                    "reloaded",
                    &[
                        ("generation", &snapshot.generation),
                        ("phantom_generations", &snapshot.generations()),
                    ],
                );
                self.adopt(&registrar, snapshot);
                let waiting = waiting(&self.setup.registrar, &registrar);
                let mut results = vec![
                    merge(&self.setup.path, &waiting),
                    merge(&files.client_conf, &[]),
                    merge(&files.phantoms, &[]),
                ];
                results.extend(files.prefixes.iter().map(|file| merge(file, &[])));
                results
            }
            Err((file, error)) => {
                let message = if file == self.setup.phantoms {
                    format!("failed to reload phantom subnets - aborting reload: {error}")
                } else {
                    format!("error occurred while reloading config -- aborting reload: {error}")
                };
                log::line(Level::Error, &message, &[]);
                vec![file_result(&file, Some(&error))]
            }
        }
    }

    /// Reads every file; the one that is wrong, and what is wrong with it.
    fn read(&self) -> Result<Read, (PathBuf, String)> {
        let path = &self.setup.path;
        let loaded = conf::Registrar::load(path).map_err(|e| (path.clone(), e.to_string()))?;
        let files = Files::new(&loaded.value, &self.setup.phantoms);
        let (snapshot, mut remarks) = Snapshot::load(&files).map_err(|e| {
            let file = match &e {
                SnapshotError::Phantoms { path, .. }
                | SnapshotError::ClientConf { path, .. }
                | SnapshotError::Prefixes { path, .. }
                | SnapshotError::Decode { path, .. } => path.clone(),
            };
            (file, e.to_string())
        })?;
        remarks.extend(loaded.notices.iter().map(ToString::to_string));
        Ok((loaded.value, files, snapshot, remarks))
    }

    fn adopt(&self, registrar: &conf::Registrar, snapshot: Snapshot) {
        log::set_level(registrar.log_level);
        let signer = self.setup.signer.clone();
        let transports = self.processor.rules.load().transports.clone();
        self.processor.rules.store(Arc::new(Rules { signer, transports, ..Rules::new(registrar) }));
        self.processor.snapshot.store(Arc::new(snapshot));
        self.gate.adopt(registrar);
        if let Some(api) = &self.api {
            api.limit_connections(registrar.api_max_connections);
        }
        if let Some(admission) = &self.setup.admission {
            admission.replace(if registrar.any_station {
                Admitted::All
            } else {
                Admitted::Listed(registrar.station_pubkeys.iter().copied().collect())
            });
            self.processor.publisher.expel(|key| admission.admits(key));
        }
    }
}

/// Keys that differ from those of the start and belong to what stays open.
fn waiting(old: &conf::Registrar, new: &conf::Registrar) -> Vec<&'static str> {
    [
        ("api_port", old.api_port != new.api_port),
        ("api_bind_addr", old.api_bind_addr != new.api_bind_addr),
        ("grpc_listen_addr", old.grpc_listen_addr != new.grpc_listen_addr),
        ("grpc_tls_cert", old.grpc_tls_cert != new.grpc_tls_cert),
        ("grpc_tls_key", old.grpc_tls_key != new.grpc_tls_key),
        ("grpc_reflection", old.grpc_reflection != new.grpc_reflection),
        ("dns_listen_addr", old.dns_listen_addr != new.dns_listen_addr),
        ("domain", old.domain != new.domain),
        ("dns_private_key_path", old.dns_private_key_path != new.dns_private_key_path),
        ("dns_accept_unfragmented", old.dns_accept_unfragmented != new.dns_accept_unfragmented),
        ("dns_nodata", old.dns_nodata != new.dns_nodata),
        ("dns_max_pending", old.dns_max_pending != new.dns_max_pending),
        ("dns_workers", old.dns_workers != new.dns_workers),
        ("admin_listen_addr", old.admin_listen_addr != new.admin_listen_addr),
        ("zmq_port", old.zmq_port != new.zmq_port),
        ("zmq_bind_addr", old.zmq_bind_addr != new.zmq_bind_addr),
        ("zmq_auth", old.zmq_auth != new.zmq_auth),
        ("zmq_auth_verbose", old.zmq_auth_verbose != new.zmq_auth_verbose),
        ("zmq_privkey_path", old.zmq_privkey_path != new.zmq_privkey_path),
        ("nats_url", old.nats_url != new.nats_url),
        ("nats_subject", old.nats_subject != new.nats_subject),
        ("nats_credentials_path", old.nats_credentials_path != new.nats_credentials_path),
        ("signing_key_path", old.signing_key_path != new.signing_key_path),
        ("signing_mode", old.signing_mode != new.signing_mode),
        ("log_metrics_interval", old.log_metrics_interval != new.log_metrics_interval),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
