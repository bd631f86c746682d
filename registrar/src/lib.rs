//! Part of the Conjure station: registrar.
