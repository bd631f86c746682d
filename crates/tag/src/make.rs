//! Making a tag on the client's side (`spec/detector.md` 9).

use crate::aead::seal;
use crate::layout::{FIXED, GCM_TAG};
use crate::payload;
use crate::stego;
use keys::{EphemeralKey, SharedSecret};
use rand_core::CryptoRng;
use signalling::raw::put_bytes;

/// Field `padding` of `ClientToStation`.
const PADDING: u32 = 100;

/// Why a registration cannot be put into a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NewTagError {
    /// The station's public key is of low order.
    #[error(
        "the station's public key is of low order, so it is not a real one; \
             check the ClientConf"
    )]
    StationKey,
    /// The message is not a `ClientToStation`.
    #[error(transparent)]
    Payload(#[from] payload::Malformed),
    /// The message does not fit the 16-bit size field.
    #[error("the registration has {size} bytes, a tag holds 65,000 at most")]
    TooLong {
        /// Its length.
        size: usize,
    },
}

/// Longest message that is accepted; a TLS record holds far less.
const MAX_MESSAGE: usize = 65_000;

/// The secret bytes of one registration, the same for every decoy of the session.
pub struct NewTag {
    secret: Vec<u8>,
    shared_secret: SharedSecret,
}

impl std::fmt::Debug for NewTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewTag(_)")
    }
}

impl NewTag {
    /// Draws an ephemeral key and hides the serialised `ClientToStation` under it, padded so that
    /// the stego code comes out even.
    ///
    /// # Errors
    /// When the station key is worthless or the message does not fit.
    pub fn new<R: CryptoRng + ?Sized>(
        station_public: &[u8; 32],
        client_to_station: &[u8],
        rng: &mut R,
    ) -> Result<Self, NewTagError> {
        Self::with_key(&EphemeralKey::generate(rng), station_public, client_to_station)
    }

    /// The same with a given ephemeral key.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_key(
        ephemeral: &EphemeralKey,
        station_public: &[u8; 32],
        client_to_station: &[u8],
    ) -> Result<Self, NewTagError> {
        payload::check(client_to_station)?;
        if client_to_station.len() > MAX_MESSAGE {
            return Err(NewTagError::TooLong { size: client_to_station.len() });
        }
        let agreed = ephemeral.agree(station_public).ok_or(NewTagError::StationKey)?;
        let shared_secret = SharedSecret::new(&*agreed);
        let keys = shared_secret.decoy_keys();
        let variable = seal(&keys.variable(), &padded(client_to_station));
        let size = u16::try_from(variable.len())
            .map_err(|_| NewTagError::TooLong { size: client_to_station.len() })?;
        let mut fixed = [0; FIXED];
        fixed[..2].copy_from_slice(&size.to_be_bytes());
        let mut secret = variable;
        secret.extend_from_slice(ephemeral.representative());
        secret.extend(seal(&keys.fixed, &fixed));
        Ok(Self { secret, shared_secret })
    }

    /// The secret of the session that the tag opens.
    pub const fn shared_secret(&self) -> &SharedSecret {
        &self.shared_secret
    }

    /// The bytes that the record's ciphertext has to carry.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Bytes that [`request`](Self::request) adds behind the head.
    pub fn stego_len(&self) -> usize {
        self.secret.len() / 3 * 4
    }

    /// The plaintext of the record: `head`, the stego bytes, CR LF CR LF. `keystream` is the
    /// cipher stream of that record from its start; `None` when it is too short.
    pub fn request(&self, head: &[u8], keystream: &[u8]) -> Option<Vec<u8>> {
        let keystream = keystream.get(head.len()..head.len() + self.stego_len())?;
        let mut plaintext = head.to_vec();
        plaintext.extend(stego::encode(&self.secret, keystream));
        plaintext.extend_from_slice(b"\r\n\r\n");
        Some(plaintext)
    }
}

/// Appends the shortest padding field after which message and GCM tag are a multiple of 3.
fn padded(message: &[u8]) -> Vec<u8> {
    let mut padding = 0;
    loop {
        let mut whole = message.to_vec();
        if padding > 0 {
            put_bytes(&mut whole, PADDING, &vec![0; padding]);
        }
        // An empty message would leave the variable part without content.
        if (whole.len() + GCM_TAG).is_multiple_of(3) && !whole.is_empty() {
            return whole;
        }
        padding += 1;
    }
}

/// Head of the request that released clients send to a decoy, up to the stego bytes
/// (`spec/detector.md` 9, item 7).
pub fn request_head<R: CryptoRng + ?Sized>(hostname: &str, rng: &mut R) -> String {
    let fixed = 66 + hostname.len();
    let most = 612usize.saturating_sub(fixed).max(7);
    let mut total = 0;
    for _ in 0..10 {
        total += 7 + rng.next_u32() as usize % (most - 7 + 1);
    }
    format!(
        "GET / HTTP/1.1\r\nHost: {hostname}\r\n\
         User-Agent: TapDance/1.2 (+https://refraction.network/info)\r\nX-Ignore: {}",
        "#".repeat(total / 10)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TagChecker;
    use keys::StationKey;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    /// The ciphertext that a decoy flow would show: header, nonce, body, AEAD tag.
    fn record(plaintext: &[u8], keystream: &[u8]) -> Vec<u8> {
        let mut record = vec![0x17, 3, 3, 0, 0];
        record.extend([0; 8]);
        record.extend(plaintext.iter().zip(keystream).map(|(p, k)| p ^ k));
        record.extend([0xee; 16]);
        record
    }

    #[test]
    fn heads_have_the_length_of_released_clients() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        for host in ["a", "decoy.example.com"] {
            let head = request_head(host, &mut rng);
            assert!(head.starts_with(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n")));
            assert!((95 + host.len() + 7..=641).contains(&head.len()), "{}", head.len());
            assert!(head.ends_with('#'));
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        assert_eq!(
            NewTag::new(&[0; 32], &[0x28, 4], &mut rng).unwrap_err(),
            NewTagError::StationKey
        );
        let station = StationKey::from_private(&[9; 32]).unwrap();
        assert!(NewTag::new(station.public(), &[0xff], &mut rng).is_err());
    }

    proptest! {
        #[test]
        fn tags_are_found(
            private in any::<[u8; 32]>(),
            seed in any::<u64>(),
            covert in "[a-z]{0,80}",
            keystream in proptest::collection::vec(any::<u8>(), 1200),
        ) {
            let station = StationKey::from_private(&private).unwrap();
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut message = vec![0x28, 4];
            put_bytes(&mut message, 20, covert.as_bytes());
            let tag = NewTag::new(station.public(), &message, &mut rng).unwrap();
            let head = request_head("decoy.example.com", &mut rng);
            let plaintext = tag.request(head.as_bytes(), &keystream).unwrap();
            let record = record(&plaintext, &keystream);
            let other = StationKey::from_private(&[1; 32]).unwrap();
            let checker = TagChecker::new(vec![other, station]);
            let found = checker.check(&record).unwrap();
            prop_assert_eq!(found.shared_secret.as_slice(), tag.shared_secret().expose());
            prop_assert_eq!(found.key_index, 1);
            prop_assert!(found.client_to_station.starts_with(&message));
            prop_assert!(checker.check(&record[..record.len() - 1]).is_err());
        }

        #[test]
        fn any_payload_is_survived(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
            let checker = TagChecker::new(vec![StationKey::from_private(&[9; 32]).unwrap()]);
            prop_assert!(checker.check(&payload).is_err());
        }
    }
}
