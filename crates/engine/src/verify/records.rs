//! What is kept of a row until it is compared.

use lakeward_core::Op;

use super::digest::row_digest;

/// A row of the source: the digests of its key and of itself.
pub(super) const SOURCE_WIDTH: usize = 32;

/// How rows of the log are kept: with a digest of the whole row, or of each value where some rows lack some.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogLayout {
    /// Columns of the stream.
    pub(super) columns: usize,
    /// Whether each value has a digest of its own.
    pub(super) by_column: bool,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogRow {
    pub(super) key: u128,
    /// [`Sequence::order`](lakeward_core::Sequence::order)
    pub(super) order: u128,
    pub(super) deleted: bool,
    pub(super) values: Values,
}

/// The values of a row of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Values {
    /// The digest of all of them.
    Row(u128),
    /// One by one; `None` where the source did not send it.
    Columns(Vec<Option<u64>>),
}

/// Appends a source row.
pub(super) fn source_record(key: u128, row: u128) -> [u8; SOURCE_WIDTH] {
    let mut record = [0; SOURCE_WIDTH];
    record[..16].copy_from_slice(&key.to_le_bytes());
    record[16..].copy_from_slice(&row.to_le_bytes());
    record
}

/// The source rows of a part: key and row.
pub(super) fn source_rows(bytes: &[u8]) -> Vec<(u128, u128)> {
    bytes.chunks_exact(SOURCE_WIDTH).map(|record| (number(&record[..16]), number(&record[16..]))).collect()
}

impl LogLayout {
    /// Bytes of a record.
    pub(super) fn width(self) -> usize {
        33 + if self.by_column { 9 * self.columns } else { 16 }
    }

    /// A row as bytes. `sent` says of each column whether its value was sent.
    pub(super) fn record(
        self,
        key: u128,
        order: u128,
        op: &str,
        values: impl Iterator<Item = u64>,
        sent: impl Fn(usize) -> bool,
        into: &mut Vec<u8>,
    ) {
        into.clear();
        into.extend_from_slice(&key.to_le_bytes());
        into.extend_from_slice(&order.to_le_bytes());
        into.push(u8::from(op == Op::Delete.as_str()));
        if self.by_column {
            for (index, value) in values.enumerate() {
                into.push(u8::from(sent(index)));
                into.extend_from_slice(&value.to_le_bytes());
            }
        } else {
            into.extend_from_slice(&row_digest(values).to_le_bytes());
        }
    }

    /// The rows of a part.
    pub(super) fn rows(self, bytes: &[u8]) -> Vec<LogRow> {
        bytes
            .chunks_exact(self.width())
            .map(|record| LogRow {
                key: number(&record[..16]),
                order: number(&record[16..32]),
                deleted: record[32] == 1,
                values: match self.by_column {
                    false => Values::Row(number(&record[33..])),
                    true => Values::Columns(
                        record[33..]
                            .chunks_exact(9)
                            .map(|value| (value[0] == 1).then(|| number(&value[1..]) as u64))
                            .collect(),
                    ),
                },
            })
            .collect()
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
