//! Every back end as `zbalance` uses it: chosen, started, stopped and drained, in network namespaces with frames
//! that the test sends.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`).

mod choice;
mod fast_path;
mod frames;
mod life;
mod recordings;
mod sorting;
mod station;

use std::process::Command;

/// Runs a part of the tests in namespaces of its own.
fn isolated(part: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("ZBALANCE_TEST_PART", part)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all is as it was"), "{said}");
}

/// Run by the tests below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    let Ok(part) = std::env::var("ZBALANCE_TEST_PART") else { return };
    lab::isolate::enter().unwrap();
    life::network();
    match part.as_str() {
        "native" => life::xdp_native(),
        "generic" => life::xdp_generic(),
        "packet" => life::packet(),
        "auto" => life::auto(),
        "sorting" => sorting::in_the_kernel(),
        "fast path" => {
            fast_path::of_other_sources();
            fast_path::of_sessions();
        }
        "choice" => choice::of_the_best_way(),
        "explicit" => choice::of_what_cannot_be_had(),
        _ => unreachable!("{part}"),
    }
    println!("all is as it was");
}

#[test]
fn af_xdp_in_the_driver() {
    isolated("native");
}

#[test]
fn af_xdp_behind_the_driver() {
    isolated("generic");
}

#[test]
fn packets_are_sorted_in_the_kernel() {
    isolated("sorting");
}

#[test]
fn packets_of_sessions_pass_in_the_kernel() {
    isolated("fast path");
}

#[test]
fn af_packet() {
    isolated("packet");
}

#[test]
fn the_best_way_is_used() {
    isolated("auto");
}

#[test]
fn the_best_way_is_chosen_for_reasons() {
    isolated("choice");
}

#[test]
fn what_is_asked_for_and_cannot_be_had_is_an_error() {
    isolated("explicit");
}
