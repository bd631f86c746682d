//! Generates the Sessions service around the messages of the signalling crate.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../signalling/proto";
    println!("cargo::rerun-if-changed={proto}/station.proto");
    let mut files = protox::compile(["station.proto"], [proto])?;
    for file in &mut files.file {
        file.service.retain(|service| service.name() == "Sessions");
        // Comments are found by index, and the indices have just changed.
        file.source_code_info = None;
    }
    tonic_prost_build::configure()
        .extern_path(".conjure.station.v1", "::signalling::station")
        .compile_fds(files)?;
    Ok(())
}
