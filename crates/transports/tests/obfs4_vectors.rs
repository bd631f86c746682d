//! Every case of `transports-obfs4.json` and `transports-obfs4-captured.json`: handshakes from both
//! sides, keys, frames in both directions, generator, thresholds and length tables.

use keys::{ClientVersion, EphemeralKey, Obfs4Keys, SharedSecret, elligator};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};
use std::time::Duration;
use transports::obfs4::{
    Choices, Client, ClientIdentity, Distribution, Drbg, FrameError, LinkKeys, LinkSecret,
    MarkSearch, MarkVerdict, Opener, Progress, ReplayFilter, Sealer, Server, ServerIdentity,
    Thresholds, handshake, packet,
};
use vectors::{Tally, Value, hex, load};

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

/// The ephemeral key of one side, of which private key, public key and representative are known.
fn ephemeral(case: &Value, side: &str) -> EphemeralKey {
    let private = array(&case[format!("{side}_private")]);
    let representative: [u8; 32] = array(&case[format!("{side}_representative")]);
    let public: [u8; 32] = array(&case[format!("{side}_public")]);
    assert_eq!(elligator::decode(&representative), public);
    assert_eq!(representative[31] & elligator::FREE_BITS, 0);
    (0..2)
        .map(|root| EphemeralKey::from_private(&private, root, 0).unwrap())
        .find(|key| key.representative() == &representative)
        .expect("one of the two roots is the transmitted one")
}

fn identity(case: &Value) -> ServerIdentity {
    let keys = Obfs4Keys {
        private: array(&case["identity_private"]),
        public: array(&case["identity_public"]),
        node_id: array(&case["node_id"]),
    };
    assert_eq!(keys::public_key(&keys.private), keys.public);
    ServerIdentity::new(keys)
}

fn okm(keys: &LinkKeys) -> Vec<u8> {
    [&keys.upstream, &keys.downstream]
        .into_iter()
        .flat_map(|link| [&link.key[..], &link.nonce_prefix, &link.length_seed].concat())
        .collect()
}

/// Both halves of the exchange of a case.
fn exchange(case: &Value, identity: &ServerIdentity) -> LinkKeys {
    let (client, server) = (ephemeral(case, "client"), ephemeral(case, "server"));
    let keys = LinkKeys::server(identity, &server, client.representative()).unwrap();
    let theirs = LinkKeys::client(identity.shared(), &client, server.representative()).unwrap();
    assert_eq!(keys, theirs);
    keys
}

/// Seals and opens a frame with known content.
struct Direction {
    sealer: Sealer,
    opener: Opener,
    rng: ChaCha20Rng,
}

impl Direction {
    fn new(secret: &LinkSecret) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(1);
        Self { sealer: Sealer::new(secret), opener: Opener::new(secret), rng }
    }

    fn frame(&mut self, kind: u8, payload: &[u8], padding: usize, frame: &[u8]) {
        let mut packet = Vec::new();
        packet::write(&mut packet, kind, payload, padding);
        let mut sealed = Vec::new();
        self.sealer.seal(&mut sealed, |out| out.extend_from_slice(&packet)).unwrap();
        assert_eq!(sealed, frame);
        let mut opened = Vec::new();
        let deliver = |found: &[u8]| {
            opened.push(found.to_vec());
            Ok::<_, FrameError>(())
        };
        self.opener.open(frame, &mut self.rng, deliver).unwrap();
        assert_eq!(opened, [packet]);
    }
}

