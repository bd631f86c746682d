//! `station status`: what each daemon is doing, live, as a table or as JSON.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dashboard::feed::Feed;
use signalling::station::{Count, StatusReply, StatusRequest, status_reply::Detail};
use telemetry::admin::{self, AdminClient};
use telemetry::process::Exit;

use crate::daemons::Daemon;

/// Arguments of `station status`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print once and leave, as without a terminal; otherwise the view stays and renews itself.
    #[arg(long)]
    once: bool,
    /// Milliseconds between two answers of a daemon in the live view, at least 100.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..))]
    interval: u64,
    /// Folder of the admin sockets; otherwise CJ_IPC_DIR or /run/conjure.
    #[arg(long, value_name = "DIR")]
    ipc_dir: Option<PathBuf>,
    /// Number of the station on this host.
    #[arg(long, env = "OFFSET", default_value_t = 0)]
    offset: u32,
}

/// Asks every daemon and prints the answers; fails when none answers.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let dir = arguments.ipc_dir.clone().unwrap_or_else(admin::ipc_dir);
    if !arguments.json && !arguments.once && std::io::stdout().is_terminal() {
        return live(&dir, arguments);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("station: cannot start: {error}");
            return Exit::OsErr;
        }
    };
    let mut answers = Vec::new();
    for daemon in Daemon::ALL {
        let path = daemon.admin_socket(&dir, arguments.offset);
        answers.push((daemon, path.clone(), runtime.block_on(ask(&path))));
    }
    if arguments.json {
        print_json(&answers);
    } else {
        print_table(&answers);
    }
    if answers.iter().any(|(_, _, answer)| answer.is_ok()) { Exit::Ok } else { Exit::Unavailable }
}

/// Shows the live view until the operator leaves.
fn live(dir: &std::path::Path, arguments: &Arguments) -> Exit {
    let interval = Duration::from_millis(arguments.interval);
    let shown = Feed::start(dir, arguments.offset, interval)
        .and_then(|feed| dashboard::terminal::show(&feed));
    match shown {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("station: cannot show the live view: {error} (--once prints a table)");
            Exit::IoErr
        }
    }
}

/// Status of the daemon behind the socket at `path`.
pub(crate) async fn ask(path: &std::path::Path) -> Result<StatusReply, String> {
    let exchange = async {
        let channel = admin::channel(path).await.map_err(|_| "does not answer".to_owned())?;
        let reply = AdminClient::new(channel).status(StatusRequest {}).await;
        reply.map(|r| r.into_inner()).map_err(|e| e.message().to_owned())
    };
    tokio::time::timeout(Duration::from_secs(3), exchange)
        .await
        .unwrap_or_else(|_| Err("does not answer in time".to_owned()))
}

type Answer = (Daemon, PathBuf, Result<StatusReply, String>);

fn print_json(answers: &[Answer]) {
    let mut all = serde_json::Map::new();
    for (daemon, path, answer) in answers {
        let value = match answer {
            Ok(reply) => serde_json::json!(reply),
            Err(error) => serde_json::json!({ "error": error, "socket": path }),
        };
        all.insert(daemon.name().to_owned(), value);
    }
    println!("{}", serde_json::Value::Object(all));
}

fn print_table(answers: &[Answer]) {
    for (daemon, path, answer) in answers {
        match answer {
            Err(error) => println!("{:<12} {error} ({})", daemon.name(), path.display()),
            Ok(reply) => {
                let who = reply.identity.clone().unwrap_or_default();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let up = now.as_millis() as u64;
                let up = Duration::from_secs(up.saturating_sub(who.started_unix_ms) / 1000);
                println!(
                    "{:<12} {} · version {} · pid {} · up {up:?}",
                    daemon.name(),
                    reply.state,
                    who.version,
                    who.pid
                );
                if let Some(detail) = &reply.detail {
                    print_detail(detail);
                }
                for note in &reply.notes {
                    println!("             {note}");
                }
            }
        }
    }
}

fn counts(list: &[Count]) -> String {
    let shown: Vec<String> =
        list.iter().filter(|c| c.value > 0).map(|c| format!("{} {}", c.name, c.value)).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

fn print_detail(detail: &Detail) {
    const INDENT: &str = "            ";
    match detail {
        Detail::Zbalance(z) => {
            println!(
                "{INDENT} received {} · forwarded {} · dropped {}",
                z.received, z.forwarded, z.dropped
            );
            for q in &z.queues {
                println!(
                    "{INDENT} queue {}.{} {} · enqueued {} · dropped {}",
                    q.set,
                    q.queue,
                    if q.attached { "attached" } else { "free" },
                    q.enqueued,
                    q.dropped
                );
            }
        }
        Detail::Detector(d) => {
            println!(
                "{INDENT} sessions {} · channel {} · redis {}",
                d.sessions, d.session_channel, d.redis
            );
            println!(
                "{INDENT} {:>6} {:>12} {:>10} {:>10} {:>10} {:>8} {:>10} {:>6} {:>10}",
                "worker",
                "packets",
                "drop src",
                "drop cand",
                "drop tun",
                "flows",
                "candidates",
                "tags",
                "forwarded"
            );
            for w in &d.workers {
                println!(
                    "{INDENT} {:>6} {:>12} {:>10} {:>10} {:>10} {:>8} {:>10} {:>6} {:>10}",
                    w.worker,
                    w.packets,
                    w.dropped_source,
                    w.dropped_candidates,
                    w.dropped_tun,
                    w.tracked_flows,
                    w.candidates,
                    w.tags,
                    w.forwarded
                );
            }
        }
        Detail::Application(a) => {
            println!(
                "{INDENT} registrations {} · by channel: {}",
                a.registrations,
                counts(&a.registrations_by_channel)
            );
            println!(
                "{INDENT} tunnels {} · by transport: {}",
                a.tunnels,
                counts(&a.tunnels_by_transport)
            );
            println!("{INDENT} connections: {}", counts(&a.connections));
            println!("{INDENT} ingest: {}", counts(&a.ingest));
            println!("{INDENT} liveness: {}", counts(&a.liveness));
            println!("{INDENT} detectors watching {} · redis {}", a.session_watchers, a.redis);
        }
        Detail::Registrar(r) => {
            println!(
                "{INDENT} generation {} · published {} · subscribers {} · dropped {}",
                r.generation, r.published, r.subscribers, r.dropped
            );
            println!("{INDENT} requests: {}", counts(&r.requests));
        }
    }
}
