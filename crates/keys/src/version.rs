//! What each client library version does differently (`spec/core.md` 2).

/// `ClientToStation.client_lib_version`; an absent field is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientVersion(pub u32);

/// The three address selection algorithms (`spec/core.md` 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhantomSelection {
    /// Version 0: ranges that miss their first element, seeded PRNG.
    V0,
    /// Version 1: whole ranges, seeded PRNG.
    V1,
    /// Versions 2 and later: HKDF.
    V2,
}

impl ClientVersion {
    /// What current clients send.
    pub const CURRENT: Self = Self(4);

    /// The algorithm that chose the client's phantom.
    pub const fn phantom_selection(self) -> PhantomSelection {
        match self.0 {
            0 => PhantomSelection::V0,
            1 => PhantomSelection::V1,
            _ => PhantomSelection::V2,
        }
    }

    /// Whether the client knows transport parameters and destination ports other than 443.
    pub const fn randomizes_port(self) -> bool {
        self.0 >= 3
    }

    /// Bytes of the main stream in front of the conjure seed.
    pub const fn seed_offset(self) -> usize {
        if self.0 >= 4 { 0 } else { 104 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates() {
        assert_eq!(ClientVersion(0).phantom_selection(), PhantomSelection::V0);
        assert_eq!(ClientVersion(1).phantom_selection(), PhantomSelection::V1);
        assert_eq!(ClientVersion(100).phantom_selection(), PhantomSelection::V2);
        assert!(!ClientVersion(2).randomizes_port());
        assert!(ClientVersion(3).randomizes_port());
        assert_eq!(ClientVersion(3).seed_offset(), 104);
        assert_eq!(ClientVersion::CURRENT.seed_offset(), 0);
    }
}
