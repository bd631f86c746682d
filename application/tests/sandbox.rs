//! What the application can still do once it was taken over: its profile, tried from within.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::probe::holds("application", profile)
}

fn profile(configuration: &std::path::Path) -> sandbox::Sandbox {
    let path = configuration.join("a.toml");
    let settings = conf::Application::parse("socket_name = \"z\"\n", &path).unwrap().value;
    application::opening::profile(&settings, &path, &configuration.join("phantoms.toml"))
}
