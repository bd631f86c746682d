//! Part of the Conjure station: lab.
