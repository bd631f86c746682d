//! C01 to C03: whether the configuration is read, and read alike by everything that reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use conf::{Origin, Precedence, Sources};

use super::finding::{Checked, Finding, Outcome};
use super::probe::Probe;
use super::readers::{self, Reading};

/// Names that documents of the reference use and nothing there reads, with those that are read.
const OBSOLETE: [(&str, &str); 3] = [
    ("CJ_IP4_ADDR", "IP4_ADDR"),
    ("CJ_IP6_ADDR", "IP6_ADDR"),
    ("CJ_PROXY_CONFIG", "CJ_STATION_CONFIG"),
];

/// C01.
pub(crate) fn loads(probe: &Probe) -> Checked {
    let loaded = match &probe.station {
        Ok(loaded) => loaded,
        Err(problems) => {
            let finding = |problem: &conf::Problem| {
                let place = match &problem.origin {
                    Origin::File { path, .. } => format!("edit {}", path.display()),
                    origin => format!("change the {origin}"),
                };
                let key = if problem.key.is_empty() { "it" } else { &problem.key };
                Finding::error(
                    "the configuration cannot be used: no daemon starts",
                    problem.to_string(),
                    format!("{place}: {key} must be {}", problem.expected),
                )
            };
            return Ok(Outcome::Found(problems.0.iter().map(finding).collect()));
        }
    };
    let files: Vec<String> = files(probe).iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(", ") };
    Ok(Outcome::Good(format!("{} variables from {files}", loaded.value.variables.iter().count())))
}

/// The files that are read, in order.
fn files(probe: &Probe) -> Vec<PathBuf> {
    let sources = &probe.sources;
    [&sources.default_file, &sources.local_file]
        .into_iter()
        .flatten()
        .filter(|path| path.is_file())
        .cloned()
        .collect()
}

/// C02.
pub(crate) fn names_and_lines(probe: &Probe) -> Checked {
    let mut findings = Vec::new();
    if let Ok(loaded) = &probe.station {
        for notice in loaded.notices.iter().filter(|n| n.text.starts_with("unknown key")) {
            findings.push(Finding::warning(
                "a variable that nothing reads, perhaps a mistyped one",
                notice.to_string(),
                format!("correct or remove the variable in {}", notice.origin),
            ));
        }
        let variables = &loaded.value.variables;
        for (old, new) in OBSOLETE {
            if let Some(value) = variables.filled(old) {
                findings.push(Finding::warning(
                    format!("{old} is a name that the reference documents and does not read"),
                    format!("{}: {old}={value}", variables.origin(old)),
                    format!("write {new}={value} instead"),
                ));
            }
        }
    }
    for path in files(probe) {
        if let Ok(text) = std::fs::read_to_string(&path) {
            findings.extend(read_differently(&path, &text, &probe.sources.environment));
        }
    }
    Ok(Outcome::of(findings, "every name is known, and every reader reads every line alike"))
}

/// One finding for each line that bash, systemd and docker do not read alike.
fn read_differently(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    let mut program: Option<(usize, usize)> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = assigned(line) else {
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                program = Some((program.map_or(at + 1, |(first, _)| first), at + 1));
            }
            continue;
        };
        let (systemd, docker) = (readers::systemd(line), readers::docker(line));
        let plain =
            |reading: &Reading| matches!(reading, Reading::Value(n, v) if n == name && is_plain(v));
        if plain(&systemd) && systemd == docker {
            continue;
        }
        let shell = by_shell(&lines[..=at], name, environment);
        let same = |reading: &Reading| matches!((reading, &shell), (Reading::Value(n, v), Some(s)) if n == name && v == s);
        if same(&systemd) && same(&docker) {
            continue;
        }
        let shown =
            shell.as_ref().map_or("a program".to_owned(), |value| format!("{name} as `{value}`"));
        findings.push(Finding::warning(
            "this line means different things to different readers",
            format!(
                "{}:{}: `{line}`: bash and the station read {shown}, systemd's EnvironmentFile= {systemd}, \
                 docker's --env-file {docker}",
                path.display(),
                at + 1,
            ),
            match &shell {
                Some(value) if is_plain(value) => {
                    format!("write {name}={value} alone on line {} of {}", at + 1, path.display())
                }
                _ => "write NAME=VALUE with nothing that needs quotes, and comments on lines of their own"
                    .to_owned(),
            },
        ));
    }
    if let Some((first, last)) = program {
        findings.push(Finding::warning(
            "this file is a program of the shell, which systemd and docker do not run",
            format!("{}:{first}: the first of the statements up to line {last}", path.display()),
            format!("station config migrate writes a plain file; install it as {}", path.display()),
        ));
    }
    findings
}

/// The variable that a line assigns.
fn assigned(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (name, _) = line.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    good.then_some(name)
}

/// True for a value that no reader changes.
fn is_plain(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "_./:,@%+=[]-".contains(c))
}

/// What the shell has for `name` after `lines`; `None` when that takes a shell.
fn by_shell(lines: &[&str], name: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    let file = tempfile::NamedTempFile::new().ok()?;
    std::fs::write(file.path(), lines.join("\n")).ok()?;
    let mut environment = environment.clone();
    environment.insert("CJ_CONF_SHELL".to_owned(), "0".to_owned());
    environment.remove("CJ_CONF");
    environment.remove("CJ_STOP_RECURSE");
    let sources = Sources {
        default_file: None,
        local_file: Some(file.path().to_owned()),
        environment,
        precedence: Precedence::Files,
    };
    sources.evaluate().ok()?.value.value(name).map(str::to_owned)
}

/// C03.
pub(crate) fn spellings(probe: &Probe) -> Checked {
    let station = probe.station()?;
    let mut findings = Vec::new();
    let folder = Path::new("/var/lib/conjure");
    for (variable, path, names) in [
        (
            "CJ_STATION_CONFIG",
            &station.station_config,
            ["app_config.toml", "application_config.toml"],
        ),
        (
            "CJ_REGISTRAR_CONFIG",
            &station.registrar_config,
            ["reg_config.toml", "registration_config.toml"],
        ),
    ] {
        let Some(used) = names.iter().position(|name| *path == folder.join(name)) else { continue };
        let configured = station.variables.filled(variable).map(PathBuf::from);
        let other = folder.join(names[1 - used]);
        // The reader takes the other spelling by itself; what is configured is then another path.
        let replaced = configured.as_ref().is_some_and(|configured| configured != path);
        if replaced || !probe.exists(path) && probe.exists(&other) {
            let (missing, present) = if replaced { (&other, path) } else { (path, &other) };
            findings.push(Finding::warning(
                "the file is there under the other spelling of the reference's documents",
                format!("{} does not exist, {} does", missing.display(), present.display()),
                format!("set {variable}={} in {}", present.display(), conf::LOCAL_FILE),
            ));
        }
    }
    Ok(Outcome::of(findings, "the files have the configured names"))
}
