//! Notations of values that the reference's language defines.

use std::time::Duration;

/// The texts Go's `strconv.ParseBool` knows; `None` for every other.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A duration such as `300ms`, `2.0h` or `1h30m`, as Go's `time.ParseDuration` reads it; negative
/// ones are refused because none of the settings can be negative.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let nanos = match unit {
            "ns" => 1u64,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(Duration::from_nanos(whole.checked_mul(nanos)?))?;
        let mut scale = nanos;
        let mut part = 0u64;
        for digit in fraction.bytes() {
            // Digits below a nanosecond do not count, as in Go.
            part += u64::from(digit - b'0') * scale / 10;
            scale /= 10;
        }
        total = total.checked_add(Duration::from_nanos(part))?;
        rest = tail;
    }
    (total.as_nanos() <= i64::MAX as u128).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_go_does() {
        for (text, seconds) in [
            ("2.0h", 7200.0),
            ("5m", 300.0),
            ("300ms", 0.3),
            ("1h30m", 5400.0),
            (".5s", 0.5),
            ("0", 0.0),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_secs_f64()), Some(seconds), "{text}");
        }
        for text in ["", "5", "h", "-5m", "5 m", "1.2.3s", "5d", "99999999999h", "."] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
