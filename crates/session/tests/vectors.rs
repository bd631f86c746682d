//! `detector-sessions.json` and `application-detector-channel.json`.

use std::time::Duration;

use session::command::{self, Command, Refused};
use session::{Proto, SessionKey};
use signalling::StationOperations;
use vectors::{Tally, load};

#[test]
fn detector_sessions() {
    let mut tally = Tally::new("detector-sessions.json");
    for case in load("detector-sessions.json")["vectors"].as_array().unwrap() {
        let message = vectors::hex(&case["message"]);
        let result = command::decode(&message);
        let expected = case.get("required_by_this_project").unwrap_or(&case["result"]);
        let (name, key) = match &result {
            Ok(Command::Upsert(key, _)) => ("ok", Some(key.reference_text())),
            Ok(Command::Clear) => ("cleared", None),
            Err(Refused::Malformed) => ("malformed", None),
            Err(Refused::UnrecognizedProto) => ("unrecognized_proto", None),
            Err(Refused::InvalidPhantom) => ("invalid_phantom", None),
            Err(Refused::InvalidClient) => ("invalid_client", None),
            Err(Refused::MixedFamilies) => ("mixed_v4_v6", None),
            Err(Refused::UnknownOperation) => ("unknown_operation", None),
        };
        assert_eq!(name, expected.as_str().unwrap(), "{}", case["name"]);
        assert_eq!(key.as_deref(), case["key"].as_str(), "{}", case["name"]);
        tally.pass();
    }
    tally.finish();
}

#[test]
fn application_detector_channel() {
    let file = load("application-detector-channel.json");
    assert_eq!(file["channel"], session::SESSION_CHANNEL);
    let mut tally = Tally::new("application-detector-channel.json");
    for case in file["messages"].as_array().unwrap() {
        let wire = vectors::hex(&case["hex"]);
        let fields = &case["fields"];
        let operation = match fields["operation"].as_str().unwrap() {
            "Clear" => {
                assert_eq!(command::decode(&wire), Ok(Command::Clear), "{}", case["name"]);
                if fields.get("proto").is_some() {
                    assert_eq!(command::encode_clear(), wire);
                }
                tally.pass();
                continue;
            }
            "New" => StationOperations::New,
            _ => StationOperations::Update,
        };
        let proto = if fields["proto"] == "Udp" { Proto::Udp } else { Proto::Tcp };
        let phantom = fields["phantom_ip"].as_str().unwrap().parse().unwrap();
        let client = fields["client_ip"].as_str().unwrap().parse().unwrap();
        let port = fields["dst_port"].as_u64().unwrap() as u16;
        let timeout = Duration::from_nanos(fields["timeout_ns"].as_u64().unwrap());
        let key = SessionKey::new(proto, phantom, client, port).unwrap();
        assert_eq!(command::encode(operation, &key, client, timeout), wire, "{}", case["name"]);
        assert_eq!(command::decode(&wire), Ok(Command::Upsert(key, timeout)));
        tally.pass();
    }
    tally.finish();
}
