//! Part of the Conjure station: bench.
