//! Rows of the stages of the program on an interface: what the kernel spends on a frame before a socket gets it.

use capture::{Sorting, Staged, Trial};
use etherparse::PacketBuilder;
use packet::hash::SymmetricHash;

use crate::measure::{Row, Side, thread_time};

/// Runs of the program in one round.
const RUNS: u32 = 500_000;

/// A frame that passes to the host.
pub(crate) fn passing() -> Result<Row, String> {
    row(Staged::FastPath, true)
}

/// A frame that a fast path does not know.
pub(crate) fn not_passing() -> Result<Row, String> {
    row(Staged::FastPath, false)
}

/// A frame that the prefilter keeps.
pub(crate) fn prefilter() -> Result<Row, String> {
    row(Staged::Prefilter, false)
}

/// A frame for one of four queues.
pub(crate) fn sorting() -> Result<Row, String> {
    let hash = SymmetricHash::new(1);
    row(Staged::Sorting(Sorting { hash, queues: 4, sockets: 64 }), false)
}

fn row(staged: Staged, enters: bool) -> Result<Row, String> {
    Ok(Row {
        unit: "ns",
        baseline_name: "the program that only gives the frame to its socket",
        ours: side(staged, enters)?,
        baseline: side(Staged::Not, false),
        plausible: None,
    })
}

/// Runs of one program; the flow of its frame is in the table when it `enters`.
fn side(staged: Staged, enters: bool) -> Result<Side, String> {
    let link = PacketBuilder::ethernet2([4; 6], [2; 6]);
    let segment = link.ipv4([203, 0, 113, 9], [192, 122, 190, 7], 64).tcp(40_001, 443, 1, 1000);
    let mut frame = Vec::new();
    segment.write(&mut frame, &[7; 20]).map_err(|e| e.to_string())?;
    let said = |e: std::io::Error| {
        format!("a program for XDP takes root, or CAP_BPF and CAP_NET_ADMIN: {e}")
    };
    let trial = Trial::new(staged, frame).map_err(said)?;
    trial.run(1).map_err(said)?;
    Ok(Box::new(move || {
        if enters {
            assert!(trial.enter(), "a frame without flow");
        }
        let start = thread_time();
        let run = trial.run(RUNS);
        let took = (thread_time() - start).as_nanos() as f64 / f64::from(RUNS);
        run.unwrap_or_else(|error| panic!("a program that ran before: {error}"));
        took
    }))
}
