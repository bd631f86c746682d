//! `station reload`: lets running daemons read their files again, and says what became of each file.

use std::path::PathBuf;

use signalling::station::{FileResult, ReloadRequest};
use telemetry::admin::{self, AdminClient};
use telemetry::process::Exit;

use crate::daemons::Daemon;

/// Arguments of `station reload`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Daemons to reload; without any, all that run.
    daemons: Vec<Daemon>,
    /// Folder of the admin sockets; otherwise CJ_IPC_DIR or /run/conjure.
    #[arg(long, value_name = "DIR")]
    ipc_dir: Option<PathBuf>,
    /// Number of the station on this host.
    #[arg(long, env = "OFFSET", default_value_t = 0)]
    offset: u32,
}

/// Reloads and prints one line for each file: 0 when all took effect, 78 when a file was refused, 69 when
/// a daemon does not answer.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let dir = arguments.ipc_dir.clone().unwrap_or_else(admin::ipc_dir);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("station: cannot start: {error}");
            return Exit::OsErr;
        }
    };
    let (mut answered, mut refused, mut silent) = (0, false, false);
    let named = !arguments.daemons.is_empty();
    for daemon in Daemon::ALL.into_iter().filter(|d| !named || arguments.daemons.contains(d)) {
        let path = daemon.admin_socket(&dir, arguments.offset);
        match runtime.block_on(reload(&path)) {
            Ok(files) => {
                answered += 1;
                refused |= files.iter().any(|file| !file.applied);
                print(daemon, &files);
            }
            Err(error) => {
                silent |= named;
                eprintln!("{}: not reloaded: {}: {error}", daemon.name(), path.display());
            }
        }
    }
    match (refused, silent || answered == 0) {
        (true, _) => Exit::Config,
        (false, true) => Exit::Unavailable,
        (false, false) => Exit::Ok,
    }
}

async fn reload(path: &std::path::Path) -> Result<Vec<FileResult>, String> {
    let channel = admin::channel(path).await.map_err(|_| "does not answer".to_owned())?;
    let reply = AdminClient::new(channel).reload(ReloadRequest {}).await;
    reply.map(|reply| reply.into_inner().files).map_err(|status| status.message().to_owned())
}

fn print(daemon: Daemon, files: &[FileResult]) {
    let name = daemon.name();
    if files.is_empty() {
        println!("{name}: was started without a file of options; nothing to read");
    }
    for FileResult { file, applied, error } in files {
        match (applied, error.is_empty()) {
            (true, true) => println!("{name}: {file}: reloaded"),
            (true, false) => println!("{name}: {file}: reloaded; {error}"),
            (false, _) => println!("{name}: {file}: refused, the old set holds: {error}"),
        }
    }
}
