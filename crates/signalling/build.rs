//! Compiles the schemas in `proto/` without an installed protoc.

use protox::prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files =
        protox::compile(["signalling.proto", "station.proto", "registration.proto"], ["proto"])?;
    // What a registrar tells clients that ask for the schema.
    let registration = protox::compile(["registration.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("registration.bin"), registration.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config
        .boxed(".proto.RegistrationResponse.clientConf")
        .extern_path(".google.protobuf.Any", "::prost_types::Any")
        .type_attribute(
            ".conjure.station.v1",
            "#[derive(::serde::Serialize, ::serde::Deserialize)]",
        );
    config.compile_fds(files)?;
    Ok(())
}
