//! S03 to S06 and S08: keys and files of the daemons.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use host::{Action, Step};
use keys::path::{KeyPathError, Strictness};
use phantoms::PhantomTable;
use signalling::Message;

use super::finding::{Checked, Finding, Fix, Outcome, Part};
use super::probe::Probe;

/// Age from which databases of countries and networks are outdated.
const OLD: Duration = Duration::from_secs(60 * 24 * 3600);

fn chmod(path: &Path) -> Step {
    let action = Action::Run {
        program: "chmod".to_owned(),
        arguments: vec!["0600".to_owned(), path.display().to_string()],
        input: String::new(),
    };
    Step { reason: format!("{}: for its owner alone", path.display()), action }
}

/// Files of a key path.
fn key_files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
    } else {
        vec![path.to_owned()]
    }
}

/// S03.
pub(crate) fn keys(probe: &Probe) -> Checked {
    let mut paths = vec![probe.station()?.privkey.clone()];
    if probe.wants(Part::Application)
        && let Ok(settings) = probe.application()
    {
        paths.extend(settings.privkey_path);
    }
    paths.dedup();
    let mut findings = Vec::new();
    for path in &paths {
        let real = probe.root.path(path);
        match keys::path::load(&real, Strictness::Skip) {
            Err(KeyPathError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                return Err(Outcome::NeedsRoot(format!(
                    "{} is closed to this user",
                    real.display()
                )));
            }
            Err(error) => findings.push(Finding::error(
                "there is no usable station key: detector and application do not start",
                error.to_string(),
                format!(
                    "cd {} && genkey, or correct CJ_PRIVKEY",
                    path.parent().unwrap_or(path).display()
                ),
            )),
            Ok(loaded) => {
                let skipped = loaded.warnings.iter().filter(|text| text.starts_with("skipped: "));
                findings.extend(skipped.map(|text| {
                    Finding::warning(
                        "a file beside the keys is no key",
                        text,
                        "remove it or replace it",
                    )
                }));
            }
        }
        for file in key_files(&real) {
            let mode = std::fs::metadata(&file).map_or(0, |meta| meta.permissions().mode() & 0o777);
            if mode & 0o077 != 0 {
                findings.push(
                    Finding::warning(
                        "others may read the station's private key",
                        format!("{} has mode {mode:04o}", file.display()),
                        format!("chmod 0600 {}", file.display()),
                    )
                    .with_fix(Fix::Steps(vec![chmod(&file)])),
                );
            }
        }
    }
    let seen: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Ok(Outcome::of(findings, seen.join(", ")))
}

/// S04.
pub(crate) fn bus_key(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let settings = probe.application()?;
    let curve: Vec<&str> = settings
        .connect_sockets
        .iter()
        .filter(|source| source.server_key.is_some())
        .map(|source| source.address.as_str())
        .collect();
    let remedy = "set zmq_privkey_path in the application's file or ZMQ_PRIVKEY in conjure.conf to a key \
                  file that genkey wrote";
    let Some(path) = settings.zmq_privkey_path.as_ref().or(station.zmq_privkey.as_ref()) else {
        return Ok(Outcome::of(
            (!curve.is_empty())
                .then(|| {
                    Finding::error(
                        "sources with CURVE need a key, and none is named: they are left out (the reference \
                         does not even start)",
                        format!("no zmq_privkey_path, no ZMQ_PRIVKEY; CURVE: {}", curve.join(", ")),
                        remedy,
                    )
                })
                .into_iter()
                .collect(),
            "no source needs a key",
        ));
    };
    let real = probe.root.path(path);
    let found = match std::fs::metadata(&real) {
        Ok(meta) if meta.len() >= 32 => {
            return Ok(Outcome::Good(path.display().to_string()));
        }
        Ok(meta) => format!("{} has {} bytes, 32 are needed", path.display(), meta.len()),
        Err(error) => format!("{}: {error}", path.display()),
    };
    Ok(Outcome::Found(vec![Finding::error(
        "the key for CURVE sources cannot be used",
        found,
        remedy,
    )]))
}

