//! Which records of an epoch were received (RFC 6347 4.1.2.6).

/// The latest 128 record numbers; the reference keeps 64, but batches of the kernel reorder more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// One more than the highest number received; 0 before the first.
    next: u64,
    /// Bit `i` is set when `next - 1 - i` was received.
    seen: u128,
}

impl Window {
    /// Whether `number` may still be received.
    pub(crate) const fn admits(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let age = self.next - 1 - number;
        age < 128 && self.seen >> age & 1 == 0
    }

    /// Records that `number`, which was admitted, was received and is authentic.
    pub(crate) const fn receive(&mut self, number: u64) {
        if number >= self.next {
            let shift = number + 1 - self.next;
            self.seen = if shift < 128 { self.seen << shift } else { 0 } | 1;
            self.next = number + 1;
        } else {
            self.seen |= 1 << (self.next - 1 - number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_admitted_once() {
        let mut window = Window::default();
        for number in [0, 3, 1, 200, 73, 2000, 1873] {
            assert!(window.admits(number), "{number}");
            window.receive(number);
            assert!(!window.admits(number), "{number}");
        }
        assert!(window.admits(1999) && window.admits(2001));
        assert!(!window.admits(1872), "too old to know");
        assert!(!window.admits(0));
    }

    #[test]
    fn the_window_agrees_with_a_list() {
        let mut window = Window::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut state = 1u64;
        for step in 0..20_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (step + (state >> 33) % 300).saturating_sub(150);
            let top = seen.last().copied().unwrap_or(0);
            let expect = !seen.contains(&number) && number + 128 > top;
            assert_eq!(window.admits(number), expect, "{number} of {top}");
            if expect {
                window.receive(number);
                seen.insert(number);
            }
        }
    }
}
