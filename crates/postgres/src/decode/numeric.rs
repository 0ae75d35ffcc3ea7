//! `numeric`: its text from its binary form, and exact decimals from either.

use arrow::datatypes::i256;

use super::cell::Parsed;
use super::columns::DecimalShape;

/// Powers of ten that a `u128` holds.
const POW10: [u128; 39] = {
    let mut powers = [1u128; 39];
    let mut at = 1;
    while at < 39 {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// The text of a finite number in its parts, none of which has digits without meaning.
struct Digits<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a [u8],
    /// Without trailing zeros.
    fraction: &'a [u8],
}

impl<'a> Digits<'a> {
    /// `Misfit` for what is not finite.
    #[inline]
    fn parse(text: &'a [u8]) -> Parsed<Self> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let point = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        let (mut whole, rest) = digits.split_at(point);
        let mut fraction = match rest {
            [] => rest,
            [b'.', fraction @ ..] if !fraction.is_empty() => fraction,
            _ if matches!(digits, b"NaN" | b"Infinity") => return Parsed::Misfit,
            _ => return Parsed::Malformed,
        };
        if whole.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
            return Parsed::Malformed;
        }
        while let [b'0', rest @ ..] = whole {
            whole = rest;
        }
        while let [rest @ .., b'0'] = fraction {
            fraction = rest;
        }
        Parsed::Fits(Self { negative, whole, fraction })
    }

    #[inline]
    fn fits(&self, shape: DecimalShape) -> bool {
        self.whole.len() <= usize::from(shape.precision - shape.scale)
            && self.fraction.len() <= usize::from(shape.scale)
    }
}

/// Appends decimal digits to a number that has room for them.
#[inline]
fn append_digits(mut value: u128, digits: &[u8]) -> u128 {
    // Eighteen digits at a time in a machine word.
    for part in digits.chunks(18) {
        let word = part.iter().fold(0u64, |word, digit| word * 10 + u64::from(digit - b'0'));
        value = if value == 0 { u128::from(word) } else { value * POW10[part.len()] + u128::from(word) };
    }
    value
}

/// A decimal of at most 38 digits. Digits that it has no place for are a misfit, never rounded.
#[inline]
pub(super) fn decimal128(text: &[u8], shape: DecimalShape) -> Parsed<i128> {
    if let Some(value) = short_decimal(text, shape) {
        return Parsed::Fits(value);
    }
    match Digits::parse(text) {
        Parsed::Fits(digits) if digits.fits(shape) => {
            let value = append_digits(append_digits(0, digits.whole), digits.fraction);
            let value = value * POW10[usize::from(shape.scale) - digits.fraction.len()];
            // At most 38 digits: far below the sign bit.
            let value = value as i128;
            Parsed::Fits(if digits.negative { -value } else { value })
        }
        Parsed::Malformed => Parsed::Malformed,
        _ => Parsed::Misfit,
    }
}

/// What most numbers are: a few digits that all have a place. `None` leaves the verdict to the long way.
#[inline]
fn short_decimal(text: &[u8], shape: DecimalShape) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    // With the point among them these are at most 18 digits, which fit a machine word.
    if digits.len() > 19 || !digits.first()?.is_ascii_digit() || !digits.last()?.is_ascii_digit() {
        return None;
    }
    let mut value = 0u64;
    let mut point = None;
    for (at, byte) in digits.iter().enumerate() {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => value = value.wrapping_mul(10).wrapping_add(u64::from(digit)),
            _ if *byte == b'.' && point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    if point.is_none() && digits.len() > 18 {
        return None;
    }
    let fraction = point.map_or(0, |point| digits.len() - 1 - point);
    let zeros = usize::from(shape.scale).checked_sub(fraction)?;
    let scaled = u128::from(value).checked_mul(POW10[zeros])?;
    // At most 38 digits: far below the sign bit.
    let scaled = (scaled < POW10[usize::from(shape.precision)]).then_some(scaled as i128)?;
    Some(if negative { -scaled } else { scaled })
}

