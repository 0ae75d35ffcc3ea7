//! `_lw_seq`: the order of all rows of a stream, as text that sorts like what it means.

use std::fmt;

/// The place of a row in its stream's order: 6 hex digits of epoch, 16 of source position, 10 of ordinal.
///
/// The epoch is raised with each generation. For reads the ordinal is 0 and the position that of the snapshot:
/// its consistent point behind a change stream, the number of the pass in incremental mode, 0 otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    /// Raised whenever the source's positions start over. Below 2^24.
    pub epoch: u32,
    /// The source's position as a number that grows.
    pub position: u64,
    /// Rows emitted so far at this position, from 1 for changes. Below 2^40.
    pub ordinal: u64,
}

impl Sequence {
    /// The length of its text.
    pub const LEN: usize = 32;

    /// The sequence of rows that were read.
    pub fn read(epoch: u32, position: u64) -> Self {
        Self { epoch, position, ordinal: 0 }
    }

    /// As a number that orders as it does: its text is this number's hex digits.
    pub fn order(&self) -> u128 {
        u128::from(self.epoch) << 104 | u128::from(self.position) << 40 | u128::from(self.ordinal)
    }

    /// The [`order`](Self::order) of a sequence's text; `None` where it is none.
    pub fn order_of(text: &str) -> Option<u128> {
        (text.len() == Self::LEN).then(|| u128::from_str_radix(text, 16).ok())?
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}{:016x}{:010x}", self.epoch, self.position, self.ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_fixed_width_and_sorts_like_the_value() {
        let mut sequences = [
            Sequence { epoch: 1, position: 0, ordinal: 0 },
            Sequence { epoch: 1, position: 9, ordinal: 16 },
            Sequence { epoch: 1, position: 10, ordinal: 1 },
            Sequence { epoch: 2, position: 0, ordinal: 0 },
            Sequence { epoch: 2, position: u64::MAX, ordinal: (1 << 40) - 1 },
        ];
        let texts: Vec<String> = sequences.iter().map(Sequence::to_string).collect();
        assert!(texts.iter().all(|text| text.len() == Sequence::LEN));
        assert!(texts.is_sorted());
        for (sequence, text) in sequences.iter().zip(&texts) {
            assert_eq!(Sequence::order_of(text), Some(sequence.order()));
        }
        sequences.reverse();
        sequences.sort();
        assert_eq!(texts, sequences.iter().map(Sequence::to_string).collect::<Vec<_>>());
    }
}
