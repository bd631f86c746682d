//! `station doctor` on planted files: one test for each check that looks at files, each of which breaks
//! the thing and sees it found.

#[path = "doctor/patient.rs"]
mod patient;

use std::os::unix::fs::PermissionsExt;

use keys::KeyPair;
use patient::Patient;
use signalling::Message;

#[test]
fn c01_a_wrong_value() {
    let patient = Patient::planted();
    let good = patient.ask("C01");
    good.is_good("C01");
    let variables = good.all["variables"].as_array().unwrap();
    let count = variables.iter().find(|v| v["name"] == "CJ_CORECOUNT").unwrap();
    assert_eq!(count["value"], "2");
    assert!(
        count["origin"].as_str().unwrap().ends_with("/var/lib/conjure/conjure.conf:1"),
        "{count}"
    );
    patient.conf("CJ_CORECOUNT=many\n");
    let parts = [
        "conjure.conf:7: CJ_CORECOUNT: found `many`",
        "CJ_CORECOUNT must be a number from 1 to 64",
    ];
    patient.ask("C01").finds("C01", "error", &parts);
}

#[test]
fn c02_names_nobody_reads() {
    let patient = Patient::planted();
    patient.ask("C02").is_good("C02");
    patient.conf("CJ_CORECUONT=2\n");
    patient.ask("C02").finds("C02", "warning", &["CJ_CORECUONT", "did you mean CJ_CORECOUNT?"]);
    patient.conf("CJ_IP4_ADDR=192.0.2.1\n");
    patient.ask("C02").finds("C02", "warning", &["write IP4_ADDR=192.0.2.1 instead"]);
    patient.conf("CJ_PROXY_CONFIG=/etc/x.toml\n");
    patient.ask("C02").finds("C02", "warning", &["write CJ_STATION_CONFIG=/etc/x.toml instead"]);
}

/// P39.
#[test]
fn c02_lines_that_readers_take_differently() {
    let patient = Patient::planted();
    for (line, bash, systemd, docker) in [
        ("N=5 # c", "N as `5`", "N as `5 # c`", "N as `5 # c`"),
        ("N=   # c", "N as ``", "N as `# c`", "N as `   # c`"),
        ("N='a b'", "N as `a b`", "N as `a b`", "N as `'a b'`"),
        ("N=a\\ b", "N as `a b`", "N as `a b`", "N as `a\\ b`"),
        ("N=\"x\\y\"", "N as `x\\y`", "N as `x\\y`", "N as `\"x\\y\"`"),
        ("N=x\\y", "N as `xy`", "N as `xy`", "N as `x\\y`"),
        ("N=$CJ_CORECOUNT", "N as `2`", "N as `$CJ_CORECOUNT`", "N as `$CJ_CORECOUNT`"),
        ("export N=5", "N as `5`", "no variable", "no variable"),
        ("N=5;", "N as `5`", "N as `5;`", "N as `5;`"),
    ] {
        patient.conf(&format!("{line}\n"));
        let told = format!(
            "conjure.conf:7: `{line}`: bash and the station read {bash}, systemd's EnvironmentFile= \
             {systemd}, docker's --env-file {docker}"
        );
        patient.ask("C02").finds("C02", "warning", &[&told]);
    }
    patient.conf("N=5#c\nM=100%\nL=\n# a comment\n\n");
    patient.ask("C02").is_good("C02");
    patient.conf("f() {\n  true\n}\n");
    patient.ask("C02").finds(
        "C02",
        "warning",
        &["conjure.conf:7", "up to line 9", "program of the shell"],
    );
}

#[test]
fn c03_the_other_spelling() {
    let patient = Patient::planted();
    patient.ask("C03").is_good("C03");
    patient.plant("/var/lib/conjure/application_config.toml", "");
    let remedy = "set CJ_STATION_CONFIG=/var/lib/conjure/application_config.toml";
    patient.ask("C03").finds("C03", "warning", &[remedy]);
}

#[test]
fn c04_an_empty_skip_core() {
    let patient = Patient::planted();
    patient.ask("C04").is_good("C04");
    patient.conf("CJ_SKIP_CORE=\n");
    patient.ask("C04").is_good("C04");
    // Only the reference's detector minds.
    patient.plant("/opt/conjure/bin/conjure", "");
    patient.ask("C04").finds("C04", "warning", &["conjure.conf:7", "write CJ_SKIP_CORE=-1"]);
}

