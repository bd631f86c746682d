//! Asks the doctor and reads its answer.

#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One run of `station doctor` on one check.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) code: i32,
    pub(crate) all: Value,
}

impl Diagnosis {
    fn check(&self, id: &str) -> &Value {
        let checks = self.all["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("{id}: {self:?}"))
    }

    /// Panics unless `id` is found with this severity, and `parts` stand in what is said.
    #[track_caller]
    pub(crate) fn finds(&self, id: &str, severity: &str, parts: &[&str]) {
        let check = self.check(id);
        assert_eq!(check["status"], severity, "{check:#}");
        let findings = check["findings"].as_array().unwrap();
        let told = findings.iter().any(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            assert!(!text("cause").is_empty() && !text("remedy").is_empty(), "{finding:#}");
            let text = format!("{}\n{}\n{}", text("cause"), text("evidence"), text("remedy"));
            parts.iter().all(|part| text.contains(part))
        });
        assert!(told, "{parts:?} not in {check:#}");
        let expected = if self.all["errors"] != 0 { 2 } else { 1 };
        assert_eq!(self.code, expected, "{check:#}");
    }

    /// Panics unless `id` has nothing to complain about.
    #[track_caller]
    pub(crate) fn is_good(&self, id: &str) {
        let check = self.check(id);
        assert_eq!(check["status"], "good", "{check:#}");
    }

    /// Panics unless `id` was not made.
    #[track_caller]
    pub(crate) fn is_skipped(&self, id: &str) {
        assert_eq!(self.check(id)["status"], "skipped", "{:#}", self.check(id));
    }

    /// What was repaired.
    pub(crate) fn fixed(&self) -> String {
        let lines = self.all["fixed"].as_array().unwrap().iter();
        lines.map(|line| format!("{}\n", line.as_str().unwrap())).collect()
    }
}

/// A host made of files, and the network namespace that the test is in.
pub(crate) struct Patient {
    dir: tempfile::TempDir,
}

/// What every test begins with: nothing in it is wrong.
const CONF: &str = "CJ_CORECOUNT=2\nCJ_COREBASE=1\nCJ_SKIP_CORE=-1\nCJ_INGEST_CORES=0\nCJ_IFACE=tap0\n\
                    CJ_TUN_OWNER=0\n";

impl Patient {
    /// Files only; whatever of the kernel is looked at is planted.
    pub(crate) fn planted() -> Self {
        let patient = Self { dir: tempfile::tempdir().unwrap() };
        patient.conf("");
        patient.plant("/sys/devices/system/cpu/online", "0-3\n");
        patient
    }

    /// The same with the kernel's real settings and processes.
    pub(crate) fn here() -> Self {
        let patient = Self::planted();
        std::os::unix::fs::symlink("/proc", patient.path("/proc")).unwrap();
        patient
    }

    /// Place of `path` in the planted tree.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// Writes the file `path` of the planted tree.
    pub(crate) fn plant(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let place = self.path(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, content).unwrap();
        place
    }

    /// Makes `path` a link to `target`.
    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
        let place = self.path(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, place).unwrap();
    }

    /// Sets variables beside those that are good.
    pub(crate) fn conf(&self, lines: &str) {
        self.plant("/var/lib/conjure/conjure.conf", format!("{CONF}{lines}"));
    }

    /// Looks with the check `id`.
    pub(crate) fn ask(&self, id: &str) -> Diagnosis {
        self.ask_with(id, &[])
    }

    /// Looks with the check `id` and further arguments.
    pub(crate) fn ask_with(&self, id: &str, arguments: &[&str]) -> Diagnosis {
        self.run(Command::new(env!("CARGO_BIN_EXE_station")), &["--only", id], arguments)
    }

    /// Looks with `command` in front.
    pub(crate) fn run(&self, mut command: Command, first: &[&str], more: &[&str]) -> Diagnosis {
        command.args(["doctor", "--json", "--root"]).arg(self.dir.path()).args(first).args(more);
        command.env_remove("CJ_CONF").env_remove("CJ_IPC_DIR");
        let output = command.output().unwrap();
        let all = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Diagnosis { code: output.status.code().unwrap(), all }
    }
}
