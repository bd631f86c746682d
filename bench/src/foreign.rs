//! Baselines in other languages: programs that print a cost for each line they are sent.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::measure::Side;
use crate::{ROWS, daemons};

/// Word that makes this program our side of a row.
pub(crate) const SIDE: &str = "--side";

/// Folder of the sources, and of what is made of them.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baselines");

/// Where Go's own installation puts it.
const GO: &str = "/usr/local/go/bin/go";

/// Compiles `source` with the C compiler and starts it; the error names what is missing.
pub(crate) fn c(source: &str, library: &'static str) -> Result<Side, String> {
    let program = output(source)?;
    let made = Command::new("cc")
        .arg("-O3")
        .arg(Path::new(SOURCES).join(source))
        .arg(format!("-l{library}"))
        .arg("-o")
        .arg(&program)
        .stderr(Stdio::null())
        .status();
    match made {
        Ok(status) if status.success() => start(&program),
        _ => Err(format!("lib{library}")),
    }
}

/// Compiles the Go module in the folder `module` and starts it; the error names what is missing.
pub(crate) fn go(module: &str) -> Result<Side, String> {
    start(&build_go(module)?)
}

/// Compiles the Go module in the folder `module`, whose dependencies it pins.
pub(crate) fn build_go(module: &str) -> Result<PathBuf, String> {
    let program = output(module)?;
    let build = |go: &str| {
        Command::new(go)
            .args(["build", "-mod=readonly", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(Path::new(SOURCES).join(module))
            // What is installed, or nothing: a bench fetches no compiler.
            .env("GOTOOLCHAIN", "local")
            .stderr(Stdio::piped())
            .output()
    };
    let built = build("go").or_else(|_| build(GO)).map_err(|_| "go".to_owned())?;
    if built.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&built.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("go, or the modules of bench/baselines/{module}: {last}"))
}

/// Where the program of `source` goes: beside this one.
fn output(source: &str) -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let name = Path::new(source).file_stem().unwrap_or_default().to_string_lossy();
    Ok(me.with_file_name(format!("bench-{name}")))
}

/// The row `name` by the programs in `dir`: our side of it in another build, or the daemons of another
/// implementation.
pub(crate) fn other(dir: &Path, name: &str) -> Result<Side, String> {
    let program = dir.join("bench");
    if program.is_file() { other_build(&program, name) } else { daemons::other(dir, name) }
}

/// Our side of the row `name` by `program`, a bench of another build.
fn other_build(program: &Path, name: &str) -> Result<Side, String> {
    let mut command = Command::new(program);
    let listed = Command::new(program).arg("--list").output();
    let listed = listed.map_err(|e| format!("{}: {e}", program.display()))?;
    if !String::from_utf8_lossy(&listed.stdout).lines().any(|row| row == name) {
        return Err(format!("{} has no such row", program.display()));
    }
    command.args([SIDE, name]);
    start_with(command)
}

/// Serves [`other`]: a cost for each line that comes.
pub(crate) fn serve_side(name: &str) -> Result<(), String> {
    let make = ROWS.iter().find(|(row, _)| *row == name).ok_or("there is no such row")?.1;
    let mut row = make()?;
    for line in std::io::stdin().lines() {
        line.map_err(|e| e.to_string())?;
        println!("{}", (row.ours)());
    }
    Ok(())
}

/// A side that is one line to the program, and one number back.
fn start(program: &Path) -> Result<Side, String> {
    start_with(Command::new(program))
}

fn start_with(mut command: Command) -> Result<Side, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e: std::io::Error| format!("{program}: {e}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let (mut orders, numbers) = child.stdin.take().zip(child.stdout.take()).expect("are piped");
    let mut numbers = BufReader::new(numbers);
    Ok(Box::new(move || {
        let mut line = String::new();
        let answered = writeln!(orders).and_then(|()| numbers.read_line(&mut line));
        let number = answered.ok().and_then(|_| line.trim().parse().ok());
        // The program ends with the pipe, when this side is dropped.
        number.expect("a baseline program answers every line")
    }))
}
