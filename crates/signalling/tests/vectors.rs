//! Every case of `core-proto.json`: messages, leniency, ClientConf files.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Value as Field};
use signalling as s;
use vectors::{Tally, Value, load};

fn pool() -> DescriptorPool {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["signalling.proto"], [proto]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// Builds a message from the vector's JSON by our schema alone: names, numbers and types.
fn build(descriptor: &MessageDescriptor, json: &Value) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in json.as_object().unwrap() {
        let field = descriptor
            .get_field_by_name(name)
            .unwrap_or_else(|| panic!("{}: no field {name}", descriptor.name()));
        let convert = |value: &Value| match field.kind() {
            Kind::Message(inner) => Field::Message(build(&inner, value)),
            Kind::Enum(kind) => Field::EnumNumber(match value.as_str() {
                Some(name) => kind.get_value_by_name(name).unwrap().number(),
                None => value.as_i64().unwrap() as i32,
            }),
            Kind::Bytes => Field::Bytes(vectors::hex(&value["hex"]).into()),
            Kind::String => Field::String(value.as_str().unwrap().to_owned()),
            Kind::Bool => Field::Bool(value.as_bool().unwrap()),
            Kind::Uint32 | Kind::Fixed32 => Field::U32(value.as_u64().unwrap() as u32),
            Kind::Uint64 => Field::U64(value.as_u64().unwrap()),
            Kind::Int32 => Field::I32(value.as_i64().unwrap() as i32),
            kind => panic!("{name}: no vector uses {kind:?}"),
        };
        let value = match value {
            Value::Array(items) => Field::List(items.iter().map(convert).collect()),
            single => convert(single),
        };
        message.set_field(&field, value);
    }
    message
}

/// Decodes and re-encodes `wire` as the generated type of that name.
fn recode(message: &str, wire: &[u8]) -> Result<Vec<u8>, String> {
    macro_rules! by_name {
        ($($name:literal => $type:ty),* $(,)?) => {
            match message {
                "ClientConf" => s::client_conf::decode(wire)
                    .map(|m| m.encode_to_vec()).map_err(|e| e.to_string()),
                $($name => <$type>::decode(wire)
                    .map(|m| m.encode_to_vec()).map_err(|e| e.to_string()),)*
                other => panic!("no generated type for {other}"),
            }
        };
    }
    by_name! {
        "ClientToStation" => s::ClientToStation,
        "C2SWrapper" => s::C2sWrapper,
        "PrefixTransportParams" => s::PrefixTransportParams,
        "GenericTransportParams" => s::GenericTransportParams,
        "DTLSTransportParams" => s::DtlsTransportParams,
        "RegistrationResponse" => s::RegistrationResponse,
        "StationToDetector" => s::StationToDetector,
        "DnsResponse" => s::DnsResponse,
        "DnsPartReq" => s::DnsPartReq,
        "DnsPartResp" => s::DnsPartResp,
        "DnsRegConf" => s::DnsRegConf,
        "PhantomSubnetsList" => s::PhantomSubnetsList,
        "StationToClient" => s::StationToClient,
    }
}

#[test]
fn core_proto() {
    let file = load("core-proto.json");
    let mut tally = Tally::new("core-proto.json");
    let pool = pool();
    for case in file["messages"].as_array().unwrap() {
        let name = case["message"].as_str().unwrap();
        let wire = vectors::hex(&case["wire"]);
        let descriptor = pool.get_message_by_name(&format!("proto.{name}")).unwrap();
        assert_eq!(build(&descriptor, &case["fields"]).encode_to_vec(), wire, "{case}");
        assert_eq!(recode(name, &wire).unwrap(), wire, "{case}");
        tally.pass();
    }
    for case in file["leniency"].as_array().unwrap() {
        leniency(case);
        tally.pass();
    }
    for case in file["client_conf_files"].as_array().unwrap() {
        let bytes = vectors::hex(&case["file_hex"]);
        assert_eq!(s::client_conf::decode(&bytes).unwrap().encode_to_vec(), bytes);
        let descriptor = pool.get_message_by_name("proto.ClientConf").unwrap();
        assert_eq!(build(&descriptor, &case["fields"]).encode_to_vec(), bytes, "{}", case["name"]);
        tally.pass();
    }
    tally.finish();
}

fn leniency(case: &Value) {
    let wire = vectors::hex(&case["wire"]);
    let c2s = || s::ClientToStation::decode(wire.as_slice()).unwrap();
    match case["wire"].as_str().unwrap() {
        "1007e80405" => {
            assert_eq!(c2s().decoy_list_generation, Some(7));
            let kept = s::raw::with_varint(&wire, 2, 7).unwrap();
            assert_eq!(kept, wire, "unknown field 77 stays");
        }
        // The two allowed deviations, rows of docs/compatibility.md: refused as malformed.
        "08051001" => assert!(s::DtlsTransportParams::decode(wire.as_slice()).is_err()),
        "a20102fffe" => assert!(s::ClientToStation::decode(wire.as_slice()).is_err()),
        "6032" => assert_eq!(c2s().transport, Some(50)),
        "3200" => assert_eq!(
            format!("reject: {}", s::client_conf::decode(&wire).unwrap_err()),
            case["expect"].as_str().unwrap()
        ),
        "10071009" => assert_eq!(c2s().decoy_list_generation, Some(9)),
        "1a0210071a022804" => {
            let payload = s::C2sWrapper::decode(wire.as_slice()).unwrap().registration_payload;
            let payload = payload.unwrap();
            assert_eq!(payload.decoy_list_generation, Some(7));
            assert_eq!(payload.client_lib_version, Some(4));
        }
        "32003a00" => {
            let wrapper = s::C2sWrapper::decode(wire.as_slice()).unwrap();
            assert_eq!(wrapper.registration_address, Some(Vec::new()));
            assert_eq!(wrapper.decoy_address, Some(Vec::new()));
        }
        "28ffffffffffffffffff01" => assert_eq!(c2s().client_lib_version, Some(u32::MAX)),
        "b00102" => assert_eq!(c2s().v6_support, Some(true)),
        other => panic!("unknown leniency case {other}"),
    }
}
