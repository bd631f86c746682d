//! `station demo`: a whole station at work on this computer.
//!
//! Real daemons as separate processes under `station run`, a real web server as decoy and covert,
//! a real client, in the network of the lab.

pub(crate) mod cell;
mod files;
mod interrupt;
mod kept;
mod matrix;
mod nats;
mod progress;
mod redis;
mod running;
mod stun;
pub(crate) mod web;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, Node, address};
use telemetry::process::Exit;

use files::{Bus, Files, Sessions};
use running::Running;

/// Time that the station has to become ready.
const READY: Duration = Duration::from_secs(20);

/// Arguments of `station demo`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Stay up afterwards and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Run only matching cells: names of channels, transports and families, e.g. decoy,min,ipv4.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// How the application tells the detector of sessions; redis needs redis-server.
    #[arg(long, value_name = "CHANNEL", value_enum, default_value = "grpc")]
    sessions: Sessions,
    /// How registrations reach the application from the registrar; nats needs nats-server.
    #[arg(long, value_name = "BUS", value_enum, default_value = "zmq")]
    bus: Bus,
    /// Print what the daemons log.
    #[arg(long)]
    verbose: bool,
    /// How much application and registrar log: trace, debug, warn, error or info, as in their files.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<telemetry::log::Level>,
    /// Add a line to the station's conjure.conf, e.g. LOG_CLIENT_IP=true; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Run a program on the client's node instead of the matrix and end with its status; it finds
    /// the station's files in the folder named by CONJURE_DEMO_DIR.
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<String>,
    /// Let a program bring the daemons up instead of starting them: it runs on the station's node
    /// with the argument start, and with stop at the end, and finds the station's files in the
    /// folder named by CONJURE_DEMO_DIR.
    #[arg(long, value_name = "PROGRAM")]
    start: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    match demonstrate(arguments) {
        Ok(true) => Exit::Ok,
        Ok(false) => Exit::Software,
        Err(error) => {
            eprintln!("demo: {error}");
            Exit::Unavailable
        }
    }
}

fn demonstrate(arguments: &Arguments) -> Result<bool, String> {
    let mode = lab::isolate::enter().map_err(|e| e.to_string())?;
    println!("lab: namespaces {mode}");
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    // One more device than workers: the last is the application's.
    let lab = Lab::build(workers as u32 + 1).map_err(|e| e.to_string())?;
    println!("lab: client - isp - tap - inet - decoy, station; built in {:?}", lab.built_in());
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    interrupt::listen(dir.path(), arguments.start.clone()).map_err(|e| e.to_string())?;
    let files = Files::write(dir.path(), workers, arguments).map_err(|e| e.to_string())?;
    kept::plant(&files);
    let _web = Web::start(&files)?;
    let stun = stun::start(address::DECOY_V4).map_err(|e| format!("STUN server: {e}"))?;
    let _redis = match arguments.sessions {
        Sessions::Grpc => None,
        Sessions::Redis | Sessions::Both => Some(redis::Supervised::start(&files)?),
    };
    let _nats = match arguments.bus {
        Bus::Zmq => None,
        Bus::Nats => Some(nats::Server::start(&files)?),
    };
    let station = match &arguments.start {
        Some(program) => Running::by(program, dir.path())?,
        None => Running::start(&files, arguments.verbose)?,
    };
    let tried = attempt(arguments, &files, stun, dir.path());
    kept::served(&files);
    // Also after a failure: what a program brought up outlives this process otherwise.
    let stopped = station.stop()?;
    kept::written(&files);
    let good = match tried? {
        Tried::Program(good) => good,
        Tried::Matrix(tally) => {
            println!("{tally}");
            tally.failed == 0
        }
    };
    Ok(good && stopped)
}

/// What came of a demo.
enum Tried {
    /// Whether the program of `--exec` succeeded.
    Program(bool),
    /// The cells.
    Matrix(matrix::Tally),
}

/// The program of `--exec`, or the matrix.
fn attempt(
    arguments: &Arguments,
    files: &Files,
    stun: SocketAddr,
    dir: &Path,
) -> Result<Tried, String> {
    if !arguments.exec.is_empty() {
        return execute(arguments, dir).map(Tried::Program);
    }
    let tally = matrix::run(files, stun, &arguments.only)?;
    if arguments.keep {
        println!("{tally}");
        kept::served(files);
        kept::written(files);
        stay(files);
    }
    Ok(Tried::Matrix(tally))
}