/// Replays a handshake through both engines. The padding of the server is random, so the answer of
/// the vector goes to the client, and the answer of our server is compared around its padding.
fn engines(case: &Value, client_message: &[u8], server_message: &[u8], padding: &[u8]) {
    let identity = identity(case);
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let hour = |name: &str| {
        let hour = &case[name];
        let hour = if hour.is_null() { &case["epoch_hour"] } else { hour };
        let hour = hour.as_u64().or_else(|| hour.as_str().and_then(|text| text.parse().ok()));
        Duration::from_secs(hour.expect("an hour") * 3600 + 1800)
    };

    let (mut client, message) = Client::start_with(
        identity.shared().clone(),
        ephemeral(case, "client"),
        padding,
        hour("client_epoch_hour"),
    );
    assert_eq!(message, client_message);
    let mut out = Vec::new();
    let progress = client.receive(server_message, &mut rng, &mut out).unwrap();
    assert_eq!((progress, out.len()), (Progress::Open, 0));

    let mut search = MarkSearch::new();
    let verdict = search.offer(client_message, |_, each| each(1, identity.shared(), ()));
    assert_eq!(verdict, MarkVerdict::Found(()));
    let choices = Choices {
        ephemeral: ephemeral(case, "server"),
        padding: server_message.len() - 96,
        seed: [5; 24],
    };
    let mut replays = ReplayFilter::new(&mut rng);
    let now = hour("server_epoch_hour");
    let (_, reply) =
        Server::accept_with(&identity, client_message, now, &mut replays, &choices, &mut rng)
            .unwrap();
    assert_eq!(reply.len(), server_message.len() + 45);
    assert_eq!(reply[..64], server_message[..64]);
    let mark = server_message.len() - 32;
    assert_eq!(reply[mark..mark + 16], server_message[mark..mark + 16]);
    if mark == 64 {
        assert_eq!(reply[..96], *server_message);
    }
    let refused =
        Server::accept_with(&identity, client_message, now, &mut replays, &choices, &mut rng);
    assert_eq!(refused.unwrap_err().drain.deadline(), {
        let thresholds = Thresholds::new(&choices.seed);
        now + Duration::from_secs(30 + u64::from(thresholds.seconds))
    });
}

#[test]
fn transports_obfs4() {
    let file = load("transports-obfs4.json");
    let mut tally = Tally::new("transports-obfs4.json");
    constants(&file["constants"]);
    tally.pass();
    for case in list(&file, "handshakes") {
        let secret = SharedSecret::new(&hex(&case["shared_secret"]));
        let version = ClientVersion(case["client_lib_version"].as_u64().unwrap() as u32);
        let derived = secret.session_keys(version).obfs4();
        assert_eq!(derived.private, array(&case["identity_private"]));
        assert_eq!(derived.public, array(&case["identity_public"]));
        assert_eq!(derived.node_id, array(&case["node_id"]));
        let identity = ServerIdentity::new(derived);
        let client = ephemeral(case, "client");
        let shared: &ClientIdentity = identity.shared();
        assert_eq!(shared.mark(client.representative()), array(&case["client_mark"]));

        let padding = hex(&case["client_padding"]);
        let client_hour = case["client_epoch_hour"].as_u64().unwrap();
        let server_hour = case["server_epoch_hour"].as_u64().unwrap();
        let first =
            handshake::client_message(shared, client.representative(), &padding, client_hour);
        assert_eq!(first, hex(&case["client_handshake"]));
        let verified = handshake::verified_hour(shared, &first, server_hour);
        assert_eq!(verified, Some(client_hour));
        for far in [client_hour - 2, client_hour + 2] {
            assert_eq!(handshake::verified_hour(shared, &first, far), None);
        }

        let keys = exchange(case, &identity);
        assert_eq!(okm(&keys), hex(&case["okm_144"]));
        let second = handshake::server_message(
            shared,
            &array(&case["server_representative"]),
            keys.auth(),
            &hex(&case["server_padding"]),
            client_hour,
        );
        assert_eq!(second, hex(&case["server_handshake"]));
        engines(case, &first, &second, &padding);
        tally.pass();

        for (name, link) in [
            ("server_to_client_frames", &keys.downstream),
            ("client_to_server_frames", &keys.upstream),
        ] {
            let mut direction = Direction::new(link);
            for frame in list(case, name) {
                let number = |name: &str| frame[name].as_u64().unwrap();
                direction.frame(
                    number("type") as u8,
                    &hex(&frame["payload"]),
                    number("padding") as usize,
                    &hex(&frame["frame"]),
                );
                tally.pass();
            }
        }
    }
    for case in list(&file, "drbg") {
        generator(case);
        tally.pass();
    }
    tally.finish();
}

fn constants(case: &Value) {
    use transports::obfs4::{
        CLIENT_PADDING, MAX_FRAME_PAYLOAD, MAX_HANDSHAKE, MAX_SEGMENT, SERVER_PADDING,
    };
    let ours = [
        ("max_handshake", MAX_HANDSHAKE),
        ("client_min_pad", *CLIENT_PADDING.start()),
        ("client_max_pad", *CLIENT_PADDING.end()),
        ("server_max_pad", *SERVER_PADDING.end()),
        ("max_segment", MAX_SEGMENT),
        ("max_frame_payload", MAX_FRAME_PAYLOAD),
        ("max_packet_payload", packet::MAX_PACKET_PAYLOAD),
    ];
    assert_eq!(ours.len(), case.as_object().unwrap().len());
    for (name, value) in ours {
        assert_eq!(case[name].as_u64(), Some(value as u64), "{name}");
    }
}

