//! D: containers and systemd units, judged by their files where nothing runs.

use std::path::{Path, PathBuf};

use super::finding::{Checked, Finding, Outcome, Part};
use super::probe::Probe;

const COMPOSE_TOOLS: [&str; 5] = [
    "/usr/bin/docker-compose",
    "/usr/local/bin/docker-compose",
    "/usr/libexec/docker/cli-plugins/docker-compose",
    "/usr/lib/docker/cli-plugins/docker-compose",
    "/usr/local/lib/docker/cli-plugins/docker-compose",
];
const UNIT_FOLDERS: [&str; 3] =
    ["/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"];
const DOCKER_UNIT: &str = "conjure-docker.service";
/// Folders that a container can do without; S08 judges what is in them.
const OPTIONAL: [&str; 1] = ["/usr/share/GeoIP"];
const IMAGE: &str = "conjure:latest";
/// Units of the deployment without containers, with their parts.
const UNITS: [(&str, Part); 4] = [
    ("zbalance.service", Part::Ingest),
    ("conjure-det.service", Part::Detector),
    ("conjure-app.service", Part::Application),
    ("conjure-reg.service", Part::Registrar),
];

fn compose_file(probe: &Probe) -> Result<PathBuf, Outcome> {
    let path = probe.station()?.path.join("docker/docker-compose.yaml");
    if probe.exists(&path) {
        Ok(path)
    } else {
        Err(Outcome::Skipped(format!("{} does not exist: no containers here", path.display())))
    }
}

/// One `- HOST:CONTAINER` entry of a list in a compose file.
struct Entry {
    list: String,
    host: String,
    line: usize,
}

/// Entries of the lists `volumes` and `devices`, by indentation.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut list = String::new();
    for (at, line) in text.lines().enumerate() {
        let bare = line.trim();
        if let Some(item) = bare.strip_prefix("- ") {
            if list == "volumes" || list == "devices" {
                let item = item.trim_matches(['"', '\'']);
                let host = item.split(':').next().unwrap_or_default().to_owned();
                entries.push(Entry { list: list.clone(), host, line: at + 1 });
            }
        } else if let Some(name) = bare.strip_suffix(':') {
            list = name.to_owned();
        } else if !bare.is_empty() && !bare.starts_with('#') {
            list.clear();
        }
    }
    entries
}

/// D01.
pub(crate) fn containers(probe: &Probe) -> Checked {
    let path = compose_file(probe)?;
    let deployed = unit(probe, DOCKER_UNIT).is_some_and(|_| enabled(probe, DOCKER_UNIT));
    let docker =
        ["/usr/bin/docker", "/usr/local/bin/docker"].into_iter().any(|path| probe.exists(path));
    if !docker && !deployed {
        return Err(Outcome::Skipped("docker is not installed".to_owned()));
    }
    let mut findings = Vec::new();
    if !COMPOSE_TOOLS.iter().any(|tool| probe.exists(tool)) {
        findings.push(Finding::error(
            "docker compose is not installed",
            format!("none of {}", COMPOSE_TOOLS.join(", ")),
            "apt-get install docker-compose (1.29 or newer, or the plugin docker-compose-plugin)",
        ));
    }
    let text = probe.root.read(&path).unwrap_or_default();
    let place = path.display();
    let host_network =
        text.contains("network_mode: host") || text.contains("network_mode: \"host\"");
    if !host_network {
        findings.push(Finding::error(
            "containers have networks of their own: tun devices and abstract sockets of the host are not there",
            format!("{place}: no `network_mode: host`"),
            "set network_mode: host for every service",
        ));
    }
    if let Some(line) = text.lines().position(|line| line.trim() == "sysctls:")
        && host_network
    {
        findings.push(Finding::error(
            "a container with the host's network may not set kernel settings: it does not start",
            format!("{place}:{}: sysctls with network_mode: host", line + 1),
            "remove the sysctls; station setup makes them on the host",
        ));
    }
    let entries = entries(&text);
    let mut missing = Vec::new();
    for Entry { list, host, line } in &entries {
        if host == "/dev/net/tun"
            && list == "volumes"
            && !entries.iter().any(|e| e.list == "devices" && e.host == *host)
        {
            findings.push(Finding::error(
                "a volume does not open the tun device: newer runtimes deny it without a device entry",
                format!("{place}:{line}: /dev/net/tun is a volume"),
                "write it as `devices: [\"/dev/net/tun\"]`",
            ));
        }
        let known = missing.contains(&host) || OPTIONAL.contains(&host.as_str());
        if host.starts_with('/') && !host.contains('$') && !known && !probe.exists(host) {
            missing.push(host);
            let (cause, remedy) = match list.as_str() {
                "devices" => (
                    "a device that containers need is not there: they do not start",
                    "modprobe tun",
                ),
                _ => (
                    "a folder that containers need is not there: docker makes an empty one",
                    "make it, or install what brings it",
                ),
            };
            findings.push(if list == "devices" {
                Finding::error(cause, format!("{place}:{line}: {host}"), remedy)
            } else {
                Finding::warning(cause, format!("{place}:{line}: {host}"), remedy)
            });
        }
    }
    if docker && probe.root.is_this_host() {
        let asked = host::tool::output("docker", &["image", "inspect", IMAGE]);
        match asked {
            Err(host::tool::CommandError::Failed { output, .. }) if output.contains("No such") => {
                findings.push(Finding::error(
                    format!("there is no image {IMAGE}"),
                    output,
                    "make container",
                ));
            }
            // Without the right to ask, the image cannot be judged.
            _ => {}
        }
    }
    Ok(Outcome::of(findings, place.to_string()))
}

