//! `Retry-After` of a DoH server (`spec/registrar.md` 11.6, RFC 9110 10.2.3).

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The time that `value` names, in seconds since 1970; `now` is the present in the same unit. A
/// number of seconds (32 bits) or a date; `None` for anything else.
pub fn retry_after(value: &str, now: i64) -> Option<i64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return now.checked_add(i64::from(value.parse::<u32>().ok()?));
    }
    date(value)
}

/// `Fri, 31 Dec 1999 23:59:59 GMT`, the form that servers must send.
fn date(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: i64 = number(words.next()?, 2)?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year = number(words.next()?, 4)?;
    let mut time = words.next()?.split(':');
    let (hour, minute) = (number(time.next()?, 2)?, number(time.next()?, 2)?);
    let second = number(time.next()?, 2)?;
    let whole = words.next() == Some("GMT") && words.next().is_none() && time.next().is_none();
    let valid = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    (whole && valid).then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let all = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counting years from March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 5), Some(0));
        assert_eq!(retry_after("Tue, 29 Feb 2000 00:00:01 GMT", 5), Some(951_782_401));
        for wrong in ["Tue, 29 Feb 2000 00:00:01 UTC", "29 Feb 2000", "Tue, 9 Feb 2000 0:0:0 GMT"] {
            assert_eq!(retry_after(wrong, 0), None, "{wrong}");
        }
    }
}
