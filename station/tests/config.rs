//! `station config`: files shown with origins, brought over from a station of the reference, and
//! described for editors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf");

fn station(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_station"))
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A station as operators have it: shell in the configuration, old names, keys of other versions.
fn stage(extra: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    for name in ["app_config.toml", "reg_config.toml", "phantom_subnets.toml"] {
        fs::copy(Path::new(SHIPPED).join(name), dir.path().join(name)).unwrap();
    }
    let conf = dir.path().join("conjure.conf");
    let files = format!(
        "CJ_STATION_CONFIG={}\nCJ_REGISTRAR_CONFIG={}\nPHANTOM_SUBNET_LOCATION={}\n",
        path("app_config.toml"),
        path("reg_config.toml"),
        path("phantom_subnets.toml")
    );
    fs::write(&conf, format!("{extra}{files}")).unwrap();
    (dir, conf)
}

#[test]
fn shows_every_value_with_its_origin() {
    let (_dir, conf) = stage("CJ_CORECOUNT=$((2*3)) # six\nCJ_IP4_ADDR=192.0.2.9\n");
    let shown = station(&["config", "show", "--json", "--conf", conf.to_str().unwrap()]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let all: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let variables = &all["conjure.conf"];
    assert_eq!(variables["CJ_CORECOUNT"]["value"], "6");
    assert_eq!(variables["CJ_CORECOUNT"]["origin"], format!("{}:1", conf.display()));
    assert_eq!(variables["CJ_CLUSTER_ID"]["origin"], "built-in default");
    let application = all.as_object().unwrap().iter().find(|(k, _)| k.ends_with("app_config.toml"));
    let socket = &application.unwrap().1["connect_sockets[1].address"];
    assert_eq!(socket["value"], "\"ipc://@detector\"");
    assert!(socket["origin"].as_str().unwrap().contains("app_config.toml:"));

    let set = station(&["config", "show", "--set", "--conf", conf.to_str().unwrap()]);
    assert!(!text(&set.stdout).contains("built-in default"));
    let missing = station(&["config", "show", "--conf", "/nonexistent.conf"]);
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("/nonexistent.conf"));
}

#[test]
fn migration_says_the_same_in_plain_lines() {
    let (dir, conf) = stage(
        "set_default() {\n  export $1=$2\n}\nCJ_CORECOUNT=$((1+1))\nCJ_IP4_ADDR=192.0.2.9\n\
         CJ_IFACE=eth1\nCJ_IFACE+=,eth2\nCJ_CORECUONT=9\n",
    );
    let out = dir.path().join("new");
    let arguments =
        ["config", "migrate", "--conf", conf.to_str().unwrap(), "--to", out.to_str().unwrap()];
    let done = station(&arguments);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("did you mean CJ_CORECOUNT?"), "{}", text(&done.stderr));

    let load = |path: &Path| {
        let sources = conf::Sources {
            default_file: Some(path.to_owned()),
            local_file: None,
            environment: Default::default(),
            precedence: conf::Precedence::Files,
        };
        conf::Station::load(&sources).unwrap()
    };
    let (before, after) = (load(&conf).value, load(&out.join("conjure.conf")));
    assert_eq!(after.notices, [], "nothing is left to remark");
    let variables = before.variables.clone();
    assert_eq!(conf::Station { variables: variables.clone(), ..after.value.clone() }, before);
    assert_eq!(after.value.interfaces, ["eth1", "eth2"]);
    assert_eq!(after.value.ip4.to_string(), "192.0.2.9");

    // Every reader takes the new file alike: a shell gets what ours gets.
    let shell = Command::new("/bin/sh")
        .args(["-c", ". \"$0\" && echo $CJ_CORECOUNT $CJ_IFACE"])
        .arg(out.join("conjure.conf"))
        .output()
        .unwrap();
    assert_eq!(text(&shell.stdout), "2 eth1,eth2\n");
    let again = station(&arguments);
    assert_eq!(again.status.code(), Some(73), "files that exist are not written over");

    let application = |path: &Path| format!("{:?}", conf::Application::load(path).unwrap().value);
    assert_eq!(
        application(&out.join("app_config.toml")),
        application(&dir.path().join("app_config.toml"))
    );
}

#[test]
fn schemas_are_json_and_name_what_is_expected() {
    for (name, key) in [("application", "connect_sockets"), ("registrar", "zmq_auth_type")] {
        let schema = station(&["config", "schema", name]);
        let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
        assert!(schema["properties"][key]["description"].is_string(), "{name}");
    }
}
