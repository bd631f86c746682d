//! `station setup`: makes the host ready for the daemons, once per boot (`spec/operations.md` 7).

use std::path::PathBuf;

use conf::{Loaded, Precedence, Station};
use host::{Capability, Change, Plan, PlanError, Records, Root, Rules, SetupError, Undo};
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Arguments of `station setup`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Print the commands and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove what set-up made, and the reference's chains if they are there.
    #[arg(long)]
    undo: bool,
    /// Make exactly the reference's iptables chains instead of the nftables table.
    #[arg(long)]
    iptables: bool,
    /// With CJ_INGEST_BACKEND=pfring: also configure and reload the driver that PF_DRIVER names.
    #[arg(long)]
    driver: bool,
    /// Let the files win over the environment, as they do in the start scripts.
    #[arg(long)]
    files_win: bool,
    /// Change the kernel's settings below this folder; a container's own /proc/sys is read-only.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys")]
    proc_sys: PathBuf,
}

/// Why set-up failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Configuration(#[from] conf::Problems),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Record(#[from] host::RecordError),
    #[error(
        "{0} is needed to make tun devices, rules and kernel settings, and this process does not have it; \
         run with sudo, or look at what would be done with --dry-run"
    )]
    Privilege(&'static str),
}

impl Failure {
    const fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) | Self::Plan(_) => Exit::Config,
            Self::Setup(_) | Self::Record(_) => Exit::OsErr,
            Self::Privilege(_) => Exit::NoPerm,
        }
    }
}

/// Sets the host up, or takes the set-up back.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    match run(arguments) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            eprintln!("station setup: {failure}");
            failure.exit()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let root = Root::default().with_settings(&arguments.proc_sys);
    let mut sources = arguments.configuration.sources();
    if arguments.files_win {
        sources.precedence = Precedence::Files;
    }
    let Loaded { value: station, notices } = Station::load(&sources)?;
    for notice in notices {
        eprintln!("station setup: note: {notice}");
    }
    if !arguments.dry_run && !host::has_capability(&root, Capability::NetAdmin) {
        return Err(Failure::Privilege(Capability::NetAdmin.name()));
    }
    // What is taken back is what was made, of whatever kind.
    let chains = arguments.iptables && !arguments.undo;
    let rules = if chains { Rules::Iptables } else { Rules::Nftables };
    let plan = Plan::of_station(&root, &station, rules, arguments.driver);
    let records = Records::default();
    let known = records.load()?;
    if arguments.undo {
        // Where traffic goes does not matter any more.
        let plan = match plan {
            Err(PlanError::NoTarget { .. }) => Plan::new(offset(&station), tuns(&station), None),
            plan => plan?,
        };
        let undo = host::undo(&root, &plan, &known)?;
        return take_back(arguments, &undo, &records);
    }
    let plan = plan?;
    let change = Change::compute(&root, &plan, &known)?;
    tell(&change.remarks);
    if arguments.dry_run {
        print(&change.steps);
    } else {
        change.apply(&records, |step| println!("{}", step.reason))?;
    }
    if change.steps.is_empty() {
        println!("nothing to do: {}", describe(&plan));
    } else if !arguments.dry_run {
        println!("set up: {}", describe(&plan));
    }
    Ok(())
}

fn offset(station: &Station) -> u32 {
    u32::try_from(station.placement.tun_offset).unwrap_or(u32::MAX)
}

fn tuns(station: &Station) -> host::Route {
    host::Route { tuns: station.placement.prepared_tuns(), ..host::Route::default() }
}

fn take_back(arguments: &Arguments, undo: &Undo, records: &Records) -> Result<(), Failure> {
    tell(&undo.remarks);
    if arguments.dry_run {
        print(&undo.steps);
    } else {
        undo.apply(records, |step| println!("{}", step.reason))?;
    }
    if undo.steps.is_empty() {
        println!("nothing to undo");
    }
    Ok(())
}

fn tell(remarks: &[String]) {
    for remark in remarks {
        eprintln!("station setup: note: {remark}");
    }
}

fn print(steps: &[host::Step]) {
    for step in steps {
        println!("{step}");
    }
}

fn describe(plan: &Plan) -> String {
    let route = &plan.route;
    let none = || "none".to_owned();
    format!(
        "{} for phantom traffic, to {} (IPv4) and {} (IPv6)",
        route.tuns.join(", "),
        route.v4.map_or_else(none, |address| address.to_string()),
        route.v6.map_or_else(none, |address| address.to_string()),
    )
}