#[test]
fn c05_cpus() {
    let patient = Patient::planted();
    patient.ask("C05").is_good("C05");
    patient.conf("CJ_COREBASE=3\n");
    patient.ask("C05").finds("C05", "error", &["not online: 4"]);
    patient.plant("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1\n");
    patient.conf("");
    patient.ask("C05").finds("C05", "error", &["workers on CPUs 1,2, allowed are 0,1", "CPU set"]);
    patient.plant("/proc/self/status", "Cpus_allowed_list:\t0-3\n");
    patient.conf("CJ_INGEST_CORES=2-3\n");
    patient.ask("C05").finds("C05", "warning", &["share a CPU", "CJ_INGEST_CORES"]);
    patient.conf("");
    patient.plant("/sys/class/net/tap0/device/numa_node", "1\n");
    patient.plant("/sys/devices/system/node/node1/cpulist", "2-3\n");
    patient.ask("C05").finds(
        "C05",
        "warning",
        &["another NUMA node than tap0", "node 1 with CPUs 2,3"],
    );
    patient.plant("/sys/devices/system/node/node1/cpulist", "0-3\n");
    patient.plant("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1-2\n");
    patient.ask("C05").finds("C05", "warning", &["hyper-threads of one core", "CPUs 1 and 2"]);
}

#[test]
fn c06_too_many_workers() {
    let patient = Patient::planted();
    patient.ask("C06").is_good("C06");
    patient.conf("CJ_CORECOUNT=4\n");
    patient.ask("C06").finds("C06", "warning", &["4 CPUs online", "at most 3"]);
    patient.plant("/sys/devices/system/cpu/online", "0-63\n");
    patient.conf("CJ_CORECOUNT=17\n");
    patient.ask("C06").finds("C06", "warning", &["CJ_CORECOUNT=17", "at most 16"]);
}

#[test]
fn c07_numbers_that_collide() {
    let patient = Patient::planted();
    patient.ask("C07").is_good("C07");
    patient.conf("OFFSET=2\n");
    patient.ask("C07").finds("C07", "error", &["OFFSET=2, CJ_QUEUE_OFFSET=0", "set OFFSET=0"]);
    patient.conf("CJ_DNAT_TUN=tun1\n");
    patient.ask("C07").finds("C07", "error", &["CJ_DNAT_TUN=tun1", "set CJ_DNAT_TUN=tun2"]);
    patient.conf("");
    let route =
        host::Route { tuns: vec!["tun2".to_owned(), "tun3".to_owned()], ..host::Route::default() };
    let record = host::Record { offset: 2, route, ..host::Record::default() };
    host::Records::at(patient.path("/run/conjure-setup")).save(&record).unwrap();
    patient.ask("C07").finds("C07", "error", &["tun2 also belong to the station with OFFSET=2"]);
}

/// A host on which PF_RING runs as it should.
fn pf_ring() -> Patient {
    let patient = Patient::planted();
    patient.conf("CJ_INGEST_BACKEND=pfring\nPF_DRIVER=ixgbe\n");
    patient.plant(
        "/proc/net/pf_ring/info",
        "PF_RING Version          : 8.9.0 (dev:abc)\nTotal rings : 0\n",
    );
    let info = "Name:         tap0\nAddress:      02:00:00:00:00:01\nPolling Mode: NAPI/ZC\n";
    patient.plant("/proc/net/pf_ring/dev/tap0/info", info);
    patient.plant("/usr/lib/libpfring.so.8.9.0", "");
    patient.plant("/etc/pf_ring/02:00:00:00:00:01", "licence");
    patient.link("/sys/class/net/tap0/device/driver", "../../../../bus/pci/drivers/ixgbe");
    for node in ["node0", "node1"] {
        let pool = format!("/sys/devices/system/node/{node}/hugepages/hugepages-2048kB");
        patient.plant(&format!("{pool}/nr_hugepages"), "1024\n");
        patient.plant(&format!("{pool}/free_hugepages"), "1024\n");
    }
    patient.plant("/sys/class/net/tap0/device/numa_node", "1\n");
    patient.plant("/proc/self/mounts", "nodev /dev/hugepages hugetlbfs rw 0 0\n");
    patient
}