/// Runs a program on the client's node.
fn execute(arguments: &Arguments, dir: &Path) -> Result<bool, String> {
    let (program, rest) = arguments.exec.split_first().ok_or("no program to run")?;
    let status = Node::Client
        .command(program)
        .args(rest)
        .env("CONJURE_DEMO_DIR", dir)
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    Ok(status.success())
}

/// This program, for its own subcommands.
fn own(node: Node) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "station".into());
    node.command(program)
}

/// The web server that is decoy and covert.
struct Web(Child);

impl Web {
    fn start(files: &Files) -> Result<Self, String> {
        let nginx =
            ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).exists());
        let child = match nginx {
            Some(program) => {
                println!("web server: nginx, TLS 1.2 AES-GCM, decoy and covert");
                let conf = files.path("nginx.conf");
                std::fs::write(&conf, nginx_conf(files)).map_err(|e| e.to_string())?;
                let mut command = Node::Decoy.command(program);
                command.arg("-c").arg(conf).arg("-e").arg(files.path("nginx.log"));
                command.stderr(Stdio::null()).spawn()
            }
            None => {
                println!("web server: embedded, TLS 1.2 AES-GCM, decoy and covert");
                own(Node::Decoy)
                    .arg("demo-web")
                    .arg("--certificate")
                    .arg(files.path("cert.pem"))
                    .arg("--key")
                    .arg(files.path("key.pem"))
                    .spawn()
            }
        };
        let mut web = Self(child.map_err(|e| format!("web server: {e}"))?);
        let target = SocketAddr::new(address::DECOY_V4.into(), 443);
        let start = Instant::now();
        while start.elapsed() < READY {
            if let Ok(Some(status)) = web.0.try_wait() {
                let log = std::fs::read_to_string(files.path("nginx.log")).unwrap_or_default();
                return Err(format!("web server ended: {status}\n{log}"));
            }
            let connect = || std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1));
            if Node::Client.run(connect).is_ok() {
                return Ok(web);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("web server: does not answer".to_owned())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // It ends with the namespaces in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nginx_conf(files: &Files) -> String {
    let path = |name: &str| files.path(name).display().to_string();
    format!(
        "daemon off; master_process off; pid {pid}; user root;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n  access_log off; client_max_body_size 8m; client_body_temp_path {tmp}.body; \
         proxy_temp_path {tmp}.proxy; fastcgi_temp_path {tmp}.fastcgi; \
         uwsgi_temp_path {tmp}.uwsgi; scgi_temp_path {tmp}.scgi;\n  \
         server {{\n    listen 443 ssl; listen [::]:443 ssl;\n    ssl_certificate {cert}; \
         ssl_certificate_key {key};\n    ssl_protocols TLSv1.2; \
         ssl_ciphers ECDHE+AESGCM;\n    root {root};\n    \
         location /upload/ {{ dav_methods PUT; }}\n  }}\n}}\n",
        pid = path("nginx.pid"),
        tmp = path("nginx.tmp"),
        cert = path("cert.pem"),
        key = path("key.pem"),
        root = path("www"),
    )
}

/// Waits until the operator has seen enough.
fn stay(files: &Files) {
    let station =
        std::env::current_exe().map_or("station".into(), |path| path.display().to_string());
    let parent = lab::isolate::parent().unwrap_or_default();
    let rootless = lab::isolate::inside() == Some(lab::isolate::Mode::Rootless);
    let user = if rootless { "--user --preserve-credentials " } else { "" };
    let inside = format!("nsenter --target $(pgrep -P {parent}) {user}--mount --net --pid");
    println!("\nThe station stays up. In another terminal, what its daemons do:");
    println!("  {inside} {station} status --ipc-dir {}", files.ipc_dir().display());
    println!("a client's connection to the decoy, and the packets that the station's tap sees:");
    println!(
        "  {inside} nsenter --net=/run/netns/client curl --silent --insecure --head https://{}/blob",
        address::DECOY_V4
    );
    println!("  {inside} nsenter --net=/run/netns/station tcpdump -Z root -ni tap0");
    println!("Files are in {}. Ctrl-C ends everything.", files.path("").display());
    loop {
        std::thread::park();
    }
}
