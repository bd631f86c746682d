//! The variables of `conjure.conf` (`spec/operations.md` 4.2): names, defaults, and how the files
//! and the environment make their values.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::bash;
use crate::problem::{Loaded, Notice, Origin, Problem, Problems, unknown_key};
use crate::shell::{self, Scope, Stop, Variable};

/// Default place of the default file.
pub const DEFAULT_FILE: &str = "/opt/conjure/sysconfig/conjure.conf";
/// Place of the file with local overrides.
pub const LOCAL_FILE: &str = "/var/lib/conjure/conjure.conf";

const GUARD: &str = "CJ_STOP_RECURSE";
const MAX_FILE: u64 = 1024 * 1024;

/// Variables with a value when nobody sets them.
pub(crate) const DEFAULTS: [(&str, &str); 19] = [
    ("N_QUEUE_SETS", "1"),
    ("PFRING_VER", "latest"),
    ("CJ_CLUSTER_ID", "98"),
    ("CJ_CORECOUNT", "4"),
    ("CJ_COREBASE", "0"),
    ("CJ_SKIP_CORE", ""),
    ("CJ_QUEUE_OFFSET", "0"),
    ("CJ_LOG_INTERVAL", "5"),
    ("CJ_PRIVKEY", "/var/lib/conjure/privkey"),
    ("CJ_STATION_CONFIG", "/var/lib/conjure/app_config.toml"),
    ("CJ_REGISTRAR_CONFIG", "/var/lib/conjure/reg_config.toml"),
    ("PHANTOM_SUBNET_LOCATION", "/var/lib/conjure/phantom_subnets.toml"),
    ("LOG_CLIENT_IP", "false"),
    ("ZBALANCE_HASH_MODE", "1"),
    ("ZBALANCE_CORE", "1"),
    ("PARSE_GRE_OFFSET", "0"),
    ("CJ_PATH", "/opt/conjure/"),
    ("IP4_ADDR", "127.0.0.1"),
    ("IP6_ADDR", "[::1]"),
];
/// Default of a variable that, unlike those of [`DEFAULTS`], the environment may preset.
const PF_DRIVER: (&str, &str) = ("PF_DRIVER", "i40e");
const OFFSET: (&str, &str) = ("OFFSET", "0");

/// Variables without a default.
const OTHERS: [&str; 28] = [
    "CJ_IFACE",
    "ZMQ_PRIVKEY",
    "CJ_CONF",
    "CJ_CONF_SHELL",
    "CJ_IP4_ADDR",
    "CJ_IP6_ADDR",
    "CJ_PROXY_CONFIG",
    "CJ_INGEST_BACKEND",
    "CJ_INGEST_CORES",
    "CJ_DECAP",
    "CJ_PREFILTER",
    "CJ_FAST_PATH",
    "CJ_LIVE_FRAMES",
    "CJ_IPC_DIR",
    "CJ_SESSION_SOCKET",
    "CJ_METRICS_LISTEN",
    "CJ_METRICS_LISTEN_ZBALANCE",
    "CJ_METRICS_LISTEN_DETECTOR",
    "CJ_METRICS_LISTEN_APPLICATION",
    "CJ_METRICS_LISTEN_REGISTRAR",
    "CJ_METRICS_FLOOR",
    "CJ_LOG_FORMAT",
    "CJ_SANDBOX",
    "CJ_USER",
    "CJ_TUN_OWNER",
    "CJ_DNAT_TUN",
    "CONJURE_STATION_REPO",
    "CONJURE_H1_REPO",
];

/// What `name` is when nobody sets it.
pub(crate) fn default_of(name: &str) -> Option<&'static str> {
    let all = DEFAULTS.into_iter().chain([PF_DRIVER, OFFSET]);
    all.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
}

pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    DEFAULTS.iter().map(|&(n, _)| n).chain([PF_DRIVER.0, OFFSET.0]).chain(OTHERS)
}

/// Which side wins when a file and the environment both set a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// Files win: the rule of the start scripts, which source the files last.
    Files,
    /// The environment wins: the rule of a binary that is started directly, as in a container.
    Environment,
}

/// What the variables are made from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The default file; `None` or a missing file leaves the built-in defaults.
    pub default_file: Option<PathBuf>,
    /// The file with local overrides; skipped when missing.
    pub local_file: Option<PathBuf>,
    /// Environment of the process.
    pub environment: BTreeMap<String, String>,
    /// Who wins.
    pub precedence: Precedence,
}

