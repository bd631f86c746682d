//! Enum names as they appear in logs and statistics; unknown numbers print as decimals.

use crate::{RegistrationSource, TransportType};

/// Name of a transport number, e.g. `Min`, or the number itself.
pub fn transport(number: i32) -> String {
    TransportType::try_from(number)
        .map_or_else(|_| number.to_string(), |t| t.as_str_name().to_owned())
}

/// Name of a registration source number, e.g. `BidirectionalAPI`, or the number itself.
pub fn source(number: i32) -> String {
    RegistrationSource::try_from(number)
        .map_or_else(|_| number.to_string(), |s| s.as_str_name().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_keep_their_spelling() {
        assert_eq!(super::transport(3), "DTLS");
        assert_eq!(super::transport(50), "50");
        assert_eq!(super::source(4), "BidirectionalAPI");
        assert_eq!(super::source(8), "BidirectionalAMP");
    }
}
