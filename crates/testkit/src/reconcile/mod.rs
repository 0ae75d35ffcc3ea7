//! Is every row of a source table in the lake, once, with every value the same?
//!
//! Two parties that are not under test answer this. DuckDB reads the Parquet files and makes the
//! latest view of the stream; the PostgreSQL server that holds the source takes that view into a
//! scratch table and compares it with the source, as multisets, by key and by a hash of the text
//! of every value. Nothing is sampled, and nothing is compared by code that also wrote it.

mod compare;
mod options;
mod readers;
mod report;

pub use compare::reconcile;
pub use options::{Mode, Options, StreamName};
pub use readers::{Reading, Readings, ask, read_everywhere};
pub use report::Report;
