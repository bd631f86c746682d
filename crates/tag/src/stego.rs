//! Six secret bits in the low bits of every ciphertext byte (`spec/detector.md` 7.2).

/// Decodes groups of four ciphertext bytes to three secret bytes each, as many as both slices
/// hold.
pub fn decode(ciphertext: &[u8], secret: &mut [u8]) {
    for (four, three) in ciphertext.chunks_exact(4).zip(secret.chunks_exact_mut(3)) {
        let word = four.iter().fold(0u32, |word, &byte| word << 6 | u32::from(byte & 0x3f));
        three.copy_from_slice(&word.to_be_bytes()[1..]);
    }
}

/// Plaintext that the cipher stream `keystream` turns into ciphertext carrying `secret`: four
/// bytes, all in `0x40..0x80`, per three secret bytes. A last group is filled up with zeros;
/// the result ends early when the key stream does.
pub fn encode(secret: &[u8], keystream: &[u8]) -> Vec<u8> {
    let sextets = secret.chunks(3).flat_map(|three| {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        [18, 12, 6, 0].map(|shift| (word >> shift) as u8 & 0x3f)
    });
    sextets.zip(keystream).map(|(sextet, key)| (sextet ^ key) & 0x3f | 0x40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(
            groups in proptest::collection::vec(any::<[u8; 3]>(), 0..60),
            keystream in proptest::collection::vec(any::<u8>(), 240),
        ) {
            let secret = groups.concat();
            let plaintext = encode(&secret, &keystream);
            prop_assert_eq!(plaintext.len(), secret.len() / 3 * 4);
            prop_assert!(plaintext.iter().all(|byte| (0x40..0x80).contains(byte)));
            let ciphertext: Vec<u8> = plaintext.iter().zip(&keystream).map(|(p, k)| p ^ k).collect();
            let mut found = vec![0; secret.len()];
            decode(&ciphertext, &mut found);
            prop_assert_eq!(found, secret);
        }
    }
}
