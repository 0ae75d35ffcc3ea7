//! What a comparison found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// The differences between a source table and its latest view in the lake. Names keys and columns,
/// never a value that is not part of a key.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The stream.
    pub stream: String,
    /// Rows of the source.
    pub rows_source: i64,
    /// Rows of the latest view.
    pub rows_destination: i64,
    /// Rows of the source, each counted, that the view does not have with these values.
    pub missing: i64,
    /// Rows of the view, each counted, that the source does not have with these values. A changed
    /// value makes one missing and one extra row.
    pub extra: i64,
    /// The keys of some rows that differ, as PostgreSQL prints a row; without a key, hashes of rows.
    pub keys: Vec<String>,
    /// How many of the keys that are on both sides differ in which column.
    pub columns: BTreeMap<String, i64>,
    /// What is wrong with the log itself, such as a change that stands twice.
    pub problems: Vec<String>,
    /// Columns of the source that no file has.
    pub absent: Vec<String>,
    /// Columns of the files that the source has not: dropped there, or left out of the comparison.
    pub unknown: Vec<String>,
    /// The type of each compared column as DuckDB reads it, such as `DECIMAL(12,2)`.
    pub kinds: BTreeMap<String, String>,
    /// How many files were read.
    pub files: usize,
}

impl Report {
    /// Whether both sides have the same rows, and the log is sound.
    pub fn is_same(&self) -> bool {
        self.is_complete() && self.extra == 0
    }

    /// Whether every row of the source is there; the lake may have more, such as rows that an
    /// incremental stream did not see deleted.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && self.problems.is_empty() && self.absent.is_empty()
    }

    /// # Panics
    /// Unless both sides are the same.
    #[track_caller]
    pub fn assert_same(&self) {
        assert!(self.is_same(), "source and lake differ: {self}");
    }

    /// # Panics
    /// Unless every row of the source is in the lake.
    #[track_caller]
    pub fn assert_complete(&self) {
        assert!(self.is_complete(), "the lake lacks rows of the source: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} rows at the source, ", self.stream, self.rows_source)?;
        write!(f, "{} in {} files; ", self.rows_destination, self.files)?;
        write!(f, "{} missing, {} extra", self.missing, self.extra)?;
        if !self.keys.is_empty() {
            write!(f, "; keys {}", self.keys.join(" "))?;
        }
        if !self.columns.is_empty() {
            write!(f, "; columns {:?}", self.columns)?;
        }
        if !self.absent.is_empty() {
            write!(f, "; columns that no file has: {}", self.absent.join(", "))?;
        }
        for problem in &self.problems {
            write!(f, "; {problem}")?;
        }
        Ok(())
    }
}