#[test]
fn p01_no_module() {
    pf_ring().ask("P01").is_good("P01");
    let patient = pf_ring();
    std::fs::remove_file(patient.path("/proc/net/pf_ring/info")).unwrap();
    patient.ask("P01").finds("P01", "error", &["not loaded", "modprobe pf_ring"]);
    // Nobody else needs it.
    patient.conf("");
    patient.ask("P01").is_skipped("P01");
}

#[test]
fn p02_other_versions() {
    let patient = pf_ring();
    patient.ask("P02").is_good("P02");
    patient.conf("CJ_INGEST_BACKEND=pfring\nPFRING_VER=tags/7.8.0\n");
    patient.ask("P02").finds("P02", "error", &["PFRING_VER=tags/7.8.0", "set PFRING_VER=8.9.0"]);
    patient.conf("CJ_INGEST_BACKEND=pfring\n");
    std::fs::remove_file(patient.path("/usr/lib/libpfring.so.8.9.0")).unwrap();
    patient.ask("P02").finds("P02", "error", &["libpfring is not installed"]);
    patient.plant("/usr/local/lib/libpfring.so.8.8.0", "");
    patient.ask("P02").finds(
        "P02",
        "error",
        &["libpfring.so.8.8.0 is 8.8.0", "says 8.9.0", "install pfring=8.9.0"],
    );
}

#[test]
fn p03_the_ordinary_driver() {
    let patient = pf_ring();
    patient.ask("P03").is_good("P03");
    // The other spelling, of ntop's documents.
    patient.plant("/proc/net/pf_ring/dev/tap0/info", "Polling Mode: ZC/NAPI\n");
    patient.ask("P03").is_good("P03");
    patient.plant("/proc/net/pf_ring/dev/tap0/info", "Name: tap0 ZC\nPolling Mode: NAPI\n");
    let parts = [
        "Driver: ixgbe [Supported by ZC] Polling Mode: NAPI",
        "pf_ringcfg --configure-driver ixgbe",
    ];
    patient.ask("P03").finds("P03", "error", &parts);
}

#[test]
fn p04_no_licence() {
    let patient = pf_ring();
    patient.ask("P04").is_good("P04");
    std::fs::remove_file(patient.path("/etc/pf_ring/02:00:00:00:00:01")).unwrap();
    patient.ask("P04").finds("P04", "warning", &["five minutes", "/etc/pf_ring/02:00:00:00:00:01"]);
}

#[test]
fn p06_why_there_is_no_cluster() {
    let patient = pf_ring();
    patient.plant("/proc/net/pf_ring/dev/tap0/info", "Polling Mode: NAPI\n");
    std::fs::remove_file(patient.path("/proc/net/pf_ring/info")).unwrap();
    let parts =
        ["Socket operation on non-socket", "P01: ", "N01: there is no interface tap0", "P03: "];
    patient.ask("P06").finds("P06", "error", &parts);
}

#[test]
fn m01_huge_pages() {
    let patient = pf_ring();
    patient.ask("M01").is_good("M01");
    let pool = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    patient.plant(&format!("{pool}/free_hugepages"), "3\n");
    patient.ask("M01").finds("M01", "error", &["are taken", "node 1: 1024 pages, 3 free"]);
    patient.plant(&format!("{pool}/nr_hugepages"), "100\n");
    patient.ask("M01").finds(
        "M01",
        "error",
        &["too few huge pages on NUMA node 1", "station setup"],
    );
    patient.plant("/proc/self/mounts", "proc /proc proc rw 0 0\n");
    patient.ask("M01").finds("M01", "error", &["no hugetlbfs", "volume /dev/hugepages"]);
}

#[test]
fn m02_locked_memory() {
    let patient = Patient::planted();
    patient.conf("CJ_INGEST_BACKEND=xdp\n");
    let limit = |soft: &str| {
        let text =
            format!("Max locked memory         {soft}              unlimited            bytes\n");
        patient.plant("/proc/self/limits", text);
    };
    limit("unlimited");
    patient.ask("M02").is_good("M02");
    limit("8388608");
    patient.ask("M02").finds(
        "M02",
        "error",
        &["8388608 bytes, ", " are needed", "LimitMEMLOCK=infinity"],
    );
}