/// D02.
pub(crate) fn build_version(probe: &Probe) -> Checked {
    let path = compose_file(probe)?;
    let text = probe.root.read(&path).unwrap_or_default();
    let variables = &probe.station()?.variables;
    let wanted = variables.filled("PFRING_VER").unwrap_or("latest");
    if !text.contains("PFRING_VER")
        || matches!(
            variables.origin("PFRING_VER"),
            conf::Origin::Default | conf::Origin::Environment
        )
    {
        return Ok(Outcome::Good(format!("PFRING_VER={wanted}")));
    }
    let beside = probe.root.read(path.with_file_name(".env")).unwrap_or_default();
    let unit = unit(probe, DOCKER_UNIT).unwrap_or_default();
    let seen = beside.lines().any(|line| line.trim_start().starts_with("PFRING_VER="))
        || unit
            .lines()
            .any(|line| line.starts_with("EnvironmentFile=") || line.contains("PFRING_VER"));
    if seen || wanted == "latest" {
        return Ok(Outcome::Good(format!("compose sees PFRING_VER={wanted}")));
    }
    Ok(Outcome::Found(vec![Finding::warning(
        "compose does not see PFRING_VER and builds images with the newest PF_RING",
        format!(
            "{}: PFRING_VER={wanted}; neither the environment nor docker/.env has it",
            variables.origin("PFRING_VER")
        ),
        format!("echo PFRING_VER={wanted} >> {}", path.with_file_name(".env").display()),
    )]))
}

/// Text of a unit file, the administrator's before the package's.
fn unit(probe: &Probe, name: &str) -> Option<String> {
    UNIT_FOLDERS.iter().find_map(|folder| probe.root.read(Path::new(folder).join(name)).ok())
}

fn enabled(probe: &Probe, name: &str) -> bool {
    UNIT_FOLDERS.iter().any(|folder| {
        let folders = probe
            .root
            .list(folder)
            .into_iter()
            .filter(|n| n.ends_with(".wants") || n.ends_with(".requires"));
        // The link may point to a path that is there only on the running host.
        folders.into_iter().any(|wants| {
            std::fs::symlink_metadata(probe.root.path(Path::new(folder).join(wants).join(name)))
                .is_ok()
        })
    })
}

/// True when the unit `name` is there.
pub(super) fn is_installed(probe: &Probe, name: &str) -> bool {
    unit(probe, name).is_some()
}

