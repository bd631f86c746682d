//! The key stream of Salsa20 (D. J. Bernstein, "The Salsa20 family of stream ciphers"), eight
//! blocks at a time.
//!
//! Lane `n` of every vector belongs to block `n`. The rounds are plain loops over lanes, which the
//! compiler turns into vector instructions of the widest set that a function may use; the set is
//! chosen when the program runs. Nothing depends on the key but values: no branch, no address.

/// Bytes of one block.
pub const BLOCK: usize = 64;
/// Blocks that are made together.
const LANES: usize = 8;
/// Bytes that are made together; a stream of such a length wastes nothing.
pub const STRIDE: usize = LANES * BLOCK;

type Vector = [u32; LANES];

/// Fills `out` with the key stream from its start, for 20 rounds.
pub fn keystream(key: &[u8; 32], nonce: &[u8; 8], out: &mut [u8]) {
    let mut state = initial(key, nonce);
    for chunk in out.chunks_mut(STRIDE) {
        let mut stride = [0; STRIDE];
        match <&mut [u8; STRIDE]>::try_from(&mut *chunk) {
            Ok(whole) => blocks(&state, whole),
            Err(_) => {
                blocks(&state, &mut stride);
                chunk.copy_from_slice(&stride[..chunk.len()]);
            }
        }
        advance(&mut state);
    }
}

/// The 16 words of each lane's first block, whose number is the lane's.
fn initial(key: &[u8; 32], nonce: &[u8; 8]) -> [Vector; 16] {
    const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]])
    };
    let mut state = [[0; LANES]; 16];
    for (at, constant) in CONSTANTS.into_iter().enumerate() {
        state[5 * at] = [constant; LANES];
        state[1 + at] = [word(key, at); LANES];
        state[11 + at] = [word(key, 4 + at); LANES];
    }
    state[6] = [word(nonce, 0); LANES];
    state[7] = [word(nonce, 1); LANES];
    state[8] = std::array::from_fn(|lane| lane as u32);
    state
}

/// Moves every lane on to its next block.
fn advance(state: &mut [Vector; 16]) {
    let [.., low, high, _, _, _, _, _, _] = state;
    for (low, high) in low.iter_mut().zip(high) {
        let (next, carry) = low.overflowing_add(LANES as u32);
        *low = next;
        *high = high.wrapping_add(u32::from(carry));
    }
}

/// Makes the blocks of all lanes.
fn blocks(state: &[Vector; 16], out: &mut [u8; STRIDE]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { blocks_avx512(state, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { blocks_avx2(state, out) };
        }
    }
    blocks_portable(state, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn blocks_avx512(state: &[Vector; 16], out: &mut [u8; STRIDE]) {
    rounds(state, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks_avx2(state: &[Vector; 16], out: &mut [u8; STRIDE]) {
    rounds(state, out);
}

fn blocks_portable(state: &[Vector; 16], out: &mut [u8; STRIDE]) {
    rounds(state, out);
}

// Indices keep the lanes of a word together, which is what the compiler turns into vectors.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn rounds(state: &[Vector; 16], out: &mut [u8; STRIDE]) {
    let mut x = *state;
    for _ in 0..10 {
        quarter(&mut x, 0, 4, 8, 12);
        quarter(&mut x, 5, 9, 13, 1);
        quarter(&mut x, 10, 14, 2, 6);
        quarter(&mut x, 15, 3, 7, 11);
        quarter(&mut x, 0, 1, 2, 3);
        quarter(&mut x, 5, 6, 7, 4);
        quarter(&mut x, 10, 11, 8, 9);
        quarter(&mut x, 15, 12, 13, 14);
    }
    let (blocks, _) = out.as_chunks_mut::<BLOCK>();
    for at in 0..16 {
        for lane in 0..LANES {
            let word = x[at][lane].wrapping_add(state[at][lane]);
            blocks[lane][4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[inline(always)]
fn quarter(x: &mut [Vector; 16], a: usize, b: usize, c: usize, d: usize) {
    step(x, b, a, d, 7);
    step(x, c, b, a, 9);
    step(x, d, c, b, 13);
    step(x, a, d, c, 18);
}

/// `x[to] ^= (x[one] + x[other]) <<< bits`, in every lane.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn step(x: &mut [Vector; 16], to: usize, one: usize, other: usize, bits: u32) {
    for lane in 0..LANES {
        x[to][lane] ^= x[one][lane].wrapping_add(x[other][lane]).rotate_left(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::salsa20::cipher::{KeyIvInit, StreamCipher};
    use proptest::prelude::*;

    fn expected(key: &[u8; 32], nonce: &[u8; 8], len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        ::salsa20::Salsa20::new(key.into(), nonce.into()).apply_keystream(&mut out);
        out
    }

    proptest! {
        #[test]
        fn every_kernel_makes_the_stream_of_another_implementation(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 8]>(),
            len in 0usize..3000,
        ) {
            let mut out = vec![0; len];
            keystream(&key, &nonce, &mut out);
            prop_assert_eq!(&out, &expected(&key, &nonce, len));
            let (state, first) = (initial(&key, &nonce), expected(&key, &nonce, STRIDE));
            let mut stride = [0; STRIDE];
            blocks_portable(&state, &mut stride);
            prop_assert_eq!(&stride[..], &first);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                stride = [0; STRIDE];
                // SAFETY: the processor has the feature.
                unsafe { blocks_avx2(&state, &mut stride) };
                prop_assert_eq!(&stride[..], &first);
            }
        }
    }

    #[test]
    fn the_block_number_carries_into_its_upper_word() {
        let mut state = initial(&[0; 32], &[0; 8]);
        state[8] = std::array::from_fn(|lane| u32::MAX - 3 + lane as u32 % 4);
        advance(&mut state);
        assert_eq!(state[8][..4], [4, 5, 6, 7]);
        assert_eq!(state[9], [1; LANES]);
    }
}
