//! Command line of `station client`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use telemetry::process::Exit;
use tokio::net::TcpListener;

use crate::channel_arguments::ChannelArguments;
use crate::listen::Keeper;
use crate::options::{ClientConf, Families, Options, Transport};
use crate::register::Client;

/// Arguments of `station client`; the names are those of the released client.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Registration channel: decoy, api, bdapi, dns, bddns, amp, bdamp or grpc.
    #[arg(long, default_value = "decoy")]
    registrar: String,
    #[command(flatten)]
    channels: ChannelArguments,
    /// Transport: min, prefix, obfs4 or dtls.
    #[arg(long, default_value = "min")]
    transport: String,
    /// Prefix of the prefix transport; -1 is random.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    prefix_id: i32,
    /// File of further prefixes, as the station and its registrar have it.
    #[arg(long, value_name = "FILE")]
    prefix_file: Option<PathBuf>,
    /// How prefix flushes: 0 as the prefix says, 1 prefix and tag in one write, 2 in a write each.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=2))]
    prefix_flush: i32,
    /// Let the station send without an order, for dtls and payloads that bear it.
    #[arg(long)]
    unordered_dtls: bool,
    /// ClientConf of the station; replaced when a registrar sends a newer one.
    #[arg(long, value_name = "FILE")]
    client_conf: PathBuf,
    /// HOST:PORT that the station shall connect to.
    #[arg(long, value_name = "HOST:PORT")]
    connect_addr: String,
    /// Local port to listen on.
    #[arg(long, default_value_t = 10500)]
    port: u16,
    /// Ask for no IPv4 phantom.
    #[arg(long)]
    disable_ipv4: bool,
    /// Ask for no IPv6 phantom.
    #[arg(long)]
    disable_ipv6: bool,
    /// Ask for a random phantom port.
    #[arg(long)]
    rand_dst_port: bool,
    /// Forbid the registrar to change transport parameters.
    #[arg(long)]
    disable_overrides: bool,
    /// Library version to act as.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=4))]
    library_version: u32,
    /// PEM file of trust anchors.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Milliseconds between registration and connection; the default depends on the channel.
    #[arg(long, value_name = "MS")]
    delay: Option<u64>,
    /// Register once, print the phantoms and, for obfs4, the arguments that any obfs4 client
    /// takes, and leave.
    #[arg(long)]
    register_only: bool,
}

impl Arguments {
    fn options(&self) -> Result<Options, String> {
        let channel = self.channels.channel(&self.registrar)?;
        let transport = match self.transport.as_str() {
            "min" => Transport::Min,
            "prefix" => Transport::Prefix(self.prefix_id),
            "obfs4" => Transport::Obfs4,
            "dtls" => Transport::Dtls { unordered: self.unordered_dtls },
            other => {
                let known = "min, prefix, obfs4 or dtls";
                return Err(format!("--transport: found {other}, expected {known}"));
            }
        };
        let mut options = Options::new(channel, transport, self.connect_addr.clone());
        options.address = self.channels.address();
        options.version = self.library_version;
        options.families = Families { v4: !self.disable_ipv4, v6: !self.disable_ipv6 };
        options.randomize_port = self.rand_dst_port;
        options.flush_policy = self.prefix_flush;
        let prefixes = conf::prefix_table(self.prefix_file.as_deref(), false);
        options.prefixes = prefixes.map_err(|e| format!("--prefix-file: {e}"))?.value;
        options.disable_overrides = self.disable_overrides;
        if let Some(roots) = &self.roots {
            options.roots.clone_from(roots);
        }
        if let Some(ms) = self.delay {
            options.decoy_delay = Duration::from_millis(ms);
            options.api_delay = Duration::from_millis(ms);
        }
        Ok(options)
    }
}

/// Runs `station client`.
pub fn run(arguments: Arguments) -> ExitCode {
    match execute(&arguments) {
        Ok(()) => Exit::Ok.into(),
        Err((exit, error)) => {
            eprintln!("client: {error}");
            exit.into()
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), (Exit, String)> {
    let options = arguments.options().map_err(|e| (Exit::Usage, e))?;
    let conf =
        ClientConf::load(&arguments.client_conf).map_err(|e| (Exit::NoInput, e.to_string()))?;
    let client = Keeper::new(Client { conf, options }, arguments.client_conf.clone());
    let os = |e: std::io::Error| (Exit::OsErr, e.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(os)?;
    runtime.block_on(async {
        if arguments.register_only {
            let session = client.register().await;
            let session = session.map_err(|e| (Exit::Unavailable, e.to_string()))?;
            for phantom in [session.v4, session.v6].into_iter().flatten() {
                println!("{phantom}");
            }
            if let Some(arguments) = session.obfs4_arguments() {
                println!("{arguments}");
            }
            return Ok(());
        }
        let port = arguments.port;
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .map_err(|e| (Exit::Unavailable, format!("port {port}: {e}")))?;
        println!("client: listening on 127.0.0.1:{port} for {}", arguments.connect_addr);
        crate::listen(client, listener).await.map_err(os)
    })
}
