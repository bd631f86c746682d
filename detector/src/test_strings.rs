//! Payloads with which operators check that the tap sees a path (`spec/detector.md` 14).

/// The whole payload of a TCP segment to port 443 on a followed flow.
pub const TCP: &[u8] = b"'This must be Thursday,' said Arthur to himself, sinking low over his \
beer. 'I never could get the hang of Thursdays.'";

/// A DNS name in label form, anywhere in a UDP datagram to port 53.
pub const UDP: &[u8] = b"\x38xCKe9ECO5lNwXgd5Q25w0C2qUR7whltkA8BbyNokGIp5rzzm0hc7yqbR\
\x38FAP3S9w7oLrvvei7IphdwZEKUvF5iZeSdtDFEDc6cIDiv11aTNkOp08k\
\x38mRISHvoeSWSgMOjkbR2un5XKpJEZIK31Bc2obUGRIoY2tpxm6RUV5nOU\x07SuifuqZ";

/// Whether the payload of a followed flow is the TCP string.
#[inline]
pub fn is_tcp(payload: &[u8]) -> bool {
    payload == TCP
}

/// Whether the payload of a datagram holds the UDP string.
pub fn is_udp(payload: &[u8]) -> bool {
    payload.len() >= UDP.len() && payload.windows(UDP.len()).any(|window| window == UDP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_the_specification() {
        assert_eq!((TCP.len(), UDP.len()), (118, 179));
        assert!(is_udp(&[b"x".as_slice(), UDP, b"y"].concat()));
        assert!(!is_udp(&UDP[1..]));
    }
}