#[test]
fn k05_duplicate_lines() {
    let patient = Patient::planted();
    patient.ask("K05").is_good("K05");
    let file = "/etc/iproute2/rt_tables";
    patient.plant(file, "255\tlocal\n200 custom\n200\tcustom\n# end\n200 custom\n");
    patient.ask("K05").finds("K05", "warning", &["`200 custom` 3 times", "--fix"]);
    let mended = patient.ask_with("K05", &["--fix"]);
    mended.is_good("K05");
    assert!(mended.fixed().contains("fixed: K05: "), "{mended:?}");
    let text = std::fs::read_to_string(patient.path(file)).unwrap();
    assert_eq!(text, "255\tlocal\n200 custom\n# end\n");
}

#[test]
fn s03_keys() {
    let patient = Patient::planted();
    patient.ask("S03").finds("S03", "error", &["no usable station key", "genkey"]);
    let key = |content: &[u8], mode: u32| {
        let path = patient.plant("/var/lib/conjure/privkey", content);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let pair = KeyPair::generate(&mut rand::rng());
    let file = pair.private_file();
    key(&file[..], 0o600);
    patient.ask("S03").is_good("S03");
    key(&file[..32], 0o600);
    patient.ask("S03").is_good("S03");
    key(&file[..31], 0o600);
    patient.ask("S03").finds("S03", "error", &["31 bytes found"]);
    let mut other = file.to_vec();
    other[40] ^= 1;
    key(&other, 0o600);
    patient.ask("S03").finds("S03", "error", &["bytes 33 to 64 are not the public key"]);
    key(&file[..], 0o644);
    patient.ask("S03").finds("S03", "warning", &["has mode 0644", "chmod 0600"]);
    let mended = patient.ask_with("S03", &["--fix"]);
    mended.is_good("S03");
    assert!(mended.fixed().contains("for its owner alone"), "{mended:?}");
}

/// The application's shipped file, with `change` at its end.
fn application(patient: &Patient, change: &str) {
    let shipped = include_str!("../../conf/app_config.toml");
    patient.plant("/var/lib/conjure/app_config.toml", format!("{shipped}\n{change}"));
}

/// A source with CURVE.
const CURVE: &str = "[[connect_sockets]]\naddress = \"tcp://127.0.0.1:9\"\ntype = \"CURVE\"\n\
                     pubkey = \"0000000000000000000000000000000000000000\"\nsubscription = \"\"\n";

#[test]
fn s04_no_key_for_curve() {
    let patient = Patient::planted();
    application(&patient, "");
    patient.ask("S04").is_good("S04");
    application(&patient, CURVE);
    patient.ask("S04").finds("S04", "error", &["CURVE: tcp://127.0.0.1:9", "ZMQ_PRIVKEY"]);
    patient.conf("ZMQ_PRIVKEY=/var/lib/conjure/zmqkey\n");
    patient.ask("S04").finds("S04", "error", &["zmqkey: No such file"]);
    patient.plant("/var/lib/conjure/zmqkey", [1; 16]);
    patient.ask("S04").finds("S04", "error", &["has 16 bytes, 32 are needed"]);
    patient.plant("/var/lib/conjure/zmqkey", [1; 32]);
    patient.ask("S04").is_good("S04");
}

#[test]
fn s05_files_that_do_not_load() {
    let patient = Patient::planted();
    let registrar = include_str!("../../conf/reg_config.toml");
    application(&patient, "");
    patient.plant("/var/lib/conjure/reg_config.toml", registrar);
    patient.ask("S05").is_good("S05");
    patient.plant(
        "/var/lib/conjure/reg_config.toml",
        registrar.replace("zmq_port = 5591", "zmq_port = \"x\""),
    );
    patient.ask("S05").finds(
        "S05",
        "error",
        &["reg_config.toml:", "zmq_port", "registrar --check-config"],
    );
    // A registrar's trouble is nothing to a host without one.
    patient.ask_with("S05", &["--for", "application,detector"]).is_good("S05");
    patient.plant("/var/lib/conjure/reg_config.toml", registrar);
    // P36: keys of a wrong length.
    for length in [39, 41] {
        application(&patient, &CURVE.replace(&"0".repeat(40), &"0".repeat(length)));
        patient.ask("S05").finds("S05", "error", &["app_config.toml:", "pubkey"]);
    }
    let shipped = include_str!("../../conf/app_config.toml")
        .replace("detector_filter_list", "detector_filter");
    patient.plant("/var/lib/conjure/app_config.toml", shipped);
    patient.ask("S05").finds("S05", "error", &["detector_filter_list is missing"]);
}

#[test]
fn s06_an_unknown_generation() {
    let patient = Patient::planted();
    patient.ask("S06").finds("S06", "error", &["no phantom subnets", "PHANTOM_SUBNET_LOCATION"]);
    let subnets = "[Networks]\n[Networks.7]\nGeneration = 7\n[[Networks.7.WeightedSubnets]]\nWeight = 1\n\
                   Subnets = [\"192.0.2.0/24\"]\n";
    patient.plant("/var/lib/conjure/phantom_subnets.toml", subnets);
    let registrar = include_str!("../../conf/reg_config.toml");
    patient.plant("/var/lib/conjure/reg_config.toml", registrar);
    let client_conf = |generation| {
        let conf = signalling::ClientConf { generation: Some(generation), ..Default::default() };
        patient.plant("/var/lib/conjure/ClientConf", conf.encode_to_vec());
    };
    client_conf(7);
    patient.ask("S06").is_good("S06");
    client_conf(8);
    patient.ask("S06").finds("S06", "error", &["generation 8", "has 7", "[Networks.8]"]);
    client_conf(7);
    let older = format!("bidirectional_api_generation = 9 # as the reference has it\n{registrar}");
    patient.plant("/var/lib/conjure/reg_config.toml", older);
    patient.ask("S06").finds("S06", "error", &["bidirectional_api_generation", "[Networks.9]"]);
}

#[test]
fn s08_databases() {
    let patient = Patient::planted();
    application(&patient, "");
    patient.ask("S08").is_good("S08");
    let shipped = include_str!("../../conf/app_config.toml").replace(
        "geoip_cc_db_path = \"\"",
        "geoip_cc_db_path = \"/usr/share/GeoIP/GeoLite2-Country.mmdb\"",
    );
    patient.plant("/var/lib/conjure/app_config.toml", shipped);
    patient.ask("S08").finds(
        "S08",
        "warning",
        &["GeoLite2-Country.mmdb: No such file", "geoipupdate"],
    );
    let path = patient.plant("/usr/share/GeoIP/GeoLite2-Country.mmdb", "x");
    patient.ask("S08").is_good("S08");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100 * 86_400);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    patient.ask("S08").finds("S08", "warning", &["is 100 days old"]);
}

