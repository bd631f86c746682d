//! What the detector can still do once it was taken over: its profile, tried from within.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::probe::holds("detector", profile)
}

fn profile(configuration: &std::path::Path) -> sandbox::Sandbox {
    let arguments = detector::arguments::Arguments {
        keys: Some(configuration.join("keys")),
        ..detector::arguments::Arguments::default()
    };
    detector::opening::profile(&arguments, &configuration.join("a.toml"))
}
