//! Numbers of any length, compared as the server compares `numeric`.

use std::cmp::Ordering;

/// A number as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Number {
    NegativeInfinity,
    Finite(Finite),
    Infinity,
    /// Greater than every other, and equal to itself.
    NaN,
}

/// Digits without zeros at either end, and how many of them stand before the point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finite {
    negative: bool,
    digits: Vec<u8>,
    whole: i64,
}

impl Number {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Vec<u8> = integer.bytes().chain(fraction.bytes()).collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(leading, |last| last + 1);
        let whole = i64::try_from(integer.len()).ok()? + i64::from(exponent) - i64::try_from(leading).ok()?;
        let digits = digits[leading..end].to_vec();
        // There is one zero.
        let zero = digits.is_empty();
        Some(Self::Finite(Finite {
            negative: negative && !zero,
            digits,
            whole: if zero { 0 } else { whole },
        }))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Finite {
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let magnitude = || self.whole.cmp(&other.whole).then_with(|| self.digits.cmp(&other.digits));
        match self.sign().cmp(&other.sign()) {
            Ordering::Equal if self.negative => magnitude().reverse(),
            Ordering::Equal => magnitude(),
            unequal => unequal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_by_value() {
        let ordered = [
            "-Infinity",
            "-1e3",
            "-999.5",
            "-1",
            "-0.001",
            "0",
            "0.00099",
            "0.001",
            "1",
            "1.0001",
            "9",
            "10",
            "99999999999999999999999999",
            "1e40",
            "Infinity",
            "NaN",
        ];
        for (index, a) in ordered.iter().enumerate() {
            for (other, b) in ordered.iter().enumerate() {
                let (a, b) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
                assert_eq!(a.cmp(&b), index.cmp(&other));
            }
        }
        for (a, b) in [("1.50", "15e-1"), ("-0", "0.00"), ("100", "1e2"), ("+7", "7")] {
            assert_eq!(Number::parse(a), Number::parse(b));
        }
        assert!(["", "-", "x", "1x", "1e", "."].iter().all(|text| Number::parse(text).is_none()));
    }
}
