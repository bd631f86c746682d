//! The set of topic prefixes one subscriber asked for.

use bytes::Bytes;

/// Most distinct prefixes one subscriber may hold.
pub(crate) const MAX_PREFIXES: usize = 64;

/// A multiset of topic prefixes: a prefix subscribed twice has to be cancelled twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    prefixes: Vec<(Bytes, u32)>,
}

impl Subscriptions {
    /// Adds a prefix. Returns false, and changes nothing, when the set is full.
    pub fn add(&mut self, prefix: Bytes) -> bool {
        if let Some((_, count)) = self.prefixes.iter_mut().find(|(p, _)| *p == prefix) {
            *count = count.saturating_add(1);
        } else if self.prefixes.len() == MAX_PREFIXES {
            return false;
        } else {
            // A copy, so that the buffer the prefix arrived in is not kept alive.
            self.prefixes.push((Bytes::copy_from_slice(&prefix), 1));
        }
        true
    }

    /// Takes back one subscription to `prefix`, if there is one.
    pub fn cancel(&mut self, prefix: &[u8]) {
        if let Some(at) = self.prefixes.iter().position(|(p, _)| p == prefix) {
            self.prefixes[at].1 -= 1;
            if self.prefixes[at].1 == 0 {
                self.prefixes.swap_remove(at);
            }
        }
    }

    /// True when `message` begins with one of the prefixes.
    pub fn matches(&self, message: &[u8]) -> bool {
        self.prefixes.iter().any(|(prefix, _)| message.starts_with(prefix))
    }

    /// True when nothing is subscribed.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_repeated_subscriptions_and_is_bounded() {
        let mut set = Subscriptions::default();
        assert!(!set.matches(b"x"));
        set.add(Bytes::from_static(b"ab"));
        set.add(Bytes::from_static(b"ab"));
        assert!(set.matches(b"abc") && !set.matches(b"a"));
        set.cancel(b"ab");
        assert!(set.matches(b"ab"));
        set.cancel(b"ab");
        set.cancel(b"ab");
        assert!(set.is_empty());
        for n in 0..MAX_PREFIXES {
            assert!(set.add(Bytes::from(n.to_string())));
        }
        assert!(!set.add(Bytes::new()));
        assert!(set.add(Bytes::from_static(b"0")), "a known prefix is counted, not stored");
    }
}
