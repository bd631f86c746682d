//! Command line of `station`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use telemetry::process::Exit;

use crate::{
    client_conf, config, demo, doctor, exec, page, probe, reload, run, setup, status, upgrade,
};

/// Runs, checks, shows and demonstrates a Conjure station.
#[derive(Debug, Parser)]
#[command(name = "station", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start all four daemons from one conjure.conf and keep them running.
    Run(Configuration),
    /// Become one daemon, started with the settings of conjure.conf; for units and containers.
    Exec(exec::Arguments),
    /// Make the host ready: tun devices, packet filter, kernel settings; once per boot, as root.
    Setup(setup::Arguments),
    /// Find what keeps the station from working, and say how to mend it.
    Doctor(doctor::Arguments),
    /// Show a whole station at work on this computer, in network namespaces of its own.
    Demo(demo::Arguments),
    /// Let running daemons read their files again, without losing anything.
    Reload(reload::Arguments),
    /// Replace running daemons by the programs on disk, without refusing or breaking a connection.
    Upgrade(upgrade::Arguments),
    /// Show what each daemon is doing.
    Status(status::Arguments),
    /// Show the same, and the last hour, as a web page on this host.
    Page(page::Arguments),
    /// Register a canary over each channel and report which parts of the station heard it.
    Probe(probe::Arguments),
    /// Work with configuration files.
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Make the ClientConf that clients of this station get.
    ClientConf(client_conf::Arguments),
    /// Connect through a station as a client.
    Client(client::Arguments),
    /// One transfer of the demo.
    #[command(hide = true)]
    DemoCell(demo::cell::Arguments),
    /// The part of the doctor that sends packets.
    #[command(hide = true)]
    DoctorCircuit,
    /// The web server of the demo.
    #[command(hide = true)]
    DemoWeb(demo::web::Arguments),
}

/// Where the configuration is.
#[derive(Debug, Clone, clap::Args)]
pub struct Configuration {
    /// conjure.conf to read; otherwise CJ_CONF, or the installed file with its local overrides.
    #[arg(long, value_name = "PATH")]
    conf: Option<PathBuf>,
}

impl Configuration {
    /// True when the installed files are meant.
    pub(crate) const fn is_default(&self) -> bool {
        self.conf.is_none()
    }

    /// The files and variables to evaluate.
    pub(crate) fn sources(&self) -> conf::Sources {
        match &self.conf {
            Some(path) => conf::Sources::of_file(path),
            None => conf::Sources::of_process(),
        }
    }
}

impl Arguments {
    /// Parses the arguments of this process; prints help or usage and exits when asked to.
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            std::process::exit(if error.use_stderr() { Exit::Usage as i32 } else { 0 });
        })
    }
}

/// Runs the command.
pub fn execute(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Run(configuration) => run::main(&configuration).into(),
        Command::Exec(arguments) => exec::main(&arguments).into(),
        Command::Setup(arguments) => setup::main(&arguments).into(),
        Command::Doctor(arguments) => doctor::main(&arguments),
        Command::DoctorCircuit => doctor::circuit::main().into(),
        Command::Demo(arguments) => demo::main(&arguments).into(),
        Command::Reload(arguments) => reload::main(&arguments).into(),
        Command::Upgrade(arguments) => upgrade::main(&arguments).into(),
        Command::Status(arguments) => status::main(&arguments).into(),
        Command::Page(arguments) => page::main(&arguments).into(),
        Command::Probe(arguments) => probe::main(&arguments).into(),
        Command::Config { command } => config::main(&command).into(),
        Command::ClientConf(arguments) => client_conf::main(&arguments).into(),
        Command::Client(arguments) => client::run(arguments),
        Command::DemoCell(arguments) => demo::cell::main(&arguments).into(),
        Command::DemoWeb(arguments) => demo::web::main(&arguments).into(),
    }
}
