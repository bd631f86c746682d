//! The seeded generator of Go's `math/rand`, on which client versions 0 and 1 rest
//! (`spec/core.md` 3.4), and the weighted pick built on it (3.5).

use crate::prng_table::COOKED;

const WORDS: usize = 607;
const M: u64 = (1 << 31) - 1;
const MULTIPLIER: u64 = 48271;
/// The seed that stands for 0.
const ZERO_SEED: u64 = 89_482_311;
/// The first draws combine words that no draw has changed yet.
const LAZY_DRAWS: usize = 273;

/// `48271^(21+3i) mod M`: brings the seed to the first word part of position `i` in one step.
static JUMP: [u32; WORDS] = jumps();

const fn lcg(x: u64) -> u64 {
    x * MULTIPLIER % M
}

const fn jumps() -> [u32; WORDS] {
    let mut table = [0; WORDS];
    let mut power = 1;
    let mut i = 0;
    while i < 21 {
        power = lcg(power);
        i += 1;
    }
    i = 0;
    while i < WORDS {
        table[i] = power as u32;
        power = lcg(lcg(lcg(power)));
        i += 1;
    }
    table
}

/// Additive lagged Fibonacci generator. Only its own state is used, so that concurrent
/// registrations cannot disturb each other.
///
/// The 607 words of state are made only when a caller draws more than 273 numbers; a phantom
/// selection draws at most three.
#[derive(Debug, Clone)]
pub struct SeededRand {
    seed: u64,
    drawn: usize,
    state: Option<Box<[u64; WORDS]>>,
    bytes: u64,
    bytes_left: u8,
}

impl SeededRand {
    /// The generator after `rand.Seed(seed)`.
    pub fn new(seed: i64) -> Self {
        let seed = match seed.rem_euclid(M as i64) as u64 {
            0 => ZERO_SEED,
            seed => seed,
        };
        Self { seed, drawn: 0, state: None, bytes: 0, bytes_left: 0 }
    }

    fn word(&self, i: usize) -> u64 {
        let a = self.seed * u64::from(JUMP[i]) % M;
        let b = lcg(a);
        let c = lcg(b);
        a << 40 ^ b << 20 ^ c ^ COOKED[i]
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let n = self.drawn;
        if self.state.is_none() && n < LAZY_DRAWS {
            self.drawn += 1;
            return self.word(333 - n).wrapping_add(self.word(606 - n));
        }
        if self.state.is_none() {
            let mut state: Box<[u64; WORDS]> = Box::new(std::array::from_fn(|i| self.word(i)));
            for n in 0..self.drawn {
                step(&mut state, n);
            }
            self.state = Some(state);
        }
        self.drawn = (n + 1) % WORDS;
        self.state.as_mut().map_or(0, |state| step(state, n))
    }

    /// The next 63 bits, `Int63`.
    pub fn next_63(&mut self) -> u64 {
        self.next_u64() & (u64::MAX >> 1)
    }

    /// A number below `n`, `Intn`; 0 when `n` is 0. `n` must be below `2^63`.
    pub fn below(&mut self, n: u64) -> u64 {
        if n <= M { self.below_bits(n, 31) } else { self.below_bits(n, 63) }
    }

    fn below_bits(&mut self, n: u64, bits: u32) -> u64 {
        let mut draw = || self.next_63() >> (63 - bits);
        if n == 0 {
            return 0;
        }
        if n.is_power_of_two() {
            return draw() & (n - 1);
        }
        let range = 1u64 << bits;
        let limit = range - 1 - range % n;
        loop {
            let drawn = draw();
            if drawn <= limit {
                return drawn % n;
            }
        }
    }

    /// Fills `out`, `Read`: every 63-bit draw yields 7 bytes, lowest first.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.bytes_left == 0 {
                self.bytes = self.next_63();
                self.bytes_left = 7;
            }
            *byte = self.bytes as u8;
            self.bytes >>= 8;
            self.bytes_left -= 1;
        }
    }
}

/// Draw number `n` modulo 607.
fn step(state: &mut [u64; WORDS], n: usize) -> u64 {
    let feed = (333 + WORDS - n % WORDS) % WORDS;
    let tap = (606 + WORDS - n % WORDS) % WORDS;
    state[feed] = state[feed].wrapping_add(state[tap]);
    state[feed]
}

/// Go's `binary.Varint`: the value, and the bytes read. A count of 0 means that the bytes ran out;
/// a negative count that the number does not fit 64 bits, in which case the value is 0
/// (`spec/core.md` 3.3).
pub fn varint(bytes: &[u8]) -> (i64, i32) {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate() {
        if i == 10 {
            return (0, -11);
        }
        if byte < 0x80 {
            if i == 9 && byte > 1 {
                return (0, -10);
            }
            value |= u64::from(byte) << (7 * i);
            let magnitude = (value >> 1) as i64;
            let signed = if value & 1 == 1 { !magnitude } else { magnitude };
            return (signed, i as i32 + 1);
        }
        if i < 10 {
            value |= u64::from(byte & 0x7f).wrapping_shl(7 * i as u32);
        }
    }
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lazy_start_joins_the_full_state() {
        let mut rand = SeededRand::new(42);
        let mut state: Box<[u64; WORDS]> = Box::new(std::array::from_fn(|i| rand.word(i)));
        for n in 0..2000 {
            assert_eq!(rand.next_u64(), step(&mut state, n), "draw {n}");
        }
    }

    #[test]
    fn equivalent_seeds() {
        let first = |seed| SeededRand::new(seed).next_u64();
        assert_eq!(first(0), first(89_482_311));
        assert_eq!(first(-1), first(M as i64 - 1));
        assert_eq!(first(M as i64), first(0));
    }

    #[test]
    fn below_zero_elements_is_zero() {
        assert_eq!(SeededRand::new(1).below(0), 0);
    }
}
