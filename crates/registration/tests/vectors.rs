//! `registrar-client-addr.json`, `registrar-keys.json` and `registrar-overrides.json`.

use registration::{http, overrides, signing};
use signalling::{Message, PrefixTransportParams, params};
use vectors::{Tally, Value, hex, load};

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().expect("the right length")
}

#[test]
fn client_addresses() {
    const FILE: &str = "registrar-client-addr.json";
    let mut tally = Tally::new(FILE);
    for case in load(FILE)["cases"].as_array().unwrap() {
        let peer = case["peer"].as_str().unwrap().parse().unwrap();
        let headers = case["x_forwarded_for"].as_array().unwrap();
        let last = headers.last().map(|header| header.as_str().unwrap().as_bytes());
        let client = http::client_address(peer, last, None);
        assert_eq!(client.to_string(), case["client"].as_str().unwrap(), "{case}");
        let address = http::registration_address(client);
        assert_eq!(address[..], hex(&case["registration_address"]), "{case}");
        tally.pass();
    }
    tally.finish();
}

#[test]
fn keys_and_signatures() {
    const FILE: &str = "registrar-keys.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    for case in file["keys"].as_array().unwrap() {
        let private: [u8; 32] = array(&case["secret_clamped"]);
        let key_file: [u8; 64] = array(&case["privkey_file"]);
        let public = keys::public_key(&private);
        assert_eq!(public, array(&case["x25519_public"]));
        assert_eq!(key_file[32..], public);
        assert_eq!(keys::z85(&private), case["z85_secret"].as_str().unwrap());
        assert_eq!(keys::z85(&public), case["z85_public"].as_str().unwrap());
        assert_eq!(*signing::derived_seed(&private), array(&case["derived_seed"]));
        let derived = signing::ResponseSigner::derived(&private);
        let same_seed = signing::ResponseSigner::from_seed(&private);
        let legacy = signing::ResponseSigner::legacy(&key_file);
        assert_eq!(derived.public(), array(&case["derived_public"]));
        assert_eq!(same_seed.public(), array(&case["ed25519_public_of_seed"]));
        assert_eq!(legacy.public(), same_seed.public());
        for signature in case["signatures"].as_array().unwrap() {
            let message = hex(&signature["message"]);
            let expected: [u8; 64] = array(&signature["signature_with_genkey_file"]);
            assert_eq!(legacy.sign(&message), expected);
            assert_eq!(same_seed.sign(&message), array(&signature["signature_rfc8032_same_seed"]));
            assert_eq!(derived.sign(&message), array(&signature["signature_derived_seed"]));
            assert!(signing::verify_legacy(&legacy.public(), &public, &message, &expected));
            let mut wrong = expected;
            wrong[40] ^= 1;
            assert!(!signing::verify_legacy(&legacy.public(), &public, &message, &wrong));
            tally.pass();
        }
    }
    for case in file["z85"].as_array().unwrap() {
        // The codec of keys takes whole keys; shorter samples are repeated to that length.
        let bytes = hex(&case["hex"]);
        let times = 32 / bytes.len();
        let text = case["z85"].as_str().unwrap().repeat(times);
        assert_eq!(keys::z85(&bytes.repeat(times).try_into().unwrap()), text);
        tally.pass();
    }
    tally.finish();
}

#[test]
fn override_arithmetic() {
    const FILE: &str = "registrar-overrides.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    for case in file["percent"].as_array().unwrap() {
        let percent = overrides::Percent::new(case[0].as_f64().unwrap());
        assert_eq!(percent.threshold(), case[1].as_f64().unwrap(), "{case}");
        tally.pass();
    }
    for case in file["selection"].as_array().unwrap() {
        let weights: Vec<f64> =
            case["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
        for draw in case["draws"].as_array().unwrap() {
            let picked = overrides::pick(&weights, draw["r"].as_f64().unwrap());
            let expected = draw["weighted_index"].as_u64().map(|n| n as usize);
            assert_eq!(picked, expected, "{weights:?} {draw}");
            tally.pass();
        }
    }
    let expected_bytes = |any: &[u8]| {
        let any = signalling::Any::decode(any).unwrap();
        params::unpack::<PrefixTransportParams>(&any).unwrap().prefix.unwrap()
    };
    for case in file["subnet_prefix_override"].as_array().unwrap() {
        let any = hex(&case["transport_params"]);
        let id = case["prefix_id"].as_i64().unwrap() as i32;
        let params = overrides::prefix_params(id, &expected_bytes(&any), None);
        assert_eq!(params::pack_with_url(&params).encode_to_vec(), any, "{id}");
        tally.pass();
    }
    let random = &file["random_prefix_override"];
    let random = random.as_array().map_or_else(|| vec![random.clone()], Clone::clone);
    for case in random {
        let client = PrefixTransportParams::decode(&hex(&case["client_params"])[..]).unwrap();
        for (id, any) in case["by_prefix_id"].as_object().unwrap() {
            let any = hex(any);
            let id = id.parse().unwrap();
            let params = overrides::prefix_params(id, &expected_bytes(&any), Some(client.clone()));
            assert_eq!(params::pack_with_url(&params).encode_to_vec(), any, "{id}");
            tally.pass();
        }
    }
    tally.finish();
}
