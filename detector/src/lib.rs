//! Part of the Conjure station: detector.
