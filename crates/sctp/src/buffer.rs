//! Bytes in a row, of which the front is taken away.

use std::collections::VecDeque;

/// Capacity that an empty buffer keeps.
const KEPT: usize = 2048;

/// Factor by which a buffer grows.
const STEP: usize = 3;

/// A queue of bytes that owns no memory worth speaking of while it is empty.
#[derive(Debug, Default)]
pub(crate) struct Buffer(VecDeque<u8>);

impl Buffer {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let (needed, capacity) = (self.0.len() + bytes.len(), self.0.capacity());
        if needed > capacity && needed > KEPT {
            // In few steps, since it starts from nothing after every burst.
            let next = needed.max(capacity * STEP).max(KEPT * STEP);
            self.0.reserve_exact(next - self.0.len());
        }
        self.0.extend(bytes);
    }

    /// The bytes from `start` on, in two pieces.
    pub(crate) fn range(&self, start: usize, length: usize) -> (&[u8], &[u8]) {
        let (front, back) = self.0.as_slices();
        let end = start + length;
        if end <= front.len() {
            (&front[start..end], &[])
        } else if start >= front.len() {
            (&back[start - front.len()..end - front.len()], &[])
        } else {
            (&front[start..], &back[..end - front.len()])
        }
    }

    pub(crate) fn front(&self) -> &[u8] {
        self.0.as_slices().0
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.0.drain(..n);
        self.shrink();
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
        self.shrink();
    }

    pub(crate) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    fn shrink(&mut self) {
        if self.0.is_empty() && self.0.capacity() > KEPT {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_wherever_they_lie() {
        let mut buffer = Buffer::new();
        let mut model = Vec::new();
        for round in 0..200u8 {
            buffer.extend(&[round; 7]);
            model.extend([round; 7]);
            if round % 3 != 0 {
                buffer.consume(8);
                model.drain(..8);
            }
            let start = usize::from(round) % model.len();
            let (a, b) = buffer.range(start, model.len() - start);
            assert_eq!([a, b].concat(), model[start..]);
        }
        let len = model.len();
        buffer.consume(len);
        assert!(buffer.is_empty() && buffer.0.capacity() <= KEPT);
    }
}
