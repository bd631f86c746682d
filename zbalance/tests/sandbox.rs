//! What a daemon that was taken over can still do: the profile of zbalance, tried from within. The test
//! binary runs itself, because the sandbox is for good and wants a process with one thread.

use std::process::Command;

fn main() {
    if std::env::var_os("INSIDE").is_some() {
        return inside();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "of somebody else").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .env("INSIDE", dir.path())
        .env("CJ_IPC_DIR", dir.path().join("ipc"))
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.matches("refused: ").count(), 12, "{out}{err}");
    println!("test the_sandbox_of_the_zbalance_holds ... ok\n{out}");
}

fn inside() {
    let dir = std::path::PathBuf::from(std::env::var_os("INSIDE").unwrap());
    let configuration = dir.join("configuration");
    std::fs::create_dir_all(&configuration).unwrap();
    std::fs::create_dir_all(dir.join("ipc")).unwrap();
    std::fs::write(configuration.join("a.toml"), "").unwrap();
    let sandbox = profile(&configuration);
    let attempts = sandbox::probe::forbidden(sandbox, &dir.join("secret")).unwrap();
    for (what, result) in attempts {
        let error = result.expect_err(what);
        assert!(matches!(error.raw_os_error(), Some(1 | 13)), "{what}: {error}");
        println!("refused: {what}: {error}");
    }
    // What it lives on still works.
    std::fs::read_to_string(configuration.join("a.toml")).unwrap();
    std::fs::rename(configuration.join("a.toml"), configuration.join("b.toml")).unwrap_err();
    std::fs::write(dir.join("ipc/file"), "").unwrap();
    std::os::unix::net::UnixListener::bind(dir.join("ipc/socket")).unwrap();
    std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::thread::spawn(|| ()).join().unwrap();
}

fn profile(configuration: &std::path::Path) -> sandbox::Sandbox {
    use clap::Parser;
    let line = ["zbalance", "-i", "afp:tap0", "-c", "98", "-n", "2"];
    let arguments = zbalance::arguments::Arguments::try_parse_from(line).unwrap();
    let file = Some(configuration.join("a.toml"));
    zbalance::daemon::profile(&zbalance::arguments::Arguments { file, ..arguments })
}
