//! Every case of `core-obfuscators.json`, `transports-prefix.json` and
//! `transports-params-captured.json`, and the port rules of `transports-keys.json`.

use keys::{ClientVersion, EphemeralKey, SharedSecret, StationKey, elligator};
use signalling::{
    Any, DtlsTransportParams, GenericTransportParams, Message, PrefixTransportParams, params,
};
use transports::obfuscator::{Obfuscator, RevealError, xor};
use transports::prefix::PrefixTable;
use transports::{Burnt, Identification, Params, Registered, Transport, Verdict, requested_port};
use vectors::{Tally, Value, hex, load};

fn cases<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    file[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

fn array(value: &Value) -> [u8; 32] {
    hex(value).try_into().unwrap()
}

fn station(file: &Value) -> StationKey {
    let key = StationKey::from_private(&array(&file["station_private"])).unwrap();
    assert_eq!(key.public(), &array(&file["station_public"]));
    key
}

/// The ephemeral key with the given scalar and transmitted representative.
fn ephemeral(private: &[u8; 32], representative: &[u8]) -> EphemeralKey {
    let bits = representative[31] >> 6;
    (0..2)
        .map(|root| EphemeralKey::from_private(private, root, bits).unwrap())
        .find(|key| key.representative().as_slice() == representative)
        .expect("one of the two roots is the transmitted one")
}

fn kind(case: &Value) -> Obfuscator {
    match case["kind"].as_str().unwrap() {
        "ctr" => Obfuscator::Ctr,
        "gcm" => Obfuscator::Gcm,
        "xor" => Obfuscator::Xor,
        "nil" => Obfuscator::Nil,
        other => panic!("obfuscator {other}"),
    }
}

#[test]
fn core_obfuscators() {
    let file = load("core-obfuscators.json");
    let mut tally = Tally::new("core-obfuscators.json");
    let station = station(&file);
    for case in cases(&file, "cases") {
        let plain = hex(&case["plaintext"]);
        let output = hex(&case["output"]);
        let obfuscator = kind(case);
        let made = match obfuscator {
            Obfuscator::Ctr | Obfuscator::Gcm => {
                let mut representative = hex(&case["representative"]);
                representative[31] |= hex(&case["top_bits"])[0];
                let key = ephemeral(&array(&case["client_private"]), &representative);
                assert_eq!(*key.agree(station.public()).unwrap(), array(&case["ecdh_shared"]));
                obfuscator.obfuscate_with(&plain, station.public(), &key).unwrap()
            }
            Obfuscator::Xor => xor(&hex(&case["pad"]), &plain),
            Obfuscator::Nil => plain.clone(),
        };
        assert_eq!(made, output, "{case}");
        if !output.is_empty() {
            assert_eq!(obfuscator.reveal(&output, &station).unwrap(), plain, "{case}");
        }
        tally.pass();
    }
    for case in cases(&file, "reveal_errors") {
        let error = kind(case).reveal(&hex(&case["input"]), &station).unwrap_err();
        let expected = match case["error"].as_str().unwrap() {
            "input shorter than 32 bytes" | "input shorter than 48 bytes" => RevealError::TooShort,
            "authentication failure" => RevealError::Authentication,
            "empty input" | "odd length" => RevealError::Halves,
            other => panic!("error {other}"),
        };
        assert_eq!(error, expected, "{case}");
        tally.pass();
    }
    tally.finish();
}

fn registered(case: &Value) -> Option<(Transport, Option<i32>)> {
    let registration = case["registered"].as_object()?;
    let transport = match registration["transport"].as_str().unwrap() {
        "Prefix" => Transport::Prefix,
        "Min" => Transport::Min,
        other => panic!("transport {other}"),
    };
    Some((transport, registration["prefix_id"].as_i64().map(|id| id as i32)))
}

fn identification(case: &Value, secret: &SharedSecret, station: &StationKey) {
    let data = hex(&case["data"]);
    let registration = registered(case);
    let identifier = secret.prefix_identifier();
    let index = |found: &[u8; 32]| {
        let (transport, prefix_id) = registration?;
        (*found == identifier).then_some(Registered { registration: (), transport, prefix_id })
    };
    let table = PrefixTable::default();
    let keys = [StationKey::from_private(&[0x77; 32]).unwrap(), station.clone()];
    let verdict = Identification::new().offer_prefix(&data, &table, &keys, &index);
    let (result, consumed) = match verdict {
        Verdict::TryAgain => ("try_again".to_owned(), 0),
        Verdict::Exhausted => ("not_transport".to_owned(), 0),
        Verdict::Found(found) => ("ok".to_owned(), found.consumed),
        Verdict::Burnt(transport, burnt) => {
            assert_eq!(transport, Transport::Prefix);
            assert!(matches!(burnt, Burnt::UnexpectedPrefix | Burnt::IncorrectTransport));
            (format!("fatal: {burnt}"), 0)
        }
    };
    assert_eq!(result, case["result"].as_str().unwrap(), "{case}");
    assert_eq!(consumed as u64, case["consumed"].as_u64().unwrap(), "{case}");
}

#[test]
fn transports_prefix() {
    let file = load("transports-prefix.json");
    let mut tally = Tally::new("transports-prefix.json");
    let station = station(&file);
    let table = PrefixTable::default();
    assert_eq!(table.iter().count(), cases(&file, "prefixes").len());
    for case in cases(&file, "prefixes") {
        let prefix = table.by_id(case["id"].as_i64().unwrap() as i32).unwrap();
        assert_eq!(prefix.name, case["name"].as_str().unwrap());
        assert_eq!(prefix.bytes, hex(&case["bytes"]));
        assert_eq!(prefix.bytes.len() as u64, case["tag_offset"].as_u64().unwrap());
        assert_eq!(prefix.header_len() as u64, case["min_len"].as_u64().unwrap());
        assert_eq!(prefix.header_len() as u64, case["max_len"].as_u64().unwrap());
        assert_eq!(u64::from(prefix.default_port), case["default_dst_port"].as_u64().unwrap());
        assert_eq!(i64::from(prefix.flush), case["flush"].as_i64().unwrap());
        assert!(!ClientVersion(2).randomizes_port());
        assert_eq!(case["min_client_lib_version"].as_u64(), Some(3));
        tally.pass();
    }
    for case in cases(&file, "tags") {
        let plain = hex(&case["plaintext"]);
        let private = array(&case["client_private"]);
        for (name, output) in case.as_object().unwrap() {
            let obfuscator = match name.split('_').next() {
                Some("ctr") => Obfuscator::Ctr,
                Some("gcm") => Obfuscator::Gcm,
                _ => continue,
            };
            let output = hex(output);
            assert_eq!(u64::from(output[31] >> 6), case["high_bits"].as_u64().unwrap() >> 6);
            let key = ephemeral(&private, &output[..32]);
            let made = obfuscator.obfuscate_with(&plain, station.public(), &key).unwrap();
            assert_eq!(made, output, "{name}");
            assert_eq!(obfuscator.reveal(&output, &station).unwrap(), plain, "{name}");
        }
        tally.pass();
    }
    let secret = SharedSecret::new(&hex(&file["shared_secret_for_cases"]));
    for case in cases(&file, "cases") {
        identification(case, &secret, &station);
        tally.pass();
    }
    for case in cases(&file, "elligator2_decode") {
        let representative = array(&case["representative"]);
        assert_eq!(elligator::decode(&representative), array(&case["public_mask_3f"]), "{case}");
        // The map under the older peers' one-bit mask agrees wherever bit 254 is clear.
        if representative[31] & 0x40 == 0 {
            assert_eq!(case["public_mask_3f"], case["public_mask_7f"]);
        }
        tally.pass();
    }
    for case in cases(&file, "elligator2_encode") {
        let public = keys::public_key(&array(&case["private_unclamped"]));
        assert_eq!(public, array(&case["public"]));
        let mut found: Vec<_> = elligator::encode(&public).into_iter().flatten().collect();
        let listed = case["representatives"].as_array();
        let mut expected: Vec<_> = listed.into_iter().flatten().map(array).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(!found.is_empty(), case["representable"].as_bool().unwrap());
        tally.pass();
    }
    tally.finish();
}

#[test]
fn transports_params_captured() {
    let file = load("transports-params-captured.json");
    let mut tally = Tally::new("transports-params-captured.json");
    for case in cases(&file, "prefix_tags") {
        let station = station(case);
        let plain = hex(&case["plaintext"]);
        let reveal = |kind: Obfuscator, name| kind.reveal(&hex(&case[name]), &station).unwrap();
        assert_eq!(reveal(Obfuscator::Ctr, "ctr_tag"), plain);
        assert_eq!(reveal(Obfuscator::Gcm, "gcm_tag"), plain);
        tally.pass();
    }
    for (name, wire) in file["transport_params_any"].as_object().unwrap() {
        let wire = hex(wire);
        let any = Any::decode(wire.as_slice()).unwrap();
        let packed = match name.split(' ').next().unwrap() {
            "generic" => {
                let message: GenericTransportParams = params::unpack(&any).unwrap();
                assert!(message.randomize_dst_port());
                params::pack_with_url(&message)
            }
            "prefix" => {
                let message: PrefixTransportParams = params::unpack(&any).unwrap();
                let random = name.contains("prefix_id=-1");
                assert_eq!(message.prefix_id(), if random { -1 } else { 9 });
                if !random {
                    assert_eq!(message.prefix(), PrefixTable::default().by_id(9).unwrap().bytes);
                }
                params::pack_with_url(&message)
            }
            "dtls" => {
                let message: DtlsTransportParams = params::unpack(&any).unwrap();
                assert!(message.randomize_dst_port() && message.unordered());
                assert_eq!(message.src_addr4.as_ref().unwrap().port(), 12345);
                params::pack_with_url(&message)
            }
            other => panic!("message {other}"),
        };
        assert_eq!(packed.encode_to_vec(), wire, "{name}");
        tally.pass();
    }
    tally.finish();
}

/// The parameters that a port case describes in words.
fn described(text: &str) -> Params {
    let randomize = text.contains("randomize=true");
    let kind = text.split(' ').next().unwrap();
    match kind {
        "none" => Params::None,
        "generic" => Params::Generic { randomize_dst_port: randomize },
        "prefix" => {
            let id = text.split(' ').find_map(|word| word.strip_prefix("id=")).unwrap();
            Params::Prefix { id: id.parse().unwrap(), randomize_dst_port: randomize }
        }
        "dtls" => Params::Dtls(Box::new(DtlsTransportParams {
            randomize_dst_port: randomize.then_some(true),
            ..Default::default()
        })),
        other => panic!("parameters {other}"),
    }
}

#[test]
fn transports_keys_port_gates() {
    let file = load("transports-keys.json");
    let mut tally = Tally::new("transports-keys.json");
    let table = PrefixTable::default();
    for case in cases(&file, "port_gates") {
        let transport = match case["transport"].as_str().unwrap() {
            "Min" => Transport::Min,
            "Obfs4" => Transport::Obfs4,
            "Prefix" => Transport::Prefix,
            "DTLS" => Transport::Dtls,
            other => panic!("transport {other}"),
        };
        let version = ClientVersion(case["client_lib_version"].as_u64().unwrap() as u32);
        let seed = keys::ConjureSeed::new(hex(&case["seed"]).try_into().unwrap());
        let params = described(case["params"].as_str().unwrap());
        match requested_port(transport, version, &params, &seed, &table) {
            Ok(port) => assert_eq!(Some(u64::from(port)), case["port"].as_u64(), "{case}"),
            Err(error) => {
                assert_eq!(Some(error.to_string().as_str()), case["error"].as_str(), "{case}");
            }
        }
        tally.pass();
    }
    tally.finish();
}
