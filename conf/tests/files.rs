//! Whole files: the shipped ones, those operators have, and broken ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use conf::{
    Application, Detector, LogLevel, OverrideTransport, Precedence, Problems, Registrar, Sources,
    Station, ZmqAuth,
};
use proptest::prelude::*;

const SHIPPED: &str = env!("CARGO_MANIFEST_DIR");

fn sources(
    text: &str,
    precedence: Precedence,
    environment: &[(&str, &str)],
) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conjure.conf");
    fs::write(&file, text).unwrap();
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let sources = Sources { default_file: Some(file), local_file: None, environment, precedence };
    (dir, sources)
}

fn station(text: &str) -> Result<conf::Loaded<Station>, Problems> {
    let (_dir, sources) = sources(text, Precedence::Files, &[]);
    Station::load(&sources)
}

#[test]
fn the_prefilter_is_refused_where_tunnels_are_read() {
    let loaded = station("CJ_IFACE=xdp:eth1\nCJ_PREFILTER=true\n").unwrap().value;
    let line = conf::command_lines::zbalance(&loaded).unwrap().join(" ");
    assert!(loaded.prefilter && line.contains("--prefilter"), "{line}");
    for tunnels in
        ["CJ_DECAP=true", "PARSE_GRE_OFFSET=42", "ZBALANCE_HASH_MODE=auto", "ZBALANCE_HASH_MODE=7"]
    {
        let error = station(&format!("CJ_PREFILTER=true\n{tunnels}\n")).unwrap_err().to_string();
        assert!(error.contains(":1: CJ_PREFILTER") && error.contains(tunnels), "{error}");
        assert!(!station(&format!("CJ_PREFILTER=false\n{tunnels}\n")).unwrap().value.prefilter);
    }
}

