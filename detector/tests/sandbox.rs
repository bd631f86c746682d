//! What the detector can still do once it was taken over: its profile, tried from within.

use detector::arguments::Arguments;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::probe::runs_programs_only(|dir| profile(dir, true))?;
    sandbox::probe::holds("detector", |dir| profile(dir, false))
}

fn profile(configuration: &Path, live_frames: bool) -> sandbox::Sandbox {
    let keys = Some(configuration.join("keys"));
    let arguments = Arguments { keys, live_frames, ..Arguments::default() };
    detector::opening::profile(&arguments, &configuration.join("a.toml"))
}
