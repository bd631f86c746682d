//! P39: every reader of `conjure.conf` sees the same values: our own, a POSIX shell that sources the
//! file, and the start scripts, which source it with bash.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use conf::{Precedence, Sources};
use proptest::prelude::*;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");

type Values = BTreeMap<String, String>;

/// Variables of the tests, out of what a process or shell has by itself.
fn ours(all: impl IntoIterator<Item = (String, String)>) -> Values {
    all.into_iter().filter(|(name, _)| name.len() == 1 && name != "_").collect()
}

/// What our reader makes of the file; `None` when it refuses the text or would ask bash.
fn by_our_reader(file: &Path) -> Option<Values> {
    let sources = Sources {
        default_file: None,
        local_file: Some(file.to_owned()),
        environment: BTreeMap::from([("CJ_CONF_SHELL".to_owned(), "0".to_owned())]),
        precedence: Precedence::Files,
    };
    let variables = sources.evaluate().ok()?.value;
    Some(ours(variables.iter().map(|(name, v)| (name.to_owned(), v.value.clone()))))
}

/// What a process gets that `program` of `shell` starts. No command can be found, so that only
/// assignments do anything.
fn by_shell(shell: &str, program: &str, root: &Path) -> Values {
    let output = Command::new(shell)
        .args(["-c", program])
        .current_dir(root)
        .env_clear()
        .env("PATH", "/nonexistent")
        .env("CJ_ROOT", root)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{shell}: {errors}");
    let entries = text.split('\0').filter_map(|entry| entry.split_once('='));
    ours(entries.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// Reads `text` with every reader and compares; `None` when ours leaves it to bash.
fn read_by_all(text: &str, posix: bool) -> Option<Values> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let file = root.join("var/lib/conjure/conjure.conf");
    for folder in [file.parent().unwrap(), &root.join("opt/conjure/sysconfig")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(&file, text).unwrap();
    fs::write(root.join("opt/conjure/sysconfig/conjure.conf"), "").unwrap();
    let values = by_our_reader(&file)?;
    let scripts =
        by_shell("/bin/bash", &format!(". {SCRIPTS}/read_conf.sh; /usr/bin/env -0"), root);
    assert_eq!(values, scripts, "our reader (left) and the start scripts, of {text:?}");
    if posix {
        let program = "set -a; . ./var/lib/conjure/conjure.conf; /usr/bin/env -0";
        let sh = by_shell("/bin/sh", program, root);
        assert_eq!(values, sh, "our reader (left) and sh, of {text:?}");
    }
    Some(values)
}

#[test]
fn comments_quotes_backslashes_and_dollars() {
    for (text, expected) in [
        ("A=5 # c", "5"),
        ("A=   # c", ""),
        ("A=5#c", "5#c"),
        ("A=5\t# c", "5"),
        ("A=#", "#"),
        ("A=\"5 # c\"", "5 # c"),
        ("A='5' # c", "5"),
        ("A='5'#c", "5#c"),
        ("A=\"it's\"", "it's"),
        ("A='a\"b'", "a\"b"),
        ("A='a'\\''b'", "a'b"),
        ("A=a\\ b", "a b"),
        ("A=a\\\\b", "a\\b"),
        ("A='a\\b'", "a\\b"),
        ("A=\"a\\b\"", "a\\b"),
        ("A=\"a\\\"b\\\\c\\$d\"", "a\"b\\c$d"),
        ("A=a\\\nb", "ab"),
        ("A=\\$B", "$B"),
        ("A='$B'", "$B"),
        ("B=7\nA=$B", "7"),
        ("B=7\nA=\"${B}x\"", "7x"),
        ("B=7\nA=${B:-9}${C:-8}", "78"),
        ("B=7\nA=$((B*2+1))", "15"),
        ("A=100%$", "100%$"),
        ("A=\"$\"", "$"),
        ("A=", ""),
        ("A=\"\"", ""),
        ("  export A=5", "5"),
        ("#A=4\nA=5", "5"),
    ] {
        match read_by_all(text, true) {
            Some(values) => assert_eq!(values["A"], expected, "{text:?}"),
            None => panic!("our reader refuses {text:?}"),
        }
    }
}

#[test]
fn additions_of_bash() {
    let values = read_by_all("A=eth0\nA+=,eth1 # both\nA+='#'", false).unwrap();
    assert_eq!(values["A"], "eth0,eth1#");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any text that our reader takes, shells take as well, and as the same.
    #[test]
    fn any_value_that_is_read_is_read_alike(
        first in "(a|b|7|\\$B|\\$|\\{|\\}|\"|'|\\\\|#| #|\t| |:|~|/|-|,|=|!|\\*|\\?|\\[|%|@|\\^|é|\n){0,12}",
        second in "(a|\\$\\{A\\}|\\$\\{A:-|\\$\\{C-|\\}|\\$\\(\\(|\\)\\)|7|8|\\+|\"|'|\\\\|#| |;|\n){0,8}",
    ) {
        let _ = read_by_all(&format!("B=x\nA={first}\nD={second}\n"), true);
        let _ = read_by_all(&format!("B=x\nA={first}\n"), true);
    }
}
