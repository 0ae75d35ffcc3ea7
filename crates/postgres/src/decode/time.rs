//! Dates and times in the ISO style, with the time zone UTC: from text, from binary, and back to text.
//!
//! A Parquet reader can be trusted with the years 1 to 9999; what lies outside is a bad value whose nearest
//! neighbour is an end of that range.

use super::cell::Parsed;
use super::scalar::fixed;
use crate::wire::EPOCH_MICROS;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = EPOCH_MICROS / MICROS_PER_DAY;
/// 0001-01-01.
pub(super) const FIRST_DAY: i64 = -719_162;
/// 9999-12-31.
const LAST_DAY: i64 = 2_932_896;
pub(super) const FIRST_MICRO: i64 = FIRST_DAY * MICROS_PER_DAY;
const LAST_MICRO: i64 = (LAST_DAY + 1) * MICROS_PER_DAY - 1;

const INFINITY: &[u8] = b"infinity";
const NEGATIVE_INFINITY: &[u8] = b"-infinity";

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, year 0 being 1 BC.
#[inline]
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[inline]
fn two_digits(text: &[u8], at: usize) -> Option<i64> {
    let (tens, units) = (text.get(at)?.wrapping_sub(b'0'), text.get(at + 1)?.wrapping_sub(b'0'));
    (tens < 10 && units < 10).then_some(i64::from(tens) * 10 + i64::from(units))
}

/// A date at the start of the text, as days, and what follows it.
#[inline]
fn leading_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (year, rest) = if text.get(4) == Some(&b'-') {
        (two_digits(text, 0)? * 100 + two_digits(text, 2)?, &text[4..])
    } else {
        // PostgreSQL's years have at most seven digits.
        let end = text.iter().take(8).position(|byte| *byte == b'-')?;
        let year = text[..end].iter().try_fold(0i64, |year, digit| {
            digit.is_ascii_digit().then(|| year * 10 + i64::from(digit - b'0'))
        })?;
        (year, &text[end..])
    };
    let [b'-', _, _, b'-', _, _, after @ ..] = rest else { return None };
    let (month, day) = (two_digits(rest, 1)?, two_digits(rest, 4)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then(|| (days_of(year, month, day), after))
}

/// A time of day at the start of the text, in microseconds, and what follows it.
#[inline]
fn leading_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let [_, _, b':', _, _, b':', _, _, rest @ ..] = text else { return None };
    let (hour, minute, second) = (two_digits(text, 0)?, two_digits(text, 3)?, two_digits(text, 6)?);
    if hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let mut micros = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND;
    let [b'.', rest @ ..] = rest else { return Some((micros, rest)) };
    let mut unit = MICROS_PER_SECOND;
    let mut used = 0;
    for digit in rest.iter().take_while(|byte| byte.is_ascii_digit()) {
        unit /= 10;
        micros += unit * i64::from(digit - b'0');
        used += 1;
    }
    (1..=6).contains(&used).then(|| (micros, &rest[used..]))
}

/// A zone at the start of the text, in microseconds east of UTC, and what follows it.
fn leading_zone(text: &[u8]) -> Option<(i64, &[u8])> {
    let sign = match text.first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Some((0, text)),
    };
    let mut seconds = two_digits(text, 1)? * 3600;
    let mut rest = &text[3..];
    for unit in [60, 1] {
        if rest.first() == Some(&b':') {
            seconds += two_digits(rest, 1)? * unit;
            rest = &rest[3..];
        }
    }
    Some((sign * seconds * MICROS_PER_SECOND, rest))
}

pub(super) fn date(text: &[u8]) -> Parsed<i32> {
    match text {
        INFINITY => return Parsed::Nearest(LAST_DAY as i32),
        NEGATIVE_INFINITY => return Parsed::Nearest(FIRST_DAY as i32),
        _ => {}
    }
    match leading_date(text) {
        Some((days, b"")) => bounded_date(days),
        Some((_, b" BC")) => Parsed::Nearest(FIRST_DAY as i32),
        _ => Parsed::Malformed,
    }
}

#[inline]
fn bounded_date(days: i64) -> Parsed<i32> {
    // Both ends fit an i32.
    match days {
        FIRST_DAY..=LAST_DAY => Parsed::Fits(days as i32),
        ..FIRST_DAY => Parsed::Nearest(FIRST_DAY as i32),
        _ => Parsed::Nearest(LAST_DAY as i32),
    }
}

