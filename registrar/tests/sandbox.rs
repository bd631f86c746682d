//! What the registrar can still do once it was taken over: its profile, tried from within.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::probe::holds("registrar", profile)
}

fn profile(configuration: &std::path::Path) -> sandbox::Sandbox {
    let file = |name: &str| configuration.join(name);
    registrar::daemon::profile(&file("a.toml"), &file("ClientConf"), &file("phantoms"), None)
}
