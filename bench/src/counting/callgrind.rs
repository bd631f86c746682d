//! Counting with valgrind.

use super::{KERNEL, Kernel};
use std::process::Command;

/// Rounds of the two runs: the first warms caches of the kernel's own as well.
const ROUNDS: [u64; 2] = [1, 2];

/// Instructions that `kernel` executes for one item.
pub(crate) fn per_item(kernel: &Kernel) -> Result<f64, String> {
    let [few, many] = ROUNDS.map(|rounds| instructions(kernel.name, rounds));
    let more = many?.saturating_sub(few?);
    let items = kernel.items * (ROUNDS[1] - ROUNDS[0]);
    Ok(more as f64 / items as f64)
}

/// Instructions of a whole process that runs the kernel for so many rounds.
fn instructions(name: &str, rounds: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--"])
        .arg(program)
        .args([KERNEL, name, &rounds.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}; install the package valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("under valgrind it ended with {}:\n{text}", output.status));
    }
    total(&text).ok_or_else(|| format!("valgrind does not say how many instructions:\n{text}"))
}

/// The number in the line `==PID== Collected : N`.
fn total(report: &str) -> Option<u64> {
    let line = report.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_of_a_report() {
        let report = "==7== Events    : Ir\n==7== Collected : 903942\n==7== \n==7== I   refs:      903,942\n";
        assert_eq!(total(report), Some(903_942));
        assert_eq!(total("==7== Collected : many\n"), None);
        assert_eq!(total("valgrind: cannot execute binary file\n"), None);
    }
}