#[inline]
fn bounded_timestamp(micros: i64) -> Parsed<i64> {
    match micros {
        FIRST_MICRO..=LAST_MICRO => Parsed::Fits(micros),
        ..FIRST_MICRO => Parsed::Nearest(FIRST_MICRO),
        _ => Parsed::Nearest(LAST_MICRO),
    }
}

/// A timestamp, or an instant with its zone.
#[inline]
pub(super) fn timestamp(text: &[u8]) -> Parsed<i64> {
    match text.first() {
        Some(b'0'..=b'9') => parse_timestamp(text).unwrap_or(Parsed::Malformed),
        _ if text == INFINITY => Parsed::Nearest(LAST_MICRO),
        _ if text == NEGATIVE_INFINITY => Parsed::Nearest(FIRST_MICRO),
        _ => Parsed::Malformed,
    }
}

#[inline]
fn parse_timestamp(text: &[u8]) -> Option<Parsed<i64>> {
    let (days, rest) = leading_date(text)?;
    let (micros, rest) = leading_time(rest.strip_prefix(b" ")?)?;
    // A year that overflows is above 9999 all the same.
    let local = days.saturating_mul(MICROS_PER_DAY).saturating_add(micros);
    if rest.is_empty() {
        return Some(bounded_timestamp(local));
    }
    let (zone, rest) = leading_zone(rest)?;
    match rest {
        b"" => Some(bounded_timestamp(local.saturating_sub(zone))),
        b" BC" => Some(Parsed::Nearest(FIRST_MICRO)),
        _ => None,
    }
}

pub(super) fn time(text: &[u8]) -> Parsed<i64> {
    match leading_time(text) {
        Some((micros, b"")) => bounded_time(micros),
        _ => Parsed::Malformed,
    }
}

#[inline]
fn bounded_time(micros: i64) -> Parsed<i64> {
    match micros {
        0..MICROS_PER_DAY => Parsed::Fits(micros),
        MICROS_PER_DAY => Parsed::Nearest(MICROS_PER_DAY - 1),
        _ => Parsed::Malformed,
    }
}

#[inline]
pub(super) fn binary_date(bytes: &[u8]) -> Parsed<i32> {
    let Some(days) = fixed(bytes).map(i32::from_be_bytes) else { return Parsed::Malformed };
    bounded_date(i64::from(days) + EPOCH_DAYS)
}

#[inline]
pub(super) fn binary_time(bytes: &[u8]) -> Parsed<i64> {
    fixed(bytes).map(i64::from_be_bytes).map_or(Parsed::Malformed, bounded_time)
}

#[inline]
pub(super) fn binary_timestamp(bytes: &[u8]) -> Parsed<i64> {
    let Some(micros) = fixed(bytes).map(i64::from_be_bytes) else { return Parsed::Malformed };
    // The infinities are the ends of the type, and saturate towards the right ends.
    bounded_timestamp(micros.saturating_add(EPOCH_MICROS))
}

/// Appends what `date_out` prints.
pub(super) fn write_date(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match i32::from_be_bytes(fixed(bytes)?) {
        i32::MAX => out.extend_from_slice(INFINITY),
        i32::MIN => out.extend_from_slice(NEGATIVE_INFINITY),
        days => {
            let era = write_civil_date(i64::from(days) + EPOCH_DAYS, out);
            out.extend_from_slice(era);
        }
    }
    Some(())
}

/// Appends what `time_out` prints.
pub(super) fn write_time(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let micros = i64::from_be_bytes(fixed(bytes)?);
    (0..=MICROS_PER_DAY).contains(&micros).then(|| write_time_of_day(micros, out))
}

/// Appends what `timestamp_out` prints, or with a zone `timestamptz_out` in UTC.
pub(super) fn write_timestamp(bytes: &[u8], zone: &str, out: &mut Vec<u8>) -> Option<()> {
    match i64::from_be_bytes(fixed(bytes)?) {
        i64::MAX => out.extend_from_slice(INFINITY),
        i64::MIN => out.extend_from_slice(NEGATIVE_INFINITY),
        micros => {
            let days = micros.div_euclid(MICROS_PER_DAY) + EPOCH_DAYS;
            let era = write_civil_date(days, out);
            out.push(b' ');
            write_time_of_day(micros.rem_euclid(MICROS_PER_DAY), out);
            out.extend_from_slice(zone.as_bytes());
            out.extend_from_slice(era);
        }
    }
    Some(())
}

