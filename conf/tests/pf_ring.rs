//! `start_zbalance_ipc.sh` compares the PF_RING version of an image with that of the kernel's module
//! before anything is started: attaching with another one fails with errors that name neither.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Exit code and message of the script for an image with `image` and a module of version `module`.
fn start(image: Option<&str>, module: Option<&str>) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let default = fs::read_to_string(format!("{ROOT}/conf/conjure.conf")).unwrap();
    write(&path("opt/conjure/sysconfig/conjure.conf"), &default, 0o644);
    let local = "CJ_INGEST_BACKEND=pfring\nCJ_IFACE=eth0\n";
    write(&path("var/lib/conjure/conjure.conf"), local, 0o644);
    write(&path("opt/conjure/bin/zbalance"), "#!/bin/sh\necho started\n", 0o755);
    write(&path("stub/sysctl"), "#!/bin/sh\nprintf 1024\n", 0o755);
    write(&path("proc/net/pf_ring/dev/eth0/info"), "Polling Mode: NAPI/ZC\n", 0o644);
    if let Some(version) = image {
        write(&path("etc/conjure-pfring"), &format!("{version}\n"), 0o644);
    }
    if let Some(version) = module {
        let info = format!("PF_RING Version          : {version} (unknown)\nTotal rings : 0\n");
        write(&path("proc/net/pf_ring/info"), &info, 0o644);
    }
    let output = Command::new(format!("{ROOT}/scripts/start_zbalance_ipc.sh"))
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", path("stub").display()))
        .env("CJ_ROOT", dir.path())
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    (output.status.code(), text)
}

#[test]
fn versions_that_agree_start() {
    // No image at all: the library is the host's own.
    for image in [None, Some("latest"), Some("8.9.0"), Some("tags/8.9.0"), Some("8.9.0-stable")] {
        let (code, text) = start(image, Some("8.9.0"));
        assert_eq!((code, text.as_str()), (Some(0), "started\n"), "{image:?}");
    }
}

#[test]
fn versions_that_differ_are_named_with_the_remedy() {
    for image in ["8.4.0", "none"] {
        let (code, text) = start(Some(image), Some("8.9.0"));
        assert_eq!(code, Some(78), "{image}: {text}");
        assert!(text.contains("make pfring_ver=8.9.0 container"), "{image}: {text}");
    }
    let (code, text) = start(Some("8.9.0"), None);
    assert_eq!(code, Some(78));
    assert!(text.contains("modprobe pf_ring"), "{text}");
}
