//! Part of the Conjure station: zbalance.
