//! Booleans, integers, floats, UUIDs and bytes, from text and from binary.

use super::PgType;
use super::cell::Parsed;

/// The bytes as an array, if there are exactly as many.
#[inline]
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[inline]
pub(super) fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" => Some(true),
        b"f" => Some(false),
        _ => None,
    }
}

#[inline]
pub(super) fn binary_boolean(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// A whole number, also one that numeric prints: a fraction of zeros is none.
#[inline]
pub(super) fn integer(text: &[u8]) -> Parsed<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    // Eighteen digits cannot overflow.
    if digits.is_empty() || digits.len() > 18 {
        return long_integer(negative, digits);
    }
    let mut value = 0i64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return long_integer(negative, digits);
        }
        value = value * 10 + i64::from(digit);
    }
    Parsed::Fits(if negative { -value } else { value })
}

#[cold]
fn long_integer(negative: bool, text: &[u8]) -> Parsed<i64> {
    if matches!(text, b"NaN" | b"Infinity") {
        return Parsed::Misfit;
    }
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Parsed::Malformed;
    }
    if fraction.iter().any(|digit| *digit != b'0') {
        return Parsed::Misfit;
    }
    let sign = if negative { -1 } else { 1 };
    let value = whole
        .iter()
        .try_fold(0i64, |value, digit| value.checked_mul(10)?.checked_add(sign * i64::from(digit - b'0')));
    value.map_or(Parsed::Misfit, Parsed::Fits)
}

/// int2, int4, int8 and oid.
#[inline]
pub(super) fn binary_integer(pg_type: &PgType, bytes: &[u8]) -> Parsed<i64> {
    let value = match pg_type {
        PgType::Int2 => fixed(bytes).map(|bytes| i64::from(i16::from_be_bytes(bytes))),
        PgType::Int4 => fixed(bytes).map(|bytes| i64::from(i32::from_be_bytes(bytes))),
        PgType::Int8 => fixed(bytes).map(i64::from_be_bytes),
        PgType::Oid => fixed(bytes).map(|bytes| i64::from(u32::from_be_bytes(bytes))),
        _ => None,
    };
    Parsed::or_malformed(value)
}

pub(super) fn float(text: &[u8]) -> Option<f32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A double from the text of a float8, an integer or a numeric; a numeric beyond all doubles is none.
pub(super) fn double(text: &[u8]) -> Parsed<f64> {
    let Some(value) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) else {
        return Parsed::Malformed;
    };
    if value.is_infinite() && text.iter().any(u8::is_ascii_digit) {
        return Parsed::Misfit;
    }
    Parsed::Fits(value)
}

#[inline]
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A UUID in its 36 characters; its sixteen bytes in the order in which they are written.
pub(super) fn uuid(text: &[u8]) -> Option<u128> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut value = 0u128;
    for (at, digit) in text.iter().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            value = value << 4 | u128::from(nibble(*digit)?);
        }
    }
    Some(u128::from_ne_bytes(value.to_be_bytes()))
}

/// Appends the bytes that pairs of hex digits stand for.
pub(super) fn unhex(hex: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (pairs, rest) = hex.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut bad = 0u8;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (HEX[usize::from(*high)], HEX[usize::from(*low)]);
        bad |= high | low;
        high << 4 | low & 0x0f
    }));
    (bad & 0x80 == 0).then_some(())
}

/// The value of each hex digit; the top bit marks everything else.
static HEX: [u8; 256] = {
    let mut table = [0x80; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            digit @ b'A'..=b'F' => digit - b'A' + 10,
            _ => 0x80,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_at_their_bounds() {
        assert_eq!(integer(b"9223372036854775807"), Parsed::Fits(i64::MAX));
        assert_eq!(integer(b"-9223372036854775808"), Parsed::Fits(i64::MIN));
        assert_eq!(integer(b"9223372036854775808"), Parsed::Misfit);
        assert_eq!(integer(b"12.000"), Parsed::Fits(12));
        assert_eq!(integer(b"12.001"), Parsed::Misfit);
        assert_eq!(integer(b"NaN"), Parsed::Misfit);
        for malformed in [&b""[..], b"-", b"1a", b".5", b"--1", b"1.2.3"] {
            assert_eq!(integer(malformed), Parsed::Malformed);
        }
    }

    #[test]
    fn a_double_that_overflows_is_a_misfit_and_infinity_is_not() {
        assert_eq!(double(b"Infinity"), Parsed::Fits(f64::INFINITY));
        assert_eq!(double(b"-Infinity"), Parsed::Fits(f64::NEG_INFINITY));
        assert!(matches!(double(b"NaN"), Parsed::Fits(value) if value.is_nan()));
        assert_eq!(double(format!("1{}", "0".repeat(400)).as_bytes()), Parsed::Misfit);
        assert_eq!(double(b"1e-07"), Parsed::Fits(1e-7));
    }

    #[test]
    fn hex_is_pairs_of_digits() {
        let mut out = Vec::new();
        assert_eq!(unhex(b"00fFa0", &mut out), Some(()));
        assert_eq!(out, [0x00, 0xff, 0xa0]);
        assert_eq!(unhex(b"0", &mut out), None);
        assert_eq!(unhex(b"0g", &mut out), None);
    }
}
