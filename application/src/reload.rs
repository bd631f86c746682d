//! What SIGHUP and the operator's reload do (`spec/application.md` 3.6): everything but sockets and
//! keys, all of it or nothing.

use std::path::{Path, PathBuf};

use conf::Application;
use signalling::station::FileResult;
use telemetry::log;
use telemetry::process::{file_result, merge};

use crate::daemon::Daemon;
use crate::policy::{Policy, PolicyError};
use crate::setup::{level, variable};
use crate::sources;

impl Daemon {
    /// Reads everything that can be replaced again: all of it, or nothing. One result per file; what
    /// waits for a restart is named.
    pub fn reload(&self) -> Vec<FileResult> {
        self.reloads.run("serving", || self.reload_files())
    }

    fn reload_files(&self) -> Vec<FileResult> {
        let (settings, notices, policy, remarks) = match read(&self.path, &self.phantoms) {
            Ok(read) => read,
            Err((file, error)) => {
                self.log.error(&error);
                return vec![file_result(&file, Some(&error))];
            }
        };
        for note in notices.iter().chain(&remarks) {
            self.log.warn(note);
        }
        log::set_level(level(settings.log_level));
        let pipeline = &self.station.pipeline;
        let (key, screened) = (variable("ZMQ_PRIVKEY"), &pipeline.stats.screened);
        self.sources.adopt(sources::prepare(&settings, key.as_deref(), screened));
        self.station.adopt(&settings, policy);
        if let (Some(dtls), Some(sessions)) = (pipeline.dtls.get(), settings.max_sessions) {
            dtls.endpoint().limit_sessions(sessions);
        }
        *self.grace.lock() = settings.shutdown_grace.unwrap_or_default();
        let mut results =
            vec![merge(&self.path, &waiting(&self.started, &settings)), merge(&self.phantoms, &[])];
        let further = [
            &settings.supplemental_prefix_path,
            &settings.geoip_cc_db_path,
            &settings.geoip_asn_db_path,
        ];
        results.extend(further.into_iter().flatten().map(|file| merge(file, &[])));
        results
    }
}

type Read = (Application, Vec<String>, Policy, Vec<String>);

/// Reads every file; the one that is wrong, and what is wrong with it.
fn read(path: &Path, phantoms: &Path) -> Result<Read, (PathBuf, String)> {
    let loaded = Application::load(path)
        .map_err(|e| (path.to_owned(), format!("failed to parse app config: {e}")))?;
    let (policy, remarks) = Policy::build(&loaded.value, phantoms).map_err(|e| match e {
        PolicyError::Phantoms(cause) => {
            (phantoms.to_owned(), format!("failed to reload phantom subnets: {cause}"))
        }
        other => (path.to_owned(), format!("failed to reload: {other}")),
    })?;
    let notices = loaded.notices.iter().map(ToString::to_string).collect();
    Ok((loaded.value, notices, policy, remarks))
}

/// Keys that differ from those of the start and belong to what stays open.
fn waiting(old: &Application, new: &Application) -> Vec<&'static str> {
    [
        ("tcp_listen", old.tcp_listen != new.tcp_listen),
        ("accept_threads", old.accept_threads != new.accept_threads),
        ("socket_name", old.socket_name != new.socket_name),
        ("session_socket", old.session_socket != new.session_socket),
        ("redis_url", old.redis_url != new.redis_url),
        ("privkey_path", old.privkey_path != new.privkey_path),
        ("metrics_listen", old.metrics_listen != new.metrics_listen),
        ("enable_share_over_api", old.enable_share_over_api != new.enable_share_over_api),
        ("preshare_endpoint", old.preshare_endpoint != new.preshare_endpoint),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