/// A decimal of at most 76 digits.
pub(super) fn decimal256(text: &[u8], shape: DecimalShape) -> Parsed<i256> {
    match Digits::parse(text) {
        Parsed::Fits(digits) if digits.fits(shape) => {
            // All digits up to the scale in one row, of which the last 38 are the lower half.
            let mut row = [b'0'; 76];
            let end = digits.whole.len() + usize::from(shape.scale);
            row[..digits.whole.len()].copy_from_slice(digits.whole);
            row[digits.whole.len()..][..digits.fraction.len()].copy_from_slice(digits.fraction);
            let (high, low) = row[..end].split_at(end.saturating_sub(38));
            let half = |digits| i256::from_i128(append_digits(0, digits) as i128);
            let value = half(high).wrapping_mul(i256::from_i128(POW10[38] as i128)).wrapping_add(half(low));
            Parsed::Fits(if digits.negative { value.wrapping_neg() } else { value })
        }
        Parsed::Malformed => Parsed::Malformed,
        _ => Parsed::Misfit,
    }
}

/// The binary form: base-10000 digits, the power of the first one, and how many digits to print after the point.
struct Binary<'a> {
    digits: &'a [[u8; 2]],
    weight: i32,
    sign: u16,
    display_scale: usize,
}

impl<'a> Binary<'a> {
    #[inline]
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, digits) = bytes.split_first_chunk::<8>()?;
        let (digits, rest) = digits.as_chunks::<2>();
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let number = Self {
            digits,
            weight: i32::from(word(2) as i16),
            sign: word(4),
            display_scale: usize::from(word(6) & 0x3fff),
        };
        let valid = rest.is_empty()
            && digits.len() == usize::from(word(0))
            && digits.iter().all(|digit| u16::from_be_bytes(*digit) < 10_000)
            && matches!(number.sign, 0 | NEGATIVE | NAN | INFINITY | NEGATIVE_INFINITY);
        valid.then_some(number)
    }

    /// The base-10000 digit at a place counted from the first one; zero outside those that were sent.
    fn digit(&self, at: i32) -> u16 {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.digits.get(at))
            .map_or(0, |digit| u16::from_be_bytes(*digit))
    }
}

/// A decimal of at most 38 digits without the way through text; `None` where the number is too long for it.
#[inline]
pub(super) fn binary_decimal128(bytes: &[u8], shape: DecimalShape) -> Option<Parsed<i128>> {
    let Some(number) = Binary::parse(bytes) else { return Some(Parsed::Malformed) };
    if number.digits.len() > 8 {
        return None;
    }
    if !matches!(number.sign, 0 | NEGATIVE) {
        return Some(Parsed::Misfit);
    }
    let value = number
        .digits
        .iter()
        .fold(0u128, |value, digit| value * 10_000 + u128::from(u16::from_be_bytes(*digit)));
    if value == 0 {
        return Some(Parsed::Fits(0));
    }
    let shift = 4 * (number.weight - number.digits.len() as i32 + 1) + i32::from(shape.scale);
    let Some(power) = POW10.get(shift.unsigned_abs() as usize) else { return Some(Parsed::Misfit) };
    let scaled =
        if shift >= 0 { value.checked_mul(*power) } else { (value % power == 0).then_some(value / power) };
    Some(match scaled {
        Some(scaled) if scaled < POW10[usize::from(shape.precision)] => {
            let scaled = scaled as i128;
            Parsed::Fits(if number.sign == NEGATIVE { -scaled } else { scaled })
        }
        _ => Parsed::Misfit,
    })
}

/// Appends what `numeric_out` prints.
pub(super) fn write(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let number = Binary::parse(bytes)?;
    match number.sign {
        NAN => out.extend_from_slice(b"NaN"),
        INFINITY => out.extend_from_slice(b"Infinity"),
        NEGATIVE_INFINITY => out.extend_from_slice(b"-Infinity"),
        sign => {
            if sign == NEGATIVE {
                out.push(b'-');
            }
            write_finite(&number, out);
        }
    }
    Some(())
}

fn write_finite(number: &Binary<'_>, out: &mut Vec<u8>) {
    if number.weight < 0 {
        out.push(b'0');
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(number.digit(0)).as_bytes());
        for at in 1..=number.weight {
            out.extend_from_slice(&four_digits(number.digit(at)));
        }
    }
    if number.display_scale > 0 {
        out.push(b'.');
        let end = out.len() + number.display_scale;
        let mut at = number.weight + 1;
        while out.len() < end {
            out.extend_from_slice(&four_digits(number.digit(at)));
            at += 1;
        }
        out.truncate(end);
    }
}