/// What `setting` lists in the unit `name` and all that is added to it; `None` when it is not set. An empty value
/// ends what came before.
pub(super) fn words(probe: &Probe, name: &str, setting: &str) -> Option<Vec<String>> {
    let mut texts = vec![unit(probe, name)?];
    let mut added: Vec<(String, PathBuf)> = UNIT_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(format!("{name}.d")))
        .flat_map(|folder| {
            let files = probe.root.list(&folder).into_iter();
            files.map(move |file| (file.clone(), folder.join(file)))
        })
        .filter(|(file, _)| file.ends_with(".conf"))
        .collect();
    // By name, whatever their folders; the first of a name hides the others.
    added.sort_by(|(a, _), (b, _)| a.cmp(b));
    added.dedup_by(|(later, _), (first, _)| later == first);
    texts.extend(added.iter().filter_map(|(_, path)| probe.root.read(path).ok()));
    let mut words = None;
    for line in texts.iter().flat_map(|text| text.lines()) {
        let value = line.trim().strip_prefix(setting).and_then(|rest| rest.strip_prefix('='));
        if let Some(value) = value.map(str::trim) {
            let words: &mut Vec<String> = words.get_or_insert_default();
            if value.is_empty() {
                words.clear();
            }
            words.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().rev().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
}

/// D03.
pub(crate) fn units(probe: &Probe) -> Checked {
    let docker = unit(probe, DOCKER_UNIT).is_some() && enabled(probe, DOCKER_UNIT);
    let installed: Vec<(&str, String)> = UNITS
        .iter()
        .filter(|(_, part)| probe.wants(*part))
        .filter_map(|(name, _)| Some((*name, unit(probe, name)?)))
        .collect();
    if installed.is_empty() && !docker {
        return Err(Outcome::Skipped("no unit of the station is installed".to_owned()));
    }
    let mut findings = Vec::new();
    let on: Vec<&str> =
        installed.iter().map(|(name, _)| *name).filter(|name| enabled(probe, name)).collect();
    if docker && !on.is_empty() {
        findings.push(Finding::warning(
            "containers and units are both to be started: the second of each daemon cannot get its sockets",
            format!("{DOCKER_UNIT} and {} are enabled", on.join(", ")),
            format!("systemctl disable --now {DOCKER_UNIT}, or the others"),
        ));
    }
    let off: Vec<&str> =
        installed.iter().map(|(name, _)| *name).filter(|name| !on.contains(name)).collect();
    if !docker && !off.is_empty() {
        findings.push(Finding::warning(
            "units are installed and will not be started at boot",
            format!("not enabled: {}", off.join(", ")),
            format!("systemctl enable --now {}", off.join(" ")),
        ));
    }
    for (name, text) in &installed {
        let restarts = setting(text, "Restart").is_some_and(|value| value != "no");
        let limit = setting(text, "StartLimitIntervalSec").or(setting(text, "StartLimitInterval"));
        if restarts && limit != Some("0") {
            findings.push(Finding::warning(
                "five quick failures, such as a missing interface at boot, leave the unit dead for good",
                format!("{name}: Restart= without StartLimitIntervalSec=0"),
                format!("systemctl edit {name}: [Unit] StartLimitIntervalSec=0"),
            ));
        }
    }
    if probe.exists("/run/systemd/system") {
        let stale: Vec<&str> = installed
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| {
                let asked = host::tool::output(
                    "systemctl",
                    &["show", "-p", "NeedDaemonReload", "--value", name],
                );
                asked.is_ok_and(|text| text.trim() == "yes")
            })
            .collect();
        if !stale.is_empty() {
            findings.push(Finding::warning(
                "unit files are newer than what systemd has read",
                format!("NeedDaemonReload=yes: {}", stale.join(", ")),
                "systemctl daemon-reload",
            ));
        }
    }
    let seen = if docker { DOCKER_UNIT.to_owned() } else { on.join(", ") };
    Ok(Outcome::of(findings, format!("enabled: {seen}")))
}
