//! Codecs of the registration channels.
