//! Row of bidirectional registrations over HTTP: our registrar, and a minimal one in Go, each in a
//! process of its own on the last CPU. One thread on the first CPU asks both over kept connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use registrar::daemon::{Registrar, Setup};
use registration::signing::derived_seed;
use signalling::{C2sWrapper, ClientConf, ClientToStation, Message};
use transports::Transport;

use crate::foreign;
use crate::measure::{Row, Side, run_on_first_cpu};
use crate::station::{PHANTOMS, secret};

/// Word that makes this program our registrar.
pub(crate) const REGISTRAR: &str = "--registrar";

/// Requests of one repetition.
const REQUESTS: usize = 8192;
/// Connections, each with one request at a time.
const CONNECTIONS: usize = 64;

/// A registration for both families.
fn request(number: u64) -> Vec<u8> {
    let body = C2sWrapper {
        shared_secret: Some(secret(number).to_vec()),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(Transport::Min.number()),
            covert_address: Some("198.51.100.2:443".to_owned()),
            v4_support: Some(true),
            v6_support: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec();
    let head = "POST /register-bidirectional HTTP/1.1\r\nHost: registrar.example\r\n\
        User-Agent: bench\r\nAccept-Encoding: gzip\r\n";
    let mut request = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    request
}

/// A registrar's process, and connections to it.
struct Server {
    child: Child,
    connections: Vec<BufReader<TcpStream>>,
}

impl Server {
    /// Starts `command`, which prints its address and ends with its input.
    fn start(mut command: Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |e: std::io::Error| format!("{name}: {e}");
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(failed)?;
        let mut said = BufReader::new(child.stdout.take().expect("is piped"));
        let mut line = String::new();
        said.read_line(&mut line).map_err(failed)?;
        let mut server = Self { child, connections: Vec::new() };
        let at: SocketAddr = line.trim().parse().map_err(|_| format!("{name}: no address"))?;
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(at).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            server.connections.push(BufReader::new(stream));
        }
        Ok(server)
    }

    /// The body of the reply to one request.
    fn ask(&mut self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let connection = &mut self.connections[0];
        connection.get_mut().write_all(request)?;
        reply(connection)
    }

    /// Processor time, in nanoseconds per request, of its process.
    fn cost(&mut self, requests: &[Vec<u8>]) -> f64 {
        let start = self.spent();
        for round in requests.chunks(CONNECTIONS) {
            for (connection, request) in self.connections.iter_mut().zip(round) {
                connection.get_mut().write_all(request).expect("the registrar runs");
            }
            // The last reply is waited for first: clients are elsewhere, so waking them is none of the
            // registrar's business.
            for connection in self.connections.iter_mut().take(round.len()).rev() {
                let body = reply(connection).expect("the registrar runs");
                assert!(!body.is_empty(), "it answers with a response");
            }
        }
        (self.spent() - start) as f64 / requests.len() as f64
    }

    /// Nanoseconds on a processor of all its threads.
    fn spent(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.expect("the registrar runs").flatten().fold(0, |sum, task| {
            // A thread may end while it is looked at.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum + text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both end with their input, and remove what they have written.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Reads a reply with status 200; its body.
fn reply(connection: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let (mut length, mut first) = (0, true);
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        if std::mem::take(&mut first) && !line.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(format!("answered {}", line.trim())));
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(body)
}

/// Starts the registrar in Go; its key signs as ours does.
fn baseline() -> Result<Server, String> {
    let program = foreign::build_go("registrar")?;
    let mut command = Command::new(program);
    let seed: String = derived_seed(&[0x41; 32]).iter().map(|byte| format!("{byte:02x}")).collect();
    command.arg(seed);
    Server::start(command)
}

/// One registration of our registrar in CURVE mode against one of the least that Go can do.
pub(crate) fn row() -> Result<Row, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(me);
    command.arg(REGISTRAR);
    let mut ours = Server::start(command)?;
    let mut baseline = baseline();
    let requests: Vec<Vec<u8>> = (0..REQUESTS as u64).map(request).collect();
    if let Ok(baseline) = &mut baseline {
        for request in &requests[..64] {
            let answers = [ours.ask(request), baseline.ask(request)];
            let [Ok(one), Ok(other)] = &answers else { return Err(format!("{answers:?}")) };
            if one != other {
                return Err(format!("ours answers {one:02x?}, the baseline {other:02x?}"));
            }
        }
    }
    let side = |mut server: Server| -> Side {
        let requests = requests.clone();
        Box::new(move || {
            let asking = std::thread::scope(|scope| {
                let asking = scope.spawn(|| {
                    run_on_first_cpu();
                    server.cost(&requests)
                });
                asking.join()
            });
            asking.expect("asking does not panic")
        })
    };
    Ok(Row {
        unit: "ns",
        baseline_name: "a minimal handler over Go's net/http",
        ours: side(ours),
        baseline: baseline.map(side),
        plausible: None,
    })
}

/// Our registrar, until standard input ends.
///
/// # Errors
/// When it cannot start.
pub(crate) fn serve() -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let setup = setup(dir.path()).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let registrar = runtime.block_on(Registrar::start(setup, None)).map_err(|e| e.to_string())?;
    println!("{}", registrar.address());
    let _until_the_end = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

fn setup(dir: &Path) -> Result<Setup, Box<dyn std::error::Error>> {
    let path = |name: &str| dir.join(name);
    let conf = ClientConf { generation: Some(1), ..Default::default() };
    std::fs::write(path("ClientConf"), conf.encode_to_vec())?;
    std::fs::write(path("phantoms.toml"), PHANTOMS)?;
    std::fs::write(path("key"), [[0x41; 32], keys::public_key(&[0x41; 32])].concat())?;
    let text = format!(
        "log_level = \"info\"\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\nzmq_port = 0\n\
         zmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"CURVE\"\n\
         zmq_privkey_path = \"{0}/key\"\nstation_pubkeys = [\"*\"]\n\
         clientconf_path = \"{0}/ClientConf\"\n",
        dir.display()
    );
    std::fs::write(path("reg.toml"), text)?;
    Ok(Setup::load(&path("reg.toml"), &path("phantoms.toml"))?)
}
