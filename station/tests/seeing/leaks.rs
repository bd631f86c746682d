//! Searches everything that a station writes for clients and secrets that were planted in it.

use std::process::Command;

use crate::stage::{PROXIED, SECRET, Stage};

/// A text that must not be found.
struct Marker {
    what: &'static str,
    text: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn addresses() -> Vec<Marker> {
    use lab::address::{CLIENT_V4, CLIENT_V6};
    vec![
        Marker { what: "client", text: CLIENT_V4.to_string() },
        Marker { what: "client", text: CLIENT_V6.to_string() },
        Marker { what: "client behind a proxy", text: PROXIED.to_owned() },
    ]
}

/// The secrets in the forms in which programs print bytes. The first eight bytes of a shared secret are
/// the name of its registration, so what follows them is searched for.
fn secrets(stage: &Stage) -> Vec<Marker> {
    let mut markers = Vec::new();
    let key = std::fs::read(stage.dir.join("privkey")).unwrap();
    for (what, bytes) in [("station key", &key[..32]), ("shared secret", &SECRET[8..])] {
        let decimal: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        let texts =
            [hex(bytes), decimal.join(", "), decimal.join(" "), bytes.escape_ascii().to_string()];
        markers.extend(texts.map(|text| Marker { what, text }));
    }
    markers.push(Marker { what: "station key", text: keys::z85(key[..32].try_into().unwrap()) });
    markers.push(Marker { what: "shared secret", text: "q7vkzjwxpyhb3gxfudmc9trlq".to_owned() });
    markers
}

/// Everything that the station wrote, by name.
fn written(stage: &Stage) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for daemon in ["zbalance", "detector", "application", "registrar"] {
        for accept in ["*/*", "text/plain"] {
            all.push((format!("metrics of {daemon}"), stage.metrics(daemon, accept)));
        }
    }
    for option in ["--json", "--once"] {
        let output = stage.station("status").arg(option).output().unwrap();
        all.push((format!("status {option}"), String::from_utf8(output.stdout).unwrap()));
    }
    for file in ["everything.log", "daemons.log", "ipc/stats/98"] {
        if let Ok(text) = std::fs::read(stage.dir.join(file)) {
            all.push((file.to_owned(), String::from_utf8_lossy(&text).into_owned()));
        }
    }
    let log = &all.iter().find(|(name, _)| name == "everything.log").expect("a log").1;
    // The log is at trace, and of every daemon.
    for text in ["new connection", "Adding registration", "Core ", "zbalance: ", "registrar="] {
        assert!(log.contains(text), "{text} is not in the log:\n{log}");
    }
    all
}

/// Lines with a marker: a number before or after makes it another address.
fn hits(all: &[(String, String)], markers: &[Marker]) -> Vec<String> {
    let mut hits = Vec::new();
    for (name, text) in all {
        for line in text.lines() {
            let small = line.to_ascii_lowercase();
            for Marker { what, text } in markers {
                let text = text.to_ascii_lowercase();
                let other = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit());
                let found = small.match_indices(&text).any(|(at, _)| {
                    let (before, after) = (&small[..at], &small[at + text.len()..]);
                    !other(before.chars().next_back()) && !other(after.chars().next())
                });
                if found {
                    hits.push(format!("{what} in {name}: {line}"));
                }
            }
        }
    }
    hits
}

/// With the shipped settings nothing is found anywhere.
pub(crate) fn nothing_leaks(stage: &Stage, page: &str) {
    let mut all = written(stage);
    all.push(("page".to_owned(), page.to_owned()));
    let markers: Vec<Marker> = addresses().into_iter().chain(secrets(stage)).collect();
    let found = hits(&all, &markers);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The search would find what it is for.
    for Marker { text, .. } in &markers {
        let planted = [("planted".to_owned(), format!("x {text} y"))];
        assert!(!hits(&planted, &markers).is_empty(), "{text} would not be found");
    }
    let bytes: usize = all.iter().map(|(_, text)| text.len()).sum();
    println!("0 hits of {} markers in {bytes} bytes of {} texts", markers.len(), all.len());
}

/// With `LOG_CLIENT_IP` the same search finds clients in the log, and in nothing else; and no secret.
pub(crate) fn addresses_alone_are_found(stage: &Stage) {
    let all = written(stage);
    let found = hits(&all, &addresses());
    assert!(found.iter().any(|hit| hit.starts_with("client in everything.log")), "{found:?}");
    assert!(
        found.iter().any(|hit| hit.starts_with("client behind a proxy in everything.log")),
        "{found:?}"
    );
    let elsewhere: Vec<&String> =
        found.iter().filter(|hit| !hit.contains("in everything.log")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let found = hits(&all, &secrets(stage));
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The station still runs: what was searched was all of it.
    assert!(
        Command::new("test")
            .arg("-S")
            .arg(stage.ipc().join("detector.admin.sock"))
            .status()
            .unwrap()
            .success()
    );
}
