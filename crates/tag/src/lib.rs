//! Hidden tags in TLS records: stego code, Elligator2 and the batched tag check.
