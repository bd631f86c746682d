//! How long the kernel must remember a translated connection that is closing.

/// Shortest and longest pause between retransmissions, milliseconds.
const RTO: (u64, u64) = (200, 120_000);
/// Retransmissions of a socket that nobody holds any more when the setting says 0.
const ORPHAN_DEFAULT: u32 = 8;

/// Seconds for which a FIN may be sent again, with the pause after the last one, given
/// `net.ipv4.tcp_retries2` and `net.ipv4.tcp_orphan_retries`.
///
/// The kernel gives up once it has waited as long as that many pauses that double from 200 ms to two
/// minutes; the last FIN may come one longest pause later. An entry of the connection table that ended
/// before would let a FIN out with the station's own address.
pub fn last_ack_seconds(retries2: u32, orphan_retries: u32) -> u64 {
    let orphan = if orphan_retries == 0 { ORPHAN_DEFAULT } else { orphan_retries };
    let waited: u64 = (0..=retries2.max(orphan).min(255))
        .map(|n| RTO.0.checked_shl(n).filter(|p| p >> n == RTO.0).map_or(RTO.1, |p| p.min(RTO.1)))
        .sum();
    (waited + RTO.1).div_ceil(1000) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_either_setting() {
        // 924.6 s is what the kernel's documentation states for 15 retries.
        assert_eq!(last_ack_seconds(15, 0), 925 + 120 + 1);
        assert_eq!(last_ack_seconds(3, 0), (102_200u64 + 120_000).div_ceil(1000) + 1);
        assert_eq!(last_ack_seconds(3, 12), last_ack_seconds(12, 0));
        assert!(last_ack_seconds(u32::MAX, 0) > last_ack_seconds(100, 0));
    }
}
