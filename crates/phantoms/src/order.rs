//! Ascending order of group weights as Go's unstable `sort.Slice` leaves it
//! (`spec/core.md` 3.6 and appendix A, constants of Go 1.19 to 1.23).
//!
//! Up to twelve groups this is an insertion sort and therefore stable. Beyond, equal weights end
//! in an order that clients and reference stations share, so every swap has to be the same.

/// Indices of `weights` in ascending order of weight.
pub fn ascending(weights: &[u32]) -> Vec<usize> {
    let mut sorter = Sorter { weights, order: (0..weights.len()).collect() };
    let limit = usize::BITS - weights.len().leading_zeros();
    sorter.sort(0, weights.len(), limit);
    sorter.order
}

/// Slices of at most this length are sorted by insertion.
const INSERTION: usize = 12;

#[derive(Clone, Copy, PartialEq)]
enum Hint {
    Unknown,
    Ascending,
    Descending,
}

struct Sorter<'a> {
    weights: &'a [u32],
    order: Vec<usize>,
}

impl Sorter<'_> {
    fn less(&self, i: usize, j: usize) -> bool {
        self.weights[self.order[i]] < self.weights[self.order[j]]
    }

    fn swap(&mut self, i: usize, j: usize) {
        self.order.swap(i, j);
    }

    fn sort(&mut self, mut a: usize, mut b: usize, mut limit: u32) {
        let (mut balanced, mut partitioned) = (true, true);
        loop {
            let len = b - a;
            if len <= INSERTION {
                return self.insertion(a, b);
            }
            if limit == 0 {
                return self.heap(a, b);
            }
            if !balanced {
                self.break_patterns(a, b);
                limit -= 1;
            }
            let (mut pivot, mut hint) = self.choose_pivot(a, b);
            if hint == Hint::Descending {
                self.order[a..b].reverse();
                pivot = (b - 1) - (pivot - a);
                hint = Hint::Ascending;
            }
            if balanced && partitioned && hint == Hint::Ascending && self.partial_insertion(a, b) {
                return;
            }
            if a > 0 && !self.less(a - 1, pivot) {
                a = self.partition_equal(a, b, pivot);
                continue;
            }
            let (mid, already) = self.partition(a, b, pivot);
            partitioned = already;
            let (left, right) = (mid - a, b - mid);
            if left < right {
                balanced = left >= len / 8;
                self.sort(a, mid, limit);
                a = mid + 1;
            } else {
                balanced = right >= len / 8;
                self.sort(mid + 1, b, limit);
                b = mid;
            }
        }
    }

    fn insertion(&mut self, a: usize, b: usize) {
        for i in a + 1..b {
            let mut j = i;
            while j > a && self.less(j, j - 1) {
                self.swap(j, j - 1);
                j -= 1;
            }
        }
    }

    fn heap(&mut self, a: usize, b: usize) {
        let len = b - a;
        for root in (0..=(len - 1) / 2).rev() {
            self.sift_down(root, len, a);
        }
        for end in (0..len).rev() {
            self.swap(a, a + end);
            self.sift_down(0, end, a);
        }
    }

    fn sift_down(&mut self, mut root: usize, end: usize, first: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.less(first + child, first + child + 1) {
                child += 1;
            }
            if !self.less(first + root, first + child) {
                return;
            }
            self.swap(first + root, first + child);
            root = child;
        }
    }

    fn break_patterns(&mut self, a: usize, b: usize) {
        let len = b - a;
        if len < 8 {
            return;
        }
        let mut random = len as u64;
        let modulus = 1usize << (usize::BITS - len.leading_zeros());
        let centre = a + len / 4 * 2;
        for index in centre - 1..=centre + 1 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let mut other = random as usize & (modulus - 1);
            if other >= len {
                other -= len;
            }
            self.swap(index, a + other);
        }
    }

    fn choose_pivot(&self, a: usize, b: usize) -> (usize, Hint) {
        let len = b - a;
        let quarter = len / 4;
        let [mut i, mut j, mut k] = [a + quarter, a + 2 * quarter, a + 3 * quarter];
        let mut swaps = 0;
        if len >= 8 {
            if len >= 50 {
                i = self.median(i - 1, i, i + 1, &mut swaps);
                j = self.median(j - 1, j, j + 1, &mut swaps);
                k = self.median(k - 1, k, k + 1, &mut swaps);
            }
            j = self.median(i, j, k, &mut swaps);
        }
        let hint = match swaps {
            0 => Hint::Ascending,
            12 => Hint::Descending,
            _ => Hint::Unknown,
        };
        (j, hint)
    }

    fn median(&self, mut x: usize, mut y: usize, mut z: usize, swaps: &mut u32) -> usize {
        let mut order = |u: &mut usize, v: &mut usize| {
            if self.less(*v, *u) {
                *swaps += 1;
                std::mem::swap(u, v);
            }
        };
        order(&mut x, &mut y);
        order(&mut y, &mut z);
        order(&mut x, &mut y);
        y
    }

    fn partial_insertion(&mut self, a: usize, b: usize) -> bool {
        let mut i = a + 1;
        for _ in 0..5 {
            while i < b && !self.less(i, i - 1) {
                i += 1;
            }
            if i == b {
                return true;
            }
            if b - a < 50 {
                return false;
            }
            self.swap(i, i - 1);
            if i - a >= 2 {
                let mut j = i - 1;
                while j >= 1 && self.less(j, j - 1) {
                    self.swap(j, j - 1);
                    j -= 1;
                }
            }
            if b - i >= 2 {
                let mut j = i + 1;
                while j < b && self.less(j, j - 1) {
                    self.swap(j, j - 1);
                    j += 1;
                }
            }
        }
        false
    }

    fn partition(&mut self, a: usize, b: usize, pivot: usize) -> (usize, bool) {
        self.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        let mut already = true;
        loop {
            while i <= j && self.less(i, a) {
                i += 1;
            }
            while i <= j && !self.less(j, a) {
                j -= 1;
            }
            if i > j {
                self.swap(j, a);
                return (j, already);
            }
            already = false;
            self.swap(i, j);
            i += 1;
            j -= 1;
        }
    }

    fn partition_equal(&mut self, a: usize, b: usize, pivot: usize) -> usize {
        self.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        loop {
            while i <= j && !self.less(a, i) {
                i += 1;
            }
            while i <= j && self.less(a, j) {
                j -= 1;
            }
            if i > j {
                return i;
            }
            self.swap(i, j);
            i += 1;
            j -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_lists_are_stable() {
        assert_eq!(ascending(&[10, 24, 10, 24, 10]), [0, 2, 4, 1, 3]);
        assert_eq!(ascending(&[]), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn any_list_is_sorted(weights in proptest::collection::vec(0u32..40, 0..400)) {
            let order = ascending(&weights);
            prop_assert!(order.is_sorted_by_key(|&i| weights[i]));
            let mut seen = order;
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..weights.len()));
        }
    }
}
