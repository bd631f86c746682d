//! Part of the Conjure station: station.
