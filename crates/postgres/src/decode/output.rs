//! The text that the server's own output function would have printed, from a value's binary form.
//!
//! Guaranteed to be the same bytes, under the settings of every connection (ISO dates, UTC, shortest exact
//! floats, hex bytes): what one table sends as binary and another as text ends up the same.

use std::fmt::LowerExp;
use std::str::FromStr;

use arrow::datatypes::i256;

use super::scalar::{binary_boolean, fixed};
use super::{PgType, array, numeric, time};

/// Appends the text. `None` where the bytes are no value of the type, or the type has no binary form.
pub(super) fn write(pg_type: &PgType, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match pg_type {
        PgType::Bool => out.push(if binary_boolean(bytes)? { b't' } else { b'f' }),
        PgType::Int2 => write_integer(i16::from_be_bytes(fixed(bytes)?), out),
        PgType::Int4 => write_integer(i32::from_be_bytes(fixed(bytes)?), out),
        PgType::Int8 => write_integer(i64::from_be_bytes(fixed(bytes)?), out),
        PgType::Oid => write_integer(u32::from_be_bytes(fixed(bytes)?), out),
        PgType::Float4 => write_float4(f32::from_be_bytes(fixed(bytes)?), out)?,
        PgType::Float8 => write_float8(f64::from_be_bytes(fixed(bytes)?), out)?,
        PgType::Numeric => numeric::write(bytes, out)?,
        PgType::Date => time::write_date(bytes, out)?,
        PgType::Time => time::write_time(bytes, out)?,
        PgType::Timestamp => time::write_timestamp(bytes, "", out)?,
        PgType::Timestamptz => time::write_timestamp(bytes, "+00", out)?,
        PgType::Uuid => write_uuid(&fixed::<16>(bytes)?, out),
        PgType::Bytea => {
            out.extend_from_slice(b"\\x");
            write_hex(bytes, out);
        }
        PgType::Jsonb => {
            let [1, text @ ..] = bytes else { return None };
            out.extend_from_slice(text);
        }
        PgType::Json | PgType::Text => out.extend_from_slice(bytes),
        PgType::TextOnly => return None,
        PgType::Array(item) => array::write(item, bytes, out)?,
    }
    Some(())
}

fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(
        bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    );
}

fn write_uuid(bytes: &[u8; 16], out: &mut Vec<u8>) {
    let mut rest = &bytes[..];
    for (index, length) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        let (group, after) = rest.split_at(length);
        write_hex(group, out);
        rest = after;
    }
}

fn write_float4(value: f32, out: &mut Vec<u8>) -> Option<()> {
    let bits = value.to_bits();
    let (fraction, exponent) = (bits & 0x7f_ffff, (bits >> 23 & 0xff) as i32);
    let mantissa = if exponent == 0 { fraction } else { fraction | 0x80_0000 };
    let exact =
        Exact { mantissa: u64::from(mantissa), exponent: exponent.max(1) - 150, power_of_two: fraction == 0 };
    write_float(value, exact, 6, out)
}

fn write_float8(value: f64, out: &mut Vec<u8>) -> Option<()> {
    let bits = value.to_bits();
    let (fraction, exponent) = (bits & 0xf_ffff_ffff_ffff, (bits >> 52 & 0x7ff) as i32);
    let mantissa = if exponent == 0 { fraction } else { fraction | 0x10_0000_0000_0000 };
    let exact = Exact { mantissa, exponent: exponent.max(1) - 1075, power_of_two: fraction == 0 };
    write_float(value, exact, 15, out)
}

/// The shortest digits, laid out as `%g` would from an exponent of `fixed_below` on.
fn write_float<T: Copy + PartialEq + LowerExp + FromStr + Into<f64>>(
    value: T,
    exact: Exact,
    fixed_below: i32,
    out: &mut Vec<u8>,
) -> Option<()> {
    let wide: f64 = value.into();
    if wide.is_nan() {
        out.extend_from_slice(b"NaN");
        return Some(());
    }
    if wide.is_sign_negative() {
        out.push(b'-');
    }
    if wide.is_infinite() {
        out.extend_from_slice(b"Infinity");
        return Some(());
    }
    shortest(value, &exact)?.write(fixed_below, out);
    Some(())
}

