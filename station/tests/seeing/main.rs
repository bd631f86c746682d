//! What a running station shows, and what it never shows: the live view in a terminal, the page in
//! Chromium, metrics that promtool accepts, and no client or secret in any of it.
//!
//! Each test runs `station demo --exec` with itself as the program, on the client's node beside a whole
//! station that logs everything.

mod browser;
mod leaks;
mod stage;
mod view;

use stage::Stage;

/// One station shows everything and hides every client.
#[test]
fn everything_is_seen_but_the_clients() {
    if let Some(stage) = Stage::inside() {
        stage.bring_traffic();
        metrics_are_accepted(&stage);
        view::survives_the_end_of_a_daemon(&stage);
        let page = browser::shows_the_page(&stage);
        records::text("page", records::Clients::Hidden, &page);
        leaks::nothing_leaks(&stage, &page);
        return;
    }
    stage::run("everything_is_seen_but_the_clients", false);
}

/// The same search with `LOG_CLIENT_IP`: it finds the addresses, and still no secret.
#[test]
fn addresses_are_seen_when_the_operator_wants_them() {
    if let Some(stage) = Stage::inside() {
        stage.bring_traffic();
        leaks::addresses_alone_are_found(&stage);
        return;
    }
    stage::run("addresses_are_seen_when_the_operator_wants_them", true);
}

fn metrics_are_accepted(stage: &Stage) {
    for daemon in ["zbalance", "detector", "application", "registrar"] {
        let text = stage.metrics(daemon, "text/plain");
        let mut check = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("promtool");
        std::io::Write::write_all(check.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
        drop(check.stdin.take());
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success(), "{daemon}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(stage.metrics(daemon, "*/*").ends_with("# EOF\n"), "{daemon}");
    }
    let application = stage.metrics("application", "*/*");
    assert!(application.contains("conjure_application_tunnels 3\n"), "{application}");
    // Three registrations of one client are below the floor.
    let other = "conjure_application_funnel_valid_total{channel=\"other\",transport=\"other\"}";
    assert!(application.contains(other), "{application}");
    assert!(!application.contains("channel=\"BidirectionalAPI\""), "{application}");
}
