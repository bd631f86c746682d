//! Conjure transports as sans-IO state machines, server and client side.