/// Appends the date without its era and returns what is to be appended last.
fn write_civil_date(days: i64, out: &mut Vec<u8>) -> &'static [u8] {
    let (year, month, day) = date_of(days);
    let (year, era) = if year > 0 { (year, &b""[..]) } else { (1 - year, &b" BC"[..]) };
    write_padded(year, 4, out);
    out.push(b'-');
    write_padded(month, 2, out);
    out.push(b'-');
    write_padded(day, 2, out);
    era
}

fn write_time_of_day(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / MICROS_PER_SECOND;
    write_padded(seconds / 3600, 2, out);
    out.push(b':');
    write_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    write_padded(seconds % 60, 2, out);
    let fraction = micros % MICROS_PER_SECOND;
    if fraction > 0 {
        out.push(b'.');
        write_padded(fraction, 6, out);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn write_padded(value: i64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse_over_all_of_postgresql() {
        assert_eq!(days_of(1970, 1, 1), 0);
        assert_eq!(days_of(1, 1, 1), FIRST_DAY);
        assert_eq!(days_of(9999, 12, 31), LAST_DAY);
        assert_eq!(days_of(2000, 1, 1), EPOCH_DAYS);
        // From 4714 BC to 5874897 AD, in steps that meet every day of the year.
        for days in (-2_440_588..2_145_031_948i64).step_by(9_973) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
        }
    }

    #[test]
    fn timestamps_and_their_ends() {
        assert_eq!(timestamp(b"1970-01-01 00:00:01.5"), Parsed::Fits(1_500_000));
        assert_eq!(timestamp(b"1970-01-01 00:00:00.000001+00"), Parsed::Fits(1));
        assert_eq!(timestamp(b"1970-01-01 05:30:00+05:30"), Parsed::Fits(0));
        assert_eq!(timestamp(b"0001-01-01 00:00:00"), Parsed::Fits(FIRST_MICRO));
        assert_eq!(timestamp(b"9999-12-31 23:59:59.999999"), Parsed::Fits(LAST_MICRO));
        assert_eq!(timestamp(b"10000-01-01 00:00:00"), Parsed::Nearest(LAST_MICRO));
        assert_eq!(timestamp(b"294276-12-31 23:59:59.999999+00"), Parsed::Nearest(LAST_MICRO));
        assert_eq!(timestamp(b"0001-12-31 23:59:59+00 BC"), Parsed::Nearest(FIRST_MICRO));
        assert_eq!(timestamp(b"infinity"), Parsed::Nearest(LAST_MICRO));
        assert_eq!(timestamp(b"-infinity"), Parsed::Nearest(FIRST_MICRO));
        for malformed in [
            "",
            "2020-01-01",
            "2020-01-01 ",
            "2020-01-01 00:00:00.",
            "2020-13-01 00:00:00",
            "2020-01-01 00:00:00.1234567",
            "2020-01-01T00:00:00",
            "123456789-01-01 00:00:00",
            "2020-01-01 00:00:00 AD",
        ] {
            assert_eq!(timestamp(malformed.as_bytes()), Parsed::Malformed, "{malformed}");
        }
    }

    #[test]
    fn binary_prints_and_parses_as_text_does() {
        let micros = [0, 1, -1, 500_000, i64::MAX, i64::MIN, MICROS_PER_DAY - 1, -63_113_904_000_000_000 - 1];
        for micros in micros
            .into_iter()
            .chain((-200_000..8_000_000).step_by(7_919).map(|days| days * MICROS_PER_DAY + days))
        {
            let mut text = Vec::new();
            write_timestamp(&micros.to_be_bytes(), "+00", &mut text).unwrap();
            assert_eq!(timestamp(&text), binary_timestamp(&micros.to_be_bytes()), "{micros}");
        }
        for days in [0, -1, i32::MAX, i32::MIN, -730_119, -730_120, 2_921_939, 2_921_940] {
            let mut text = Vec::new();
            write_date(&days.to_be_bytes(), &mut text).unwrap();
            assert_eq!(date(&text), binary_date(&days.to_be_bytes()), "{days}");
        }
        for micros in [0, 1, MICROS_PER_DAY - 1, MICROS_PER_DAY] {
            let mut text = Vec::new();
            write_time(&i64::to_be_bytes(micros), &mut text).unwrap();
            assert_eq!(time(&text), binary_time(&i64::to_be_bytes(micros)), "{micros}");
        }
    }
}
