//! Every case of `core-keys.json`, `detector-elligator.json` and `transports-keys.json` that is
//! about keys.

use keys::{ClientVersion, DecoyKeys, HkdfStream, OBFS4_PORTS, PORTS, SharedSecret, StationKey};
use keys::{elligator, seeded_port};
use vectors::{Tally, Value, hex, load};

fn cases<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    file[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

fn array(value: &Value) -> [u8; 32] {
    hex(value).try_into().unwrap()
}

fn port(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn session_keys(secret: &SharedSecret, version: u32, expect: &Value) {
    let keys = secret.session_keys(ClientVersion(version));
    assert_eq!(keys.seed.expose().as_slice(), hex(&expect["conjure_seed"]));
    let obfs4 = keys.obfs4();
    assert_eq!(obfs4.private.as_slice(), hex(&expect["obfs4_private"]));
    assert_eq!(obfs4.public.as_slice(), hex(&expect["obfs4_public"]));
    assert_eq!(obfs4.node_id.as_slice(), hex(&expect["obfs4_node_id"]));
    assert_eq!(obfs4.identifier().as_slice(), hex(&expect["obfs4_identifier"]));
    if let Some(ports) = expect.get("random_port") {
        for (transport, expected) in ports.as_object().unwrap() {
            let range = if transport == "Obfs4" { OBFS4_PORTS } else { PORTS };
            assert_eq!(u64::from(keys.seed.port(range)), port(expected), "{transport}");
        }
    }
}

fn certificate(seed: &keys::dtls::CertificateSeed, expect: &Value) {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
    assert_eq!(seed.private.as_slice(), hex(&expect["private_scalar"]));
    let public = PrivateKey::from_private_key(&ECDH_P256, &seed.private).unwrap();
    let public = public.compute_public_key().unwrap();
    assert_eq!(public.as_ref(), hex(&expect["public_uncompressed"]));
    let serial = hex::encode(seed.serial);
    let expected = expect["serial"].as_str().unwrap();
    assert_eq!(serial.trim_start_matches('0'), expected.trim_start_matches('0'));
    assert_eq!(seed.name, expect["common_name"].as_str().unwrap());
}

fn session(case: &Value) {
    let secret = SharedSecret::new(&hex(&case["shared_secret"]));
    let stream: [u8; 192] = secret.main_stream().take().unwrap();
    assert_eq!(stream.as_slice(), hex(&case["hkdf_stream_0_192"]));

    let decoy = &case["decoy_registrar"];
    let keys = secret.decoy_keys();
    assert_eq!(keys.fixed.key.as_slice(), hex(&decoy["fsp_key"]));
    assert_eq!(keys.fixed.nonce.as_slice(), hex(&decoy["fsp_iv"]));
    assert_eq!(keys.variable().key.as_slice(), hex(&decoy["vsp_key"]));
    assert_eq!(keys.variable().nonce.as_slice(), hex(&decoy["vsp_iv"]));
    assert_eq!(stream[56..104], hex(&decoy["new_master_secret"]));
    assert_eq!(stream[104..120], hex(&decoy["conjure_seed_before_v4"]));

    for version in 0..4 {
        session_keys(&secret, version, &case["lib_version_lt_4"]);
    }
    for version in [4, 100] {
        session_keys(&secret, version, &case["lib_version_ge_4"]);
    }
    let identifiers = &case["identifiers"];
    assert_eq!(secret.min_identifier().as_slice(), hex(&identifiers["min"]));
    assert_eq!(secret.prefix_identifier().as_slice(), hex(&identifiers["prefix"]));
    assert_eq!(secret.dtls_identifier().as_slice(), hex(&identifiers["dtls"]));
    assert_eq!(secret.log_id(), case["registration_id"].as_str().unwrap());

    let dtls = &case["dtls"];
    let random = keys::dtls::client_hello_random(&secret);
    assert_eq!(random, hex(&dtls["client_hello_random"])[..28]);
    let certificates = keys::dtls::CertificateSeeds::new(&secret);
    certificate(&certificates.client, &dtls["client"]);
    certificate(&certificates.server, &dtls["server"]);

    for (name, count) in [("decoy_indices_width5_of_3", 3), ("decoy_indices_width5_of_2904", 2904)]
    {
        for (i, expected) in cases(case, name).iter().enumerate() {
            assert_eq!(secret.decoy_index(i, count).unwrap() as u64, port(expected));
        }
    }
}

fn encode(private: &Value, public: &Value, encodable: &Value, preimages: &Value) {
    let public_key = keys::public_key(&array(private));
    assert_eq!(public_key, array(public));
    let found = elligator::encode(&public_key);
    assert_eq!(found.is_some(), encodable.as_bool().unwrap());
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    let mut expected: Vec<_> = preimages.as_array().into_iter().flatten().map(array).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn core_keys() {
    let file = load("core-keys.json");
    let mut tally = Tally::new("core-keys.json");
    let example = &file["hmac_example"];
    let key = SharedSecret::new(example["key_ascii"].as_str().unwrap().as_bytes());
    let digest = key.tag(example["message_ascii"].as_str().unwrap().as_bytes());
    assert_eq!(digest.as_slice(), hex(&example["digest"]));
    tally.pass();
    for case in cases(&file, "sessions") {
        session(case);
        tally.pass();
    }
    for case in cases(&file, "port_selection") {
        ports(case);
        tally.pass();
    }
    for case in cases(&file, "elligator_encode") {
        encode(&case["private"], &case["public"], &case["encodable"], &case["representatives"]);
        tally.pass();
    }
    for case in cases(&file, "elligator_decode") {
        assert_eq!(elligator::decode(&array(&case["representative"])), array(&case["public"]));
        tally.pass();
    }
    // The two complete decoy registrations are decoded in the `tag` crate, which knows records.
    tally.finish();
}

fn ports(case: &Value) {
    let seed = hex(&case["seed"]);
    assert_eq!(u64::from(seeded_port(&seed, PORTS)), port(&case["range_1024_65535"]), "{case}");
    assert_eq!(u64::from(seeded_port(&seed, OBFS4_PORTS)), port(&case["range_22_65535"]), "{case}");
}

#[test]
fn detector_elligator() {
    let file = load("detector-elligator.json");
    let mut tally = Tally::new("detector-elligator.json");
    for case in cases(&file, "decode") {
        assert_eq!(elligator::decode(&array(&case["representative"])), array(&case["u"]), "{case}");
        tally.pass();
    }
    for case in cases(&file, "encode") {
        encode(&case["private_key"], &case["public_key"], &case["encodable"], &case["preimages"]);
        tally.pass();
    }
    for case in cases(&file, "low_order") {
        let u = array(&case["u"]);
        for preimage in cases(case, "preimages") {
            assert_eq!(elligator::decode(&array(preimage)), u, "{case}");
        }
        let station = StationKey::from_private(&[0x42; 32]).unwrap();
        assert!(station.agree(&u).is_none(), "{case}");
        tally.pass();
    }
    for case in cases(&file, "shared_secret") {
        let station = StationKey::from_private(&array(&case["station_private_key"])).unwrap();
        let u = elligator::decode(&array(&case["representative"]));
        assert_eq!(u, array(&case["u"]));
        let secret = station.agree(&u).unwrap();
        assert_eq!(*secret, array(&case["shared_secret"]));
        let stream: [u8; 120] = HkdfStream::main(&*secret).take().unwrap();
        assert_eq!(stream.as_slice(), hex(&case["hkdf_120"]));
        assert_eq!(DecoyKeys::new(&*secret).fixed.key, stream[..16]);
        tally.pass();
    }
    tally.finish();
}

#[test]
fn transports_keys() {
    let file = load("transports-keys.json");
    let mut tally = Tally::new("transports-keys.json");
    for case in cases(&file, "keys") {
        let secret = SharedSecret::new(&hex(&case["shared_secret"]));
        session_keys(&secret, port(&case["client_lib_version"]) as u32, case);
        assert_eq!(secret.min_identifier().as_slice(), hex(&case["min_identifier"]));
        assert_eq!(secret.prefix_identifier().as_slice(), hex(&case["prefix_identifier"]));
        assert_eq!(secret.dtls_identifier().as_slice(), hex(&case["dtls_identifier"]));
        tally.pass();
    }
    for case in cases(&file, "ports") {
        ports(case);
        tally.pass();
    }
    // The port rules of each transport are checked in the `transports` crate.
    tally.finish();
}
