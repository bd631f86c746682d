//! Every program has its page and its completions, and they say what the program takes.

use std::process::Command;

const PROGRAMS: [&str; 9] = [
    "zbalance",
    "zcount",
    "zdump",
    "detector",
    "application",
    "registrar",
    "station",
    "genkey",
    "captool",
];

#[test]
fn every_program_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    manual::man(dir.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for program in PROGRAMS {
        let page = read(&format!("{program}.1"));
        assert!(page.contains(".TH ") && page.contains(".SH OPTIONS"), "{program}: {page}");
    }
    assert!(read("detector.1").contains("cluster whose queues zbalance fills"));
    assert!(read("captool.1").contains("asn\\-db"));
    assert!(read("station-status.1").contains("\\-\\-once"));
    // What is hidden from the help is hidden here.
    assert!(!dir.path().join("station-demo-cell.1").exists());
}

#[test]
fn every_shell_completes_every_program() {
    let dir = tempfile::tempdir().unwrap();
    manual::completions(dir.path()).unwrap();
    for program in PROGRAMS {
        for file in [
            format!("bash/{program}.bash"),
            format!("zsh/_{program}"),
            format!("fish/{program}.fish"),
        ] {
            let text = std::fs::read_to_string(dir.path().join(&file)).unwrap();
            assert!(text.contains(program), "{file}");
        }
        let file = dir.path().join(format!("bash/{program}.bash"));
        assert!(Command::new("bash").arg("-n").arg(file).status().unwrap().success(), "{program}");
    }
}
