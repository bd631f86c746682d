//! Phantom subnets, generations and address selection for every client version.