/// As few digits as read back, of those the nearest, and of two as near the even one: PostgreSQL's choice.
fn shortest<T: Copy + PartialEq + LowerExp + FromStr>(value: T, exact: &Exact) -> Option<Decimal> {
    let fewest = Decimal::parse(&format!("{value:e}"))?;
    for count in fewest.digits.len()..=MAX_DIGITS {
        // Rounds half to even, where the shortest form rounds half up.
        let text = format!("{value:.*e}", count - 1);
        let nearest = Decimal::parse(&text)?;
        let reads_back = text.parse().is_ok_and(|read: T| read == value);
        // Digits that lie exactly between two floats read back where ties go to even. PostgreSQL does not rely
        // on that and prints more of them.
        if reads_back && !exact.is_tie(&nearest) {
            return Some(nearest);
        }
        // Beside a power of two the nearest may be the neighbour's, and another of as many digits not.
        if count == fewest.digits.len() && !exact.is_tie(&fewest) {
            break;
        }
    }
    Some(fewest)
}

/// Digits that every double reads back from.
const MAX_DIGITS: usize = 17;

/// Decimal digits, the first of them before the point, and a power of ten.
struct Decimal {
    digits: Vec<u8>,
    exponent: i32,
}

impl Decimal {
    /// Reads what `{:e}` prints; the sign is dropped.
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once('e')?;
        let mut digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
        while digits.len() > 1 && digits.last() == Some(&b'0') {
            digits.pop();
        }
        Some(Self { digits, exponent: exponent.parse().ok()? })
    }

    fn write(&self, fixed_below: i32, out: &mut Vec<u8>) {
        let zeros = |count: i32| std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0));
        let Self { digits, exponent } = self;
        let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
        if !(-4..fixed_below).contains(exponent) {
            out.push(digits[0]);
            if count > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(if *exponent < 0 { b"e-" } else { b"e+" });
            out.extend_from_slice(format!("{:02}", exponent.abs()).as_bytes());
        } else if *exponent < 0 {
            out.extend_from_slice(b"0.");
            out.extend(zeros(-exponent - 1));
            out.extend_from_slice(digits);
        } else if count <= exponent + 1 {
            out.extend_from_slice(digits);
            out.extend(zeros(exponent + 1 - count));
        } else {
            let (whole, fraction) = digits.split_at(usize::try_from(exponent + 1).unwrap_or(0));
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }
}

/// A float's absolute value: `mantissa` × 2^`exponent`.
struct Exact {
    mantissa: u64,
    exponent: i32,
    /// Then the next smaller float is only half as far away.
    power_of_two: bool,
}

impl Exact {
    /// Whether the digits lie exactly between this float and a neighbour.
    ///
    /// Only integers can: a tie of floats below 2^53 has more digits than the float itself, and one above
    /// 2^150 has more digits than a float ever needs.
    fn is_tie(&self, decimal: &Decimal) -> bool {
        let count = i32::try_from(decimal.digits.len()).unwrap_or(i32::MAX);
        let zeros = decimal.exponent + 1 - count;
        if !(1..150).contains(&self.exponent) || !(0..50).contains(&zeros) {
            return false;
        }
        let digits = decimal.digits.iter().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let ten = i256::from_i128(10);
        let printed = (0..zeros).fold(i256::from_i128(digits), |value, _| value.wrapping_mul(ten));
        let two = |power: i32| i256::ONE << u8::try_from(power).unwrap_or(0);
        let exact = i256::from_i128(i128::from(self.mantissa)).wrapping_mul(two(self.exponent));
        // Below a power of two the neighbour is only half as far away.
        let below = self.power_of_two && printed < exact;
        let distance = printed.wrapping_sub(exact).wrapping_abs();
        distance.wrapping_mul(i256::from_i128(2)) == two(self.exponent - i32::from(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float8(value: f64) -> String {
        let mut out = Vec::new();
        write_float8(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_laid_out_as_the_server_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100_000_000_000_000.0, "100000000000000"),
            (1e15, "1e+15"),
            (1.234_567_890_123_456_7e17, "1.2345678901234566e+17"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
            (1e23, "9.999999999999999e+22"),
        ] {
            assert_eq!(float8(value), text);
        }
    }
}