#[test]
fn the_fast_path_is_refused_where_the_host_would_not_read_packets() {
    let loaded = station("CJ_IFACE=xdp:eth1\nCJ_FAST_PATH=true\n").unwrap().value;
    let line = conf::command_lines::zbalance(&loaded).unwrap().join(" ");
    assert!(loaded.fast_path && line.contains("--fast-path"), "{line}");
    for (line, named) in [
        ("CJ_DECAP=true", "CJ_DECAP=true"),
        ("PARSE_GRE_OFFSET=42", "PARSE_GRE_OFFSET=42"),
        ("ZBALANCE_HASH_MODE=auto", "ZBALANCE_HASH_MODE=auto"),
        ("N_QUEUE_SETS=2", "N_QUEUE_SETS=1"),
    ] {
        let error = station(&format!("CJ_FAST_PATH=true\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains(":1: CJ_FAST_PATH") && error.contains(named), "{error}");
        assert!(!station(&format!("CJ_FAST_PATH=false\n{line}\n")).unwrap().value.fast_path);
    }
}

#[test]
fn live_frames_are_asked_for_by_a_variable() {
    for (text, asked) in
        [("", false), ("CJ_LIVE_FRAMES=false\n", false), ("CJ_LIVE_FRAMES=true\n", true)]
    {
        let loaded = station(text).unwrap().value;
        let line = conf::command_lines::detector(&loaded).join(" ");
        assert_eq!(
            (loaded.live_frames, line.ends_with(" --live-frames")),
            (asked, asked),
            "{line}"
        );
    }
    let error = station("CJ_LIVE_FRAMES=often\n").unwrap_err().to_string();
    assert!(error.contains(":1: CJ_LIVE_FRAMES") && error.contains("often"), "{error}");
}

#[test]
fn the_shipped_files_load_without_a_remark() {
    let dir = Path::new(SHIPPED);
    let sources = Sources {
        default_file: Some(dir.join("conjure.conf")),
        local_file: None,
        environment: BTreeMap::new(),
        precedence: Precedence::Files,
    };
    let loaded = Station::load(&sources).unwrap();
    assert_eq!(loaded.notices, []);
    assert_eq!(loaded.value.placement.core_count, 4);
    let application = Application::load(&dir.join("app_config.toml")).unwrap();
    assert_eq!(application.notices, []);
    assert_eq!(application.value.log_level, LogLevel::Error);
    assert_eq!(application.value.connect_sockets.len(), 2);
    let detector = Detector::load(&dir.join("app_config.toml")).unwrap();
    assert_eq!((detector.notices.len(), detector.value.filter.len()), (0, 2));
    let registrar = Registrar::load(&dir.join("reg_config.toml")).unwrap();
    assert_eq!(registrar.notices, []);
    assert_eq!((registrar.value.zmq_auth, registrar.value.api_port), (ZmqAuth::Null, 8080));
}

/// Lines as they stand in the files of existing stations: a blank inside a subnet, a placeholder
/// that is no subnet, an obsolete key, an empty station key.
#[test]
fn files_of_existing_stations_load() {
    let text = "socket_name = \"zmq-proxy\"\ncovert_blocklist_subnets = [\"fc00::/7 \", \"fe80::0/16\"]\n\
                Enable_V4 = true\n[[connect_sockets]]\naddress = \"tcp://registrar.example:5591\"\n\
                type = \"CURVE\"\npubkey = \"s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@\"\n";
    let application = Application::parse(text, Path::new("app.toml")).unwrap();
    assert_eq!(application.notices, []);
    assert!(application.value.enable_v4 && !application.value.enable_v6);
    assert_eq!(application.value.covert_blocklist_subnets.len(), 2);
    assert!(application.value.connect_sockets[0].server_key.is_some());

    let text = "log_level = \"info\"\nzmq_bind_addr = \"*\"\nzmq_auth_type = \"CURVE\"\n\
                zmq_privkey_path = \"/k\"\nclientconf_path = \"/c\"\nstation_pubkeys = [\"\"]\n\
                bidirectional_api_generation = 957\nenforce_subnet_overrides = true\n\
                prcnt_min_regs_to_override = 100\n[[override_subnet]]\ncidr = \"X.X.X.X/24\"\n\
                weight = 10\nport = 80\ntransport = \"Prefix_Transport\"\nprefix_id = 1\n\
                [[excluded_subnet_from_overrides]]\ncidr = \"X.X.X.X/25\"\n";
    let registrar = Registrar::parse(text, Path::new("reg.toml")).unwrap();
    assert!(registrar.value.overrides.subnets.is_empty());
    assert!(
        registrar
            .notices
            .iter()
            .any(|n| n.to_string().contains("reg.toml:11: cidr: a placeholder")),
        "{:?}",
        registrar.notices
    );
}

#[test]
fn every_error_names_file_line_key_found_and_expected() {
    let error = station("CJ_CORECOUNT=four\n\nIP4_ADDR=1.2.3\n").unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines[0].ends_with(
            "conjure.conf:1: CJ_CORECOUNT: found `four`, expected a number from 1 to 64"
        ),
        "{error}"
    );
    assert!(
        lines[1].ends_with("conjure.conf:3: IP4_ADDR: found `1.2.3`, expected an IPv4 address"),
        "{error}"
    );

    let text = "log_level = \"loud\"\nsocket_name = \"z\"\ncovert_blocklist_domains = [\"(\"]\n\
                covert_allowlist_subnets = [\"10.0.0.0/33\"]\ncache_expiration_time = \"2 hours\"\n\
                enable_v4 = 1\n[[connect_sockets]]\naddress = \"ipc://@d\"\ntype = \"CURVE\"\npubkey = \"short\"\n";
    let error = Application::parse(text, Path::new("a.toml")).unwrap_err().to_string();
    for line in [
        "a.toml:1: log_level: found `loud`, expected trace, debug, warn, error or info",
        "a.toml:3: covert_blocklist_domains: found `(`, expected a regular expression",
        "a.toml:4: covert_allowlist_subnets: found `10.0.0.0/33`, expected a subnet such as",
        "a.toml:5: cache_expiration_time: found `2 hours`, expected a duration such as",
        "a.toml:6: enable_v4: found 1, expected true or false",
        "a.toml:10: pubkey: found 5 characters that are no Z85 key, expected the 40 characters",
    ] {
        assert!(error.contains(line), "{line}\n{error}");
    }

    let missing = Registrar::load(Path::new("/nonexistent/reg.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/reg.toml: found No such file"), "{missing}");
}

#[test]
fn overrides_are_checked_when_loaded() {
    let head = "log_level = \"info\"\nzmq_bind_addr = \"*\"\nzmq_auth_type = \"NULL\"\n\
                clientconf_path = \"/c\"\nenforce_subnet_overrides = true\n";
    let of = |entry: &str| Registrar::parse(&format!("{head}{entry}"), Path::new("r.toml"));
    let good = of(
        "[[override_subnet]]\ncidr=\"192.0.2.7/24\"\nweight=1\ntransport=\"Prefix_Transport\"\nport=80\nprefix_id=-1\n",
    );
    let entry = good.unwrap().value.overrides.subnets[0];
    assert_eq!(entry.subnet.to_string(), "192.0.2.0/24");
    assert_eq!(entry.transport, OverrideTransport::Prefix { prefix_id: -1, port: 80 });
    for (bad, expected) in [
        ("cidr=\"0.0.0.0/0\"\nweight=1\ntransport=\"Min_Transport\"", "length 1 to 32"),
        ("cidr=\"2001:db8::/32\"\nweight=1\ntransport=\"Min_Transport\"", "an IPv4 subnet"),
        ("weight=1\ntransport=\"Min_Transport\"", "an IPv4 subnet"),
        (
            "cidr=\"192.0.2.0/24\"\nweight=1\ntransport=\"Prefix_Transport\"\nprefix_id=10\nport=1",
            "an integer from -1 to 9",
        ),
        (
            "cidr=\"192.0.2.0/24\"\nweight=1\ntransport=\"Prefix_Transport\"",
            "a port from 1 to 65535",
        ),
        ("cidr=\"192.0.2.0/24\"\nweight=-1\ntransport=\"Min_Transport\"", "not negative"),
        ("cidr=\"192.0.2.0/24\"\nweight=0\ntransport=\"Min_Transport\"", "positive weight"),
    ] {
        let error = of(&format!("[[override_subnet]]\n{bad}\n")).unwrap_err().to_string();
        assert!(error.contains(expected), "{bad}\n{error}");
    }
    assert!(of("[[excluded_subnet_from_overrides]]\nweight=1\n").is_err());
}

/// The scripts' line and ours agree about the CPUs of the ingest threads.
#[test]
fn ingest_cpus_reach_zbalance() {
    let line = |text: &str| {
        let station = station(&format!("CJ_IFACE=eth1\nCJ_COREBASE=1\n{text}")).unwrap().value;
        conf::command_lines::zbalance(&station).unwrap().join(" ")
    };
    assert!(line("").ends_with("-g 1 -z"));
    assert!(line("CJ_INGEST_CORES=0,4-6\n").ends_with("-g 0:4:5:6 -z"));
    let error = station("CJ_INGEST_CORES=4-2\n").unwrap_err().to_string();
    assert!(error.contains("CJ_INGEST_CORES: found `4-2`, expected a list of CPUs"), "{error}");
    let script = std::fs::read_to_string(format!("{SHIPPED}/../scripts/start_zbalance_ipc.sh"));
    let script = script.unwrap();
    let start = script.find("cpus=\n").unwrap();
    let end = start + script[start..].find("\nexec").unwrap();
    let shell = format!("CJ_COREBASE=1 CJ_INGEST_CORES=0,4-6\n{}\necho $cpus", &script[start..end]);
    let out = std::process::Command::new("bash").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "0:4:5:6\n");
}