fn generator(case: &Value) {
    let seed = array(&case["seed"]);
    let mut drbg = Drbg::new(&seed);
    for block in list(case, "blocks") {
        assert_eq!(drbg.block(), array::<8>(block));
    }
    let thresholds = Thresholds::new(&seed);
    assert_eq!(case["close_delay_bytes"].as_u64(), Some(thresholds.bytes.into()));
    assert_eq!(case["close_delay_seconds"].as_u64(), Some(thresholds.seconds.into()));
    let permutation: Vec<u64> =
        Drbg::new(&seed).permutation(8).into_iter().map(u64::from).collect();
    let expected: Vec<u64> =
        list(case, "perm8").iter().map(|value| value.as_u64().unwrap()).collect();
    assert_eq!(permutation, expected);

    let table = Distribution::lengths(&seed);
    let mut drbg = Drbg::new(&seed);
    drbg.permutation(1449);
    let count = drbg.int(100) as usize + 1;
    assert_eq!(table.entries().len(), count);
    let columns = ["values", "weights", "prob", "alias"]
        .map(|name| list(case, &format!("length_dist_{name}")));
    assert!(columns.iter().all(|column| column.len() == count));
    let [values, weights, keep, alias] = columns;
    for (i, entry) in table.entries().iter().enumerate() {
        assert_eq!(values[i].as_u64(), Some(entry.value.into()));
        // The parser of the file may be off by the last bit.
        assert!((weights[i].as_f64().unwrap() - drbg.unit()).abs() < 1e-15);
        let expected = keep[i].as_f64().unwrap();
        assert!((entry.keep - expected).abs() < 1e-9, "{i}: {} {expected}", entry.keep);
        // The alias of an entry that is always kept is never drawn.
        if expected < 1.0 {
            assert_eq!(alias[i].as_u64(), Some(entry.alias.into()), "{i}");
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[test]
fn transports_obfs4_captured() {
    let file = load("transports-obfs4-captured.json");
    let mut tally = Tally::new("transports-obfs4-captured.json");
    for case in list(&file, "handshakes") {
        let identity = identity(case);
        let keys = exchange(case, &identity);
        assert_eq!(okm(&keys), hex(&case["okm"]));
        assert_eq!(*keys.auth(), array(&case["server_auth"]));

        if let Some(message) = case.get("client_handshake") {
            let (message, answer) = (hex(message), hex(&case["server_handshake"]));
            assert_eq!(sha256(&message), array(&case["client_handshake_sha256"]));
            assert_eq!(sha256(&answer), array(&case["server_handshake_sha256"]));
            let padding = &message[32..message.len() - 32];
            assert_eq!(case["client_pad_len"].as_u64(), Some(padding.len() as u64));
            assert_eq!(case["server_pad_len"].as_u64(), Some(answer.len() as u64 - 96));
            engines(case, &message, &answer, padding);
        } else {
            longest(case, identity.shared());
        }

        let mut down = Direction::new(&keys.downstream);
        down.frame(1, &hex(&case["frame0_prng_seed_payload"]), 0, &hex(&case["frame0"]));
        down.frame(0, b"hello", 0, &hex(&case["frame1_payload_hello"]));
        down.frame(0, b"", 20, &hex(&case["frame2_padding20"]));
        let mut up = Direction::new(&keys.upstream);
        let frame = hex(&case["client_frame0_payload_pad7"]);
        up.frame(0, b"GET / HTTP/1.0\r\n\r\n", 7, &frame);
        tally.pass();
    }
    tally.finish();
}

/// The handshake of greatest length, of which only digests, head and tail were kept.
fn longest(case: &Value, shared: &ClientIdentity) {
    assert_eq!(case["client_pad_len"].as_u64(), Some(8128));
    assert_eq!(case["server_pad_len"].as_u64(), Some(8051));
    let parts = hex(&case["client_handshake_head32_tail32"]);
    let (head, tail) = parts.split_at(32);
    let representative: [u8; 32] = array(&case["client_representative"]);
    assert_eq!(head, representative);
    assert_eq!(shared.mark(&representative), tail[..16]);
}