#[test]
fn s10_the_clock() {
    let patient = Patient::planted();
    patient.ask("S10").finds("S10", "warning", &["nothing keeps the clock right", "chrony"]);
    patient.plant("/proc/77/comm", "chronyd\n");
    patient.ask("S10").is_good("S10");
    let path = patient.plant("/etc/passwd", "");
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(ahead).unwrap();
    patient.ask("S10").finds("S10", "warning", &["files of this host are from the future"]);
}

const COMPOSE: &str = "services:\n  detector:\n    network_mode: host\n    build:\n      args:\n        \
                       pfring_ver: $PFRING_VER\n    devices:\n      - /dev/net/tun:/dev/net/tun\n    \
                       volumes:\n      - /var/lib/conjure:/var/lib/conjure:ro\n";

/// A host with docker and the station's containers.
fn docker(compose: &str) -> Patient {
    let patient = Patient::planted();
    patient.plant("/usr/bin/docker", "");
    patient.plant("/usr/bin/docker-compose", "");
    patient.plant("/dev/net/tun", "");
    patient.plant("/opt/conjure/docker/docker-compose.yaml", compose);
    patient
}

#[test]
fn d01_containers() {
    docker(COMPOSE).ask("D01").is_good("D01");
    let patient = docker(COMPOSE);
    std::fs::remove_file(patient.path("/usr/bin/docker-compose")).unwrap();
    patient.ask("D01").finds("D01", "error", &["compose is not installed"]);
    let patient = docker(COMPOSE);
    std::fs::remove_file(patient.path("/dev/net/tun")).unwrap();
    patient.ask("D01").finds(
        "D01",
        "error",
        &["docker-compose.yaml:8: /dev/net/tun", "modprobe tun"],
    );
    // P43: a volume is no device.
    let patient = docker(&COMPOSE.replace("devices:", "volumes:"));
    patient.ask("D01").finds(
        "D01",
        "error",
        &["/dev/net/tun is a volume", "devices: [\"/dev/net/tun\"]"],
    );
    // P44: kernel settings with the host's network.
    let patient = docker(&format!("{COMPOSE}    sysctls:\n      net.ipv4.ip_forward: 1\n"));
    patient.ask("D01").finds("D01", "error", &["docker-compose.yaml:11", "remove the sysctls"]);
    let patient = docker(&COMPOSE.replace("network_mode: host", "network_mode: bridge"));
    patient.ask("D01").finds("D01", "error", &["set network_mode: host"]);
    let patient = docker(&COMPOSE.replace("/var/lib/conjure:/", "/srv/conjure:/"));
    patient.ask("D01").finds("D01", "warning", &["/srv/conjure", "docker makes an empty one"]);
}