#[test]
fn aliases_and_unknown_names() {
    let loaded = station("CJ_IP4_ADDR=192.0.2.1\nIP6_ADDR=2001:db8::1\nCJ_CORECUONT=2\n").unwrap();
    assert_eq!(loaded.value.ip4.to_string(), "192.0.2.1");
    assert_eq!(loaded.value.ip6.to_string(), "2001:db8::1");
    assert!(
        loaded
            .notices
            .iter()
            .any(|n| n.text == "unknown key CJ_CORECUONT is ignored; did you mean CJ_CORECOUNT?")
    );
    let both = station("IP4_ADDR=192.0.2.1\nCJ_IP4_ADDR=192.0.2.2\n").unwrap();
    assert_eq!(both.value.ip4.to_string(), "192.0.2.2");
    assert!(both.notices.iter().any(|n| n.text.contains("differ")));
    let stale = station("CJ_PROXY_CONFIG=/etc/old.toml\n").unwrap();
    assert_eq!(stale.value.station_config, Path::new("/etc/old.toml"));
    let offsets = station("CJ_QUEUE_OFFSET=4\n").unwrap();
    assert!(offsets.notices[0].text.contains("CJ_QUEUE_OFFSET=4 and OFFSET=0 differ"));
}

#[test]
fn the_environment_wins_only_for_a_binary_started_directly() {
    let text = "CJ_CORECOUNT=2\n";
    for (precedence, expected) in [(Precedence::Files, 2), (Precedence::Environment, 8)] {
        let (_dir, sources) = sources(text, precedence, &[("CJ_CORECOUNT", "8")]);
        let station = Station::load(&sources).unwrap().value;
        assert_eq!(station.placement.core_count, expected);
    }
}

#[test]
fn what_only_a_shell_can_read_is_given_to_bash_unless_forbidden() {
    let text = "CJ_CORECOUNT=$(echo 3)\nfor n in 1 2; do CJ_CLUSTER_ID=$n; done\n";
    let loaded = station(text).unwrap();
    assert_eq!(loaded.value.placement.core_count, 3);
    assert_eq!(loaded.value.cluster_id, 2);
    assert!(loaded.notices[0].to_string().contains("conjure.conf:1: "), "{:?}", loaded.notices);
    let (_dir, sources) = sources(text, Precedence::Files, &[("CJ_CONF_SHELL", "0")]);
    let error = Station::load(&sources).unwrap_err().to_string();
    assert!(error.contains("CJ_CONF_SHELL=0 forbids"), "{error}");
}

#[test]
fn the_detectors_filter_takes_addresses_subnets_and_ignores_junk() {
    let text = "detector_filter_list = [\"127.0.0.1\", \"2001:DB8:0::1\", \"10.0.0.0/8\", \"::ffff:192.0.2.1\", \"junk\"]\nother = 1\n";
    let loaded = Detector::parse(text, Path::new("d.toml")).unwrap();
    let filter: Vec<String> = loaded.value.filter.iter().map(ToString::to_string).collect();
    assert_eq!(filter, ["127.0.0.1/32", "2001:db8::1/128", "10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(loaded.notices.len(), 1);
}

proptest! {
    #[test]
    fn no_toml_text_is_too_strange(text in "(\\[\\[connect_sockets\\]\\]\n|log_level ?=|socket_name=|connect_sockets=|\"|\\[|\\]|\\{|\\}|1|\n|x|,|é){0,24}") {
        let _ = Application::parse(&text, Path::new("a.toml"));
        let _ = Registrar::parse(&text, Path::new("r.toml"));
        let _ = Detector::parse(&text, Path::new("d.toml"));
    }
}
