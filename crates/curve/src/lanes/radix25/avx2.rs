//! Over the registers of AVX2. The products of the ladder are assembly: ten columns and what is added to them fit the
//! sixteen registers only when the limbs are taken from memory as they are needed, and compilers load them
//! beforehand.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_mul_epu32, _mm256_set1_epi64x,
    _mm256_slli_epi64, _mm256_srli_epi64, _mm256_sub_epi64, _mm256_xor_si256,
};
use std::mem::MaybeUninit;

type Vector = __m256i;

#[target_feature(enable = "avx2")]
#[inline]
fn splat(value: u64) -> Vector {
    _mm256_set1_epi64x(value.cast_signed())
}

#[target_feature(enable = "avx2")]
#[inline]
fn vector(lanes: [u64; LANES]) -> Vector {
    // SAFETY: both are 32 bytes without invalid values.
    unsafe { std::mem::transmute(lanes) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn array(v: Vector) -> [u64; LANES] {
    // SAFETY: both are 32 bytes without invalid values.
    unsafe { std::mem::transmute(v) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi64(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn sub(a: Vector, b: Vector) -> Vector {
    _mm256_sub_epi64(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn and(a: Vector, b: Vector) -> Vector {
    _mm256_and_si256(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

/// What is above 26 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn over_26(a: Vector) -> Vector {
    _mm256_srli_epi64::<26>(a)
}

/// What is above 25 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn over_25(a: Vector) -> Vector {
    _mm256_srli_epi64::<25>(a)
}

#[target_feature(enable = "avx2")]
#[inline]
fn double(a: Vector) -> Vector {
    _mm256_add_epi64(a, a)
}

#[target_feature(enable = "avx2")]
#[inline]
fn shift_left_4(a: Vector) -> Vector {
    _mm256_slli_epi64::<4>(a)
}

/// The product of numbers below 2^32.
#[target_feature(enable = "avx2")]
#[inline]
fn wide(a: Vector, b: Vector) -> Vector {
    _mm256_mul_epu32(a, b)
}

arithmetic!(#[target_feature(enable = "avx2")]);

/// In every lane: the masks of even and of odd limbs, and 19 and 38, the weights of a column beyond the last.
#[repr(align(32))]
struct Constants([[u64; LANES]; 4]);

static CONSTANTS: Constants =
    Constants([[MASK_26; LANES], [MASK_25; LANES], [19; LANES], [38; LANES]]);

/// Room for limbs times a number.
type Scratch = MaybeUninit<[Vector; 12]>;

/// Limb `j` in memory: of `f` or `g`, or one of its multiples in the scratch.
#[rustfmt::skip]
macro_rules! limb {
    (f $j:literal) => { concat!("[{f} + 32*", $j, "]") };
    (g $j:literal) => { concat!("[{g} + 32*", $j, "]") };
    (g19 $j:literal) => { concat!("[{scratch} + 32*", $j, "]") };
    // The places 1, 3, 5, 7; 8 to 11; 0, 2, 4.
    (f2 $j:literal) => { concat!("[{scratch} + 32*", $j, "]") };
    (f19 $j:literal) => { concat!("[{scratch} + 32*(", $j, " + 2)]") };
    (f38 $j:literal) => { concat!("[{scratch} + 32*(", $j, " - 5)]") };
}

/// Keeps limbs in the scratch, multiplied by the number in ymm`by`.
macro_rules! multiples {
    ($to:ident = $by:literal * $of:ident; $($j:literal)*) => {
        concat!($(
            "vpmuludq ymm12, ymm", $by, ", ", limb!($of $j), "\n",
            "vmovdqa ", limb!($to $j), ", ymm12\n",
        )*)
    };
}

/// Keeps limbs in the scratch, doubled.
macro_rules! doubles {
    ($to:ident = 2 * $of:ident; $($j:literal)*) => {
        concat!($(
            "vmovdqa ymm12, ", limb!($of $j), "\n",
            "vpaddq ymm12, ymm12, ymm12\n",
            "vmovdqa ", limb!($to $j), ", ymm12\n",
        )*)
    };
}

/// The factors of a row: limb `i` of `f` in ymm10, and twice it in ymm11 where that is wanted.
macro_rules! row {
    ($i:literal) => {
        concat!("vmovdqa ymm10, ", limb!(f $i), "\n")
    };
    ($i:literal, twice) => {
        concat!(row!($i), "vpaddq ymm11, ymm10, ymm10\n")
    };
}

/// Begins columns with products of ymm`by` and a limb: `column:limb`.
macro_rules! begin {
    ($by:literal * $of:ident; $($column:literal:$j:literal)*) => {
        concat!($("vpmuludq ymm", $column, ", ymm", $by, ", ", limb!($of $j), "\n",)*)
    };
}

/// Adds products of ymm`by` and a limb to columns: `column:limb`.
macro_rules! add {
    ($by:literal * $of:ident; $($column:literal:$j:literal)*) => {
        concat!($(
            "vpmuludq ymm12, ymm", $by, ", ", limb!($of $j), "\n",
            "vpaddq ymm", $column, ", ymm", $column, ", ymm12\n",
        )*)
    };
}

/// Carries what is above so many bits into the next column; the mask of them is in ymm`mask`.
macro_rules! carry {
    ($from:literal -> $to:literal, $bits:literal, $mask:literal) => {
        concat!(
            "vpsrlq ymm12, ymm", $from, ", ", $bits, "\n",
            "vpand ymm", $from, ", ymm", $from, ", ymm", $mask, "\n",
            "vpaddq ymm", $to, ", ymm", $to, ", ymm12\n",
        )
    };
    (even $from:literal -> $to:literal) => { carry!($from -> $to, 26, 14) };
    (odd $from:literal -> $to:literal) => { carry!($from -> $to, 25, 15) };
}

/// The columns settled, as [`settle`] does it, and stored in `h`.
macro_rules! settle {
    () => {
        concat!(
            "vmovdqa ymm14, [{constants}]\n",
            "vmovdqa ymm15, [{constants} + 32]\n",
            carry!(even 0 -> 1), carry!(even 4 -> 5),
            carry!(odd 1 -> 2), carry!(odd 5 -> 6),
            carry!(even 2 -> 3), carry!(even 6 -> 7),
            carry!(odd 3 -> 4), carry!(odd 7 -> 8),
            carry!(even 4 -> 5), carry!(even 8 -> 9),
            // 19 times what is above column 9, a number of any size.
            "vpsrlq ymm12, ymm9, 25\n",
            "vpand ymm9, ymm9, ymm15\n",
            "vpaddq ymm13, ymm12, ymm12\n",
            "vpaddq ymm0, ymm0, ymm12\n",
            "vpsllq ymm12, ymm12, 4\n",
            "vpaddq ymm0, ymm0, ymm13\n",
            "vpaddq ymm0, ymm0, ymm12\n",
            carry!(even 0 -> 1),
            store!(0 1 2 3 4 5 6 7 8 9),
        )
    };
}

/// Stores columns in `h`.
macro_rules! store {
    ($($column:literal)*) => {
        concat!($("vmovdqa [{h} + 32*", $column, "], ymm", $column, "\n",)*)
    };
}

/// Assembly that may use all registers of AVX2.
macro_rules! assembly {
    ($($line:expr),* ; $($operand:tt)*) => {
        std::arch::asm!(
            $($line,)*
            $($operand)*
            constants = in(reg) &raw const CONSTANTS.0,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack, preserves_flags)
        )
    };
}

/// Sets `h` to the product. A row for each limb of `f`.
#[target_feature(enable = "avx2")]
#[inline]
fn set_times(h: &mut Element, f: &Element, g: &Element) {
    let mut scratch = Scratch::uninit();
    // SAFETY: it reads elements and constants, writes an element, and reads of the scratch what it has written; all
    // of them are aligned as vectors are.
    unsafe {
        assembly!(
            "vmovdqa ymm15, [{constants} + 64]\n",
            multiples!(g19 = 15 * g; 1 2 3 4 5 6 7 8 9),
            row!(0),
            begin!(10 * g; 0:0 1:1 2:2 3:3 4:4 5:5 6:6 7:7 8:8 9:9),
            row!(1, twice),
            add!(11 * g19; 0:9),
            add!(10 * g; 1:0 3:2 5:4 7:6 9:8),
            add!(11 * g; 2:1 4:3 6:5 8:7),
            row!(2),
            add!(10 * g19; 0:8 1:9),
            add!(10 * g; 2:0 3:1 4:2 5:3 6:4 7:5 8:6 9:7),
            row!(3, twice),
            add!(10 * g19; 1:8),
            add!(11 * g19; 0:7 2:9),
            add!(10 * g; 3:0 5:2 7:4 9:6),
            add!(11 * g; 4:1 6:3 8:5),
            row!(4),
            add!(10 * g19; 0:6 1:7 2:8 3:9),
            add!(10 * g; 4:0 5:1 6:2 7:3 8:4 9:5),
            row!(5, twice),
            add!(10 * g19; 1:6 3:8),
            add!(11 * g19; 0:5 2:7 4:9),
            add!(10 * g; 5:0 7:2 9:4),
            add!(11 * g; 6:1 8:3),
            row!(6),
            add!(10 * g19; 0:4 1:5 2:6 3:7 4:8 5:9),
            add!(10 * g; 6:0 7:1 8:2 9:3),
            row!(7, twice),
            add!(10 * g19; 1:4 3:6 5:8),
            add!(11 * g19; 0:3 2:5 4:7 6:9),
            add!(10 * g; 7:0 9:2),
            add!(11 * g; 8:1),
            row!(8),
            add!(10 * g19; 0:2 1:3 2:4 3:5 4:6 5:7 6:8 7:9),
            add!(10 * g; 8:0 9:1),
            row!(9, twice),
            add!(10 * g19; 1:2 3:4 5:6 7:8),
            add!(11 * g19; 0:1 2:3 4:5 6:7 8:9),
            add!(10 * g; 9:0),
            settle!();
            h = in(reg) h, f = in(reg) f, g = in(reg) g, scratch = in(reg) scratch.as_mut_ptr(),
        );
    }
}

/// Sets `h` to the square. A row for each limb, with itself and those above it.
#[target_feature(enable = "avx2")]
#[inline]
fn set_square(h: &mut Element, f: &Element) {
    let mut scratch = Scratch::uninit();
    // SAFETY: as above.
    unsafe {
        assembly!(
            "vmovdqa ymm14, [{constants} + 64]\n",
            "vmovdqa ymm15, [{constants} + 96]\n",
            doubles!(f2 = 2 * f; 1 3 5 7),
            multiples!(f19 = 14 * f; 6 7 8 9),
            multiples!(f38 = 15 * f; 5 7 9),
            row!(0, twice),
            begin!(10 * f; 0:0),
            begin!(11 * f; 1:1 2:2 3:3 4:4 5:5 6:6 7:7 8:8 9:9),
            row!(1, twice),
            add!(10 * f2; 2:1),
            add!(11 * f; 3:2 5:4 7:6 9:8),
            add!(11 * f2; 4:3 6:5 8:7),
            add!(11 * f38; 0:9),
            row!(2, twice),
            add!(10 * f; 4:2),
            add!(11 * f; 5:3 6:4 7:5 8:6 9:7),
            add!(11 * f19; 0:8 1:9),
            row!(3, twice),
            add!(10 * f2; 6:3),
            add!(11 * f; 7:4 9:6),
            add!(11 * f2; 8:5),
            add!(11 * f38; 0:7 2:9),
            add!(11 * f19; 1:8),
            row!(4, twice),
            add!(10 * f; 8:4),
            add!(11 * f; 9:5),
            add!(11 * f19; 0:6 1:7 2:8 3:9),
            row!(5, twice),
            add!(10 * f38; 0:5),
            add!(11 * f19; 1:6 3:8),
            add!(11 * f38; 2:7 4:9),
            row!(6, twice),
            add!(10 * f19; 2:6),
            add!(11 * f19; 3:7 4:8 5:9),
            row!(7, twice),
            add!(10 * f38; 4:7),
            add!(11 * f19; 5:8),
            add!(11 * f38; 6:9),
            row!(8, twice),
            add!(10 * f19; 6:8),
            add!(11 * f19; 7:9),
            row!(9),
            add!(10 * f38; 8:9),
            settle!();
            h = in(reg) h, f = in(reg) f, scratch = in(reg) scratch.as_mut_ptr(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What limbs of sums of two and of differences are below: of even ones, and of odd ones.
    const BELOW: [u64; 2] = [3 << 26, 3 << 25];

    #[target_feature(enable = "avx2")]
    fn agree(f: [[u64; LANES]; 10], g: [[u64; LANES]; 10]) {
        let (f, g) = (f.map(|limb| vector(limb)), g.map(|limb| vector(limb)));
        let limbs = |element: Element| element.map(|limb| array(limb));
        let mut h = constant(0);
        set_times(&mut h, &f, &g);
        assert_eq!(limbs(h), limbs(times(&f, &g)));
        set_square(&mut h, &f);
        assert_eq!(limbs(h), limbs(square(&f)));
    }

    fn agree_where_available(f: [[u64; LANES]; 10], g: [[u64; LANES]; 10]) {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return println!("skipped: needs a processor with AVX2");
        }
        // SAFETY: the processor has the instructions.
        unsafe { agree(f, g) }
    }

    fn elements() -> impl Strategy<Value = [[u64; LANES]; 10]> {
        any::<[[u64; LANES]; 10]>().prop_map(|mut limbs| {
            for (i, lanes) in limbs.iter_mut().enumerate() {
                lanes.iter_mut().for_each(|lane| *lane %= BELOW[i % 2]);
            }
            limbs
        })
    }

    #[test]
    fn the_largest_limbs_multiply_as_in_rust() {
        let largest = std::array::from_fn(|i| [BELOW[i % 2] - 1; LANES]);
        agree_where_available(largest, largest);
        for i in 0..10 {
            let mut one = [[0; LANES]; 10];
            one[i] = [BELOW[i % 2] - 1; LANES];
            agree_where_available(one, largest);
            agree_where_available(largest, one);
        }
    }

    proptest! {
        #[test]
        fn limbs_multiply_as_in_rust(f in elements(), g in elements()) {
            agree_where_available(f, g);
        }
    }
}
