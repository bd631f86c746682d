//! Keys as they are written in configuration files.

const Z85: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// The 32 bytes of a key in Z85 (ZeroMQ RFC 32), which has 40 characters.
pub fn z85(text: &str) -> Option<[u8; 32]> {
    if text.len() != 40 {
        return None;
    }
    let mut key = [0; 32];
    for (group, bytes) in text.as_bytes().chunks_exact(5).zip(key.chunks_exact_mut(4)) {
        let mut number = 0u32;
        for character in group {
            let digit = Z85.iter().position(|c| c == character)?;
            number = number.checked_mul(85)?.checked_add(u32::try_from(digit).ok()?)?;
        }
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_40_characters_of_the_alphabet() {
        let key = z85("s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@").unwrap();
        assert_eq!(key.len(), 32);
        assert_eq!(
            z85("HelloWorldHelloWorldHelloWorldHelloWorld").unwrap()[..4],
            [0x86, 0x4f, 0xd2, 0x6f]
        );
        assert_eq!(z85(&"#".repeat(40)), None, "above 2^32");
        assert_eq!(z85(&"a".repeat(39)), None);
        assert_eq!(z85(&"~".repeat(40)), None);
    }
}
