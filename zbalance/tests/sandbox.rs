//! What the zbalance can still do once it was taken over: its profile, tried from within.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::probe::holds("zbalance", profile)
}

fn profile(configuration: &std::path::Path) -> sandbox::Sandbox {
    use clap::Parser;
    let line = ["zbalance", "-i", "afp:tap0", "-c", "98", "-n", "2"];
    let arguments = zbalance::arguments::Arguments::try_parse_from(line).unwrap();
    let file = Some(configuration.join("a.toml"));
    zbalance::daemon::profile(&zbalance::arguments::Arguments { file, ..arguments })
}