#[test]
fn d02_compose_does_not_see_the_version() {
    let patient = docker(COMPOSE);
    patient.ask("D02").is_good("D02");
    patient.conf("PFRING_VER=8.4.0-stable\n");
    patient.ask("D02").finds("D02", "warning", &["PFRING_VER=8.4.0-stable", "docker/.env"]);
    patient.plant("/opt/conjure/docker/.env", "PFRING_VER=8.4.0-stable\n");
    patient.ask("D02").is_good("D02");
}

#[test]
fn d03_units() {
    let patient = Patient::planted();
    let unit = |name: &str, text: &str| patient.plant(&format!("/etc/systemd/system/{name}"), text);
    let wants = "/etc/systemd/system/multi-user.target.wants";
    patient.ask("D03").is_skipped("D03");
    let good = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=on-failure\n";
    unit("conjure-det.service", good);
    patient.ask("D03").finds(
        "D03",
        "warning",
        &["not enabled: conjure-det.service", "systemctl enable --now"],
    );
    patient
        .link(&format!("{wants}/conjure-det.service"), "/etc/systemd/system/conjure-det.service");
    patient.ask("D03").is_good("D03");
    // P42: quick failures at boot.
    unit("conjure-det.service", "[Service]\nRestart=on-failure\n");
    patient.ask("D03").finds("D03", "warning", &["leave the unit dead", "StartLimitIntervalSec=0"]);
    unit("conjure-det.service", good);
    unit("conjure-docker.service", "");
    patient.link(
        &format!("{wants}/conjure-docker.service"),
        "/etc/systemd/system/conjure-docker.service",
    );
    patient.ask("D03").finds(
        "D03",
        "warning",
        &["conjure-docker.service and conjure-det.service are enabled"],
    );
    std::fs::remove_file(patient.path(&format!("{wants}/conjure-docker.service"))).unwrap();
    // A manager that runs is asked; this one answers that the files are newer.
    std::fs::create_dir_all(patient.path("/run/systemd/system")).unwrap();
    let tool = patient.plant("/fake/systemctl", "#!/bin/sh\necho yes\n");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_station"));
    let path = format!("{}:{}", tool.parent().unwrap().display(), std::env::var("PATH").unwrap());
    command.env("PATH", path);
    let said = patient.run(command, &["--only", "D03"], &[]);
    said.finds(
        "D03",
        "warning",
        &["NeedDaemonReload=yes: conjure-det.service", "systemctl daemon-reload"],
    );
}

#[test]
fn each_daemon_becomes_the_doctor() {
    let patient = Patient::planted();
    for (daemon, part) in [
        ("zbalance", "ingest"),
        ("detector", "detector"),
        ("application", "application"),
        ("registrar", "registrar"),
    ] {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_station")).with_file_name(daemon);
        let output = std::process::Command::new(program)
            .args(["--doctor", "--json", "--root"])
            .arg(patient.path("/"))
            .output()
            .unwrap();
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = all["checks"].as_array().unwrap();
        assert!(
            checks.iter().all(|check| check["for"].as_array().unwrap().iter().any(|p| p == part))
        );
        assert!(
            checks.len() < 45 && checks.iter().any(|check| check["id"] == "C01"),
            "{daemon}: {all:#}"
        );
    }
}

#[test]
fn the_book_lists_every_check() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["doctor", "--list"])
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().count(), 2 + 48, "{table}");
    let page = include_str!("../../docs/doctor.md");
    assert!(
        page.contains(&table),
        "docs/doctor.md: put the output of `station doctor --list` there"
    );
}

#[test]
fn unknown_checks_are_refused() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["doctor", "--only", "X99"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no check X99"));
}
