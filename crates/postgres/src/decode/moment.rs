//! Dates and times as numbers that are ordered as they are: what lies outside of the years 1 to 9999 is before or
//! after all that lies within.

use super::cell::Parsed;
use super::time;

fn ordered<T: Into<i64>>(parsed: Parsed<T>, first: i64) -> Option<i64> {
    match parsed {
        Parsed::Fits(value) => Some(value.into()),
        Parsed::Nearest(end) => Some(if end.into() == first { i64::MIN } else { i64::MAX }),
        Parsed::Misfit | Parsed::Malformed => None,
    }
}

/// Days.
pub(crate) fn date(text: &[u8]) -> Option<i64> {
    ordered(time::date(text), time::FIRST_DAY)
}

/// Microseconds.
pub(crate) fn time(text: &[u8]) -> Option<i64> {
    ordered(time::time(text), i64::MIN)
}

/// Microseconds, with or without a zone.
pub(crate) fn timestamp(text: &[u8]) -> Option<i64> {
    ordered(time::timestamp(text), time::FIRST_MICRO)
}
