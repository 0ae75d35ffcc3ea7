//! Parquet files in a directory as a destination, exactly once.
//!
//! What is guaranteed:
//! - A unit's rows become visible only after its record stands in the stream's commit log, and then always do: a
//!   crash at any point is finished at the next start. What decides is the log alone.
//! - Every visible file is whole. A generation comes into sight at once, when its backfill is complete.
//! - Of two runs on one stream the later one wins; the earlier is refused at its next commit.
//! - Files that do not match the name pattern of `layout` are never touched.
//!
//! Where to look: `layout` (paths and names), `record` and `fold` (what a commit says, what all of them amount
//! to), `log` (append and read), `commit` (one commit), `publish` (files come to their places), `recover` (start
//! of a run), `writer`, `staged`, `encoding` and `partition` (Parquet), `compact` and `merge` (small files become
//! larger ones), `view` (the latest view as a query).

mod check;
mod commit;
mod compact;
mod config;
mod destination;
mod durable;
mod encoding;
mod error;
mod failpoints;
mod fold;
mod layout;
mod log;
mod merge;
mod partition;
mod publish;
mod read;
mod record;
mod recover;
mod staged;
mod view;
mod writer;

pub use config::{
    DEFAULT_COMPRESSION, DEFAULT_ROW_GROUP_ROWS, DEFAULT_TARGET_FILE_SIZE, Kind, ParquetConfig, Size,
};
pub use destination::{KIND, ParquetDestination, spec};
pub use failpoints::FAILPOINTS;
#[doc(hidden)]
pub use fold::fold_records;
