//! The daemon's start: command line, configuration, privileges.

use crate::arguments::{self, Arguments, Request};
use crate::assembly::Detector;
use crate::crew;
use crate::log;
use crate::opening::{Opened, confine};
use crate::settings::{Environment, Settings};
use crate::succession;
use handover::Inherited;
use std::ffi::OsString;
use std::process::ExitCode;
use telemetry::admin;
use telemetry::output::{self, Priority};
use telemetry::process::{self, Exit};

/// Why the daemon ends, other than well.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl ToString) -> Self {
        Self { exit, text: text.to_string() }
    }
}

/// Runs the detector with the `words` of its command line to its end.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = match arguments::parse(words) {
        Ok(Request::Run(arguments)) => *arguments,
        Ok(Request::Help) => {
            print!("{}", arguments::HELP);
            return Exit::Ok;
        }
        Ok(Request::Version) => {
            println!("detector {}", env!("CARGO_PKG_VERSION"));
            return Exit::Ok;
        }
        Err(error) => {
            eprintln!("detector: {error}");
            return Exit::Usage;
        }
    };
    match start(arguments) {
        Ok(()) => Exit::Ok,
        Err(Failure { exit, text }) => {
            log::problem(Priority::Critical, format_args!("detector: {text}"));
            exit
        }
    }
}

/// Asks the detector that runs with these `words` for its state.
pub fn health(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = words.into_iter().filter(|word| word != "--health" && word != "-health");
    let offset = match arguments::parse(words) {
        Ok(Request::Run(arguments)) => u32::try_from(arguments.queue_offset).unwrap_or(u32::MAX),
        // Nothing else is needed to find it.
        _ => 0,
    };
    let path = admin::socket_path(&admin::ipc_dir(), "detector", offset);
    Exit::of_health("detector", process::health(&path))
}

fn start(mut arguments: Arguments) -> Result<(), Failure> {
    let format =
        output::Format::of_environment().map_err(|error| Failure::new(Exit::Config, error))?;
    output::start("detector", format);
    let environment = Environment::of_process();
    let settings = Settings::load(&arguments, &environment)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    telemetry::metrics::check_environment("detector")
        .map_err(|error| Failure::new(Exit::Config, error))?;
    crate::pfring::choose(&mut arguments)?;
    for notice in arguments.notices.iter().chain(&settings.notices) {
        log::problem(Priority::Warning, format_args!("detector: {notice}"));
    }
    if arguments.recording().is_none() {
        report_own_addresses(&settings);
    }
    let cpus = cpus(&arguments)?;
    if arguments.check_config {
        println!("configuration is good");
        return Ok(());
    }
    telemetry::privacy::set_log_client_ip(settings.log_client_ip);
    telemetry::process::raise_nofile_limit();
    announce_keys(&settings);
    let (mut inherited, predecessor) = if arguments.take_over {
        let socket = succession::socket(arguments.queue_offset);
        let taken = handover::take_over("detector", &socket).and_then(|(inherited, channel)| {
            handover::steps::begin(&channel)?;
            Ok((inherited, Some(channel)))
        });
        taken.map_err(|error| Failure::new(Exit::Unavailable, error))?
    } else {
        (Inherited::of_manager(), None)
    };
    let opened = Opened::open(&arguments, &mut inherited)?;
    inherited.dismiss();
    confine(&arguments, &settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::OsErr, error))?;
    runtime.block_on(async {
        let config_named = environment.config.is_some();
        Detector::build(arguments, settings, config_named, &cpus, opened, predecessor)
            .await?
            .run(cpus)
            .await
    })
}

/// Warns about addresses of this host that the filter list does not have.
fn report_own_addresses(settings: &Settings) {
    // Without the addresses there is nothing to compare; packets flow all the same.
    for address in settings.filter.own_addresses_missing().unwrap_or_default() {
        eprintln!(
            "detector: {}: detector_filter_list lacks {address}, an address of this host: its \
             probes of phantoms would be forwarded like a client's; add it",
            settings.config.display()
        );
    }
}

fn announce_keys(settings: &Settings) {
    let keys = settings.checker.keys();
    log::plain(format_args!("{} private keys", keys.len()));
    log::plain("Using public keys: ");
    for (i, key) in keys.iter().enumerate() {
        let hex: String = key.public().iter().map(|byte| format!("{byte:02x}")).collect();
        log::plain(format_args!("Key {i}: {hex}"));
    }
    log::plain("");
}

/// CPU of each worker; none at all for a replay, which takes what it gets.
fn cpus(arguments: &Arguments) -> Result<Vec<usize>, Failure> {
    let placement = conf::Placement {
        core_base: arguments.core_base,
        core_count: arguments.workers,
        skip_core: arguments.skip_core,
        queue_offset: arguments.queue_offset,
        tun_offset: arguments.queue_offset,
    };
    let wanted = placement.cores();
    if arguments.recording().is_some() || arguments.allow_unpinned {
        return Ok(wanted);
    }
    let allowed = crew::allowed_cpus();
    let missing: Vec<usize> = wanted.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
    if missing.is_empty() {
        return Ok(wanted);
    }
    Err(Failure::new(
        Exit::Config,
        format_args!(
            "workers need the CPUs {wanted:?}, and {missing:?} are not available here \
             (available: {allowed:?}); change -o, -n or -s, or give --allow-unpinned"
        ),
    ))
}
