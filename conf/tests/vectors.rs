//! `ops_conf_eval.json`, `ops_command_lines.json` and `ops_core_assignment.json`: our own reader
//! and the start scripts, both against the recorded results.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use conf::{Placement, Precedence, Sources, Station, command_lines};
use vectors::{Tally, Value, load};

const DEFAULT_CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conjure.conf");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The text of the local file of a case of `ops_conf_eval.json`.
fn local_conf(case: &Value) -> Option<String> {
    match case["local_conf"].as_str() {
        Some("COPY_OF_DEFAULT") => Some(fs::read_to_string(DEFAULT_CONF).unwrap()),
        other => other.map(str::to_owned),
    }
}

#[test]
fn conf_eval_by_our_reader() {
    const FILE: &str = "ops_conf_eval.json";
    let mut tally = Tally::new(FILE);
    for case in load(FILE)["cases"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("local.conf");
        if let Some(text) = local_conf(case) {
            write(&local, &text);
        }
        // With and without the default file: the built-in defaults say the same.
        for default_file in [Some(PathBuf::from(DEFAULT_CONF)), None] {
            let sources = Sources {
                default_file,
                local_file: Some(local.clone()),
                environment: map(&case["environment"]),
                precedence: Precedence::Files,
            };
            let variables = sources.evaluate().unwrap().value;
            for (name, expected) in case["result"].as_object().unwrap() {
                assert_eq!(variables.value(name), expected.as_str(), "{}: {name}", case["name"]);
            }
        }
        tally.pass();
    }
    tally.finish();
}

