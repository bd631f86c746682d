//! Part of the Conjure station: application.
