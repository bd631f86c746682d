//! Compiles the schemas in `proto/` without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["signalling.proto", "station.proto"], ["proto"])?;
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