/// A staged installation whose programs print their arguments.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new(local: &str) -> Self {
        let stage = Self(tempfile::tempdir().unwrap());
        let default = fs::read_to_string(DEFAULT_CONF).unwrap();
        write(&stage.path("opt/conjure/sysconfig/conjure.conf"), &default);
        write(&stage.path("var/lib/conjure/conjure.conf"), local);
        for name in ["zbalance", "detector", "application", "registrar"] {
            stage.program(
                &format!("opt/conjure/bin/{name}"),
                "for a; do printf '%s\\n' \"$a\"; done; env -0 >&2",
            );
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        write(&path, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Exit code, arguments and environment of the program that `script` starts.
    fn start(&self, script: &str, environment: &BTreeMap<String, String>) -> Started {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("stub").display());
        let output = Command::new(format!("{SCRIPTS}/{script}"))
            .env_clear()
            .env("PATH", path)
            .env("CJ_ROOT", self.0.path())
            .envs(environment)
            .output()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let entries = String::from_utf8(output.stderr).unwrap();
        Started {
            exit: output.status.code(),
            arguments: lines.lines().map(str::to_owned).collect(),
            environment: entries
                .split('\0')
                .filter_map(|e| e.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        }
    }
}

struct Started {
    exit: Option<i32>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

#[test]
fn conf_eval_by_the_start_scripts() {
    const FILE: &str = "ops_conf_eval.json";
    let mut tally = Tally::new(FILE);
    for case in load(FILE)["cases"].as_array().unwrap() {
        let stage = Stage::new("");
        let local = stage.path("var/lib/conjure/conjure.conf");
        match local_conf(case) {
            Some(text) => write(&local, &text),
            None => fs::remove_file(&local).unwrap(),
        }
        let script = stage.path("read.sh");
        write(&script, &format!(". {SCRIPTS}/read_conf.sh\nenv -0 >&2\n"));
        let output = Command::new("bash")
            .arg(&script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CJ_ROOT", stage.0.path())
            .envs(map(&case["environment"]))
            .output()
            .unwrap();
        let entries = String::from_utf8(output.stderr).unwrap();
        let found: BTreeMap<&str, &str> =
            entries.split('\0').filter_map(|e| e.split_once('=')).collect();
        for (name, expected) in case["result"].as_object().unwrap() {
            assert_eq!(
                found.get(name.as_str()).copied(),
                expected.as_str(),
                "{}: {name}",
                case["name"]
            );
        }
        tally.pass();
    }
    tally.finish();
}

/// Our arguments for those recorded: an empty CJ_SKIP_CORE is -1, and the offset stays.
fn ours(argv: &Value) -> Vec<String> {
    let mut argv: Vec<String> = argv.as_array().unwrap()[1..].iter().map(text).collect();
    if let Some(at) = argv.iter().position(|a| a == "-s")
        && argv.get(at + 1).is_some_and(|a| a == "-z")
    {
        argv.insert(at + 1, "-1".to_owned());
    }
    argv
}

#[test]
fn command_lines_by_our_reader_and_by_the_start_scripts() {
    const FILE: &str = "ops_command_lines.json";
    let mut tally = Tally::new(FILE);
    for case in load(FILE)["cases"].as_array().unwrap() {
        let script = text(&case["script"]);
        let mut overrides = map(&case["overrides"]);
        let huge_pages = overrides.remove("_hugepages").unwrap_or("1024".to_owned());
        let zc = overrides.remove("_zc").is_none_or(|answer| answer != "no");
        let mut local =
            "CJ_INGEST_BACKEND=pfring\nCJ_IFACE=eth0\nCJ_PRIVKEY=/D/privkey\n".to_owned();
        for (name, value) in &overrides {
            local.push_str(&format!("{name}=\"{value}\"\n"));
        }
        // What the reference starts with an option in the place of the interfaces, we refuse.
        let refused = overrides.get("CJ_IFACE").is_some_and(String::is_empty);
        let exit = if refused { 78 } else { case["exit"].as_i64().unwrap() };
        let argv = (exit == 0).then(|| ours(&case["argv"]));

        let stage = Stage::new(&local);
        let sources = Sources {
            default_file: Some(DEFAULT_CONF.into()),
            local_file: Some(stage.path("var/lib/conjure/conjure.conf")),
            environment: BTreeMap::new(),
            precedence: Precedence::Files,
        };
        let station = Station::load(&sources).unwrap().value;
        let mine = match script.as_str() {
            "start_zbalance_ipc.sh" => {
                command_lines::check_pf_ring(&station, huge_pages.parse().unwrap(), |_| zc)
                    .and_then(|()| command_lines::zbalance(&station))
                    .ok()
            }
            "start_detector.sh" => Some(command_lines::detector(&station)),
            _ => Some(Vec::new()),
        };
        assert_eq!(mine, argv, "{script} {}", case["overrides"]);

        stage.program("stub/sysctl", &format!("printf {huge_pages}"));
        for interface in ["eth0", "eth1", "enp179s0f0", "enp179s0f1"] {
            let info = if zc { "Polling Mode: ZC\n" } else { "Polling Mode: none\n" };
            write(&stage.path(&format!("proc/net/pf_ring/dev/{interface}/info")), info);
        }
        write(&stage.path("proc/net/pf_ring/info"), "PF_RING Version          : 8.9.0 (dev)\n");
        for name in ["D/privkey", "D/app.toml", "D/reg.toml"] {
            write(&stage.path(name), "");
        }
        let root = stage.0.path().display().to_string();
        let staged = format!(
            "{}CJ_STATION_CONFIG={root}/D/app.toml\nCJ_REGISTRAR_CONFIG={root}/D/reg.toml\n",
            local.replace("/D/", &format!("{root}/D/"))
        );
        write(&stage.path("var/lib/conjure/conjure.conf"), &staged);
        let started = stage.start(&script, &BTreeMap::new());
        assert_eq!(started.exit.map(i64::from), Some(exit), "{script} {}", case["overrides"]);
        let arguments: Vec<String> =
            started.arguments.iter().map(|a| a.replace(&root, "")).collect();
        assert_eq!(arguments, argv.unwrap_or_default());
        if exit == 0 {
            assert_eq!(started.environment["PF_DRIVER"], "i40e", "settings are exported");
        }
        tally.pass();
    }
    tally.finish();
}

#[test]
fn core_assignment() {
    const FILE: &str = "ops_core_assignment.json";
    let mut tally = Tally::new(FILE);
    let numbers = |value: &Value| -> Vec<usize> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    };
    let names =
        |value: &Value| -> Vec<String> { value.as_array().unwrap().iter().map(text).collect() };
    for case in load(FILE)["cases"].as_array().unwrap() {
        let number = |key: &str| usize::try_from(case[key].as_i64().unwrap()).unwrap();
        let placement = Placement {
            core_base: number("core_base"),
            core_count: number("core_count"),
            skip_core: usize::try_from(case["skip_core"].as_i64().unwrap()).ok(),
            queue_offset: number("queue_offset"),
            tun_offset: number("tun_offset"),
        };
        assert_eq!(placement.cores(), numbers(&case["cores"]));
        assert_eq!(placement.queues(), numbers(&case["queues"]));
        assert_eq!(placement.detector_tuns(), names(&case["detector_tuns"]));
        assert_eq!(placement.prepared_tuns(), names(&case["onreboot_tuns"]));
        assert_eq!(placement.dnat_tun(), text(&case["dnat_tun"]));
        assert_eq!(placement.offsets_agree(), case["offsets_consistent"].as_bool().unwrap());
        let error = placement.missing_core(number("configured_cpus"));
        let error = error.map(|cpu| format!("needs core {cpu}"));
        assert_eq!(error.as_deref(), case["true_error"].as_str(), "{case}");
        tally.pass();
    }
    tally.finish();
}