/// S05.
pub(crate) fn settings(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let mut findings = Vec::new();
    let mut tell = |problems: &conf::Problems, who: &str| {
        findings.extend(problems.0.iter().map(|problem| {
            Finding::error(
                format!("{who} does not start: its file is wrong"),
                problem.to_string(),
                format!("correct it, then {who} --check-config"),
            )
        }));
    };
    let mut notices = Vec::new();
    if probe.wants(Part::Application) || probe.wants(Part::Detector) {
        match &*probe.application_file()? {
            Err(problems) => tell(problems, "application"),
            Ok(loaded) => notices.extend(loaded.notices.iter().map(ToString::to_string)),
        }
    }
    if probe.wants(Part::Registrar) {
        match &*probe.registrar_file()? {
            Err(problems) => tell(problems, "registrar"),
            Ok(loaded) => notices.extend(loaded.notices.iter().map(ToString::to_string)),
        }
    }
    if probe.wants(Part::Detector) {
        let path = probe.root.path(&station.station_config);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let named = text.lines().any(|line| line.trim_start().starts_with("detector_filter_list"));
        if !text.is_empty() && !named {
            findings.push(Finding::error(
                "the station's own packets may be taken for a client's; the reference's detector ends without \
                 the list",
                format!("{}: detector_filter_list is missing", path.display()),
                "add detector_filter_list = [\"127.0.0.1\", \"::1\"] with the addresses of this host",
            ));
        }
    }
    findings.extend(notices.into_iter().filter(|text| text.contains("unknown key")).map(|text| {
        Finding::warning(
            "a key that nothing reads, perhaps a mistyped one",
            text,
            "correct or remove it",
        )
    }));
    Ok(Outcome::of(findings, "every file is good"))
}

/// S06.
pub(crate) fn generations(probe: &Probe) -> Checked {
    let path = probe.root.path(&probe.station()?.phantom_subnets);
    let loaded = match PhantomTable::load(&path) {
        Ok(loaded) => loaded,
        Err(error) => {
            return Ok(Outcome::Found(vec![Finding::error(
                "there are no phantom subnets: no registration can be used",
                format!("{}: {error}", path.display()),
                "install the phantom subnets of your deployment, or correct PHANTOM_SUBNET_LOCATION",
            )]));
        }
    };
    let known: Vec<u32> = loaded.table.numbers().collect();
    let list = known.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut handed_out = Vec::new();
    if probe.wants(Part::Registrar)
        && let Ok(registrar) = probe.registrar()
    {
        let file = probe.root.path(&registrar.clientconf_path);
        if let Ok(bytes) = std::fs::read(&file)
            && let Ok(client_conf) = signalling::ClientConf::decode(bytes.as_slice())
        {
            handed_out.push((client_conf.generation.unwrap_or(0), file.display().to_string()));
        }
        let file = probe.root.path(&probe.station()?.registrar_config);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let value = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("bidirectional_api_generation"));
        if let Some(number) = value
            .and_then(|v| v.trim_start().strip_prefix('=')?.split('#').next()?.trim().parse().ok())
        {
            handed_out
                .push((number, format!("bidirectional_api_generation in {}", file.display())));
        }
    }
    let findings: Vec<Finding> = handed_out
        .iter()
        .filter(|(generation, _)| *generation > 0 && !known.contains(generation))
        .map(|(generation, place)| {
            Finding::error(
                format!(
                    "clients are given generation {generation}, and its phantoms are not known here: every such \
                     registration is refused"
                ),
                format!("{place}: {generation}; {} has {list}", path.display()),
                format!("add [Networks.{generation}] to {}", path.display()),
            )
        })
        .collect();
    Ok(Outcome::of(findings, format!("generations {list}")))
}

/// S08.
pub(crate) fn databases(probe: &Probe) -> Checked {
    let settings = probe.application()?;
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for path in [&settings.geoip_cc_db_path, &settings.geoip_asn_db_path].into_iter().flatten() {
        let real = probe.root.path(path);
        match std::fs::metadata(&real) {
            Err(error) => findings.push(Finding::warning(
                "statistics by country and network are empty: a database is not there",
                format!("{}: {error}", path.display()),
                "run geoipupdate, or correct geoip_cc_db_path and geoip_asn_db_path",
            )),
            Ok(meta) => {
                let age =
                    meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                if age.is_some_and(|age| age > OLD) {
                    findings.push(Finding::warning(
                        "a database of countries or networks is outdated",
                        format!(
                            "{} is {} days old",
                            path.display(),
                            age.unwrap_or_default().as_secs() / 86_400
                        ),
                        "run geoipupdate; a weekly timer keeps it fresh",
                    ));
                }
            }
        }
        seen.push(path.display().to_string());
    }
    let seen = if seen.is_empty() { "none is configured".to_owned() } else { seen.join(", ") };
    Ok(Outcome::of(findings, seen))
}