impl Sources {
    /// The files and the environment of this process: `$CJ_CONF` or the default file, then the
    /// local file; the environment wins.
    pub fn of_process() -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let given = environment.get("CJ_CONF").filter(|p| !p.is_empty());
        Self {
            default_file: Some(PathBuf::from(given.map_or(DEFAULT_FILE, |p| p))),
            local_file: Some(PathBuf::from(LOCAL_FILE)),
            environment,
            precedence: Precedence::Environment,
        }
    }

    /// One file alone, with this process's environment winning over it. The file must exist.
    pub fn of_file(path: &Path) -> Self {
        let mut sources = Self::of_process();
        sources.environment.insert("CJ_CONF".to_owned(), path.display().to_string());
        Self { default_file: Some(path.to_owned()), local_file: None, ..sources }
    }

    /// Evaluates files and environment.
    ///
    /// # Errors
    /// [`Problems`] when a file cannot be read or is wrong.
    pub fn evaluate(&self) -> Result<Loaded<Variables>, Problems> {
        let mut scope = self.environment_scope();
        let mut notices = Vec::new();
        for (name, value) in DEFAULTS.into_iter().chain([OFFSET]) {
            set(&mut scope, name, value, Origin::Default);
        }
        let given = self.environment.get("CJ_CONF").is_some_and(|p| !p.is_empty());
        let mut files = Vec::new();
        if let Some(path) = &self.default_file {
            files.extend(read(path, given)?.map(|text| (path, text)));
        }
        if let Some(path) = &self.local_file
            && !self.environment.contains_key(GUARD)
        {
            files.extend(read(path, false)?.map(|text| (path, text)));
        }
        let before = scope.clone();
        for (path, text) in &files {
            match shell::apply(text, path, &mut scope, &mut notices) {
                Ok(()) => {}
                Err(Stop::Invalid(problem)) => return Err(problem.into()),
                Err(Stop::Unsupported { line, what }) => {
                    scope = self.by_bash(&before, &files, path, line, &what, &mut notices)?;
                    break;
                }
            }
        }
        if scope.get(PF_DRIVER.0).is_none_or(|v| v.value.is_empty()) {
            set(&mut scope, PF_DRIVER.0, PF_DRIVER.1, Origin::Default);
        }
        scope.remove(GUARD);
        if self.precedence == Precedence::Environment {
            for name in known() {
                if let Some(value) = self.environment.get(name) {
                    set(&mut scope, name, value, Origin::Environment);
                }
            }
        }
        let ours = |name: &str| name.starts_with("CJ_") || known().any(|k| k == name);
        scope.retain(|name, v| v.origin != Origin::Environment || ours(name));
        for (name, variable) in &scope {
            if name.starts_with("CJ_") && !known().any(|k| k == name) {
                let text = unknown_key(name, known());
                notices.push(Notice { origin: variable.origin.clone(), text });
            }
        }
        Ok(Loaded { value: Variables { scope }, notices })
    }

    fn environment_scope(&self) -> Scope {
        let variable =
            |value: &String| Variable { value: value.clone(), origin: Origin::Environment };
        self.environment.iter().map(|(name, value)| (name.clone(), variable(value))).collect()
    }

    fn by_bash(
        &self,
        before: &Scope,
        files: &[(&PathBuf, String)],
        path: &Path,
        line: usize,
        what: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Scope, Problems> {
        let origin = Origin::file(path, line);
        let refused = |reason: String| Problem {
            origin: origin.clone(),
            key: String::new(),
            found: format!("{what}, which is beyond NAME=VALUE, and {reason}"),
            expected: "plain assignments, or bash to be installed and allowed".to_owned(),
        };
        if self.environment.get("CJ_CONF_SHELL").is_some_and(|v| v == "0") {
            return Err(refused("CJ_CONF_SHELL=0 forbids to ask bash".to_owned()).into());
        }
        let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
        let found = bash::evaluate(&paths, before).map_err(refused)?;
        let text = format!("{what} is beyond NAME=VALUE; the files were evaluated by bash");
        notices.push(Notice { origin, text });
        let last = paths.last().copied().unwrap_or(path);
        Ok(found
            .into_iter()
            .map(|(name, value)| match before.get(&name) {
                Some(same) if same.value == value => (name, same.clone()),
                _ => (name, Variable { value, origin: Origin::file(last, 0) }),
            })
            .collect())
    }
}

/// The evaluated variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    scope: Scope,
}

impl Variables {
    /// Value of `name`, also when it is empty; `None` when it is not set at all.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.scope.get(name).map(|v| v.value.as_str())
    }

    /// Value of `name` unless it is not set or empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|v| !v.is_empty())
    }

    /// Where the value of `name` was set.
    pub fn origin(&self, name: &str) -> Origin {
        self.scope.get(name).map_or(Origin::Default, |v| v.origin.clone())
    }

    /// Every variable by name, for an operator to see or a child process to inherit.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.scope.iter().map(|(name, variable)| (name.as_str(), variable))
    }
}

fn set(scope: &mut Scope, name: &str, value: &str, origin: Origin) {
    scope.insert(name.to_owned(), Variable { value: value.to_owned(), origin });
}

/// Text of a file, `None` when it may be missing and is.
pub(crate) fn read(path: &Path, required: bool) -> Result<Option<String>, Problem> {
    let problem = |found: String, expected: &str| Problem {
        origin: Origin::file(path, 0),
        key: String::new(),
        found,
        expected: expected.to_owned(),
    };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
        Err(e) => return Err(problem(e.to_string(), "a readable file")),
        Ok(m) if !m.is_file() => {
            return Err(problem("something that is no regular file".to_owned(), "a text file"));
        }
        Ok(m) if m.len() > MAX_FILE => {
            return Err(problem(format!("{} bytes", m.len()), "a file of at most 1 MiB"));
        }
        Ok(_) => {}
    }
    let bytes =
        std::fs::read(path).map_err(|e| problem(e.to_string(), "a file this user may read"))?;
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        let origin = Origin::file(path, line);
        Problem { origin, ..problem("bytes that are not UTF-8".to_owned(), "UTF-8 text") }
    })
}
