//! What the application does with the responses of registrars: the keys `resp_policy`,
//! `signing_pubkey` and `signing_mode` of a source, and `registrar_sign_pubkeys` for all
//! (`spec/registrar.md` 4.3 and 10.5, `spec/application.md` 3.7).

use crate::document::Table;

/// What becomes of `registration_response` in the messages of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Responses {
    /// Believed, as the reference does.
    #[default]
    Trust,
    /// Believed when one of these keys signed it; otherwise taken out of the message.
    Verify(Vec<SigningKey>),
    /// Taken out of every message.
    Strip,
}

/// A key that signs responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// Standard Ed25519.
    Ed25519([u8; 32]),
    /// The reference's form.
    Legacy {
        /// Ed25519 key of the registrar's seed.
        public: [u8; 32],
        /// What is hashed in its place: the registrar's CURVE key.
        hashed: [u8; 32],
    },
}

const EXPECTED: &str = "the 64 hexadecimal digits that the registrar prints with --check-config";

/// `registrar_sign_pubkeys`: for the sources that name no key of their own.
pub(crate) fn keys_of_all(table: &mut Table) -> Vec<SigningKey> {
    table.list("registrar_sign_pubkeys", EXPECTED, |text| key(text).map(SigningKey::Ed25519))
}

/// The policy of the source that `table` describes, whose server has the CURVE key `server`.
pub(crate) fn of_source(
    table: &mut Table,
    server: Option<[u8; 32]>,
    common: &[SigningKey],
) -> Responses {
    let keys = match own_key(table, server) {
        Some(own) => vec![own],
        None => common.to_vec(),
    };
    match table.string("resp_policy").as_deref() {
        Some("strip") => Responses::Strip,
        Some("trust") => Responses::Trust,
        Some("verify") if keys.is_empty() => {
            let expected = "a key to verify with, because resp_policy is verify";
            table.problem("signing_pubkey", "none", expected);
            Responses::Strip
        }
        None | Some("" | "verify") if keys.is_empty() => Responses::Trust,
        None | Some("" | "verify") => Responses::Verify(keys),
        Some(other) => {
            table.problem("resp_policy", format!("`{other}`"), "trust, verify or strip");
            Responses::Strip
        }
    }
}

fn own_key(table: &mut Table, server: Option<[u8; 32]>) -> Option<SigningKey> {
    let text = table.string("signing_pubkey").filter(|text| !text.is_empty());
    let mode = table.string("signing_mode");
    let Some(public) = key(text.as_deref()?) else {
        let found = format!("{} characters that are no key", text?.chars().count());
        table.problem("signing_pubkey", found, EXPECTED);
        return None;
    };
    match (mode.as_deref(), server) {
        (None | Some("" | "ed25519"), _) => Some(SigningKey::Ed25519(public)),
        (Some("legacy"), Some(hashed)) => Some(SigningKey::Legacy { public, hashed }),
        (Some("legacy"), None) => {
            let expected = "ed25519; legacy signatures need the registrar's pubkey and type CURVE";
            table.problem("signing_mode", "`legacy` without a pubkey", expected);
            None
        }
        (Some(other), _) => {
            table.problem("signing_mode", format!("`{other}`"), "ed25519 or legacy");
            None
        }
    }
}

fn key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (pair, byte) in text.as_bytes().chunks_exact(2).zip(&mut key) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Application;
    use std::path::Path;

    const SERVER: &str = "s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@";

    fn parse(top: &str, source: &str) -> Result<Vec<Responses>, String> {
        let text = format!(
            "socket_name = \"z\"\n{top}\n[[connect_sockets]]\naddress = \"ipc://@detector\"\n\
             [[connect_sockets]]\naddress = \"tcp://192.0.2.1:5591\"\ntype = \"CURVE\"\n\
             pubkey = \"{SERVER}\"\n{source}\n"
        );
        let loaded = Application::parse(&text, Path::new("a.toml")).map_err(|e| e.to_string())?;
        assert_eq!(loaded.notices, []);
        Ok(loaded.value.connect_sockets.into_iter().map(|source| source.responses).collect())
    }

    #[test]
    fn responses_are_verified_where_a_key_is_named() {
        let (one, two) = ("01".repeat(32), "Ab".repeat(32));
        let (first, second) = (SigningKey::Ed25519([1; 32]), SigningKey::Ed25519([0xab; 32]));
        let verify = |keys: &[SigningKey]| Responses::Verify(keys.to_vec());
        assert_eq!(parse("", "").unwrap(), [Responses::Trust, Responses::Trust]);
        let own = format!("signing_pubkey = \"{one}\"");
        assert_eq!(parse("", &own).unwrap(), [Responses::Trust, verify(&[first])]);
        let all = format!("registrar_sign_pubkeys = [\"{one}\", \"{two}\"]");
        let common = verify(&[first, second]);
        assert_eq!(parse(&all, "").unwrap(), [common.clone(), common.clone()]);
        let other = format!("signing_pubkey = \"{two}\"");
        assert_eq!(parse(&all, &other).unwrap(), [common.clone(), verify(&[second])]);
        let trusted = parse(&all, "resp_policy = \"trust\"").unwrap();
        assert_eq!(trusted, [common, Responses::Trust]);
        let stripped = parse("", "resp_policy = \"strip\"").unwrap();
        assert_eq!(stripped, [Responses::Trust, Responses::Strip]);
        let legacy = format!("{own}\nsigning_mode = \"legacy\"");
        let hashed = crate::keys::z85(SERVER).unwrap();
        let legacy = parse("", &legacy).unwrap();
        assert_eq!(legacy[1], verify(&[SigningKey::Legacy { public: [1; 32], hashed }]));
    }

    #[test]
    fn wrong_keys_and_policies_are_named() {
        let one = format!("signing_pubkey = \"{}\"", "01".repeat(32));
        for (source, expected) in [
            ("resp_policy = \"verify\"", "signing_pubkey: found none"),
            ("resp_policy = \"maybe\"", "a.toml:9: resp_policy: found `maybe`"),
            ("signing_pubkey = \"0102\"", "signing_pubkey: found 4 characters that are no key"),
            (&format!("{one}\nsigning_mode = \"x\""), "a.toml:10: signing_mode: found `x`"),
        ] {
            let error = parse("", source).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let null = format!(
            "socket_name = \"z\"\n[[connect_sockets]]\naddress = \"tcp://192.0.2.1:5591\"\n\
             {one}\nsigning_mode = \"legacy\"\n"
        );
        let error = Application::parse(&null, Path::new("a.toml")).unwrap_err().to_string();
        assert!(error.contains("legacy signatures need the registrar's pubkey"), "{error}");
    }

    #[test]
    fn sharing_needs_a_url_and_prescans_a_policy() {
        let parse = |text: &str| {
            let text = format!("socket_name = \"z\"\n{text}\n");
            Application::parse(&text, Path::new("a.toml")).map_err(|error| error.to_string())
        };
        let share = "enable_share_over_api = true\npreshare_endpoint = ";
        let good = parse(&format!("{share}\"https://registrar.example/api/register\"")).unwrap();
        assert!(good.value.enable_share_over_api && !good.value.prescanned_from_any);
        assert!(parse("prescanned_from = \"any\"").unwrap().value.prescanned_from_any);
        for (text, expected) in [
            ("enable_share_over_api = true", "preshare_endpoint: found none"),
            (&format!("{share}\"registrar.example\""), "expected http://HOST[:PORT]/PATH"),
            (&format!("{share}\"http:///register\""), "expected http://HOST[:PORT]/PATH"),
            ("prescanned_from = \"all\"", "found `all`, expected authenticated or any"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