fn four_digits(value: u16) -> [u8; 4] {
    [value / 1000, value / 100 % 10, value / 10 % 10, value % 10].map(|digit| b'0' + digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(precision: u8, scale: u8) -> DecimalShape {
        DecimalShape { precision, scale }
    }

    /// The binary form of base-10000 digits.
    fn binary(weight: i16, sign: u16, display_scale: u16, digits: &[u16]) -> Vec<u8> {
        let header = [digits.len() as u16, weight as u16, sign, display_scale];
        header.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn decimals_are_exact_or_a_misfit() {
        assert_eq!(decimal128(b"-1.50", shape(5, 1)), Parsed::Fits(-15));
        assert_eq!(decimal128(b"1.55", shape(5, 1)), Parsed::Misfit);
        assert_eq!(decimal128(b"99999", shape(5, 1)), Parsed::Misfit);
        assert_eq!(decimal128(b"0.05", shape(2, 2)), Parsed::Fits(5));
        assert_eq!(decimal128(b"NaN", shape(5, 1)), Parsed::Misfit);
        assert_eq!(decimal128(b"-Infinity", shape(5, 1)), Parsed::Misfit);
        let nines = "9".repeat(38);
        assert_eq!(decimal128(nines.as_bytes(), shape(38, 0)), Parsed::Fits(10i128.pow(38) - 1));
        assert_eq!(decimal128(b"9999999999999999999", shape(38, 0)), Parsed::Fits(9_999_999_999_999_999_999));
        assert_eq!(decimal128(b"0.00", shape(1, 0)), Parsed::Fits(0));
        for malformed in ["", "-", ".", "1.", ".5", "1e5", "1.2.3", "1,5", "nan"] {
            assert_eq!(decimal128(malformed.as_bytes(), shape(38, 10)), Parsed::Malformed, "{malformed}");
        }
    }

    #[test]
    fn wide_decimals_agree_with_arrow() {
        for text in
            ["0", "1", "-1", "123456789012345678901234567890123456789012345678901234567890123456789012"]
        {
            let expected = i256::from_string(&format!("{text}0000"));
            assert_eq!(Some(decimal256(text.as_bytes(), shape(76, 4))), expected.map(Parsed::Fits));
        }
        assert_eq!(decimal256("9".repeat(73).as_bytes(), shape(76, 4)), Parsed::Misfit);
        assert_eq!(decimal256(b"0.00001", shape(76, 4)), Parsed::Misfit);
    }

    #[test]
    fn binary_prints_as_numeric_out_does() {
        for (text, bytes) in [
            ("0", binary(0, 0, 0, &[])),
            ("0.00", binary(0, 0, 2, &[])),
            ("-1234567.8900", binary(1, NEGATIVE, 4, &[123, 4567, 8900])),
            ("0.0000123", binary(-2, 0, 7, &[1230])),
            ("100000000", binary(2, 0, 0, &[1])),
            ("NaN", binary(0, NAN, 0, &[])),
            ("Infinity", binary(0, INFINITY, 0, &[])),
            ("-Infinity", binary(0, NEGATIVE_INFINITY, 0, &[])),
        ] {
            let mut out = Vec::new();
            assert_eq!(write(&bytes, &mut out), Some(()));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn binary_decimals_are_those_of_their_text() {
        let mut text = Vec::new();
        for weight in -12i16..12 {
            for digits in
                [&[][..], &[1], &[9999], &[120], &[1, 0, 5000], &[9999; 8], &[1, 2, 3, 4, 5, 6, 7, 8]]
            {
                for sign in [0, NEGATIVE, NAN, INFINITY] {
                    let bytes = binary(weight, sign, 60, digits);
                    text.clear();
                    write(&bytes, &mut text).unwrap();
                    for shape in [shape(38, 0), shape(38, 10), shape(10, 2), shape(38, 38), shape(1, 0)] {
                        let expected = decimal128(&text, shape);
                        assert_eq!(binary_decimal128(&bytes, shape), Some(expected), "{bytes:?} {shape:?}");
                    }
                }
            }
        }
    }
}
