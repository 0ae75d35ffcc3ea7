//! Batches: columns on their way from the wire to the file.

use arrow::array::{BooleanArray, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::stream::BoxStream;

use crate::{Position, Reservation, Result};

/// Batches of one chunk, one incremental pass or one change stream, in the source's order.
pub type BatchStream = BoxStream<'static, Result<Batch>>;

/// Some MiB of rows in columns.
#[derive(Debug)]
pub struct Batch {
    /// The data columns, in the order and with the types of the stream's schema.
    pub rows: RecordBatch,
    /// Per row, the JSON object of values that did not fit; `None` where every value of the batch fitted.
    pub rescued: Option<StringArray>,
    /// How many values did not fit, by column.
    pub bad_values: BadValues,
    /// Operation and order columns, where these are changes.
    pub changes: Option<ChangeColumns>,
    /// In an incremental pass: whether the row lies in the window that the *next* pass reads again, as the
    /// source judges it. Never null.
    pub in_next_window: Option<BooleanArray>,
    /// The source's position after the last row, where it has one.
    pub position: Option<Position>,
    /// What the batch takes of the memory budget; given back when the batch is dropped.
    pub reservation: Option<Reservation>,
}

impl Batch {
    /// A batch of rows that were read, all of whose values fitted.
    pub fn read(rows: RecordBatch) -> Self {
        Self {
            rows,
            rescued: None,
            bad_values: BadValues::default(),
            changes: None,
            in_next_window: None,
            position: None,
            reservation: None,
        }
    }
}

/// The system columns of a batch of changes, one entry per row.
#[derive(Debug)]
pub struct ChangeColumns {
    /// `_lw_op`.
    pub op: StringArray,
    /// `_lw_seq`.
    pub seq: StringArray,
    /// `_lw_commit_ts`, in microseconds since the epoch.
    pub commit_ts: TimestampMicrosecondArray,
    /// `_lw_unchanged`; `None` where no row of the batch has any.
    pub unchanged: Option<ListArray>,
}

/// Counts of values that a policy replaced, by column index of the stream's schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadValues {
    counts: Vec<(usize, u64)>,
}

impl BadValues {
    /// Counts one more in a column.
    pub fn add(&mut self, column: usize, count: u64) {
        match self.counts.iter_mut().find(|(index, _)| *index == column) {
            Some((_, total)) => *total += count,
            None => self.counts.push((column, count)),
        }
    }

    /// Adds all counts of another.
    pub fn merge(&mut self, other: &BadValues) {
        for (column, count) in other.iter() {
            self.add(column, count);
        }
    }

    /// Column index and count, for columns that have any.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
