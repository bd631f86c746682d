//! Which files the process may open (Landlock).
//!
//! Only the file system is restricted. Landlock could also cut abstract sockets and TCP, which
//! would cut `ipc://@detector` and Redis (`spec/traps.md`, "Sandboxing").

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

/// The newest rights that are asked for; an older kernel has fewer, which is a note.
const NEWEST: ABI = ABI::V5;

/// What the C library and the runtime read: names, time zones, numbers of processors. Of `/proc`
/// only the process itself, not its neighbours.
const ALWAYS: &[&str] = &[
    "/etc",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/sys/net",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/cpuinfo",
    "/sys/devices/system",
    "/sys/class/net",
    "/sys/devices/virtual/net",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/dev/urandom",
    "/run/systemd/resolve",
];

/// Folders of the station's files, whether or not they are in use at the start.
const STATION: &[&str] = &["/var/lib/conjure", "/opt/conjure", "/usr/share/GeoIP"];

/// The folder of a file, as far as a path tells.
pub fn parent_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Restricts the calling thread and those it starts.
pub(crate) fn restrict(
    read: &[PathBuf],
    write: &[PathBuf],
    fifos: &[PathBuf],
    notes: &mut Vec<String>,
) {
    match rules(read, write, fifos) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => notes.push(
            "this kernel has an older Landlock: truncating and device controls are not restricted"
                .to_owned(),
        ),
        Ok(RulesetStatus::NotEnforced) => notes.push(
            "this kernel has no Landlock: which files the process opens is restricted by its user \
             alone"
                .to_owned(),
        ),
        Err(error) => notes.push(format!("files are not restricted (Landlock): {error}")),
    }
}

fn rules(
    read: &[PathBuf],
    write: &[PathBuf],
    fifos: &[PathBuf],
) -> Result<RulesetStatus, RulesetError> {
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = AccessFs::from_write(NEWEST)
        & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::Refer | AccessFs::IoctlDev);
    let always = ALWAYS.iter().chain(STATION).map(PathBuf::from);
    let null = [PathBuf::from("/dev/null")];
    let present = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| path.exists());
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(
            present(always.chain(read.iter().cloned()).collect()),
            reading,
        ))?
        .add_rules(path_beneath_rules(present(write.to_vec()), reading | writing))?
        .add_rules(path_beneath_rules(
            present(null.to_vec()),
            AccessFs::ReadFile | AccessFs::WriteFile,
        ))?
        .add_rules(path_beneath_rules(present(fifos.to_vec()), AccessFs::WriteFile))?
        .restrict_self()
        .map(|status| status.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lives_in_the_working_folder() {
        assert_eq!(parent_of(Path::new("a.toml")), Path::new("."));
        assert_eq!(parent_of(Path::new("/etc/a.toml")), Path::new("/etc"));
    }
}
